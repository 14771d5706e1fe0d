"""Tells a mistyped path from the name of a Hub repository."""

import os

__all__ = ["check_folder", "looks_like_path"]


def looks_like_path(name: str) -> bool:
    """Returns whether a name can be a path only, and no Hub id.

    Example:
        >>> looks_like_path("./pets"), looks_like_path("a/b/c"), looks_like_path("me/pets")
        (True, True, False)
    """
    return name.startswith((".", "~", os.sep)) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def check_folder(name_or_path: str | os.PathLike[str], what: str) -> None:
    """Checks that the folder of a model exists, if its name can be no Hub id.

    Args:
        name_or_path: a folder or a Hub id.
        what: kind of the model, for the message.

    Raises:
        FileNotFoundError: the name is empty, or there is no such folder.

    Example:
        >>> check_folder("me/pets-simplex", "ensemble")
    """
    name = os.fspath(name_or_path)
    if not name:
        raise FileNotFoundError(f"The name of the {what} is empty: give a folder or a Hub id.")
    if looks_like_path(name) and not os.path.exists(name):
        raise FileNotFoundError(
            f"The {what} {name!r} could not be loaded: there is no such folder (looked for {os.path.abspath(name)})."
        )
