"""The explorer in a real browser: what it shows agrees with the Python API, and bad input does not end it."""

import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from browsers import chromium, serving
from playwright.sync_api import Browser, Locator, Page, expect
from tiny_explorer import NAMES, explored, named

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.app import Compute
from hf_simplex.explorer.exploration import Exploration

DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000
"""Milliseconds. The machine may be busy."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Two modes that share a connector: three edges less one, so that there are two components and a real path."""
    model = named("resnet", [[0, 2], [1, 2]])
    return Answers(model, explored(model))


@pytest.fixture(scope="module")
def address(answers: Answers) -> Iterator[str]:
    with serving(answers, "<script>alert(1)</script> & co") as found:
        yield found


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    pages = []

    def opened(size: dict[str, int] = DESKTOP, where: str = address) -> Page:
        page = browser.new_page(viewport=size)
        page.set_default_timeout(PATIENCE)
        page.on("dialog", lambda dialog: pytest.fail(f"a name ran as a script: {dialog.message}"))
        page.goto(where)
        page.locator("#examples button").first.wait_for()
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()


def choose_example(page: Page, index: int = 0) -> None:
    page.locator("#examples button").nth(index).click()
    expect(page.locator("#asked .sx-members")).to_be_visible(timeout=PATIENCE)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def wander(page: Page) -> None:
    """Open the tab and wait until the point has answered and the handle rests."""
    tab(page, "Wander")
    page.locator(".sx-wander[data-answers]").wait_for()
    expect(page.get_by_test_id("exact")).not_to_have_text("", timeout=PATIENCE)


def shares(bars: Locator) -> dict[str, float]:
    return {bar.get_attribute("data-label"): float(bar.get_attribute("data-share")) for bar in bars.all()}


def after_answer(page: Page, action: Callable[[], Any]) -> None:
    """Do something, and wait until the point has answered and the handle rests."""
    root = page.locator(".sx-wander")
    before = int(root.get_attribute("data-answers") or 0)
    page.get_by_test_id("exact").evaluate("node => { node.textContent = '' }")
    action()
    page.wait_for_function(
        "before => Number(document.querySelector('.sx-wander').dataset.answers || 0) > before", arg=before
    )
    expect(page.get_by_test_id("exact")).not_to_have_text("", timeout=PATIENCE)
    expect(root).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


def points(page: Page) -> dict[str, float]:
    rows = page.locator(".sx-table tbody tr").all()
    return {
        row.get_attribute("data-label"): float(row.locator("[data-point]").get_attribute("data-point")) for row in rows
    }


def stored(answers: Answers, place: int) -> PIL.Image.Image:
    """The image of an example button."""
    exploration = answers.exploration
    order = list(dict.fromkeys([*exploration.gallery[:8], *range(len(exploration.images))]))
    return PIL.Image.fromarray(exploration.images[order[place]].numpy())


def test_what_it_shows_is_what_the_pipeline_says(open_page: Callable[..., Page], answers: Answers) -> None:
    page = open_page()
    choose_example(page, 1)
    classify = SimplexImageClassificationPipeline(model=answers.model, image_processor=answers.model.image_processor)
    expected = classify(stored(answers, 1))
    found = shares(page.locator("#asked > div .sx-bars").first.locator("li"))
    assert list(found) == [entry["label"] for entry in expected["labels"]]
    assert list(found.values()) == pytest.approx([entry["score"] for entry in expected["labels"]], abs=1e-6)
    text = page.locator("#asked").inner_text()
    assert ("abstains" in text.splitlines()[0]) == expected["abstain"]
    assert ", ".join(expected["prediction_set"]) in text
    assert f"less sure than {expected['more_uncertain_than']['mutual_information']:.0f} %" in text
    assert page.locator("#asked .sx-members > li").count() == len(answers.model.config.members)
    assert page.locator("b, i, script", has_text=re.compile("bee|pets|alert")).count() == 0, "names are text"
    assert page.locator("h1").inner_text() == "<script>alert(1)</script> & co"


def test_a_drag_changes_numbers_that_agree_with_the_model(open_page: Callable[..., Page], answers: Answers) -> None:
    page = open_page()
    choose_example(page)
    wander(page)
    after_answer(page, lambda: page.locator(".sx-handle").press("1"))
    at_vertex = points(page)
    pixel_values = answers.read(stored(answers, 0))
    with torch.no_grad():
        exact = answers.model.backbone_at([1.0, 0.0, 0.0])(pixel_values=pixel_values).logits.softmax(dim=-1)[0]
    assert at_vertex == pytest.approx({NAMES[i]: float(exact[i]) for i in range(3)}, abs=1e-5)
    box = page.locator(".sx-svg").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + 0.46 * box["width"])

    def drag() -> None:
        page.mouse.move(box["x"] + 0.1 * box["width"], middle[1])
        page.mouse.down()
        page.mouse.move(*middle, steps=20)
        page.mouse.up()

    after_answer(page, drag)
    page.wait_for_function("() => document.querySelector('.sx-handle').getAttribute('aria-valuenow') === '50'")
    expected = answers.at(pixel_values, [0.5, 0.0, 0.5])
    assert points(page) == pytest.approx({NAMES[i]: float(expected.probabilities[i]) for i in range(3)}, abs=2e-2)
    assert points(page) != at_vertex
    assert float(page.get_by_test_id("loss").inner_text().split()[0]) == pytest.approx(expected.loss, abs=0.02)
    score = answers.score([0.5, 0.0, 0.5])
    assert f"on {score.images} images" in page.get_by_test_id("exact").inner_text()
    assert float(page.locator(".sx-wander").get_attribute("data-nll")) == pytest.approx(score.nll, abs=0.05)


def test_switching_the_component_and_playing_a_path(open_page: Callable[..., Page], answers: Answers) -> None:
    page = open_page()
    choose_example(page)
    wander(page)
    after_answer(page, lambda: page.get_by_test_id("component").select_option("1"))
    assert [text.inner_text() for text in page.locator(".sx-slider > span").all()] == ["mode 1", "connector 2"]
    assert "mode 0" not in page.locator(".sx-where").first.inner_text()
    paths = page.locator(".sx-path select")
    assert [option.inner_text() for option in paths.locator("option").all()] == [
        "mode 0 to mode 1, straight",
        "mode 0 to mode 1, through connector 2",
    ]
    paths.select_option("1")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_test_id("path-loss")).to_contain_text("100 % of the way", timeout=PATIENCE)
    expected, _ = answers.exploration.loss_at([0.0, 1.0, 0.0])
    assert f"{expected:.3f} nats" in page.get_by_test_id("path-loss").inner_text()
    assert page.locator(".sx-curve").get_attribute("points").count(",") > 8, "the loss is drawn on the way"


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on an element."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"no {selector} among 60 stops of the focus")


def test_keys_alone_reach_everything(open_page: Callable[..., Page]) -> None:
    page = open_page()
    tab_to(page, "#examples button")
    page.keyboard.press("Enter")
    expect(page.locator("#asked .sx-members")).to_be_visible(timeout=PATIENCE)
    tab_to(page, "[role=tab][aria-selected=false]")
    page.keyboard.press("Enter")
    handle = page.locator(".sx-handle")
    expect(handle).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_test_id("exact")).not_to_have_text("", timeout=PATIENCE)
    tab_to(page, ".sx-handle")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    assert handle.get_attribute("aria-valuenow") == "50"
    after_answer(page, lambda: page.keyboard.press("ArrowRight"))
    assert int(handle.get_attribute("aria-valuenow")) < 50
    after_answer(page, lambda: page.keyboard.press("Home"))
    assert handle.get_attribute("aria-valuetext") == "mode 0 50 %, connector 2 50 %"
    assert "nats" in page.locator("[aria-live=polite].sx-hidden").inner_text(), "a screen reader hears where it rests"


def test_a_path_is_played_by_keys(open_page: Callable[..., Page]) -> None:
    page = open_page()
    choose_example(page)
    wander(page)
    tab_to(page, ".sx-player input[type=range]")
    before = page.get_by_test_id("path-loss").inner_text()
    after_answer(page, lambda: page.keyboard.press("End"))
    assert before.startswith("0 %") and page.get_by_test_id("path-loss").inner_text().startswith("100 % of the way")


@contextmanager
def asked_to_compute(browser: Browser, model: SimplexForImageClassification, compute: Compute) -> Iterator[Page]:
    """The Wander tab of an ensemble without an explorer file, after a click on the button that computes one."""
    with serving(Answers(model), compute=compute) as address:
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        tab(page, "Wander")
        page.get_by_role("button", name="Compute the surfaces").click()
        yield page
        page.close()


def test_surfaces_are_computed_on_request(browser: Browser) -> None:
    model = named("resnet")
    computed: list[Exploration] = []

    def compute(progress: Callable[[float, str], Any]) -> Exploration:
        progress(0.5, "half")
        computed.append(explored(model))
        return computed[0]

    with asked_to_compute(browser, model, compute) as page:
        expect(page.locator("#computed")).to_contain_text("Computed. Choose an image.", timeout=PATIENCE)
        tab(page, "Ask")
        choose_example(page)
        wander(page)
        assert len(computed) == 1 and "nats" in page.get_by_test_id("exact").inner_text()


def test_what_cannot_be_computed_is_said(browser: Browser) -> None:
    def compute(progress: Callable[[float, str], Any]) -> Exploration:
        raise ValueError("no labels fit <b>")

    with asked_to_compute(browser, named("vit"), compute) as page:
        expect(page.locator("#computed")).to_contain_text("no labels fit <b>", timeout=PATIENCE)


def upload(page: Page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files(
        files=[{"name": name, "mimeType": "image/png", "buffer": content}]
    )


def png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "corrupt": (png(PIL.Image.new("RGB", (40, 40)))[:60], "cannot be read"),
    "text": (b"this is no image, but a line of text", "is no image that can be read"),
    "large": (png(PIL.Image.new("1", (10_000, 10_000))), "10,000 × 10,000 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gets_a_message_and_the_app_lives(open_page: Callable[..., Page], kind: str) -> None:
    page = open_page()
    content, message = BAD[kind]
    upload(page, f"{kind}.png", content)
    expect(page.locator("#asked")).to_contain_text(message, timeout=PATIENCE)
    choose_example(page)


def test_a_16_bit_grey_image_is_what_the_pipeline_takes_it_for(
    open_page: Callable[..., Page], answers: Answers
) -> None:
    grey = PIL.Image.fromarray(np.linspace(0, 65535, 400, dtype=np.uint16).reshape(20, 20))
    page = open_page()
    upload(page, "grey.png", png(grey))
    expect(page.locator("#asked .sx-members")).to_be_visible(timeout=PATIENCE)
    expected = answers.ask(answers.read(png(grey))).result["labels"]
    found = shares(page.locator("#asked > div .sx-bars").first.locator("li"))
    assert found == pytest.approx({entry["label"]: entry["score"] for entry in expected}, abs=1e-6)


def test_compare_and_about(open_page: Callable[..., Page], answers: Answers) -> None:
    page = open_page()
    choose_example(page)
    tab(page, "Compare")
    parts = [heading.inner_text() for heading in page.locator("#compared h4").all()]
    assert parts == ["one model (mode 0)", "plain ensemble of 2 modes", "centroid of simplex 0", "ensemble"]
    rows = page.locator("#disagreement tbody tr")
    expect(rows).to_have_count(len(answers.exploration.gallery), timeout=PATIENCE)
    disagreement = [float(row.locator("td").last.inner_text()) for row in rows.all()]
    assert disagreement == sorted(disagreement, reverse=True) and disagreement[0] > 0
    tab(page, "About")
    expect(page.get_by_text("weights of a vertex")).to_be_visible()


def test_ten_users_at_once_each_get_their_own_answer(
    open_page: Callable[..., Page], answers: Answers, address: str, tmp_path: Path
) -> None:
    """Ten clients of Gradio's own protocol, beside a person who drags."""
    from gradio_client import Client, handle_file

    pictures = [stored(answers, place) for place in range(10)]
    for place, picture in enumerate(pictures):
        picture.save(tmp_path / f"{place}.png")
    expected = [answers.ask(answers.read(picture)).result["labels"][0] for picture in pictures]

    def one(place: int) -> str:
        client = Client(address, verbose=False)
        asked, _, _ = client.predict(handle_file(tmp_path / f"{place}.png"), api_name="/_ask")
        return str(asked)

    page = open_page()
    choose_example(page)
    wander(page)
    with ThreadPoolExecutor(10) as threads:
        running = [threads.submit(one, place) for place in range(10)]
        after_answer(page, lambda: page.locator(".sx-handle").press("ArrowLeft"))
        found = [future.result(timeout=120) for future in running]
    for html, best in zip(found, expected, strict=True):
        share = float(re.search(r'data-share="([^"]+)"', html).group(1))
        assert share == pytest.approx(best["score"], abs=1e-6)


@pytest.mark.parametrize("width", [800, 1000])
def test_no_column_is_squeezed_in_a_narrow_window(open_page: Callable[..., Page], width: int) -> None:
    page = open_page({"width": width, "height": 900})
    choose_example(page)
    facts = [fact.bounding_box()["width"] for fact in page.locator("#asked .sx-facts dd").all()]
    assert facts and min(facts) >= 160, "pixels; fewer break words"
    wander(page)
    for slider in page.locator(".sx-slider").all():
        name, bar, value = (slider.locator(part).bounding_box() for part in ("span", "input", "output"))
        assert name["x"] + name["width"] <= bar["x"] and bar["x"] + bar["width"] <= value["x"]
        assert bar["width"] >= 56


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(viewport=PHONE, color_scheme=scheme, has_touch=True)
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme={scheme}")
    choose_example(page)
    for name in ("Ask", "Wander", "Compare", "About"):
        if not page.get_by_role("tab", name=name).is_visible():
            page.locator(".overflow-menu button").first.click()
            page.get_by_role("button", name=name).click()
        else:
            tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"] + 1, name
    contrast = json.loads(page.evaluate(CONTRAST))
    assert contrast["ratio"] >= 4.5, contrast
    page.close()


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number).slice(0, 3)
      .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const text = getComputedStyle(document.querySelector(".sx-head")).color;
  const back = getComputedStyle(document.body).backgroundColor;
  const [high, low] = [light(text), light(back)].sort((a, b) => b - a);
  return JSON.stringify({ text, back, ratio: (high + 0.05) / (low + 0.05) });
}"""
