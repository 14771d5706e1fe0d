"""Functional diversity of one simplex on two spirals (Benton et al. 2021, figure 7).

    python recipes/two_spirals.py --output_dir output/two_spirals

Trains a small network to classify two noisy spirals. Grows a simplex from that mode with SPRO. The figure shows the
decision functions of uniform points of the simplex, their mean and their standard deviation, above those of a deep
ensemble whose first member is the mode. `results.json` has the losses of vertices, points and members, and their
pairwise disagreement near the training inputs (within 0.04) and away from them (beyond 0.1).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_complex
from hf_simplex.model.volumes import simplex_log_volume
from hf_simplex.model.weight_space import stacked_parameters, trainable_names
from hf_simplex.training.recipe.interruption import as_recipe
from hf_simplex.training.recipe.plain_simplex import (
    PlainArguments,
    at_points,
    grow,
    read_arguments,
    summary,
    train_mode,
    write_results,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
HALF_WIDTH = 1.3
NEAR, AWAY = 0.04, 0.1
"""Distance to the training inputs: one standard deviation of the noise, and what the gaps between arms allow."""


@dataclass
class SpiralArguments(PlainArguments):
    """Arguments of data, network and deep ensemble."""

    volume_weight: float = field(default=0.05, metadata={"help": "lambda: nats of loss for a nat of log volume."})
    num_members: int = field(default=5, metadata={"help": "Members of the deep ensemble."})
    examples: int = field(default=100, metadata={"help": "Training examples on each spiral."})
    noise: float = field(default=0.04, metadata={"help": "Standard deviation of the noise; the radius is 1."})
    width: int = field(default=48, metadata={"help": "Units of each of three hidden layers."})
    resolution: int = field(default=150, metadata={"help": "Pixels on a side of the decision grid."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, minimum in {"num_members": SHOWN, "num_points": SHOWN, "examples": 2, "resolution": 10}.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least {minimum}.")


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe. Returns the content of results.json without versions."""
    started = time.perf_counter()
    args = read_arguments(SpiralArguments, argv)
    generator = Generator().manual_seed(args.seed)
    inputs, labels = two_spirals(args.examples, args.noise, generator)
    test_inputs, test_labels = two_spirals(1000, args.noise, generator)
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, args.resolution)
    grid = torch.cartesian_prod(axis, axis)
    distance = torch.cdist(grid, inputs).amin(1)

    def loss(module: nn.Module) -> Tensor:
        return binary_cross_entropy_with_logits(module(inputs).squeeze(-1), labels)

    def test_accuracy(module: nn.Module) -> Tensor:
        return ((module(test_inputs).squeeze(-1) > 0) == (test_labels > 0)).float().mean()

    def probability(module: nn.Module) -> Tensor:
        return module(grid).squeeze(-1).sigmoid()

    modules, modes, seconds = [], [], []
    for member in range(args.num_members):
        begun = time.perf_counter()
        torch.manual_seed(args.seed + 1 + member)
        modules.append(network(args.width))
        modes.append(train_mode(modules[member], loss, args))
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    vertices = grow(modules[0], modes[0], loss, args, args.seed)
    seconds_connectors = time.perf_counter() - begun

    structure = SimplicialComplex(len(vertices), (tuple(range(len(vertices))),))
    points = sample_complex(structure, args.num_points, sampling="equal", generator=generator).tolist()
    module, names = modules[0], trainable_names(modules[0])
    results: dict[str, Any] = {"arguments": asdict(args)}
    fields = {}
    for name, weights, coordinates in (
        ("simplex", vertices, points),
        ("deep_ensemble", modes, torch.eye(len(modes)).tolist()),
    ):
        fields[name] = at_points(module, weights, coordinates, probability)
        differ = disagreement(fields[name])
        spread = fields[name].std(0)
        results[name] = {
            "vertex_losses": at_points(module, weights, torch.eye(len(weights)).tolist(), loss).tolist(),
            "point_losses": summary(at_points(module, weights, coordinates, loss)),
            "point_test_accuracy": float(at_points(module, weights, coordinates, test_accuracy).mean()),
            "disagreement_near_data": float(differ[distance < NEAR].mean()),
            "disagreement_away_from_data": float(differ[distance > AWAY].mean()),
            "spread_near_data": float(spread[distance < NEAR].mean()),
            "spread_away_from_data": float(spread[distance > AWAY].mean()),
        }
    results["simplex"]["log_volumes"] = [
        float(simplex_log_volume(stacked_parameters(vertices[: count + 1], names)))
        for count in range(1, len(vertices))
    ]
    results["simplex"]["seconds"] = seconds[0] + seconds_connectors
    results["deep_ensemble"]["seconds"] = sum(seconds)
    figure = draw(fields, inputs, labels, args.resolution)
    results["wall_time"] = time.perf_counter() - started
    write_results(args.output_dir, figure, results)
    return results


def two_spirals(examples: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw two spirals of 1.5 turns and radius 1, uniform in area: inputs [2 * examples, 2], labels 0. and 1."""
    radius = torch.rand(examples, 1, generator=generator).sqrt()
    angle = 3 * torch.pi * radius
    arm = radius * torch.cat([angle.cos(), angle.sin()], dim=1)
    inputs = torch.cat([arm, -arm])
    labels = torch.cat([torch.zeros(examples), torch.ones(examples)])
    return inputs + noise * torch.randn(inputs.shape, generator=generator), labels


def network(width: int) -> nn.Module:
    """Build a network with three hidden layers of ReLU units and one logit."""
    return nn.Sequential(
        nn.Linear(2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 1),
    )


def disagreement(probabilities: Tensor) -> Tensor:
    """Pairwise disagreement of decisions: [functions, inputs] to the fraction of differing pairs, [inputs]."""
    count = len(probabilities)
    ones = (probabilities > 0.5).sum(0)
    return 2 * ones * (count - ones) / (count * (count - 1))


def draw(fields: dict[str, Tensor], inputs: Tensor, labels: Tensor, resolution: int) -> "Figure":
    """Plot decision functions, their mean and standard deviation, one row an ensemble."""
    # Optional, and slow to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.9), layout="constrained")
    axes = figure.subplots(len(fields), SHOWN + 2, sharex=True, sharey=True)
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    titles = {"simplex": "point", "deep_ensemble": "member"}
    row_labels = {"simplex": "one simplex", "deep_ensemble": "deep ensemble"}
    for row, (name, values) in zip(axes, fields.items(), strict=True):
        panels = [*values[:SHOWN], values.mean(0), values.std(0)]
        captions = [f"{titles[name]} {index + 1}" for index in range(SHOWN)]
        captions += [f"mean of {len(values)} {titles[name]}s", "standard deviation"]
        row[0].set_ylabel(row_labels[name], fontsize=11)
        for column, (axis, panel, caption) in enumerate(zip(row, panels, captions, strict=True)):
            spread = column == SHOWN + 1
            image = axis.imshow(
                panel.view(resolution, resolution).T.numpy(),
                origin="lower",
                extent=extent,
                interpolation="bilinear",
                cmap="viridis" if spread else "PuOr",
                vmin=0,
                vmax=0.5 if spread else 1,
            )
            for label, color in enumerate(("black", "white")):
                axis.scatter(*inputs[labels == label].T.numpy(), s=5, color=color, edgecolors="gray", linewidths=0.3)
            axis.set(xticks=[], yticks=[])
            axis.set_title(caption, fontsize=10)
            if column == SHOWN:
                mean_image = image
    figure.colorbar(mean_image, ax=axes[:, : SHOWN + 1], label="probability of class 2", shrink=0.8, pad=0.01)
    figure.colorbar(image, ax=axes[:, SHOWN + 1], label="spread of that probability", shrink=0.8, pad=0.02)
    return figure


if __name__ == "__main__":
    # One thread is fastest on matrices this small.
    torch.set_num_threads(1)
    main()
