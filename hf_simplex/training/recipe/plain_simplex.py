"""SPRO on a plain `torch.nn.Module` with a custom loss, for the two small recipes."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from ...model.checkpoint import atomic_write
from ...model.complexes import SimplicialComplex
from ...model.weight_space import Weights, write_point
from ..spro import GrowingVertex
from .parsing import exit_on_mistake, parse_arguments
from .requirements import check_installed

if TYPE_CHECKING:
    # Optional, and slow to import.
    from matplotlib.figure import Figure

__all__ = [
    "Loss",
    "PlainArguments",
    "at_points",
    "grow",
    "read_arguments",
    "summary",
    "train_mode",
    "write_results",
]

Loss = Callable[[nn.Module], Tensor]
"""Scalar loss of a module on the whole training set."""


@dataclass
class PlainArguments:
    """Arguments of the small recipes.

    Example:
        >>> from hf_simplex.training.recipe.plain_simplex import PlainArguments
        >>> PlainArguments("output", num_vertices=3).num_vertices
        3
    """

    output_dir: str = field(metadata={"help": "Folder for figure.png and results.json."})
    overwrite: bool = field(default=False, metadata={"help": "Replace results in output_dir."})
    seed: int = field(default=0, metadata={"help": "Seed of data, initial weights and points."})
    num_vertices: int = field(default=4, metadata={"help": "Vertices of a simplex: one mode and its connectors."})
    num_points: int = field(default=50, metadata={"help": "Points of the simplex to evaluate."})
    points_per_step: int = field(default=5, metadata={"help": "H, the number of points in a step of SPRO."})
    mode_steps: int = field(default=2000, metadata={"help": "Adam steps for a mode, on the full data set."})
    connector_steps: int = field(default=1000, metadata={"help": "Adam steps for a connector."})
    learning_rate: float = field(
        default=0.01, metadata={"help": "Initial learning rate of Adam, with cosine decay to 0."}
    )
    volume_weight: float = field(default=0.0, metadata={"help": "lambda, in nats of loss per nat of log volume."})

    def __post_init__(self) -> None:
        least = {"num_vertices": 2, "num_points": 2, "points_per_step": 1, "mode_steps": 1, "connector_steps": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least {minimum}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: expected a positive number.")
        if self.volume_weight < 0:
            raise ValueError(f"volume_weight is {self.volume_weight}: expected 0 or more.")


Arguments = TypeVar("Arguments", bound=PlainArguments)


def read_arguments(kind: type[Arguments], argv: Sequence[str] | None = None) -> Arguments:
    """Parse the arguments of a small recipe. Exit with code 2 on a user's mistake.

    Example::

        args = read_arguments(PlainArguments, ["--output_dir", "output"])
    """
    with exit_on_mistake():
        (args,) = parse_arguments((kind,), argv)
        check_installed("matplotlib", "plots", "The run draws a picture at its end.")
        if Path(args.output_dir).is_file():
            raise ValueError(f"output_dir is {args.output_dir}, which is a file: give a folder.")
        if (Path(args.output_dir) / "results.json").exists() and not args.overwrite:
            raise ValueError(f"{args.output_dir} holds results already. Choose another output_dir or --overwrite.")
    return args


def train_mode(module: nn.Module, loss: Loss, args: PlainArguments) -> Weights:
    """Train a module in place.

    Returns:
        A copy of the trained weights.

    Example::

        mode = train_mode(module, loss, args)
    """
    optimizer, schedule = _adam(module, args.learning_rate, args.mode_steps)
    for _ in range(args.mode_steps):
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
        schedule.step()
    return _copy(module)


def grow(module: nn.Module, mode: Weights, loss: Loss, args: PlainArguments, seed: int) -> list[Weights]:
    """Grow a simplex from a mode, one connector at a time (Benton et al. 2021, section 4.2).

    Args:
        module: module with the mode's architecture. Its weights are overwritten.
        mode: first vertex.
        loss: loss of `module` at a point of the simplex.
        args: number of vertices and training settings.
        seed: seed of the points drawn in training.

    Returns:
        Weights of all vertices, the mode first.

    Example::

        vertices = grow(module, train_mode(module, loss, args), loss, args, seed=0)
    """
    generator = Generator().manual_seed(seed)
    structure, vertices = SimplicialComplex(1, ((0,),)), [mode]
    for vertex in range(1, args.num_vertices):
        structure = structure.with_vertex()
        vertices.append(_copy(module))
        growing = GrowingVertex(module, vertices, structure, vertex, volume_weight=args.volume_weight)
        growing.start_at_mean()
        optimizer, schedule = _adam(module, args.learning_rate, args.connector_steps)
        for _ in range(args.connector_steps):
            optimizer.zero_grad()
            for coordinates in growing.draw(args.points_per_step, generator):
                with growing.at(coordinates) as coordinate:
                    (coordinate * loss(module) / args.points_per_step).backward()
            growing.add_volume_gradient()
            optimizer.step()
            schedule.step()
        vertices[vertex] = _copy(module)
    return vertices


@torch.no_grad()
def at_points(module: nn.Module, vertices: Sequence[Weights], points: Sequence[Sequence[float]], of: Loss) -> Tensor:
    """Evaluate a function of the module at points of the simplex.

    Args:
        module: module to write the points into.
        vertices: weights of the vertices.
        points: barycentric coordinates, one row per point.
        of: function of the module.

    Returns:
        Values, stacked along the first dimension.

    Example::

        losses = at_points(module, vertices, [[0.5, 0.5], [1.0, 0.0]], loss)
    """
    values = []
    for coordinates in points:
        write_point(module, vertices, coordinates)
        values.append(of(module))
    return torch.stack(values)


def summary(losses: Tensor) -> dict[str, Any]:
    """Number, mean, standard deviation and maximum of losses, [points].

    Example:
        >>> import torch
        >>> from hf_simplex.training.recipe.plain_simplex import summary
        >>> summary(torch.tensor([1.0, 3.0]))["mean"]
        2.0
    """
    return {
        "points": len(losses),
        "mean": float(losses.mean()),
        "std": float(losses.std()),
        "worst": float(losses.max()),
    }


def write_results(directory: str, figure: "Figure", results: dict[str, Any]) -> None:
    """Write `figure.png` and `results.json` atomically, with package versions.

    Example::

        write_results("output", figure, {"loss": 0.1})
    """
    packages = {package: version(package) for package in ("hf-simplex", "torch", "matplotlib")}
    results = {**results, "versions": {"python": platform.python_version(), **packages}}
    with atomic_write(directory) as aside:
        figure.savefig(aside / "figure.png", dpi=200)
        (aside / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def _copy(module: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def _adam(module: nn.Module, learning_rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
