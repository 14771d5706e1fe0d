"""Loads image classification data sets by name: Hub ids, local folders, and two data sets that need no Hub.

Every source gives the same kind of result: disjoint splits for training, validation (optional) and test, each a
`datasets.Dataset` with the columns `image` and `label`. `image_transforms` turns them into tensors.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

from .image_columns import checked_labels, labels_of, two_columns
from .local_data_sets import (
    DIGITS_TRAIN_EXAMPLES,
    FASHION_MNIST_DIRECTORY,
    FASHION_MNIST_LABELS,
    read_digits,
    read_fashion_mnist,
)
from .stratification import at_most, split_off, stratified_indices

__all__ = [
    "DIGITS_TRAIN_EXAMPLES",
    "FASHION_MNIST_DIRECTORY",
    "FASHION_MNIST_LABELS",
    "ImageData",
    "load_image_data",
    "stratified_indices",
]

_ACCEPTED_NAMES = (
    "a Hub id such as 'zalando-datasets/fashion_mnist', a folder written by `save_to_disk`, a folder of Parquet or "
    "Arrow files, a folder of images with one subfolder a class (optionally below train/ and test/), "
    "'digits' or 'fashion_mnist'"
)


@dataclass(frozen=True)
class ImageData:
    """The splits of an image classification data set.

    Every split has the columns `image` (`datasets.Image`) and `label` (`datasets.ClassLabel`, from 0).

    Args:
        name: name passed to `load_image_data`.
        label_names: names of the classes, by label.
        train: training split.
        validation: validation split, or None.
        test: test split.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> data = load_image_data("digits")
        >>> len(data.train), data.validation, len(data.test), data.label_names[:3]
        (1000, None, 797, ('0', '1', '2'))
    """

    name: str
    label_names: tuple[str, ...]
    train: Dataset
    validation: Dataset | None
    test: Dataset


def load_image_data(
    name: str | os.PathLike[str],
    *,
    config_name: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    max_train_examples: int | None = None,
    max_test_examples: int | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    fashion_mnist_dir: str | os.PathLike[str] = FASHION_MNIST_DIRECTORY,
) -> ImageData:
    """Loads an image classification data set by name.

    The same arguments always give the same examples in the same order. Subsets and splits are stratified. No class
    loses its last training example.

    Args:
        name: one of

            - a Hub id;
            - a folder written by `save_to_disk`;
            - a folder of Parquet or Arrow files;
            - a folder of images with one subfolder a class, optionally below `train/` and `test/`;
            - `"digits"`: scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels, 1,000 of them for training;
            - `"fashion_mnist"`: 60,000 and 10,000 grey images of 28 x 28 pixels, from idx files.

            Write `./digits` for a folder called `digits`.
        config_name: configuration of a Hub data set.
        train_split: split for training; default: `train`, else the only one.
        test_split: split for testing; default: `test`, else the validation split, else `test_fraction` of the training
            split.
        image_column: column of images; default: the only `datasets.Image` column.
        label_column: column of labels; default: the only `datasets.ClassLabel` column, else `label` or `labels`. Text,
            integers and booleans become class names.
        max_train_examples: size of a subset of the training split. `validation_fraction` is taken from the subset.
        max_test_examples: size of a subset of the test split.
        validation_fraction: fraction of the training examples to hold out for validation. With 0, the validation split
            of the data set is used, unless it serves as the test split.
        test_fraction: fraction of the training split to hold out for testing, if there is no test split.
        seed: of all splits and subsets.
        revision: branch, tag or commit of a Hub data set.
        token: for a private Hub data set.
        cache_dir: cache of `datasets`; default: its own.
        fashion_mnist_dir: folder of the four idx files of `fashion_mnist`, gzipped or not; default: the folder of
            Debian's package `dataset-fashion-mnist`.

    Returns:
        The data set.

    Raises:
        ValueError: the name is unknown, the columns or splits are ambiguous, a split is empty, a label is missing or
            out of range, or a subset is larger than the split or smaller than the number of classes.
        FileNotFoundError: a folder or an idx file is missing.
        ImportError: `digits` needs scikit-learn.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> data = load_image_data("digits", max_train_examples=200, validation_fraction=0.1)
        >>> len(data.train), len(data.validation)
        (180, 20)
    """
    name = os.fspath(name)
    if name == "digits":
        splits = read_digits(seed)
    elif name == "fashion_mnist":
        splits = read_fashion_mnist(Path(fashion_mnist_dir))
    elif Path(name).expanduser().is_dir():
        splits = _local_folder(Path(name).expanduser().resolve(), train_split or "train", cache_dir)
    else:
        splits = _hub_data_set(name, config_name, revision, token, cache_dir)

    chosen = _choose_splits(splits, name, train_split, test_split)
    chosen = two_columns(chosen, name, image_column, label_column)
    label_names = tuple(chosen["train"].features["label"].names)
    labels = {split: checked_labels(dataset, label_names, name, split) for split, dataset in chosen.items()}

    train, train_labels = chosen["train"], labels["train"]
    if "test" not in chosen:
        train, test = split_off(train, train_labels, test_fraction, seed, "test_fraction")
        train_labels, test_labels = labels_of(train), labels_of(test)
    else:
        test, test_labels = chosen["test"], labels["test"]
    train, train_labels = at_most(train, train_labels, max_train_examples, seed, "max_train_examples")
    test, _ = at_most(test, test_labels, max_test_examples, seed, "max_test_examples")
    validation = chosen.get("validation")
    if validation_fraction:
        train, validation = split_off(train, train_labels, validation_fraction, seed, "validation_fraction")
    return ImageData(name=name, label_names=label_names, train=train, validation=validation, test=test)


def _local_folder(folder: Path, train_split: str, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        try:
            loaded = load_from_disk(str(folder))
        except IndexError as error:  # from `datasets`, for a split without files
            raise ValueError(f"The data set in {folder}, or one of its splits, is empty.") from error
        return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    cache = None if cache_dir is None else os.fspath(cache_dir)
    if any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")):
        return load_dataset(str(folder), cache_dir=cache)
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not subfolders:
        raise ValueError(f"The folder {folder} holds no data set. Expected {_ACCEPTED_NAMES}.")
    # By default, `datasets` takes a file or class with "test" in its name for a test split and drops all others.
    patterns = {split: f"{split}/**" for split in subfolders} if train_split in subfolders else {"train": "**"}
    return load_dataset("imagefolder", data_dir=str(folder), data_files=patterns, cache_dir=cache)


def _hub_data_set(
    name: str,
    config_name: str | None,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
) -> DatasetDict:
    if name.startswith((".", "~", os.sep)):
        raise FileNotFoundError(f"There is no folder {name}.")
    if name.count("/") != 1:
        raise ValueError(f"Unknown data set {name!r}. Expected {_ACCEPTED_NAMES}.")
    cache = None if cache_dir is None else os.fspath(cache_dir)
    try:
        return load_dataset(name, config_name, revision=revision, token=token, cache_dir=cache)
    except DatasetNotFoundError as error:
        raise ValueError(
            f"{name!r} is no folder, and no data set on the Hub that you may read: {error} Expected {_ACCEPTED_NAMES}."
        ) from error


def _choose_splits(
    splits: Mapping[str, Dataset], name: str, train_split: str | None, test_split: str | None
) -> dict[str, Dataset]:
    """Chooses the splits by role: train, and validation and test if there are any."""
    for split in (train_split, test_split):
        if split is not None and split not in splits:
            raise ValueError(f"{name} has no split {split!r}; its splits are {sorted(splits)}.")
    if train_split is None:
        if "train" not in splits and len(splits) > 1:
            raise ValueError(
                f"{name} has no split 'train'; its splits are {sorted(splits)}. Choose one with train_split."
            )
        train_split = "train" if "train" in splits else next(iter(splits))
    validation_split = next((split for split in ("validation", "valid", "val") if split in splits), None)
    if test_split is None:
        test_split = next((split for split in ("test", validation_split) if split in splits), None)
        if test_split == train_split:
            test_split = None
    if test_split == train_split:
        raise ValueError(f"train_split and test_split are both {train_split!r}; expected different splits.")
    chosen = {"train": splits[train_split]}
    if test_split is not None:
        chosen["test"] = splits[test_split]
    if validation_split not in (None, train_split, test_split):
        chosen["validation"] = splits[validation_split]
    return chosen
