"""Regression uncertainty away from the data, from simplexes of networks (Benton et al. 2021, figure 10).

    python recipes/regression_uncertainty.py --output_dir output/regression_uncertainty

Trains small networks (the modes) on one-dimensional data with gaps. Grows a simplex from each with SPRO. The figure
shows the mean prediction and two standard deviations for a deep ensemble (the modes), for points of the first simplex,
and for points of all simplexes (ESPRO). The standard deviation is that of the functions, without observation noise.

The loss is the mean Gaussian negative log-likelihood with known noise, without its constant. lambda = 1/examples then
weighs volume against loss like the evidence lower bound of a uniform distribution on the simplex.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_complex
from hf_simplex.model.volumes import simplex_log_volumes
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

CLUSTERS = ((-1.0, -0.65), (-0.2, 0.15), (0.65, 0.95))
LIMIT = 1.4
AWAY = 0.1
"""Minimum distance of an input away from the data to a cluster: less than half of a gap."""


@dataclass
class RegressionArguments(PlainArguments):
    """Arguments of data and network."""

    num_components: int = field(default=4, metadata={"help": "Number of modes and of simplexes."})
    volume_weight: float = field(default=1 / 60, metadata={"help": "lambda: nats of loss for a nat of log volume."})
    examples: int = field(default=60, metadata={"help": "Training examples, in three clusters."})
    noise: float = field(default=0.1, metadata={"help": "Standard deviation of the observation noise."})
    width: int = field(default=50, metadata={"help": "Units of each of two hidden layers."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_components < 2 or self.num_points < self.num_components:
            raise ValueError(
                f"num_components is {self.num_components}, num_points {self.num_points}: expected at least 2 "
                "components and a point for each."
            )
        if self.noise <= 0 or self.examples < len(CLUSTERS):
            raise ValueError(
                f"noise is {self.noise}, examples {self.examples}: expected positive noise and at least "
                f"{len(CLUSTERS)} examples."
            )


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe. Returns the content of results.json without versions."""
    started = time.perf_counter()
    args = read_arguments(RegressionArguments, argv)
    generator = Generator().manual_seed(args.seed)
    inputs, targets = clusters(args.examples, args.noise, generator)
    grid = torch.linspace(-LIMIT, LIMIT, 561)
    distance = torch.stack([torch.maximum(low - grid, grid - high) for low, high in CLUSTERS]).amin(0)
    regions = {"near_data": distance <= 0, "away_from_data": distance > AWAY}

    def loss(module: nn.Module) -> Tensor:
        return ((module(inputs[:, None])[:, 0] - targets) / args.noise).square().mean() / 2

    def function(module: nn.Module) -> Tensor:
        return module(grid[:, None])[:, 0]

    modes: list[Any] = []
    vertices: list[Any] = []
    structures = []
    seconds = {"modes": 0.0, "connectors": 0.0}
    for component in range(args.num_components):
        begun = time.perf_counter()
        torch.manual_seed(args.seed + 1 + component)
        module = network(args.width)
        modes.append(train_mode(module, loss, args))
        trained = time.perf_counter()
        vertices += grow(module, modes[component], loss, args, args.seed + component)
        structures.append(SimplicialComplex(args.num_vertices, (tuple(range(args.num_vertices)),)))
        seconds["modes"] += trained - begun
        seconds["connectors"] += time.perf_counter() - trained

    espro = structures[0].union(*structures[1:])
    points = {
        "deep_ensemble": (modes, torch.eye(len(modes))),
        "simplex": (
            vertices[: args.num_vertices],
            sample_complex(structures[0], args.num_points, sampling="equal", generator=generator),
        ),
        "espro": (
            vertices,
            sample_complex(espro, args.num_points, sampling="equal", stratified=True, generator=generator),
        ),
    }
    results: dict[str, Any] = {"arguments": asdict(args)}
    functions = {}
    for name, (weights, coordinates) in points.items():
        functions[name] = at_points(module, weights, coordinates.tolist(), function)
        spread = functions[name].std(0)
        results[name] = {
            "vertex_losses": at_points(module, weights, torch.eye(len(weights)).tolist(), loss).tolist(),
            "point_losses": summary(at_points(module, weights, coordinates.tolist(), loss)),
            **{f"spread_{region}": float(spread[where].mean()) for region, where in regions.items()},
        }
    log_volumes = simplex_log_volumes(espro, stacked_parameters(vertices, trainable_names(module)))
    results["simplex"]["log_volumes"] = log_volumes[:1].tolist()
    results["espro"]["log_volumes"] = log_volumes.tolist()
    results["seconds"] = seconds
    figure = draw(functions, grid, inputs, targets)
    results["wall_time"] = time.perf_counter() - started
    write_results(args.output_dir, figure, results)
    return results


def truth(inputs: Tensor) -> Tensor:
    """True function."""
    return torch.sin(4 * inputs) + 0.5 * inputs


def clusters(examples: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw inputs [examples], uniform in alternating clusters, and noisy values of `truth`."""
    low, high = torch.tensor(CLUSTERS)[torch.arange(examples) % len(CLUSTERS)].T
    inputs = low + (high - low) * torch.rand(examples, generator=generator)
    return inputs, truth(inputs) + noise * torch.randn(examples, generator=generator)


class Scaled(nn.Module):
    """Multiplies inputs by a constant, so that a network is nonlinear over the range of the data at initialization."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply `inputs` by the factor."""
        return inputs * self.factor


def network(width: int) -> nn.Module:
    """Build a network with two hidden layers of ReLU units and one output."""
    return nn.Sequential(
        Scaled(5.0), nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    )


def draw(functions: dict[str, Tensor], grid: Tensor, inputs: Tensor, targets: Tensor) -> "Figure":
    """Plot functions, mean, two standard deviations and data, one panel an ensemble."""
    # Optional, and slow to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(functions), sharex=True, sharey=True)
    x = grid.numpy()
    titles = {
        "deep_ensemble": "deep ensemble, {} members",
        "simplex": "one simplex, {} points",
        "espro": "ESPRO, {} points",
    }
    for axis, (name, values) in zip(axes, functions.items(), strict=True):
        mean, spread = values.mean(0).numpy(), values.std(0).numpy()
        axis.fill_between(
            x,
            mean - 2 * spread,
            mean + 2 * spread,
            color="#56B4E9",
            alpha=0.35,
            linewidth=0,
            label="mean ± 2 standard deviations",
        )
        for index, value in enumerate(values[:8]):
            axis.plot(
                x, value.numpy(), color="#0072B2", linewidth=0.5, alpha=0.6, label="functions" if index == 0 else None
            )
        axis.plot(x, mean, color="#0072B2", linewidth=1.8, label="mean")
        axis.plot(x, truth(grid).numpy(), color="black", linewidth=1, linestyle="--", label="truth")
        axis.scatter(inputs.numpy(), targets.numpy(), s=12, color="#D55E00", zorder=3, label="data")
        axis.set_title(titles[name].format(len(values)), fontsize=11)
        axis.set(xlim=(-LIMIT, LIMIT), ylim=(-3, 3), xlabel="input")
    axes[0].set_ylabel("prediction")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    return figure


if __name__ == "__main__":
    # One thread is fastest on matrices this small.
    torch.set_num_threads(1)
    main()
