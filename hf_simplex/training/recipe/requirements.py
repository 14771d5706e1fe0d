"""What a run needs at its end, checked before it trains."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from ...data.decoding import CANNOT_READ, decoding_errors
from ...data.image_data import ImageData

__all__ = ["broken_images_named", "check_evaluation_images", "check_hub_account", "check_installed"]

_SHOWN_ERRORS = 5


def check_installed(package: str, extra: str, reason: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        package: Name to import.
        extra: The extra of hf-simplex that installs it.
        reason: One sentence that says what needs the package.

    Raises:
        ImportError: It is not installed. The message says what to install.

    Example:
        >>> from hf_simplex.training.recipe.requirements import check_installed
        >>> check_installed("no_such_package", "plots", "The run draws pictures at its end.")
        Traceback (most recent call last):
        ImportError: The run draws pictures at its end. That needs no_such_package: pip install "hf-simplex[plots]".
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f'{reason} That needs {package}: pip install "hf-simplex[{extra}]".')


def check_hub_account(token: str | None) -> None:
    """Check that the Hub accepts a token that may write.

    Args:
        token: Token. None: the one that `hf auth login` stored, or HF_TOKEN.

    Raises:
        OSError: There is no token, the Hub cannot be reached, or it refuses the token.
        ValueError: The token may only read.

    Example::

        check_hub_account(args.hub_token)
    """
    hint = "Log in with `hf auth login`, give hub_token, or leave push_to_hub out."
    try:
        account = HfApi().whoami(token=token)
    except (OSError, HTTPError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"push_to_hub is given, but the Hub accepts no token. {hint} The error was: {reason}") from error
    access = account.get("auth", {}).get("accessToken") or {}
    if access.get("role") == "read":
        raise ValueError(
            f"push_to_hub is given, but the token {access.get('displayName', '')!r} of {account['name']} may only "
            f"read. Make one that may write at https://huggingface.co/settings/tokens. {hint}"
        )


def check_evaluation_images(data: ImageData) -> None:
    """Check that there are enough test images, and that all validation and test images can be read.

    Training images are not read: the first epoch does that, in `broken_images_named`.

    Args:
        data: images of the run.

    Raises:
        ValueError: There are fewer than 2 test images, or images cannot be read. The message names the first 5.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.training.recipe.requirements import check_evaluation_images
        >>> check_evaluation_images(load_image_data("digits"))
    """
    if len(data.test) < 2:
        raise ValueError(f"{data.name} has one test image: results have standard errors, which need at least 2.")
    errors = [error for split in (data.validation, data.test) if split is not None for error in decoding_errors(split)]
    if errors:
        raise ValueError(_first(errors))


@contextmanager
def broken_images_named(train: Dataset) -> Iterator[None]:
    """Name all training images that cannot be read, if the block ends at one of them. They are not mended one by one.

    Args:
        train: the training images, with a column `image`.

    Raises:
        ValueError: Images cannot be read. The message names the first 5.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.training.recipe.requirements import broken_images_named
        >>> with broken_images_named(load_image_data("digits").train):
        ...     pass  # train
    """
    try:
        yield
    except ValueError as error:
        # A worker of a data loader puts its traceback before the message.
        if CANNOT_READ not in str(error) or not (errors := decoding_errors(train)):
            raise
        raise ValueError(_first(errors)) from error


def _first(errors: Sequence[str]) -> str:
    more = f" And {len(errors) - _SHOWN_ERRORS} more." if len(errors) > _SHOWN_ERRORS else ""
    return " ".join(errors[:_SHOWN_ERRORS]) + more
