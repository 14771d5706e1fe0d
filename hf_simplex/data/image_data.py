"""Loads image classification data sets by name: Hub ids, local folders, and two data sets that need no Hub.

Every source gives the same kind of result: disjoint splits for training, validation (optional) and test, each a
`datasets.Dataset` with the columns `image` and `label`. `image_transforms` turns them into tensors.
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

__all__ = [
    "DIGITS_TRAIN_EXAMPLES",
    "FASHION_MNIST_DIRECTORY",
    "FASHION_MNIST_LABELS",
    "ImageData",
    "load_image_data",
    "stratified_indices",
]

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
    "Arrow files, a folder of images with one subfolder per class (optionally below train/ and test/), "
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
            - a folder of images with one subfolder per class, optionally below `train/` and `test/`;
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
        seed: seed of all splits and subsets.
        revision: branch, tag or commit of a Hub data set.
        token: Hub token for a private data set.
        cache_dir: cache folder of `datasets`; default: its usual one.
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
    """Samples a stratified subset without replacement.

    The classes get shares by Adams's method: every class gets one example before any class gets two. With the same
    seed, a smaller subset is part of a larger one.

    Args:
        labels: class of every example, [N] int64.
        size: size of the subset, 0 to N.
        seed: seed of the sample.

    Returns:
        Indices of the subset, [size] int64, ascending.

    Raises:
        ValueError: `size` is not between 0 and N.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.data.image_data import stratified_indices
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> np.bincount(labels[stratified_indices(labels, 3, seed=0)]).tolist()
        [2, 1]
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"Cannot sample {size} of {len(labels)} examples.")
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
        raise ImportError("The data set 'digits' needs scikit-learn: pip install hf-simplex[recipes].") from error
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
            f"There is no folder {folder} with the idx files of Fashion-MNIST. Install Debian's package "
            "dataset-fashion-mnist, set fashion_mnist_dir to the folder of the files, or use the Hub id "
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
    """Reads an idx file of bytes.

    Layout: two zero bytes, the type 8, the number of dimensions, the sizes as big-endian 32-bit integers, the values.
    """
    file = next((path for path in (folder / f"{file_name}.gz", folder / file_name) if path.exists()), None)
    if file is None:
        raise FileNotFoundError(f"There is no {file_name}.gz or {file_name} in {folder}.")
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{file} is not a complete gzip file: {error}. Download it again.") from error
    magic, header = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"{file} is not an idx file of bytes with {dimensions} dimension(s): it starts with "
            f"{content[:4].hex()!r}; expected {magic.hex()!r} and {dimensions} size(s)."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{file} declares {' x '.join(map(str, shape))} bytes, but holds {len(content) - header}. Download it "
            "again."
        )
    return file, np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _grey_images(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], label_names: tuple[str, ...]
) -> Dataset:
    # Portable graymap: a header and the raw pixels. Encoding takes a tenth of the time of PNG.
    header = f"P5 {images.shape[2]} {images.shape[1]} 255\n".encode()
    return Dataset.from_dict(
        {"image": pa.array([header + image.tobytes() for image in images]), "label": pa.array(labels)},
        features=Features({"image": Image(), "label": ClassLabel(names=list(label_names))}),
    )


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
    # By default, `datasets` treats a file or class with "test" in its name as the test split and drops all others.
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
    """Chooses the train split, and the validation and test splits if there are any."""
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


def _two_columns(
    splits: dict[str, Dataset], name: str, image_column: str | None, label_column: str | None
) -> dict[str, Dataset]:
    """Keeps two columns, named `image` and `label`, and converts labels to `datasets.ClassLabel`."""
    features = splits["train"].features
    image_column = _find_column(features, name, "image_column", image_column, Image, ())
    label_column = _find_column(features, name, "label_column", label_column, ClassLabel, ("label", "labels"))
    if not isinstance(features[image_column], Image):
        raise ValueError(
            f"The column {image_column!r} of {name} holds no images; its columns are {_describe(features)}."
        )
    for split, dataset in splits.items():
        if any(dataset.features.get(column) != features[column] for column in (image_column, label_column)):
            raise ValueError(
                f"The splits of {name} have different columns: {_describe(features)} in train, "
                f"{_describe(dataset.features)} in {split}."
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
            f"{name} has {len(found)} candidates for {argument}; its columns are {_describe(features)}. Choose one "
            f"with {argument}."
        )
    return found[0]


def _describe(features: Features) -> str:
    return ", ".join(f"{column} ({getattr(kind, 'dtype', type(kind).__name__)})" for column, kind in features.items())


def _name_classes(splits: dict[str, Dataset], name: str, label_column: str) -> dict[str, Dataset]:
    feature = splits["train"].features["label"]
    kinds = ("string", "large_string", "int", "uint", "bool")
    if not isinstance(feature, Value) or not feature.dtype.startswith(kinds):
        raise ValueError(f"The column {label_column!r} of {name} holds no class labels, but {feature}.")
    classes = sorted(value for value in splits["train"].unique("label") if value is not None)
    ids = {value: position for position, value in enumerate(classes)}
    class_label = ClassLabel(names=[str(value) for value in classes])
    named = {}
    for split, dataset in splits.items():
        values = dataset.select_columns("label")[:]["label"]
        unknown = {value for value in values if value is not None and value not in ids}
        if unknown:
            raise ValueError(
                f"The {split} split of {name} has the label {min(unknown)!r}, which the train split lacks."
            )
        # Casting the column instead would rewrite all images.
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
        raise ValueError(f"The {split} split of {name} is empty.")
    labels = _labels(dataset)
    wrong = labels[(labels < 0) | (labels >= len(label_names))]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} example(s) of the {split} split of {name} have no valid label; expected 0 to "
            f"{len(label_names) - 1}, the first is {wrong[0]} (-1: missing). Many test splits on the Hub have no "
            "labels: choose another split with test_split."
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
            f"{argument} is {size}; expected {classes} to {len(labels)}, for {len(labels)} examples of {classes} "
            "classes."
        )
    rows = stratified_indices(labels, size, seed)
    return dataset.select(rows), labels[rows]


def _split_off(
    dataset: Dataset, labels: npt.NDArray[np.int64], fraction: float, seed: int, argument: str
) -> tuple[Dataset, Dataset]:
    if not 0 < fraction < 1:
        raise ValueError(f"{argument} is {fraction}; expected a number between 0 and 1.")
    size, classes = round(len(labels) * fraction), len(np.unique(labels))
    if size < 1 or len(labels) - size < classes:
        raise ValueError(
            f"{argument} is {fraction}: {size} of {len(labels)} examples are held out, which leaves "
            f"{len(labels) - size} for training on {classes} classes. Expected at least one example held out, and at "
            "least one per class for training."
        )
    kept = stratified_indices(labels, len(labels) - size, seed)
    return dataset.select(kept), dataset.select(np.setdiff1d(np.arange(len(labels)), kept))
