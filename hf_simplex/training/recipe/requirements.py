"""What a run needs at its end, checked before it trains."""

import importlib.util

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

__all__ = ["check_hub_account", "check_installed"]


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
