"""Images of any mode as upright RGB, the same in training and inference."""

import base64
import io
import os
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_session
from transformers.utils import logging

try:
    import PIL.Image
    import PIL.ImageOps
except ImportError:
    # A published ensemble loads without Pillow, for pixel values alone. transformers' pipelines say to install it.
    pass

__all__ = ["TRANSPARENCY", "array_to_rgb", "load_rgb", "to_rgb"]

TRANSPARENCY = {"transparency": "white"}
"""What the settings of a saved image processor say of transparent pixels. transformers ignores it."""

logger = logging.get_logger(__name__)

_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Mode of an image by its number of channels."""


def to_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Convert an image to upright RGB.

    - An image with an EXIF orientation is turned.
    - Transparent pixels are composited on white: `RGBA`, `LA`, and palettes or colors with transparency.
    - 16-bit grey values are divided by 257, so that 65,535 becomes 255. Mode `I` is taken for 16 bits if its file
      format says so (PNG and PGM), or its largest value is between 256 and 65,535. An image whose values all fit into
      12 bits becomes nearly black. The first one logs a warning.
    - Floats between 0 and 1 are multiplied by 255.

    Pillow's own conversion makes 16-bit images white, floats black, and shows the hidden colors of transparent pixels.

    Args:
        image: of any mode and size.

    Returns:
        Mode `RGB`.

    Raises:
        ValueError: the range of the values is unknown: floats outside 0 to 1, or integers of 32 bits. The message
            names mode and range.

    Example:
        >>> import PIL.Image
        >>> to_rgb(PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
        >>> to_rgb(PIL.Image.new("I;16", (1, 1), 257)).getpixel((0, 0))
        (1, 1, 1)
    """
    image_format = image.format
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _grey(upright, image_format).convert("RGB")
    if upright.mode in _TRANSPARENT or "transparency" in upright.info:
        # Pillow converts "La" to "LA" only.
        rgba = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def array_to_rgb(array: np.ndarray | torch.Tensor) -> "PIL.Image.Image":
    """Convert an array or tensor of pixels to RGB.

    The result is that of `to_rgb` for the same pixels. Transparent pixels are composited on white.

    Args:
        array: [height, width], [height, width, channels] or [channels, height, width]. One channel is grey, two are
            grey and alpha, three are RGB and four are RGBA. The dtype gives the value of white: 255 for 8 bits, 65,535
            for `uint16`, 1 for floats and True for booleans. Wider integers are taken for 8 bits, if all values are
            between 0 and 255.

    Returns:
        Mode `RGB`.

    Raises:
        ValueError: the shape is no image's, or either end of it could be the channels; or values lie outside the
            range of their dtype, or are NaN. The message names shape, dtype and range.

    Example:
        >>> array_to_rgb(np.full((1, 5), 0.2)).getpixel((0, 0))
        (51, 51, 51)
        >>> array_to_rgb(torch.zeros(4, 5, 5)).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(array, torch.Tensor):
        tensor = array.detach().cpu()
        # NumPy has no bfloat16.
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    bits = _to_8_bits(_channels_last(array))
    if bits.shape[2] == 1:
        bits = bits[:, :, 0]
    return to_rgb(PIL.Image.fromarray(np.ascontiguousarray(bits)))


def load_rgb(source: Any, timeout: float | None = None) -> "PIL.Image.Image":
    """Load an image as upright RGB.

    Args:
        source: a `PIL.Image`, a path, a URL, the bytes of an image file, such bytes as base64, optionally after
            `data:image/...;base64,`, or an array or tensor (see `array_to_rgb`).
        timeout: for a URL, in seconds; default: none.

    Returns:
        Mode `RGB`; see `to_rgb`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file or URL cannot be read, or is no image.
        TypeError: the source is of another type.
        ValueError: the range of the values is unknown; see `to_rgb` and `array_to_rgb`.

    Example:
        >>> load_rgb(b"P5 1 1 255 0").mode
        'RGB'
    """
    if isinstance(source, PIL.Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray | torch.Tensor):
        return array_to_rgb(source)
    if isinstance(source, bytes | bytearray):
        with PIL.Image.open(io.BytesIO(source)) as image:
            return to_rgb(image)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"Incorrect format used for image: {type(source).__name__}. Give a path, a URL, base64, bytes, a PIL "
            "image, an array or a tensor."
        )
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        try:
            content = get_session().get(name, timeout=timeout, follow_redirects=True).raise_for_status().content
        except Exception as error:  # the HTTP library's, which depends on the version of huggingface_hub
            raise OSError(f"{name} cannot be loaded: {error}") from error
        return load_rgb(content)
    if os.path.isfile(name):
        with PIL.Image.open(name) as image:
            return to_rgb(image)
    try:
        content = base64.b64decode(name.rpartition("base64,")[2], validate=True)
        return load_rgb(content)
    except (ValueError, PIL.UnidentifiedImageError) as error:
        shown = name if len(name) <= 200 else f"{name[:200]}..."
        raise FileNotFoundError(
            f"There is no file {shown}. Give a valid path, a URL that starts with http:// or https://, or an image as "
            "base64."
        ) from error


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Reshape an array to [height, width, channels]."""
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim != 3 or not {shape[0], shape[2]} & _MODES.keys():
        raise ValueError(
            f"An array of shape {shape} is no image; expected [height, width], [height, width, channels] or "
            "[channels, height, width] with 1 to 4 channels."
        )
    elif {shape[0], shape[2]} <= _MODES.keys():
        raise ValueError(
            f"An array of shape {shape} may have its channels first or last. Give a PIL image, whose channels are "
            "known."
        )
    elif shape[0] in _MODES:
        array = array.transpose(1, 2, 0)
    if not array.size:
        raise ValueError(f"An array of shape {shape} has no pixels.")
    return array


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    """Scale values to 0 to 255 as their dtype says."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return array
    if kind == "u" and size == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind not in "iuf":
        raise ValueError(f"An array of dtype {array.dtype} is no image; expected integers, floats or booleans.")
    low, high, white = array.min(), array.max(), 1 if kind == "f" else 255
    # Written so that NaN is refused.
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"An array of dtype {array.dtype} has values from {low:g} to {high:g}; expected 0 to {white}, or dtype "
            "uint8 or uint16. Scale it first, and give pixels that are not normalized yet."
        )
    return np.rint(array * np.float64(255)).astype(np.uint8) if kind == "f" else array.astype(np.uint8)


def _grey(image: "PIL.Image.Image", image_format: str | None) -> "PIL.Image.Image":
    """Scale 16-bit integers or floats to 8-bit grey."""
    values = np.asarray(image)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if image.mode == "F":
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"An image of mode 'F' (float) has values from {low:g} to {high:g}; expected 0 to 1. Scale it first."
            )
        return PIL.Image.fromarray(np.rint(values * np.float32(255)).astype(np.uint8))
    known = image.mode != "I" or image_format in ("PNG", "PPM") or high == 0 or high > 255
    if not known or low < 0 or high > 65535:
        raise ValueError(
            f"An image of mode {image.mode!r} (integers) has values from {low} to {high}, so that it is unknown which "
            "value is white; expected 8 bits (mode 'L') or 16 bits (mode 'I;16'). Convert it first."
        )
    if 255 < high < 4096:
        # One text for all images, since `warning_once` tells each text once.
        logger.warning_once(
            "An image of 16 bits has no value above 4,095, and becomes nearly black, since white is 65,535. If its "
            "values have 12 bits, multiply them by 16 first, in training and in inference."
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return PIL.Image.fromarray(grey)
