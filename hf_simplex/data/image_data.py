"""Image classification data sets by name: Hub ids, local folders, and two real ones that need no Hub.

Whatever the source, the result is the same: `datasets.Dataset`s with an `image` and a `label` column, split into
train, (optionally) validation and test with a seed, never overlapping. `image_transforms` turns them into tensors.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

FASHION_MNIST_DIRECTORY = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS_TRAIN_EXAMPLES = 1000

_ACCEPTED_NAMES = (
    "a Hub id such as 'zalando-datasets/fashion_mnist', a folder written by `save_to_disk`, a folder of Parquet or "
    "Arrow files, a folder of images with one subfolder for each class (optionally below train/ and test/), "
    "'digits' or 'fashion_mnist'"
)


@dataclass(frozen=True)
class ImageData:
    """An image classification data set, split.

    Attributes:
        name: the name it was asked for by.
        label_names: the classes; label `i` is `label_names[i]`.
        train: the training split, a `datasets.Dataset` with the columns `image` (`datasets.Image`) and `label`
            (`datasets.ClassLabel`, ids 0 to `len(label_names) - 1`).
        validation: likewise, or None.
        test: likewise; shares no example with the others.
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
    """Load an image classification data set by name.

    The same arguments always give the same examples in the same order. Subsets and splits are stratified: every class
    keeps its share, and no class loses its last training example.

    Args:
        name: a Hub id; a folder written by `save_to_disk`; a folder of Parquet or Arrow files; a folder of images
            with one subfolder for each class, optionally below `train/` and `test/`; `digits` (scikit-learn's 1,797
            handwritten digits of 8 x 8 grey pixels, of which the seed picks 1,000 to train on); `fashion_mnist`
            (60,000 and 10,000 grey images of 28 x 28 pixels, from idx files). A folder that bears one of the last
            two names is written `./digits`.
        config_name: the configuration of a Hub data set that has several.
        train_split: the split to train on; by default `train`, or the only one there is.
        test_split: the split to test on; by default `test`, else the validation split, else `test_fraction` of the
            training split is set aside.
        image_column: the column with the images; by default the only one with `datasets.Image` features.
        label_column: the column with the labels; by default the only one with `datasets.ClassLabel` features, else
            one named `label` or `labels`. Text, integers and truth values become class names.
        max_train_examples: how many examples of the training split to use; the validation split comes out of them
            where it is split off.
        max_test_examples: how many examples of the test split to use.
        validation_fraction: the part of the training examples to split off for validation, 0 for none; with 0, a
            validation split that the data set has and that is not tested on is used.
        test_fraction: the part of the training split to set aside where the data set has nothing to test on.
        seed: for every split and subset.
        revision: branch, tag or commit of a Hub data set.
        token: to read a private Hub data set.
        cache_dir: where `datasets` keeps prepared files; by default its own cache.
        fashion_mnist_dir: the folder with the four idx files of `fashion_mnist`, gzipped or not; by default where
            Debian's package `dataset-fashion-mnist` puts them.

    Returns:
        The data set.

    Raises:
        ValueError: the name is not understood, the columns or splits cannot be told, a split is empty, a label is
            missing or out of range, or more (or fewer) examples are asked for than there are (or classes).
        FileNotFoundError: a folder or an idx file is not there.
        ImportError: `digits` without scikit-learn.
    """
    name = os.fspath(name)
    if name == "digits":
        splits = _digits(seed)
    elif name == "fashion_mnist":
        splits = _fashion_mnist(Path(fashion_mnist_dir))
    elif Path(name).expanduser().is_dir():
        splits = _local_folder(Path(name).expanduser().resolve(), train_split or "train", cache_dir)
    else:
        splits = _hub_data_set(name, config_name, revision, token, cache_dir)

    chosen = _choose_splits(splits, name, train_split, test_split)
    chosen = _two_columns(chosen, name, image_column, label_column)
    label_names = tuple(chosen["train"].features["label"].names)
    labels = {split: _checked_labels(dataset, label_names, name, split) for split, dataset in chosen.items()}

    train, train_labels = chosen["train"], labels["train"]
    if "test" not in chosen:
        train, test = _split_off(train, train_labels, test_fraction, seed, "test_fraction")
        train_labels, test_labels = _labels(train), _labels(test)
    else:
        test, test_labels = chosen["test"], labels["test"]
    train, train_labels = _at_most(train, train_labels, max_train_examples, seed, "max_train_examples")
    test, _ = _at_most(test, test_labels, max_test_examples, seed, "max_test_examples")
    validation = chosen.get("validation")
    if validation_fraction:
        train, validation = _split_off(train, train_labels, validation_fraction, seed, "validation_fraction")
    return ImageData(name=name, label_names=label_names, train=train, validation=validation, test=test)


def stratified_indices(labels: npt.NDArray[np.int64], size: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose `size` examples at random so that every class keeps its share.

    Seats are given out to the classes as in an election by Adams's method: every class gets one before any gets two,
    so none is lost while `size` is at least the number of classes. With the same seed, a smaller choice is part of a
    larger one.

    Args:
        labels: the class of each example, [N] integers.
        size: how many to choose, 0 to N.
        seed: for the random choice.

    Returns:
        The chosen positions, [size] int64, ascending.

    Raises:
        ValueError: `size` is not between 0 and N.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"cannot choose {size} of {len(labels)} examples.")
    order = np.random.default_rng(seed).permutation(len(labels))
    _, classes, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    first_of_class = np.repeat(np.cumsum(counts) - counts, counts)
    rank_in_class[np.argsort(classes, kind="stable")] = np.arange(len(labels)) - first_of_class
    by_share_taken = np.argsort(rank_in_class / counts[classes], kind="stable")
    chosen: npt.NDArray[np.int64] = np.sort(order[by_share_taken[:size]])
    return chosen


def _digits(seed: int) -> DatasetDict:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the data set 'digits' comes with scikit-learn: pip install hf-simplex[recipes].") from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train = stratified_indices(labels, DIGITS_TRAIN_EXAMPLES, seed)
    test = np.setdiff1d(np.arange(len(labels)), train)
    names = tuple(str(digit) for digit in range(10))
    return DatasetDict(
        {split: _grey_images(images[rows], labels[rows], names) for split, rows in (("train", train), ("test", test))}
    )


def _fashion_mnist(folder: Path) -> DatasetDict:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder} with the idx files of Fashion-MNIST: install Debian's package "
            "dataset-fashion-mnist, point fashion_mnist_dir to the files, or use the Hub id "
            "'zalando-datasets/fashion_mnist'."
        )
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_file, images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
        labels_file, labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
        if len(images) != len(labels):
            raise ValueError(
                f"{images_file} holds {len(images)} images, but {labels_file} holds {len(labels)} labels."
            )
        splits[split] = _grey_images(images, labels.astype(np.int64), FASHION_MNIST_LABELS)
    return DatasetDict(splits)


def _read_idx(folder: Path, file_name: str, dimensions: int) -> tuple[Path, npt.NDArray[np.uint8]]:
    """Read an idx file of bytes: two zeros, type 8, the number of dimensions, their big-endian sizes, the values."""
    file = next((path for path in (folder / f"{file_name}.gz", folder / file_name) if path.exists()), None)
    if file is None:
        raise FileNotFoundError(f"there is no {file_name}.gz (nor {file_name}) in {folder}.")
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{file} is not a complete gzip file: {error}. Fetch it again.") from error
    magic, header = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"{file} is not an idx file of bytes in {dimensions} dimension(s): it starts with {content[:4].hex()!r}, "
            f"expected {magic.hex()!r} and {dimensions} size(s)."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{file} announces {' x '.join(map(str, shape))} bytes, but holds {len(content) - header}. Fetch it again."
        )
    return file, np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _grey_images(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], label_names: tuple[str, ...]
) -> Dataset:
    # Portable graymap is a header and the raw pixels: 60,000 images are encoded in a tenth of the time of PNG.
    header = f"P5 {images.shape[2]} {images.shape[1]} 255\n".encode()
    return Dataset.from_dict(
        {"image": pa.array([header + image.tobytes() for image in images]), "label": pa.array(labels)},
        features=Features({"image": Image(), "label": ClassLabel(names=list(label_names))}),
    )


def _local_folder(folder: Path, train_split: str, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        try:
            loaded = load_from_disk(str(folder))
        except IndexError as error:  # what `datasets` raises where a split has no file
            raise ValueError(f"the data set saved in {folder}, or a split of it, is empty.") from error
        return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    cache = None if cache_dir is None else os.fspath(cache_dir)
    if any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")):
        return load_dataset(str(folder), cache_dir=cache)
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not subfolders:
        raise ValueError(f"the folder {folder} holds no data set. Accepted are {_ACCEPTED_NAMES}.")
    # Left to itself, `datasets` takes any file or class with "test" in its name for a test split, and drops the rest.
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
        raise FileNotFoundError(f"there is no folder {name}.")
    if name.count("/") != 1:
        raise ValueError(f"unknown data set {name!r}. Accepted are {_ACCEPTED_NAMES}.")
    cache = None if cache_dir is None else os.fspath(cache_dir)
    try:
        return load_dataset(name, config_name, revision=revision, token=token, cache_dir=cache)
    except DatasetNotFoundError as error:
        raise ValueError(
            f"there is no folder {name!r}, and no such data set on the Hub that you may read: {error} "
            f"Accepted are {_ACCEPTED_NAMES}."
        ) from error


def _choose_splits(
    splits: Mapping[str, Dataset], name: str, train_split: str | None, test_split: str | None
) -> dict[str, Dataset]:
    """The splits to use, under the names train, validation and test, the last two where there are any."""
    for split in (train_split, test_split):
        if split is not None and split not in splits:
            raise ValueError(f"{name} has no split {split!r}, only {sorted(splits)}.")
    if train_split is None:
        if "train" not in splits and len(splits) > 1:
            raise ValueError(f"{name} has no split 'train', only {sorted(splits)}: choose one with train_split.")
        train_split = "train" if "train" in splits else next(iter(splits))
    validation_split = next((split for split in ("validation", "valid", "val") if split in splits), None)
    if test_split is None:
        test_split = next((split for split in ("test", validation_split) if split in splits), None)
        if test_split == train_split:
            test_split = None
    if test_split == train_split:
        raise ValueError(f"train_split and test_split are both {train_split!r}: test on images not trained on.")
    chosen = {"train": splits[train_split]}
    if test_split is not None:
        chosen["test"] = splits[test_split]
    if validation_split not in (None, train_split, test_split):
        chosen["validation"] = splits[validation_split]
    return chosen


def _two_columns(
    splits: dict[str, Dataset], name: str, image_column: str | None, label_column: str | None
) -> dict[str, Dataset]:
    """Rename the image and the label column to `image` and `label`, drop the others, make the labels ClassLabels."""
    features = splits["train"].features
    image_column = _find_column(features, name, "image_column", image_column, Image, ())
    label_column = _find_column(features, name, "label_column", label_column, ClassLabel, ("label", "labels"))
    if not isinstance(features[image_column], Image):
        raise ValueError(
            f"the column {image_column!r} of {name} holds no images; its columns are {_describe(features)}."
        )
    for split, dataset in splits.items():
        if any(dataset.features.get(column) != features[column] for column in (image_column, label_column)):
            raise ValueError(
                f"the splits of {name} do not agree: to train on it has {_describe(features)}, for {split} it has "
                f"{_describe(dataset.features)}."
            )
    splits = {
        split: dataset.select_columns([image_column, label_column]).rename_columns(
            {image_column: "image", label_column: "label"}
        )
        for split, dataset in splits.items()
    }
    if isinstance(features[label_column], ClassLabel):
        return splits
    return _name_classes(splits, name, label_column)


def _find_column(
    features: Features, name: str, argument: str, asked: str | None, kind: type, usual_names: tuple[str, ...]
) -> str:
    if asked is not None:
        if asked not in features:
            raise ValueError(f"{name} has no column {asked!r}; its columns are {_describe(features)}.")
        return asked
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if not found:
        found = [column for column in usual_names if column in features]
    if len(found) != 1:
        raise ValueError(
            f"{name} has {len(found)} columns that could be the {argument}; its columns are {_describe(features)}: "
            f"choose one with {argument}."
        )
    return found[0]


def _describe(features: Features) -> str:
    return ", ".join(f"{column} ({getattr(kind, 'dtype', type(kind).__name__)})" for column, kind in features.items())


def _name_classes(splits: dict[str, Dataset], name: str, label_column: str) -> dict[str, Dataset]:
    feature = splits["train"].features["label"]
    kinds = ("string", "large_string", "int", "uint", "bool")
    if not isinstance(feature, Value) or not feature.dtype.startswith(kinds):
        raise ValueError(f"the column {label_column!r} of {name} holds no class labels, but {feature}.")
    classes = sorted(value for value in splits["train"].unique("label") if value is not None)
    ids = {value: position for position, value in enumerate(classes)}
    class_label = ClassLabel(names=[str(value) for value in classes])
    named = {}
    for split, dataset in splits.items():
        values = dataset.select_columns("label")[:]["label"]
        unknown = {value for value in values if value is not None and value not in ids}
        if unknown:
            raise ValueError(f"the {split} split of {name} has the label {min(unknown)!r}, which is not trained on.")
        # A new column, because casting the old one would write all images anew.
        named[split] = dataset.remove_columns("label").add_column(
            "label", [ids.get(value) for value in values], feature=class_label
        )
    return named


def _labels(dataset: Dataset) -> npt.NDArray[np.int64]:
    column: pa.ChunkedArray = dataset.select_columns("label").with_format("arrow")[:]["label"]
    labels: npt.NDArray[np.int64] = column.fill_null(-1).to_numpy()
    return labels


def _checked_labels(dataset: Dataset, label_names: tuple[str, ...], name: str, split: str) -> npt.NDArray[np.int64]:
    if len(dataset) == 0:
        raise ValueError(f"the {split} split of {name} is empty.")
    labels = _labels(dataset)
    wrong = labels[(labels < 0) | (labels >= len(label_names))]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} example(s) of the {split} split of {name} have a label that is missing or not one of 0 to "
            f"{len(label_names) - 1}, the first is {wrong[0]} (-1: missing). Many test splits on the Hub have no "
            "labels: choose another one with test_split."
        )
    return labels


def _at_most(
    dataset: Dataset, labels: npt.NDArray[np.int64], size: int | None, seed: int, argument: str
) -> tuple[Dataset, npt.NDArray[np.int64]]:
    if size is None:
        return dataset, labels
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels):
        raise ValueError(
            f"{argument} is {size}, but there are {len(labels)} examples of {classes} classes: give a number between."
        )
    rows = stratified_indices(labels, size, seed)
    return dataset.select(rows), labels[rows]


def _split_off(
    dataset: Dataset, labels: npt.NDArray[np.int64], fraction: float, seed: int, argument: str
) -> tuple[Dataset, Dataset]:
    if not 0 < fraction < 1:
        raise ValueError(f"{argument} is {fraction}: give a number between 0 and 1.")
    size, classes = round(len(labels) * fraction), len(np.unique(labels))
    if size < 1 or len(labels) - size < classes:
        raise ValueError(
            f"{argument} is {fraction}: of {len(labels)} examples of {classes} classes that leaves "
            f"{len(labels) - size} to train on and splits off {size}."
        )
    kept = stratified_indices(labels, len(labels) - size, seed)
    return dataset.select(kept), dataset.select(np.setdiff1d(np.arange(len(labels)), kept))
