"""Loads one whole split of an image data set, to evaluate or to calibrate on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from datasets import Dataset

from .image_columns import checked_labels, labels_of, two_columns
from .image_folders import read_folder_split
from .label_lists import class_names
from .label_spelling import check_spelling
from .message_words import image_names
from .metadata_folders import metadata_notes
from .sources import SourceOptions, read_source
from .split_names import choose_split
from .split_records import log_notes
from .stratification import stratified_indices

__all__ = ["ImageSplit", "at_most_of", "load_split"]


@dataclass(frozen=True)
class ImageSplit:
    """One split of an image classification data set.

    Args:
        name: of the data set.
        split: name of the split; None for a folder of images in no split.
        label_names: names of the classes, by label.
        images: with the columns `image` (`datasets.Image`) and `label` (`datasets.ClassLabel` or lists of it).
        of: number of images of the split, of which `images` may be a subset.

    Example:
        >>> from hf_simplex.data.whole_split import load_split
        >>> loaded = load_split("digits", max_examples=20)
        >>> loaded.split, len(loaded.images), loaded.of
        ('test', 20, 797)
    """

    name: str
    split: str | None
    label_names: tuple[str, ...]
    images: Dataset
    of: int

    def files(self, rows: Sequence[int]) -> list[str]:
        """Names images for a message.

        Args:
            rows: of `images`.

        Returns:
            The file of each image, or its row where the data set has none.

        Example:
            >>> from hf_simplex.data.whole_split import load_split
            >>> load_split("digits").files([0, 5])
            ['image 0', 'image 5']
        """
        return image_names(self.images, rows)


def load_split(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    roles: Sequence[str] = ("test", "validation"),
    only_split: bool = True,
    image_column: str | None = None,
    label_column: str | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    **options: Unpack[SourceOptions],
) -> ImageSplit:
    """Loads one whole split of an image classification data set by name. Nothing is split off.

    Args:
        name: as in `image_data.load_image_data`.
        split: name of the split, any of them; default: by `roles`.
        roles: roles of the split, in the order in which they are looked for (`split_names.ROLES`).
        only_split: whether the only split of a data set is loaded, whatever its name. A folder of class folders, or of
            images with metadata files, in no split is always loaded.
        image_column: column of images; default: the only `datasets.Image` column.
        label_column: column of labels; default as for images, or `label` or `labels`. Values become class names. Lists
            of labels are read as by `load_image_data`.
        max_examples: largest number of images. A larger split is replaced by a stratified subset.
        seed: of the subset, and of the split of `digits`.
        **options: where the data set is read from; see `sources.SourceOptions`.

    Returns:
        The split. The classes of a column without names, and of class folders, are those of this split alone. What was
        left out is logged.

    Raises:
        ValueError: the name or the split is unknown, there is no split by `roles`, the columns or folders are
            ambiguous, the split is empty, a label is missing or out of range, or `max_examples` is below 1.
        OSError: a folder or file is missing or broken, the name is a file, or the Hub does not answer.
        ImportError: `digits` needs scikit-learn.

    Example:
        >>> from hf_simplex.data.whole_split import load_split
        >>> len(load_split("digits").images), len(load_split("digits", "train").images)
        (797, 1000)
    """
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"max_examples is {max_examples}; expected 1 or more.")
    source = read_source(name, () if split is None else (split,), label_column=label_column, seed=seed, **options)
    notes = source.notes
    own: str | None
    if isinstance(source.splits, Path):
        folder = read_folder_split(source.splits, split, roles, only_split=only_split, unlabelled=source.unlabelled)
        own, images, notes = folder.source, folder.images, (*notes, *folder.notes)
    else:
        if not source.splits.undivided:
            own = choose_split(source.splits.names, source.name, split, roles, only_split=only_split)
        elif split in (None, *source.splits.names):
            own = None
        else:
            raise ValueError(
                f"{source.name} has no split {split!r}: its images are in no split. Give no split (no --split)."
            )
        found = source.splits.load(source.splits.names if own is None else [own])
        images = next(iter(found.values()))
        if source.splits.metadata is not None:
            notes = (*notes, *metadata_notes(source.splits.metadata, found, image_column))
    log_notes(source.name, notes)
    shown = own or "train"
    images = two_columns({"train": images}, source.name, image_column, label_column)["train"]
    label_names = tuple(class_names(images.features["label"]))
    labels = checked_labels(images, label_names, source.name, shown, argument="split")
    log_notes(source.name, check_spelling(label_names, labels, images, source.name))
    return ImageSplit(source.name, own, label_names, at_most_of(images, max_examples, seed), len(images))


def at_most_of(images: Dataset, max_examples: int | None, seed: int = 0) -> Dataset:
    """Returns a stratified subset of images, if there are more than `max_examples`.

    Args:
        images: with the column `label`.
        max_examples: largest number of images, 1 or more; None for all. It may be above the number of images, and
            below that of classes.
        seed: of the subset.

    Example:
        >>> from hf_simplex.data.whole_split import at_most_of, load_split
        >>> len(at_most_of(load_split("digits").images, 20))
        20
    """
    if max_examples is None or max_examples >= len(images):
        return images
    return images.select(stratified_indices(labels_of(images), max_examples, seed))
