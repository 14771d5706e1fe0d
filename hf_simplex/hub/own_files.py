"""Which files of a folder are its own: regular files, and the links of the Hub's cache to its blobs."""

import os
from pathlib import Path

from ..model.atomic_saves import is_regular_file

__all__ = ["EXPLORER_FILE", "EXPLORER_FOLDER", "is_own_file"]

EXPLORER_FOLDER, EXPLORER_FILE = "explorer", "explorer.safetensors"
"""Where an ensemble keeps what the explorer shows, see `explorer.exploration`."""


def is_own_file(file: Path) -> bool:
    """Returns whether a file may be published: it is no link, or one that the Hub's cache made.

    The cache keeps a repository's files in its folder `blobs`, and links to them in `snapshots/<commit>`. A snapshot
    is published as any folder. A link to anywhere else could publish a file of the user.

    Args:
        file: a path in the folder that is published.

    Returns:
        Whether it is a regular file of this folder, or of the blobs of the same repository in the cache.

    Example:
        >>> from hf_simplex.hub.own_files import is_own_file
        >>> is_own_file(Path("no-such-file"))
        False
    """
    if is_regular_file(file):
        return True
    if not file.is_symlink() or file.parent.resolve().parent.name != "snapshots":
        return False
    target, blobs = file.parent / os.readlink(file), file.parent.resolve().parents[1] / "blobs"
    return target.parent.resolve() == blobs and is_regular_file(target)
