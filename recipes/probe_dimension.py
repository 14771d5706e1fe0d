"""Probe the dimension of the low-loss region: add connectors until the volume collapses (Benton et al., sec. 4.3).

    python recipes/probe_dimension.py recipes/configs/connect_modes.yaml --connectors 8 --output_dir output/dimension

Takes the arguments of connect_modes.py. Trains connectors one by one; each joins all simplexes. After each connector,
measures the log volume of the complex, the height of the new vertex above its simplex, and loss and accuracy at
uniform points. Stops when the height falls below 1% of the first connector's. Writes `OUTPUT/results.json` and
`OUTPUT/dimension.png`.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.model.volumes import complex_log_volume
from hf_simplex.training.recipe.connecting import prepare, sampled
from hf_simplex.training.recipe.interruption import as_recipe

COLLAPSED = 0.01
"""Height of a collapsed connector, relative to the first connector."""


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe. Returns the content of results.json."""
    started = time.perf_counter()
    setup = prepare(argv, joins_all=True)
    model, counts = setup.model, []
    before = model.log_volumes()
    for number, joined in enumerate(setup.joins, start=1):
        setup.trainer.grow_connector(joined)
        volumes = model.log_volumes()
        dimension = len(model.config.simplexes[0]) - 1
        # For each simplex: volume = volume of the face * height / dimension.
        heights = (volumes - before).exp() * dimension
        counts.append(
            {
                "connectors": number,
                "dimension": dimension,
                "log_volume": float(complex_log_volume(volumes)),
                "height": float(heights.mean()),
                **sampled(model, setup.mode_args.sampled_points, setup.images, setup.args.seed),
            }
        )
        before = volumes
        print(line(counts[-1]), flush=True)
        if counts[-1]["height"] < COLLAPSED * counts[0]["height"]:
            break
    collapsed = counts[-1]["height"] < COLLAPSED * counts[0]["height"] or math.isinf(counts[-1]["log_volume"])
    results = {
        "counts": counts,
        "collapsed": collapsed,
        "wall_time": time.perf_counter() - started,
        "cpu_time": time.process_time(),
        **setup.record,
    }
    output = Path(setup.args.output_dir)
    with atomic_write(output) as aside:
        (aside / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n", "utf-8")
        draw(counts, aside / "dimension.png")
    return results


def line(count: dict[str, Any]) -> str:
    """Format the measurements at one number of connectors."""
    accuracy = {name: count[name]["accuracy"] for name in ("train", "test")}
    return (
        f"{count['connectors']:2} connectors, dimension {count['dimension']:2}: "
        f"log volume {count['log_volume']:8.2f}, height {count['height']:.3g}, "
        + ", ".join(f"{n} mean {100 * a['mean']:.2f} worst {100 * a['worst']:.2f}" for n, a in accuracy.items())
    )


def draw(counts: list[dict[str, Any]], file: Path) -> None:
    """Plot log volume, height and accuracy against the number of connectors."""
    # Imported here: matplotlib is slow to import.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    numbers = [count["connectors"] for count in counts]
    figure = Figure(figsize=(9, 3), layout="constrained")
    volume, height, accuracy = figure.subplots(1, 3)
    volume.plot(numbers, [count["log_volume"] for count in counts], "o-", color="#0072b2")
    volume.set_ylabel("log volume of the complex")
    height.plot(numbers, [count["height"] for count in counts], "o-", color="#0072b2")
    height.set_ylabel("height of the newest vertex")
    height.set_ylim(bottom=0)
    for name, color in (("train", "#0072b2"), ("test", "#d55e00")):
        values = np.array([count[name]["accuracy"]["values"] for count in counts]) * 100
        accuracy.plot(numbers, values.mean(axis=1), "o-", color=color, label=f"{name}, mean")
        accuracy.plot(numbers, values.min(axis=1), "v:", color=color, label=f"{name}, worst")
    accuracy.set_ylabel("accuracy (%)")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False)
    for axis in (volume, height, accuracy):
        axis.set_xlabel("connectors")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main()
