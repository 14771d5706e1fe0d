"""Recognises images that an ensemble was trained on, by hashes that its run left beside it.

The hashes stay on this machine: published, they would tell everybody whether an image was trained on.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from .pixel_hashes import pixel_hashes

__all__ = [
    "MAX_IMAGES",
    "TRAINED_IMAGES_FILE",
    "copy_trained_images",
    "count_trained",
    "find_trained",
    "hashed_images",
    "merge_trained_images",
    "write_trained_images",
]

TRAINED_IMAGES_FILE = "trained_images.npy"

MAX_IMAGES = 20_000
"""Largest number of hashed images, evenly spaced, so that a large data set does not cost minutes."""


def write_trained_images(directory: str | os.PathLike[str], dataset: Dataset) -> None:
    """Write the hashes of training images, at most 20,000 evenly spaced ones, 8 bytes each.

    Args:
        directory: folder of the ensemble.
        dataset: training images in a column `image`.

    Raises:
        ValueError: see `pixel_hashes.pixel_hashes`.

    Example::

        write_trained_images("ensemble", data.train)
    """
    _write(directory, hashed_images(dataset))


def hashed_images(dataset: Dataset) -> npt.NDArray[np.uint64]:
    """Hash images, at most 20,000 evenly spaced ones.

    Args:
        dataset: images in a column `image`.

    Returns:
        [N] uint64, at most 20,000.

    Raises:
        ValueError: see `pixel_hashes.pixel_hashes`.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.trained_images import hashed_images
        >>> hashed_images(load_image_data("digits").test).shape
        (797,)
    """
    if len(dataset) > MAX_IMAGES:
        dataset = dataset.select(np.unique(np.linspace(0, len(dataset) - 1, MAX_IMAGES, dtype=np.int64)))
    return pixel_hashes(dataset)


def _write(directory: str | os.PathLike[str], hashes: npt.NDArray[np.uint64]) -> None:
    target = Path(directory) / TRAINED_IMAGES_FILE
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            np.save(file, hashes, allow_pickle=False)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def copy_trained_images(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy the hashes of an ensemble's training images to another folder of the same ensemble, if there are any.

    Args:
        source: folder of the ensemble, or its Hub id, which has no hashes.
        target: the other folder. It may be the same one.

    Example::

        copy_trained_images("ensemble", "calibrated")
    """
    file, copy = Path(source) / TRAINED_IMAGES_FILE, Path(target) / TRAINED_IMAGES_FILE
    if file.is_file() and file.resolve() != copy.resolve():
        shutil.copyfile(file, copy)


def merge_trained_images(sources: Sequence[str | os.PathLike[str]], target: str | os.PathLike[str]) -> bool:
    """Write the hashes of the training images of several ensembles, if all of them have hashes.

    The hashes of some alone would tell that images are new that others were trained on.

    Args:
        sources: folders of the ensembles. Hub ids have no hashes.
        target: folder of the merged ensemble.

    Returns:
        Whether hashes were written.

    Raises:
        ValueError: a file of hashes is broken.

    Example::

        merge_trained_images(["job-1/ensemble", "job-2/ensemble"], "merged")
    """
    found = [_read(source) for source in sources]
    known = [hashes for hashes in found if hashes is not None]
    if len(known) < len(found):
        return False
    _write(target, np.unique(np.concatenate(known)))
    return True


def count_trained(directory: str | os.PathLike[str], dataset: Dataset) -> int | None:
    """Count the images that are among the hashed training images of an ensemble.

    Args:
        directory: folder of the ensemble.
        dataset: images in a column `image`.

    Returns:
        0 to the number of images; None if the folder has no hashes.

    Raises:
        ValueError: the file of hashes is broken, or see `pixel_hashes.pixel_hashes`.

    Example::

        count_trained("ensemble", data.validation)
    """
    rows = find_trained(directory, dataset)
    return None if rows is None else len(rows)


def find_trained(directory: str | os.PathLike[str], dataset: Dataset) -> npt.NDArray[np.int64] | None:
    """Find the images that are among the hashed training images of an ensemble.

    Args:
        directory: folder of the ensemble.
        dataset: images in a column `image`.

    Returns:
        Their rows, int64, ascending; None if the folder has no hashes.

    Raises:
        ValueError: the file of hashes is broken, or see `pixel_hashes.pixel_hashes`.

    Example::

        data.validation.select(find_trained("ensemble", data.validation))
    """
    hashes = _read(directory)
    return None if hashes is None else np.flatnonzero(np.isin(pixel_hashes(dataset), hashes))


def _read(directory: str | os.PathLike[str]) -> npt.NDArray[np.uint64] | None:
    file = Path(directory) / TRAINED_IMAGES_FILE
    if not file.is_file():
        return None
    try:
        hashes = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} holds no hashes of images ({error}): remove it.") from error
    if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError(f"{file} holds no hashes of images: remove it.")
    return hashes
