"""SPRO on a plain module with a loss of one's own: what the two small recipes share."""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from ...model.checkpoint import atomic_write
from ...model.complexes import SimplicialComplex
from ...model.weight_space import Weights, write_point
from ..spro import GrowingVertex
from .parsing import parse_arguments

Loss = Callable[[nn.Module], Tensor]
"""The scalar loss of a module on all of the training data."""


@dataclass
class PlainArguments:
    """What the small recipes have in common."""

    output_dir: str = field(metadata={"help": "Folder for figure.png and results.json."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the results that output_dir holds already."})
    seed: int = field(default=0, metadata={"help": "Of the data, the initial weights and the drawn points."})
    num_vertices: int = field(default=4, metadata={"help": "Vertices of a simplex: one mode, the others connectors."})
    num_points: int = field(default=50, metadata={"help": "Points of the simplex that are evaluated."})
    points_per_step: int = field(default=5, metadata={"help": "H, the points drawn for one step of SPRO."})
    mode_steps: int = field(default=2000, metadata={"help": "Steps of Adam for a mode, each on all of the data."})
    connector_steps: int = field(default=1000, metadata={"help": "Steps of Adam for a connector."})
    learning_rate: float = field(default=0.01, metadata={"help": "Of Adam at the start; it falls to 0 by a cosine."})
    volume_weight: float = field(default=0.0, metadata={"help": "lambda, nats of loss for a nat of log volume."})

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
    """The arguments of a small recipe; a mistake in them ends the program with one line and exit code 2."""
    try:
        (args,) = parse_arguments((kind,), argv)
        if (Path(args.output_dir) / "results.json").exists() and not args.overwrite:
            raise ValueError(f"{args.output_dir} holds results already. Choose another output_dir or --overwrite.")
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    return args


def train_mode(module: nn.Module, loss: Loss, args: PlainArguments) -> Weights:
    """Train `module` in place in the ordinary way; returns a copy of its weights, the first vertex of a simplex."""
    optimizer, schedule = _adam(module, args.learning_rate, args.mode_steps)
    for _ in range(args.mode_steps):
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
        schedule.step()
    return _copy(module)


def grow(module: nn.Module, mode: Weights, loss: Loss, args: PlainArguments, seed: int) -> list[Weights]:
    """Grow a simplex from a mode, one connector after the other (Benton et al. 2021, section 4.2).

    Args:
        module: of the mode's architecture; its weights are overwritten.
        mode: the first vertex.
        loss: called with `module` while that holds a point of the simplex.
        args: the number of vertices, and how each is trained.
        seed: of the points drawn in training.

    Returns:
        The weights of all vertices, the mode first.
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
    """Stack `of(module)` over the points at the given barycentric coordinates, one row of `points` each."""
    values = []
    for coordinates in points:
        write_point(module, vertices, coordinates)
        values.append(of(module))
    return torch.stack(values)


def summary(losses: Tensor) -> dict[str, Any]:
    """Mean, standard deviation and largest of losses [points]."""
    return {
        "points": len(losses),
        "mean": float(losses.mean()),
        "std": float(losses.std()),
        "worst": float(losses.max()),
    }


def write_results(directory: str, figure: Figure, results: dict[str, Any]) -> None:
    """Write `figure.png` and `results.json`, with versions added, so that no half of either is ever seen."""
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
