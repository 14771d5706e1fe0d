"""Claims about `to_rgb`, `array_to_rgb` and `load_rgb`: every image becomes the RGB image that a viewer shows."""

import base64
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from hf_simplex.model.image_pixels import array_to_rgb, load_rgb, to_rgb

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


@pytest.mark.parametrize(("largest", "warnings"), [(0, 0), (4095, 1), (4096, 0), (65535, 0)])
def test_values_of_12_bits_in_a_16_bit_image_log_one_warning(
    largest: int, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    logging.getLogger("hf_simplex.model.image_pixels").warning_once.cache_clear()
    for _ in range(2):
        to_rgb(PIL.Image.fromarray(np.array([[0, largest]], np.uint16)))
    assert caplog.text.count("no value above 4,095") == warnings


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


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_of_every_dtype_and_layout_are_the_image_of_their_pixels(channels: int) -> None:
    pixels = PIXELS[:, :, :channels]
    image = PIL.Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.asarray(to_rgb(image))
    if channels == 3:
        assert np.array_equal(expected, pixels)
    same: list[Any] = [pixels, pixels.astype(np.uint16) * 257]
    same += [pixels.astype(dtype) for dtype in (np.int16, np.int32, np.int64, np.uint32, np.uint64)]
    same += [(pixels / 255).astype(dtype) for dtype in (np.float16, np.float32, np.float64, np.longdouble)]
    same += [pixels.astype(">u2") * np.uint16(257), pixels.astype(">i4")]
    same += [torch.from_numpy(array.copy()) for array in same if array.dtype.isnative and array.dtype != np.longdouble]
    assert {str(tensor.dtype) for tensor in same if isinstance(tensor, torch.Tensor)} >= {
        "torch.uint8", "torch.uint16", "torch.int16", "torch.int32", "torch.int64", "torch.float16", "torch.float64"
    }  # fmt: skip
    same.append(torch.from_numpy(pixels / 255).requires_grad_())
    for array in same:
        first = array.permute(2, 0, 1) if isinstance(array, torch.Tensor) else array.transpose(2, 0, 1)
        for layout in (array, first, *([array[:, :, 0]] if channels == 1 else [])):
            assert np.array_equal(np.asarray(array_to_rgb(layout)), expected), (array.dtype, layout.shape)
            assert load_rgb(layout).tobytes() == expected.tobytes()


def test_booleans_and_bfloat16_are_black_and_white() -> None:
    values = np.array([[True, False, True, True, False]])
    for array in (values, torch.from_numpy(values), torch.from_numpy(values).to(torch.bfloat16)):
        assert np.asarray(array_to_rgb(array))[0].tolist() == [[255 * value] * 3 for value in values[0].tolist()]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            torch.tensor([[-1.5, 2.0]]),
            r"dtype float32 has values from -1\.5 to 2; expected 0 to 1.*not normalized",
        ),
        (np.array([[0.0, 255.0]]), "dtype float64 has values from 0 to 255; expected 0 to 1"),
        (np.array([[0.5, np.nan]], np.float32), "from nan to nan"),
        (np.array([[0.5, np.inf]], np.float32), "from 0.5 to inf"),
        (np.array([[0, 65535]], np.int32), "dtype int32 has values from 0 to 65535; expected 0 to 255"),
        (torch.tensor([[-1, 3]]), "dtype int64 has values from -1 to 3"),
        (np.array([[1j, 0]]), "dtype complex128 is no image"),
        (np.array([["a", "b"]]), "dtype <U1 is no image"),
        (np.zeros((8, 8, 5), np.uint8), r"shape \[8, 8, 5\] is no image"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"shape \[1, 8, 8, 3\] is no image"),
        (np.zeros(3, np.uint8), r"shape \[3\] is no image"),
        (np.zeros((3, 8, 3), np.uint8), r"shape \[3, 8, 3\] may have its channels first or last"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \[0, 8, 3\] has no pixels"),
    ],
)
def test_arrays_of_unknown_range_or_shape_are_refused_by_name(array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        array_to_rgb(array)
