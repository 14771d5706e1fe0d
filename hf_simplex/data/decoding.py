"""Decodes the stored images of a data set to upright RGB. An error names the file."""

from typing import Any

import PIL.Image
from datasets import Image

from ..model.image_pixels import to_rgb

__all__ = ["decode_rgb"]


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
        raise ValueError(f"Cannot read the image {file}: {error}. Replace or remove it.") from error
