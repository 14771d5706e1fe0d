"""Loads the images of a run again, from what the run recorded of them."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from .image_data import ImageData, load_image_data
from .pixel_hashes import pixel_hashes
from .split_records import DataRecord
from .trained_images import hashed_images
from .whole_split import ImageSplit, at_most_of

__all__ = ["find_recorded", "load_recorded", "load_recorded_split"]


def load_recorded(name: str | os.PathLike[str], record: DataRecord, **options: Any) -> ImageData:
    """Loads the training, validation and test images that a run used.

    Args:
        name: of the data set, as in `image_data.load_image_data`. It may be stored elsewhere, or in another format.
        record: of the run.
        **options: `config_name`, `image_column`, `label_column`, `revision` (default: the recorded one), `token` and
            `cache_dir` of `load_image_data`.

    Returns:
        The data set, with the images and labels that are recorded.

    Raises:
        ValueError: the data set cannot be split as it is recorded, or has other images or labels now.
        OSError: as in `load_image_data`.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.recorded_splits import load_recorded
        >>> record = load_image_data("digits", max_test_examples=100, seed=3).record
        >>> load_recorded("digits", record).record.test == record.test
        True
    """
    splits = {"train": record.train, "validation": record.validation, "test": record.test}
    own = {role: split for role, split in splits.items() if split is not None and split.fraction is None}
    shares = {role: split for role, split in splits.items() if split is not None and split.fraction is not None}
    arguments: dict[str, Any] = {f"{role}_split": split.source for role, split in own.items()}
    arguments |= {f"{role}_fraction": split.fraction for role, split in shares.items()}
    # A share for validation is of the training images that are used.
    used = shares["validation"].of if "validation" in shares else record.train.images
    seeds = [split.seed for split in splits.values() if split is not None and split.seed is not None]
    arguments |= {"max_train_examples": used, "max_test_examples": record.test.images}
    arguments |= {"seed": seeds[0] if seeds else 0}
    arguments |= {"revision": record.revision} | {key: value for key, value in options.items() if value is not None}
    try:
        data = load_image_data(name, **arguments)
    except ValueError as error:
        raise ValueError(f"The images of the run cannot be found in {name}: {error}") from error
    for role, split in splits.items():
        found = getattr(data.record, role)
        if split is not None and (found is None or found.fingerprint != split.fingerprint):
            raise ValueError(
                f"The {role} images of the run cannot be found in {name}: its images, their labels or their order "
                f"have changed (fingerprint {'none' if found is None else found.fingerprint}; expected "
                f"{split.fingerprint})."
            )
    return data


def load_recorded_split(
    name: str | os.PathLike[str], record: DataRecord, role: str, *, max_examples: int | None = None, **options: Any
) -> ImageSplit:
    """Loads the images that a run held out for a role.

    Args:
        name: of the data set.
        record: of the run.
        role: `"test"` or `"validation"`.
        max_examples: largest number of images. More are replaced by a stratified subset.
        **options: as in `load_recorded`.

    Returns:
        The images. `split` is the split of the data set that they are from.

    Raises:
        ValueError: the run had no images for the role, or as in `load_recorded`.
        OSError: as in `load_recorded`.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.recorded_splits import load_recorded_split
        >>> record = load_image_data("digits", validation_fraction=0.1).record
        >>> found = load_recorded_split("digits", record, "validation")
        >>> found.split, len(found.images)
        ('train', 100)
    """
    own = {"test": record.test, "validation": record.validation}[role]
    if own is None:
        raise ValueError(f"The run had no {role} images.")
    data = load_recorded(name, record, **options)
    images = getattr(data, role)
    return ImageSplit(data.name, own.source, data.label_names, at_most_of(images, max_examples), len(images))


def find_recorded(
    images: Dataset, name: str | os.PathLike[str], record: DataRecord, **options: Any
) -> npt.NDArray[np.int64] | None:
    """Finds the images that are among the training images of a run, from what it recorded of them.

    Args:
        images: with a column `image`.
        name: of the data set.
        record: of the run.
        **options: as in `load_recorded`.

    Returns:
        Their rows, int64, ascending; None if the run's images cannot be found in the data set.

    Raises:
        ValueError: see `pixel_hashes.pixel_hashes`.
        OSError: as in `load_image_data`.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.recorded_splits import find_recorded
        >>> data = load_image_data("digits", validation_fraction=0.1)
        >>> len(find_recorded(data.train, "digits", data.record)), len(find_recorded(data.test, "digits", data.record))
        (900, 0)
    """
    try:
        trained = load_recorded(name, record, **options).train
    except ValueError:
        return None
    return np.flatnonzero(np.isin(pixel_hashes(images), hashed_images(trained)))
