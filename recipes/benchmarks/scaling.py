"""Scaling of time with vertices, members and backbone size, with a linear fit to each series.

    python recipes/benchmarks/scaling.py --clock cpu --threads 1

- Over vertices: a point written and restored, the gradient of the volume term, a step of SPRO, and a plain step.
- Over members: a prediction with `materialized` and with `streamed` members.
- Over the backbone size, with two vertices: point, volume term, step, saving and loading.

Times are medians in milliseconds. A figure of the same name is written beside the JSON file.
"""

import argparse
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import linear_regression, median
from typing import Any

import torch
from matplotlib.figure import Figure
from measure import alternating, parser, report, start
from workloads import Steps, ensemble

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.checkpoint import atomic_write

UNITS = {"vertices": "vertex", "members": "member", "million_parameters": "million parameters"}
"""x axis of each panel, and the unit of its slopes."""


class Measured:
    """Median times: `points["vertices"]["volume"]` is a list of (x, milliseconds)."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.args, self.device = args, device
        self.points: dict[str, dict[str, list[tuple[float, float]]]] = {against: {} for against in UNITS}

    def time(self, against: str, x: float, tasks: dict[str, Callable[[], Any]]) -> None:
        """Time tasks in alternation, and add a point at `x` to the series of each."""
        seconds = alternating(tasks, self.args.rounds, self.device, self.args.clock)
        for task, taken in seconds.items():
            self.points[against].setdefault(task, []).append((x, 1e3 * median(taken)))
        print(
            against, f"{x:.4g}", {task: round(1e3 * median(taken), 2) for task, taken in seconds.items()}, flush=True
        )


def over_vertices(measured: Measured) -> None:
    """Time point, volume term and step for each number of vertices."""
    for vertices in measured.args.num_vertices:
        steps = Steps(measured.args.backbone, with_vertices(measured.args, vertices), measured.device)
        measured.time("vertices", vertices, {"plain step": steps.plain, **added(steps)})


def over_members(measured: Measured) -> None:
    """Time a prediction for each number of members."""
    args, device = measured.args, measured.device
    images = torch.randn(args.predicted, 3, args.image_size, args.image_size).to(device)
    for members in args.members:
        found = with_vertices(args, 4)
        streamed, materialized = (ensemble(args.backbone, found, device, members) for _ in range(2))
        materialized.materialize()
        with torch.no_grad():
            measured.time(
                "members",
                members,
                {"streamed": partial(streamed, images), "materialized": partial(materialized, images)},
            )


def over_sizes(measured: Measured) -> None:
    """Time point, volume term, step, saving and loading for each backbone. A failing backbone is skipped."""
    for name in measured.args.backbones:
        try:
            over_size(measured, name)
        except RuntimeError:
            print(f"{name} left out:\n{traceback.format_exc()}", flush=True)


def over_size(measured: Measured, name: str) -> None:
    """Time one backbone with two vertices."""
    found = with_vertices(measured.args, 2)
    found.batch_size, found.image_size = found.size_batch, found.size_images
    steps = Steps(name, found, measured.device)
    # SGD has no state, so 300 million parameters fit small machines. Time scales the same.
    steps.optimizer = torch.optim.SGD(steps.module.parameters(), lr=1e-5)
    size = sum(p.numel() for p in steps.module.parameters()) / 1e6
    measured.time("million_parameters", size, added(steps))
    del steps
    model = ensemble(name, found, measured.device, 1)
    with tempfile.TemporaryDirectory() as directory:

        def load() -> None:
            # A mapped file is read at first access.
            for tensor in SimplexForImageClassification.from_pretrained(directory).state_dict().values():
                tensor.sum()

        model.save_pretrained(directory)
        measured.time("million_parameters", size, {"save": partial(model.save_pretrained, directory)})
        del model
        measured.time("million_parameters", size, {"load": load})


def added(steps: Steps) -> dict[str, Callable[[], Any]]:
    """Tasks: a step of SPRO, and the two operations that it adds to a plain step."""
    return {
        "step": partial(steps.simplex, 1, split=True),
        "point": steps.points,
        "volume term": steps.growing.add_volume_gradient,
    }


def with_vertices(args: argparse.Namespace, vertices: int) -> argparse.Namespace:
    """Copy the arguments with another number of vertices."""
    return argparse.Namespace(**{**vars(args), "num_vertices": vertices})


def fitted(measured: Measured) -> list[dict[str, Any]]:
    """Fit a line to each series by least squares: slope, intercept, R^2 and points."""
    rows: list[dict[str, Any]] = []
    for against, series in measured.points.items():
        for task, points in series.items():
            row: dict[str, Any] = {"against": against, "what": task}
            x, y = zip(*points, strict=True)
            if len(points) > 1:
                line = linear_regression(x, y)
                row |= {"slope_ms": line.slope, "intercept_ms": line.intercept, "r_squared": r_squared(points, line)}
            rows.append(row | {"x": list(x), "milliseconds": list(y)})
    return rows


def r_squared(points: Iterable[tuple[float, float]], line: Any) -> float:
    """Coefficient of determination of a line; 1 for a constant series."""
    points = list(points)
    mean = sum(y for _, y in points) / len(points)
    left = sum((y - line.slope * x - line.intercept) ** 2 for x, y in points)
    total = sum((y - mean) ** 2 for _, y in points)
    return 1 - left / total if total else 1.0


def drawn(rows: Sequence[dict[str, Any]], device: str) -> Figure:
    """Plot points and fitted lines, one panel an axis of `UNITS`."""
    figure = Figure(figsize=(16, 5.5), layout="constrained")
    for panel, (against, unit) in zip(figure.subplots(1, len(UNITS)), UNITS.items(), strict=True):
        for number, row in enumerate(row for row in rows if row["against"] == against):
            label = row["what"]
            color = f"C{number}"
            if "slope_ms" in row:
                label += f": {row['slope_ms']:.3g} ms a {unit}, $R^2$ = {row['r_squared']:.3f}"
                ends = [min(row["x"]), max(row["x"])]
                panel.plot(ends, [row["intercept_ms"] + row["slope_ms"] * x for x in ends], color=color, linewidth=1)
            panel.plot(row["x"], row["milliseconds"], "o", color=color, label=label)
        panel.set(xlabel=against.replace("_", " "), ylabel="milliseconds")
        # Room for the legend.
        panel.set_ylim(0, 1.5 * panel.get_ylim()[1])
        panel.legend(loc="upper left", fontsize=10)
    figure.suptitle(f"Cost as it grows, on {device}")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "scaling")
    found.add_argument(
        "--backbone", default="tf_efficientnet_lite0", help="Backbone of the series over vertices and members."
    )
    found.add_argument("--image_size", type=int, default=64)
    found.add_argument("--batch_size", type=int, default=32)
    found.add_argument("--num_vertices", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    found.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    found.add_argument("--predicted", type=int, default=1, help="Batch size of a prediction.")
    found.add_argument(
        "--backbones",
        nargs="+",
        default=[
            "mobilenetv3_small_050",
            "tf_efficientnet_lite0",
            "resnet50",
            "vit_base_patch16_224",
            "vit_large_patch16_224",
        ],
        help="Backbones of the series over sizes.",
    )
    found.add_argument("--size_images", type=int, default=32, help="Image size of that series, pixels.")
    found.add_argument("--size_batch", type=int, default=2, help="Batch size of that series.")
    found.add_argument("--volume_weight", type=float, default=1e-8)
    found.set_defaults(channels_last=False, compile=False, rounds=3)
    args = found.parse_args(argv)
    device = start(args)
    measured = Measured(args, device)
    for series in (over_vertices, over_members, over_sizes):
        try:
            series(measured)
        except (RuntimeError, ValueError):
            print(f"{series.__name__} ended early:\n{traceback.format_exc()}", flush=True)
    rows = fitted(measured)
    result = report(args, device, rows)
    picture = args.output.with_suffix(".png")
    with atomic_write(picture.parent) as aside:
        drawn(rows, result["hardware"]["device"]).savefig(aside / picture.name, dpi=110)
    return result


if __name__ == "__main__":
    main()
