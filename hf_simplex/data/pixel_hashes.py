"""Hashes of decoded images: do two data sets share images?

Calibration or evaluation on images that were trained on gives figures that are too good. Hashes of the training
images, 8 bytes each, recognise them later without the images.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, Image

from .decoding import decode_rgb

__all__ = ["count_shared", "pixel_hashes"]


def pixel_hashes(dataset: Dataset, num_proc: int | None = None) -> npt.NDArray[np.uint64]:
    """Hashes the size and the upright RGB pixels of each image.

    The hash does not depend on file name, file format (if lossless), label or position. An image that was resized,
    cropped or compressed again has another hash.

    Two different images have the same hash with a probability of 2**-64. A hash in 10,000 test images equals one in
    50,000 training images by chance with a probability below 3e-11.

    Args:
        dataset: with a column `image` of images, such as a split of `ImageData`.
        num_proc: number of processes that decode images; default: this one.

    Returns:
        [N] uint64, in the order of the data set. 50,000 hashes are a file of 400 kB: write it with `numpy.save`.

    Raises:
        ValueError: there is no column `image` of images, or an image cannot be read. The message names it.

    Source: BLAKE2 (RFC 7693) with a digest of 8 bytes.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.pixel_hashes import pixel_hashes
        >>> hashes = pixel_hashes(load_image_data("digits").test)
        >>> hashes.shape, hashes.nbytes
        ((797,), 6376)
    """
    feature = dataset.features.get("image")
    if not isinstance(feature, Image):
        raise ValueError(f"The data set needs an 'image' column of images; it has {dataset.features}.")
    stored = dataset.select_columns("image").cast_column("image", Image(decode=False))
    if num_proc is None or num_proc == 1:
        values = [_hash(example["image"], feature) for example in stored]
    else:
        hashed: Any = stored.map(
            lambda example: {"hash": _hash(example["image"], feature)},
            remove_columns="image",
            keep_in_memory=True,
            load_from_cache_file=False,
            num_proc=num_proc,
        )
        values = hashed["hash"][:]
    return np.frombuffer(b"".join(values), dtype="<u8").astype(np.uint64)


def count_shared(hashes: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> int:
    """Counts the images of one data set that occur in another.

    Args:
        hashes: of the data set to count in, [N] uint64, as `pixel_hashes` gives them.
        others: of the other data set, [M] uint64.

    Returns:
        0 to N. An image that occurs twice in the first data set counts twice.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.pixel_hashes import count_shared, pixel_hashes
        >>> data = load_image_data("digits")
        >>> train, test = pixel_hashes(data.train), pixel_hashes(data.test)
        >>> count_shared(test, train), count_shared(test, test)
        (0, 797)
    """
    return int(np.isin(hashes, others).sum())


def _hash(stored: dict[str, Any], feature: Image) -> bytes:
    image = decode_rgb(stored, feature)
    return blake2b(f"{image.width}x{image.height}".encode() + image.tobytes(), digest_size=8).digest()
