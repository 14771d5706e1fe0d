"""Claims about `to_rgb` and `load_rgb`: every mode of an image becomes the RGB image that a viewer shows."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hf_simplex.model.image_pixels import load_rgb, to_rgb

RED, WHITE = (255, 0, 0), (255, 255, 255)


def file_of(image: PIL.Image.Image, image_format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


def transparent_red(mode: str) -> PIL.Image.Image:
    """Two pixels: red (or grey) that is opaque, and red that is fully transparent."""
    image = PIL.Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    return image.convert(mode)


def test_opaque_images_keep_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    for mode in ("RGB", "RGBA"):
        assert np.array_equal(np.asarray(to_rgb(image.convert(mode))), pixels)
    for mode in ("L", "CMYK", "1", "YCbCr"):
        assert to_rgb(image.convert(mode)).tobytes() == image.convert(mode).convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_transparent_pixels_are_white_whatever_color_they_hide(mode: str) -> None:
    image = transparent_red("LA" if mode == "La" else "RGBA").convert(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.getpixel((1, 0)) == WHITE
    assert rgb.getpixel((0, 0)) != WHITE


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert to_rgb(PIL.Image.new("RGBA", (1, 1), (0, 0, 0, 51))).getpixel((0, 0)) == (204, 204, 204)


def test_a_transparent_entry_of_a_palette_is_white() -> None:
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((1, 0), 1)
    stored = PIL.Image.open(io.BytesIO(file_of(image, "PNG", transparency=0)))
    assert stored.mode == "P"
    assert [to_rgb(stored).getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


@pytest.mark.parametrize(("mode", "color"), [("RGB", RED), ("L", 76)])
def test_a_transparent_color_without_an_alpha_channel_is_white(mode: str, color: Any) -> None:
    image = PIL.Image.new(mode, (2, 1), color)
    image.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
    stored = PIL.Image.open(io.BytesIO(file_of(image, "PNG", transparency=color)))
    assert [to_rgb(stored).getpixel((x, 0)) for x in (0, 1)] == [WHITE, (0, 0, 0)]


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I;16L", "PNG", "TIFF", "PPM", "I"])
def test_16_bit_values_are_scaled_from_black_to_white(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    image = PIL.Image.fromarray(values)
    if kind in ("PNG", "TIFF", "PPM"):
        image = PIL.Image.open(io.BytesIO(file_of(image.convert("I") if kind == "PPM" else image, kind)))
    elif kind == "I":
        image = image.convert("I")
    elif kind != "I;16":
        image = PIL.Image.frombytes(kind, image.size, values.astype(">u2" if kind == "I;16B" else "<u2").tobytes())
    assert np.asarray(to_rgb(image))[0].tolist() == [[grey] * 3 for grey in (0, 1, 128, 255)]


def test_a_transparent_16_bit_value_is_white() -> None:
    image = PIL.Image.fromarray(np.array([[1000, 2000]], np.uint16))
    image.info["transparency"] = 1000
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [WHITE, (8, 8, 8)]


def test_floats_from_0_to_1_are_scaled_from_black_to_white() -> None:
    image = PIL.Image.fromarray(np.array([[0, 0.2, 1]], np.float32))
    assert np.asarray(to_rgb(image))[0].tolist() == [[0] * 3, [51] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 255]], np.float32), "mode 'F'.* from 0 to 255; expected 0 to 1"),
        (np.array([[-1, 1]], np.float32), "mode 'F'.* from -1 to 1; expected 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "mode 'F'.* nan"),
        (np.array([[0, 70000]], np.int32), "mode 'I'.* from 0 to 70000.*unknown which value is white"),
        (np.array([[-5, 300]], np.int32), "mode 'I'.* from -5 to 300"),
        (np.array([[0, 200]], np.int32), "mode 'I'.* from 0 to 200"),
    ],
)
def test_values_of_unknown_range_are_refused_by_name(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(PIL.Image.fromarray(values))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_an_image_is_turned_as_its_exif_tag_says(mode: str) -> None:
    image = PIL.Image.new("RGB", (4, 2), "black").convert("L").convert(mode)
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6
    turned = PIL.Image.open(io.BytesIO(file_of(image, "PNG", exif=exif)))
    assert to_rgb(turned).size == (2, 4)


def test_all_sources_of_an_image_give_the_same_pixels(tmp_path: Path) -> None:
    image = transparent_red("RGBA")
    content = file_of(image, "PNG")
    (tmp_path / "red.png").write_bytes(content)
    encoded = base64.b64encode(content).decode()
    sources = [image, content, tmp_path / "red.png", str(tmp_path / "red.png"), encoded]
    for source in (*sources, f"data:image/png;base64,{encoded}"):
        assert load_rgb(source).tobytes() == bytes((*RED, *WHITE))


@pytest.mark.parametrize("name", ["cat.png", "pictures/cat", "cat"])
def test_a_mistyped_name_is_no_such_file(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"There is no file {name}"):
        load_rgb(name)


def test_another_type_is_no_image() -> None:
    with pytest.raises(TypeError, match="Incorrect format used for image: int"):
        load_rgb(3)
