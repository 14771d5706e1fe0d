"""Decodes the stored images of a data set to upright RGB. An error names the file."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import PIL.Image
from datasets import Dataset, Image

from ..model.image_pixels import to_rgb

__all__ = ["CANNOT_READ", "decode_rgb", "decoding_errors"]

CANNOT_READ = "Cannot read the image"
"""First words of the error of `decode_rgb`."""

_BATCH = 256


def decode_rgb(stored: dict[str, Any], feature: Image) -> PIL.Image.Image:
    """Decodes a stored image.

    Args:
        stored: `path` and `bytes` of the image, as `datasets` gives them with `Image(decode=False)`.
        feature: kind of the column. If its mode is `RGB`, `to_rgb` converts the image, because `datasets` would show
            the hidden colors of transparent pixels.

    Returns:
        Mode `RGB`; see `to_rgb`.

    Raises:
        ValueError: the image cannot be read, or the range of its values is unknown. The message names its file.

    Example:
        >>> from datasets import Image
        >>> from hf_simplex.data.decoding import decode_rgb
        >>> decode_rgb({"path": None, "bytes": b"P5 1 1 255 0"}, Image()).mode
        'RGB'
    """
    try:
        return to_rgb(Image(mode=None if feature.mode == "RGB" else feature.mode).decode_example(stored))
    except Exception as error:  # Pillow's readers raise many types
        file = stored["path"] or f"(no file name, {len(stored['bytes'] or b'')} bytes)"
        raise ValueError(f"{CANNOT_READ} {file}: {error}. Replace or remove it.") from error


def decoding_errors(dataset: Dataset) -> list[str]:
    """Decodes all images of a data set in threads, and keeps none.

    Args:
        dataset: with a column `image` of images.

    Returns:
        The message of `decode_rgb` for each image that cannot be read, in their order.

    Example:
        >>> from hf_simplex.data.decoding import decoding_errors
        >>> from hf_simplex.data.image_data import load_image_data
        >>> decoding_errors(load_image_data("digits").test)
        []
    """
    error_of = partial(_error, feature=dataset.features["image"])
    stored = dataset.select_columns("image").cast_column("image", Image(decode=False))
    with ThreadPoolExecutor() as threads:
        # In batches, since `map` takes all of its arguments at once: bytes of images fill the memory.
        found = [error for batch in stored.iter(_BATCH) for error in threads.map(error_of, batch["image"])]
    return [error for error in found if error is not None]


def _error(stored: dict[str, Any], feature: Image) -> str | None:
    try:
        decode_rgb(stored, feature)
    except ValueError as error:
        return str(error)
    return None
