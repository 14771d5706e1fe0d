"""Loads one whole split of an image data set, to evaluate or to calibrate on."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Image

from .image_columns import checked_labels, two_columns
from .image_folders import read_folder_split
from .local_data_sets import FASHION_MNIST_DIRECTORY
from .sources import read_source
from .split_names import choose_split
from .stratification import stratified_indices

__all__ = ["ImageSplit", "load_split"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSplit:
    """One split of an image classification data set.

    Args:
        name: of the data set.
        split: name of the split; None for a folder of class folders in no split.
        label_names: names of the classes, by label.
        images: with the columns `image` (`datasets.Image`) and `label` (`datasets.ClassLabel`, from 0).
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
        stored = self.images.select(rows).select_columns("image").cast_column("image", Image(decode=False))
        return [example["image"]["path"] or f"image {row}" for row, example in zip(rows, stored, strict=True)]


def load_split(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    roles: Sequence[str] = ("test", "validation"),
    only_split: bool = True,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    fashion_mnist_dir: str | os.PathLike[str] = FASHION_MNIST_DIRECTORY,
) -> ImageSplit:
    """Loads one whole split of an image classification data set by name. Nothing is split off.

    Args:
        name: as in `image_data.load_image_data`.
        split: name of the split, any of them; default: by `roles`.
        roles: roles of the split, in the order in which they are looked for (`split_names.ROLES`).
        only_split: whether the only split of a data set is loaded, whatever its name. A folder of class folders in no
            split is always loaded.
        config_name: configuration of a Hub data set.
        image_column: column of images; default: the only `datasets.Image` column.
        label_column: column of labels; default: the only `datasets.ClassLabel` column, else `label` or `labels`. Text,
            integers and booleans become class names.
        max_examples: largest number of images. A larger split is replaced by a stratified subset.
        seed: of the subset, and of the split of `digits`.
        revision: branch, tag or commit of a Hub data set.
        token: Hub token for a private data set.
        cache_dir: cache folder of `datasets`; default: its usual one.
        fashion_mnist_dir: folder of the idx files of `fashion_mnist`.

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
    source = read_source(
        name,
        () if split is None else (split,),
        config_name=config_name,
        label_column=label_column,
        seed=seed,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        fashion_mnist_dir=fashion_mnist_dir,
    )
    notes = source.notes
    own: str | None
    if isinstance(source.splits, Path):
        folder = read_folder_split(source.splits, split, roles, only_split=only_split)
        own, images, notes = folder.source, folder.images, (*notes, *folder.notes)
    else:
        own = choose_split(source.splits.names, source.name, split, roles, only_split=only_split)
        images = source.splits.load([own])[own]
    for note in notes:
        logger.warning("%s: %s.", source.name, note)
    shown = own or "train"
    images = two_columns({"train": images}, source.name, image_column, label_column)["train"]
    label_names = tuple(images.features["label"].names)
    labels = checked_labels(images, label_names, source.name, shown, argument="split")
    of = len(images)
    if max_examples is not None and max_examples < of:
        images = images.select(stratified_indices(labels, max_examples, seed))
    return ImageSplit(source.name, own, label_names, images, of)
