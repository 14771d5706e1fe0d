"""Finds the image files in a folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

__all__ = ["ImageFile", "Parts", "image_files", "walk_images"]

Parts = tuple[str, ...]
"""Names of the folders between a root and a file."""


@dataclass(frozen=True)
class ImageFile:
    """An image file in a folder.

    Args:
        path: of the file.
        parts: names of the folders between the root and the file.

    Example:
        >>> from hf_simplex.data.image_walk import ImageFile
        >>> ImageFile("pets/train/cat/1.png", ("train", "cat")).parts[-1]
        'cat'
    """

    path: str
    parts: Parts


def image_files(folder: Path) -> list[str]:
    """Lists the image files in a folder and its subfolders, by extension.

    Hidden files and folders are left out.

    Args:
        folder: of the images.

    Returns:
        Paths in alphabetical order.

    Example:
        >>> from pathlib import Path
        >>> from hf_simplex.data.image_walk import image_files
        >>> image_files(Path("hf_simplex"))
        []
    """
    return [file.path for file in walk_images(folder)[0]]


def walk_images(folder: Path) -> tuple[list[ImageFile], int]:
    """Finds all image files in the order of their paths, and counts the other files.

    Example:
        >>> from pathlib import Path
        >>> from hf_simplex.data.image_walk import walk_images
        >>> walk_images(Path("hf_simplex"))[0]
        []
    """
    PIL.Image.init()
    extensions = {ending for ending, kind in PIL.Image.EXTENSION.items() if kind in PIL.Image.OPEN}
    files, ignored = [], 0
    for directory, subfolders, names in os.walk(folder, followlinks=True):
        # "__MACOSX" and the like: copies that archives add. A link to a folder above would go on for ever.
        above = os.path.join(os.path.realpath(directory), "")
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith((".", "__"))
            and not above.startswith(os.path.join(os.path.realpath(os.path.join(directory, name)), ""))
        ]
        parts = Path(directory).relative_to(folder).parts
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in extensions:
                files.append(ImageFile(os.path.join(directory, name), parts))
            else:
                ignored += 1
    return sorted(files, key=lambda file: file.path), ignored
