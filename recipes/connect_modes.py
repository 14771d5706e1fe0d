"""Connect independently trained modes with a simplicial complex of low loss (Benton et al. 2021, section 4).

    python recipes/connect_modes.py recipes/configs/connect_modes.yaml
    python recipes/connect_modes.py recipes/configs/connect_modes.yaml --modes DIR DIR DIR --connectors 3

Loads modes (`--modes`: Hub ids or folders) or trains them from scratch with different seeds (`--train_modes`). Then
trains connectors with SPRO. Each connector joins the simplexes of the modes in `--joins`. Writes

- `OUTPUT/complex/`: the checkpoint.
- `OUTPUT/results.json`: loss and accuracy on the straight lines between modes, on the best path through a shared
  connector, and at uniform points of the complex.
- `OUTPUT/paths.png`: accuracy along the paths.
"""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.recipe.arguments import ModeArguments
from hf_simplex.training.recipe.connecting import Images, PointResults, at_points, prepare, sampled, sampling_of
from hf_simplex.training.recipe.interruption import as_recipe


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe. Returns the content of results.json."""
    started = time.perf_counter()
    setup = prepare(argv)
    for joined in setup.joins:
        setup.trainer.grow_connector(joined)
    setup.trainer.draw_members()
    model, modes = setup.model, len(setup.model.config.simplexes)
    output = Path(setup.args.output_dir)
    model.save_pretrained(output / "complex")
    results = measure(model, modes, setup.mode_args, setup.images, setup.args.seed)
    results |= {
        "simplexes": model.config.simplexes,
        "sampling": sampling_of(model.config.complex),
        "log_volumes": model.log_volumes().tolist(),
        "stages": model.config.provenance.get("stages", []),
        "wall_time": time.perf_counter() - started,
        "cpu_time": time.process_time(),
        **setup.record,
    }
    with atomic_write(output) as aside:
        (aside / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n", "utf-8")
        draw(results, aside / "paths.png")
    print(summary(results))
    return results


def measure(
    model: SimplexForImageClassification,
    modes: int,
    mode_args: ModeArguments,
    images: Images,
    seed: int,
) -> dict[str, Any]:
    """Evaluate modes, lines and paths between them, and uniform points of the complex."""
    structure = model.config.complex
    count = structure.num_vertices

    def at(coordinates: list[list[float]]) -> dict[str, PointResults]:
        return at_points(model, coordinates, images)

    def line(first: int, last: int) -> list[list[float]]:
        steps = torch.linspace(0, 1, mode_args.path_points, dtype=torch.float64).tolist()
        return [[(1 - t) * (v == first) + t * (v == last) for v in range(count)] for t in steps]

    paths: dict[str, Any] = {}
    spokes = {
        (mode, connector): at(line(mode, connector))
        for mode in range(modes)
        for connector in range(modes, count)
        if structure.holds([mode, connector])
    }
    for first, last in itertools.combinations(range(modes), 2):
        detours = {}
        for connector in range(modes, count):
            if (first, connector) in spokes and (last, connector) in spokes:
                there, back = spokes[first, connector], spokes[last, connector]
                detours[connector] = {
                    name: PointResults(
                        np.concatenate([there[name].loss, back[name].loss[::-1][1:]]),
                        np.concatenate([there[name].accuracy, back[name].accuracy[::-1][1:]]),
                    )
                    for name in images.sets
                }
        best = min(detours, key=lambda connector: detours[connector]["train"].loss.max(), default=None)
        paths[f"{first}-{last}"] = {
            "straight": barriers(at(line(first, last))),
            "best_connector": best,
            "through_connector": None if best is None else barriers(detours[best]),
        }
    ends = at([[float(index == mode) for index in range(count)] for mode in range(modes)])
    return {
        "modes": {name: {"loss": r.loss.tolist(), "accuracy": r.accuracy.tolist()} for name, r in ends.items()},
        "paths": paths,
        "complex": sampled(model, mode_args.sampled_points, images, seed),
    }


def barriers(results: dict[str, PointResults]) -> dict[str, Any]:
    """Barriers of a path: largest loss above, and lowest accuracy below, the mean of the two ends."""
    return {
        name: {
            "loss_barrier": float(r.loss.max() - (r.loss[0] + r.loss[-1]) / 2),
            "accuracy_barrier": float((r.accuracy[0] + r.accuracy[-1]) / 2 - r.accuracy.min()),
            "loss": r.loss.tolist(),
            "accuracy": r.accuracy.tolist(),
        }
        for name, r in results.items()
    }


def summary(results: dict[str, Any]) -> str:
    """Format the results as text, accuracies in percent."""
    lines = ["pair   straight line: accuracy barrier, loss barrier   through a connector (train)"]
    for pair, path in results["paths"].items():
        straight, through = path["straight"]["train"], path["through_connector"]
        text = "-" if through is None else _barrier(through["train"])
        lines.append(f"{pair:6} {_barrier(straight):48} {text}")
    for name, found in results["complex"].items():
        accuracy, modes = found["accuracy"], results["modes"][name]["accuracy"]
        lines.append(
            f"{name}: modes {100 * min(modes):.2f} to {100 * max(modes):.2f}, {len(accuracy['values'])} points of the "
            f"complex mean {100 * accuracy['mean']:.2f}, worst {100 * accuracy['worst']:.2f}, "
            f"standard deviation {100 * accuracy['standard_deviation']:.2f}"
        )
    return "\n".join(lines)


def _barrier(found: dict[str, Any]) -> str:
    return f"{100 * found['accuracy_barrier']:.2f} points, {found['loss_barrier']:.3f} nats"


def draw(results: dict[str, Any], file: Path) -> None:
    """Plot accuracy along straight lines and best paths, and at the points of the complex."""
    # Imported here: matplotlib is slow to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, width_ratios=[2, 2, 1])
    for axis, name in zip(axes, ("train", "test"), strict=False):
        for path in results["paths"].values():
            for kind, color, label in (
                ("straight", "#d55e00", "straight line"),
                ("through_connector", "#0072b2", "through a connector"),
            ):
                if path[kind] is not None:
                    accuracy = 100 * np.array(path[kind][name]["accuracy"])
                    axis.plot(np.linspace(0, 1, len(accuracy)), accuracy, color=color, label=label, alpha=0.8)
        axis.set(title=f"{name} images", xlabel="position on the path between two modes")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
    values = [100 * np.array(results["complex"][name]["accuracy"]["values"]) for name in ("train", "test")]
    axes[2].violinplot(values, showextrema=True)
    axes[2].set_xticks([1, 2], ["train", "test"])
    axes[2].set_title(f"{len(values[0])} points\nof the complex")
    axes[2].grid(alpha=0.3)
    figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main()
