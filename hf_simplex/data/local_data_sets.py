"""Two data sets that need no Hub: scikit-learn's digits, and Fashion-MNIST from idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from .stratification import stratified_indices

__all__ = [
    "DIGITS_TRAIN_EXAMPLES",
    "FASHION_MNIST_DIRECTORY",
    "FASHION_MNIST_LABELS",
    "read_digits",
    "read_fashion_mnist",
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


def read_digits(seed: int) -> DatasetDict:
    """Reads scikit-learn's 1,797 handwritten digits, `DIGITS_TRAIN_EXAMPLES` of them in the split `train`.

    Args:
        seed: of the stratified split.

    Returns:
        The splits `train` and `test`.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> from hf_simplex.data.local_data_sets import read_digits
        >>> read_digits(seed=0).num_rows
        {'train': 1000, 'test': 797}
    """
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


def read_fashion_mnist(folder: Path) -> DatasetDict:
    """Reads Fashion-MNIST from its four idx files, gzipped or not.

    Args:
        folder: of the files.

    Returns:
        The splits `train` and `test`.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: a file is damaged.

    Example::

        splits = read_fashion_mnist(Path(FASHION_MNIST_DIRECTORY))
    """
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
