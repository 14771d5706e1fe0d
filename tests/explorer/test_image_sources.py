"""Images from a camera and from the clipboard reach the explorer as they are. The camera plays a file."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from browsers import chromium, serving
from playwright.sync_api import Browser, Page, expect
from tiny_explorer import explored, named

from hf_simplex.explorer.answers import Answers
from hf_simplex.model.image_pixels import load_rgb

PATIENCE = 60_000
"""Milliseconds. The machine may be busy."""
RED, BLUE = (220, 30, 30), (30, 30, 220)

_COPY = """async encoded => {
    const bytes = Uint8Array.from(atob(encoded), character => character.charCodeAt(0));
    await navigator.clipboard.write([new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})})]);
}"""


def halves(width: int, height: int, image_format: str) -> bytes:
    """The file of an image whose left half is red and whose right half is blue."""
    image = PIL.Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    content = io.BytesIO()
    image.save(content, image_format)
    return content.getvalue()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    film = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    film.write_bytes(halves(640, 480, "JPEG") * 20)
    with chromium(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ) as found:
        yield found


@pytest.fixture
def seen(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Page, list[np.ndarray]]]:
    """An open page, and the images that the app reads from now on: [height, width, 3]."""
    model = named("resnet")
    answers, images = Answers(model, explored(model)), []
    read = answers.read

    def watched(source: Any) -> Any:
        images.append(np.asarray(load_rgb(Path(source) if isinstance(source, str) else source)))
        return read(source)

    monkeypatch.setattr(answers, "read", watched)
    with serving(answers) as address:
        context = browser.new_context(permissions=["camera", "clipboard-read", "clipboard-write"])
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(address)
        page.locator("#examples button").first.wait_for()
        yield page, images
        context.close()


def test_a_photograph_is_not_mirrored(seen: tuple[Page, list[np.ndarray]]) -> None:
    page, images = seen
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_label("capture photo").click()
    expect(page.locator("#asked .sx-members")).to_be_visible(timeout=PATIENCE)
    (image,) = images
    assert image.shape == (480, 640, 3)
    # The film and the photograph are compressed with losses.
    assert image[:, :300].mean(axis=(0, 1)) == pytest.approx(RED, abs=25)
    assert image[:, 340:].mean(axis=(0, 1)) == pytest.approx(BLUE, abs=25)


def test_an_image_is_pasted_pixel_by_pixel(seen: tuple[Page, list[np.ndarray]]) -> None:
    page, images = seen
    content = halves(30, 20, "PNG")
    page.evaluate(_COPY, base64.b64encode(content).decode())
    page.get_by_label("Paste from clipboard").click()
    expect(page.locator("#asked .sx-members")).to_be_visible(timeout=PATIENCE)
    (image,) = images
    assert np.array_equal(image, np.asarray(load_rgb(content)))
