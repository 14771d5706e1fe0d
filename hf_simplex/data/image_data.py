"""Loads image classification data sets by name: Hub ids, local folders, and two data sets that need no Hub.

Every source gives the same kind of result: disjoint splits for training, validation (optional) and test, each a
`datasets.Dataset` with the columns `image` and `label`. `image_transforms` turns them into tensors.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from .image_columns import check_trained_classes, checked_labels, labels_of, two_columns
from .image_folders import read_image_folder
from .label_lists import class_names, is_label_list, list_note
from .label_spelling import check_spelling
from .local_data_sets import DIGITS_TRAIN_EXAMPLES, FASHION_MNIST_DIRECTORY, FASHION_MNIST_LABELS
from .metadata_folders import metadata_notes
from .sources import read_source
from .split_names import choose_splits, role_of
from .split_records import DataRecord, log_notes, record_split
from .stratification import at_most, split_off, stratified_indices

__all__ = [
    "DIGITS_TRAIN_EXAMPLES",
    "FASHION_MNIST_DIRECTORY",
    "FASHION_MNIST_LABELS",
    "MIN_VALIDATION_IMAGES",
    "ImageData",
    "load_image_data",
    "stratified_indices",
    "with_validation",
]

MIN_VALIDATION_IMAGES = 50
"""Fewer images are not split off for calibration: the standard error of an accuracy of 90% is then above 2%."""


@dataclass(frozen=True)
class ImageData:
    """The splits of an image classification data set.

    Every split has the columns `image` (`datasets.Image`) and `label` (`datasets.ClassLabel`, from 0; in a multi-label
    data set, `datasets.List` of it).

    Args:
        name: name passed to `load_image_data`.
        label_names: names of the classes, by label.
        train: training split.
        validation: validation split, or None.
        test: test split.
        record: which images of the data set each split has, and what was left out.

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
    record: DataRecord

    @property
    def several_labels(self) -> bool:
        """Whether an image has a list of labels, of any length.

        Example:
            >>> from hf_simplex.data.image_data import load_image_data
            >>> load_image_data("digits").several_labels
            False
        """
        return is_label_list(self.train.features["label"])


def load_image_data(
    name: str | os.PathLike[str],
    *,
    config_name: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
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

    The same arguments always give the same examples in the same order. Subsets and splits are stratified; of lists of
    labels they are drawn at random. No class loses its last training example.

    Args:
        name: one of

            - a Hub id;
            - a folder written by `save_to_disk`;
            - a folder of Parquet or Arrow files;
            - a folder of images with one subfolder per class, optionally in folders such as `train/` and `test/` (see
              `image_folders.read_image_folder`);
            - `"digits"`: scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels, 1,000 of them for training;
            - `"fashion_mnist"`: 60,000 and 10,000 grey images of 28 x 28 pixels, from idx files.

            Write `./digits` for a folder called `digits`, and `hf://datasets/me/pets` for the data set `me/pets` of
            the Hub where there is a folder called `me`.
        config_name: configuration of a Hub data set.
        train_split: split for training; default: `train`, else the only one. Names are compared without regard to
            case, and `split_names.ROLES` lists other usual ones.
        validation_split: split for validation; default: `validation`.
        test_split: split for testing; default: `test`, else the validation split, else `test_fraction` of the training
            split.
        image_column: column of images; default: the only `datasets.Image` column.
        label_column: column of labels; default: the only `datasets.ClassLabel` column, else `label` or `labels`. Text,
            integers and booleans become class names. Lists make a multi-label data set: of `ClassLabel`, of names, or
            multi-hot (0 or 1 for each label).
        max_train_examples: size of a subset of the training split. `validation_fraction` is taken from the subset.
        max_test_examples: size of a subset of the test split.
        validation_fraction: fraction of the training examples to hold out for validation. With 0, the validation split
            of the data set is used, unless it serves as the test split.
        test_fraction: fraction of the training split to hold out for testing, if there is no test split.
        seed: seed of all splits and subsets.
        revision: branch, tag or commit of a Hub data set.
        token: Hub token for a private data set.
        cache_dir: cache folder of `datasets`; default: its usual one.
        fashion_mnist_dir: folder of the four idx files of `fashion_mnist`, gzipped or not; default: the folder of
            Debian's package `dataset-fashion-mnist`.

    Returns:
        The data set. What was left out, set aside or split off is logged and kept in `record`.

    Raises:
        ValueError: the name is unknown, the columns, folders or splits are ambiguous, a split is empty, a label is
            missing or out of range, a split has a class that the training split lacks, or a subset is larger than the
            split or smaller than the number of classes.
        OSError: a folder or file is missing or broken, the name is a file, or the Hub does not answer.
        ImportError: `digits` needs scikit-learn.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> data = load_image_data("digits", max_train_examples=200, validation_fraction=0.1)
        >>> len(data.train), len(data.validation)
        (180, 20)
    """
    asked = {"train_split": train_split, "validation_split": validation_split, "test_split": test_split}
    source = read_source(
        name,
        [split for split in asked.values() if split is not None],
        config_name=config_name,
        label_column=label_column,
        seed=seed,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        fashion_mnist_dir=fashion_mnist_dir,
    )
    name, notes = source.name, list(source.notes)
    if isinstance(source.splits, Path):
        folder = read_image_folder(source.splits, asked, source.unlabelled)
        chosen, sources = folder.splits, folder.sources
        notes += folder.notes
    else:
        names = source.splits.names
        sources = choose_splits(names, name, train_split, validation_split, test_split)
        splits = source.splits.load(sources.values())
        chosen = {role: splits[split] for role, split in sources.items()}
        if source.splits.metadata is not None:
            notes += metadata_notes(source.splits.metadata, splits, image_column)
        if unused := sorted(set(names) - set(sources.values())):
            notes.append(f"left out the splits {', '.join(map(repr, unused))}")
    if train_split is None and role_of(sources["train"]) != "train":
        notes.append(f"training on {sources['train']!r}, the only split with labels")
    if test_split is None and role_of(sources.get("test", "test")) != "test":
        notes.append(f"testing on {sources['test']!r}, for want of a test split")
    chosen = two_columns(chosen, name, image_column, label_column)
    label_names = tuple(class_names(chosen["train"].features["label"]))
    labels = {role: checked_labels(dataset, label_names, name, role) for role, dataset in chosen.items()}
    check_trained_classes(labels, label_names, name)

    train, train_labels = chosen["train"], labels["train"]
    if train_labels.ndim == 2:
        notes.append(list_note(train_labels, label_names))
    notes += check_spelling(label_names, train_labels, train, name)
    origins: dict[str, tuple[str, int, float | None]] = {
        role: (split, len(chosen[role]), None) for role, split in sources.items()
    }
    if "test" not in chosen:
        origins["test"] = (sources["train"], len(train), test_fraction)
        train, test = split_off(train, train_labels, test_fraction, seed, "test_fraction")
        train_labels, test_labels = labels_of(train), labels_of(test)
        notes.append(_split_off_note(test, origins["test"], "test", seed))
    else:
        test, test_labels = chosen["test"], labels["test"]
    train, train_labels = at_most(train, train_labels, max_train_examples, seed, "max_train_examples")
    test, _ = at_most(test, test_labels, max_test_examples, seed, "max_test_examples")
    validation = chosen.get("validation")
    if validation_fraction:
        if validation is not None:
            notes.append(f"left out {sources['validation']!r}, since validation_fraction is {validation_fraction}")
        origins["validation"] = (sources["train"], len(train), validation_fraction)
        train, validation = split_off(train, train_labels, validation_fraction, seed, "validation_fraction")
        notes.append(_split_off_note(validation, origins["validation"], "validation", seed))
    log_notes(name, notes)
    record = DataRecord(
        train=record_split(train, *origins["train"], seed),
        validation=None if validation is None else record_split(validation, *origins["validation"], seed),
        test=record_split(test, *origins["test"], seed),
        notes=tuple(notes),
        revision=None if isinstance(source.splits, Path) else source.splits.revision,
    )
    return ImageData(name, label_names, train, validation, test, record)


def with_validation(
    data: ImageData, validation_fraction: float = 0.1, *, seed: int = 0, min_images: int = MIN_VALIDATION_IMAGES
) -> ImageData:
    """Returns the data set with a validation split, to calibrate on.

    That is the data set's own validation split, if it has one that is not its test split. Otherwise a stratified share
    of the training images is split off. Every class keeps a training image. A share that is too small to calibrate on
    is not split off; the line then names a share that is large enough, up to half of the images. What happened is
    logged in one line and recorded in `record`.

    Args:
        data: from `load_image_data`.
        validation_fraction: share of the training images to split off, from 0 to 1, both excluded.
        seed: of the share. The same seed gives the same images.
        min_images: smallest number of images to split off.

    Returns:
        The data set. `validation` is None where the share has fewer than `min_images` images. `data` itself is not
        changed, and neither are its test images.

    Raises:
        ValueError: `validation_fraction` is out of range, or leaves no training image of some class.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data, with_validation
        >>> data = load_image_data("digits")
        >>> split = with_validation(data, 0.25)
        >>> len(split.train), len(split.validation), split.record.validation.source
        (750, 250, 'train')
        >>> with_validation(data, 0.04).validation is None  # 40 images
        True
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected a number between 0 and 1.")
    if data.validation is not None:
        return data
    size = round(len(data.train) * validation_fraction)
    if size < min_images:
        note = (
            f"no validation split, since {validation_fraction:g} of {len(data.train)} training images is {size}, "
            f"fewer than {min_images}: calibration is not fitted"
        )
        if (enough := math.ceil(100 * min_images / max(len(data.train), 1)) / 100) <= 0.5:
            note += f" (validation_fraction {enough:g} would hold out enough)"
        log_notes(data.name, [note])
        return replace(data, record=replace(data.record, notes=(*data.record.notes, note)))
    origin = (data.record.train.source, len(data.train), validation_fraction)
    train, validation = split_off(data.train, labels_of(data.train), validation_fraction, seed, "validation_fraction")
    note = _split_off_note(validation, origin, "validation", seed)
    log_notes(data.name, [note])
    record = replace(
        data.record,
        train=record_split(train, data.record.train.source, data.record.train.of, None, seed),
        validation=record_split(validation, *origin, seed),
        notes=(*data.record.notes, note),
    )
    return replace(data, train=train, validation=validation, record=record)


def _split_off_note(split: Dataset, origin: tuple[str, int, float | None], role: str, seed: int) -> str:
    source, of, fraction = origin
    how = ", at random and not stratified (lists of labels)" if is_label_list(split.features["label"]) else ""
    return f"split off {len(split)} of {of} images of {source!r} ({fraction:g}, seed {seed}) as the {role} split{how}"
