"""Time from a move of the explorer's handle to the answer: on the server, and the round trip in a real browser.

    python recipes/benchmarks/explorer_latency.py --threads 2

The ensemble is one triangle of EfficientNet-Lite0 at 64 pixels, with statistics on a lattice. `move` and `settle` are
functions of the server: the answer to a move, and the loss where the handle rests. The page measures `round_trip`,
from the request to the numbers that it shows. Chromium, Playwright and Gradio must be installed.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import PIL.Image
import torch
from measure import parser, report, start

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_transforms import resize_image_processor
from hf_simplex.explorer.about import About
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.app import build_app, launch
from hf_simplex.explorer.exploration import Exploration
from hf_simplex.explorer.precompute import explore
from hf_simplex.explorer.wandering import move, settle
from hf_simplex.training.recipe.embedded_backbone import write_efficientnet_lite

LABELS = 10


@dataclass(frozen=True)
class Latency:
    """Milliseconds.

    Args:
        median: of all moves.
        percentile_95: of all moves.
        moves: their number.
    """

    median: float
    percentile_95: float
    moves: int


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    model = ensemble(args)
    answers = Answers(model, exploration(model, args), device=args.device)
    row: dict[str, Any] = {"backbone": "efficientnet_lite0", "image_size": args.image_size, "vertices": 3}
    measured = on_the_server(answers, args.moves) | in_a_browser(answers, args.moves)
    for name, found in measured.items():
        row |= {f"{name} {key}": value for key, value in asdict(latency(found)).items()}
    return report(args, device, [row])


def latency(milliseconds: Sequence[float]) -> Latency:
    """Summarize times."""
    cuts = statistics.quantiles(milliseconds, n=20, method="inclusive")
    return Latency(statistics.median(milliseconds), cuts[-1], len(milliseconds))


def ensemble(args: argparse.Namespace) -> SimplexForImageClassification:
    """A triangle of pretrained weights and two neighbours."""
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as directory:
        folder = write_efficientnet_lite(directory)
        model = SimplexForImageClassification.from_backbone(folder, num_labels=LABELS)
        # It is read from the folder at first use.
        image_processor = model.image_processor
    assert image_processor is not None
    model.image_processor = resize_image_processor(image_processor, args.image_size)
    for _ in range(2):
        vertex = model.add_vertex()
        for tensor in model.vertices[vertex].parameters():
            tensor.data += 0.01 * tensor.std(correction=0) * torch.randn_like(tensor)
    model.draw_members("auto", batches=batches(args))
    return model


def batches(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Random images for BatchNorm statistics."""
    return [{"pixel_values": torch.randn(32, 3, args.image_size, args.image_size)}]


def exploration(model: SimplexForImageClassification, args: argparse.Namespace) -> Exploration:
    """What the app shows, on random images."""
    pixels = np.random.default_rng(args.seed).integers(256, size=(64, args.image_size, args.image_size, 3))
    rows = {
        "image": [PIL.Image.fromarray(image.astype(np.uint8)) for image in pixels],
        "label": [index % LABELS for index in range(len(pixels))],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(label) for label in range(LABELS)])}
    )
    images = datasets.Dataset.from_dict(rows, features=features)
    return explore(
        model, images, range(LABELS), batch_norm_batches=batches(args), data_set="random images", resolution=4
    )


def on_the_server(answers: Answers, moves: int) -> dict[str, list[float]]:
    """Milliseconds of each function."""
    assert answers.exploration is not None
    answer = answers.ask(answers.read(answers.exploration.images[0].numpy()))
    found: dict[str, list[float]] = {"move": [], "settle": []}
    for number, point in enumerate(np.random.default_rng(0).dirichlet(np.ones(3), moves + 3).tolist()):
        for name, task in (
            ("move", lambda point=point: move(answers, answer, point)),
            ("settle", lambda point=point: settle(answers, point)),
        ):
            if name == "settle" and number % 10:
                continue
            started = time.perf_counter()
            task()
            if number >= 3:
                found[name].append(1e3 * (time.perf_counter() - started))
    return found


def in_a_browser(answers: Answers, moves: int) -> dict[str, list[float]]:
    """Milliseconds of round trips, as the page measures them."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("error: round trips need Chromium: apt-get install chromium.")
    blocks = build_app(answers, About("benchmark", (), {}, "", {}))
    _, address, _ = launch(blocks, prevent_thread_lock=True, quiet=True)
    round_trips = []
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(address)
            page.locator("#examples button").first.click()
            page.locator("#asked .sx-members").wait_for()
            page.get_by_role("tab", name="Wander").click()
            handle = page.locator(".sx-handle")
            handle.focus()
            for number in range(moves + 3):
                before = page.locator(".sx-wander").get_attribute("data-answers")
                page.keyboard.press(("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown")[number % 4])
                page.wait_for_function(
                    "before => document.querySelector('.sx-wander').dataset.answers !== before", arg=before
                )
                if number >= 3:
                    round_trips.append(float(page.locator(".sx-wander").get_attribute("data-round-trip") or "nan"))
            browser.close()
    finally:
        blocks.close()
    return {"round_trip": round_trips}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "explorer_latency")
    found.add_argument("--image_size", type=int, default=64)
    found.add_argument("--moves", type=int, default=100, help="Moves of the handle.")
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
