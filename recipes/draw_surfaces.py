"""Plot the loss surface around a trained complex (Benton et al. 2021, figure 3, and figure 4, right).

    python recipes/draw_surfaces.py recipes/configs/draw_surfaces.yaml

Loads a complex that `connect_modes.py` or `train_espro.py` saved. Plots

- planes through three vertices. Default: three modes, and two modes with a connector that joins them.
- triangular faces.
- the whole complex on its principal axes, with uniform points colored by their loss.

Writes each to `OUTPUT` as a figure and as a `Surface` in safetensors, which can be plotted again. BatchNorm statistics
are recomputed at each point, from the images of the loss.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import SurfacePoints, complex_points, face_points, plane_points
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.model.configuration_simplex import CONNECTOR, SimplexConfig
from hf_simplex.model.sampling import sample_complex
from hf_simplex.model.weight_space import trainable_names
from hf_simplex.plots.surfaces import plot_complex, plot_face, plot_plane
from hf_simplex.training.recipe.arguments import DataArguments
from hf_simplex.training.recipe.components import check_labels
from hf_simplex.training.recipe.images import in_batches, load_data, transformed
from hf_simplex.training.recipe.interruption import as_recipe
from hf_simplex.training.recipe.parsing import exit_on_mistake, parse_arguments
from hf_simplex.training.recipe.requirements import check_installed
from hf_simplex.training.recipe.run_record import hardware, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class SurfaceArguments:
    """The complex, and the figures to plot."""

    model: str = field(metadata={"help": "The complex: a folder or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder for figures and surfaces."})
    overwrite: bool = field(default=False, metadata={"help": "Replace surfaces in output_dir."})
    planes: list[str] | None = field(
        default=None,
        metadata={
            "help": "Planes through three vertices, such as 0,1,2. Default: three modes; two modes and a connector."
        },
    )
    faces: list[str] | None = field(
        default=None,
        metadata={"help": "Triangular faces: three vertices of one simplex. Default: the first triangle."},
    )
    quantity: str = field(
        default="loss", metadata={"help": "Quantity on planes and faces.", "choices": ("loss", "accuracy")}
    )
    resolution: int = field(default=31, metadata={"help": "Points on a side of a plane; segments of a face's edge."})
    margin: float = field(default=0.2, metadata={"help": "Margin of a plane around its vertices, relative."})
    clip: float | None = field(
        default=None,
        metadata={"help": "Limit of the color scale of a plane: nats, or 0 to 1. Default: clips the worst quarter."},
    )
    complex_points: int = field(default=300, metadata={"help": "Uniform points in the figure of the complex."})
    complex_axes: str = field(
        default="0,1,2",
        metadata={"help": "Principal axes of that figure, from 0. Choose others if the leading ones hide the modes."},
    )
    split: str = field(default="train", metadata={"help": "Images for the loss.", "choices": ("train", "test")})
    per_device_eval_batch_size: int = field(default=250, metadata={"help": "Batch size."})
    seed: int = field(default=0, metadata={"help": "Seed of the points in the figure of the complex."})


@dataclass
class Picture:
    """A figure: name, points of its surface, and plotting function."""

    name: str
    points: SurfacePoints
    draw: Callable[[Surface], "Figure"]


@as_recipe
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe. Returns the content of surfaces.json."""
    started = time.perf_counter()
    with exit_on_mistake():
        args, data_args = parse_arguments((SurfaceArguments, DataArguments), argv)
        check_installed("matplotlib", "plots", "The run draws pictures at its end.")
        model, pictures, batches = prepare(args, data_args)
    inputs = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    drawn: dict[str, Any] = {}
    with atomic_write(args.output_dir) as aside:
        for picture in pictures:
            begun = time.perf_counter()
            surface = model_surface(model, picture.points, batches, batch_norm_batches=inputs)
            surface.save(aside / f"{picture.name}.safetensors")
            picture.draw(surface).savefig(aside / f"{picture.name}.png", dpi=180)
            drawn[picture.name] = described(surface) | {"seconds": time.perf_counter() - begun}
        results = {
            "surfaces": drawn,
            "wall_time": time.perf_counter() - started,
            "arguments": {**vars(args), **vars(data_args)},
            "versions": versions(),
            "hardware": hardware(),
        }
        (aside / "surfaces.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return results


def prepare(
    args: SurfaceArguments, data_args: DataArguments
) -> tuple[SimplexForImageClassification, list[Picture], list[dict[str, Any]]]:
    """Load the complex and the images, and lay out the points of all figures.

    Raises:
        ValueError: an argument is out of range, there is no such plane or face, or the labels differ.
        OSError: there is no such model or data set.
    """
    if (Path(args.output_dir) / "surfaces.json").exists() and not args.overwrite:
        raise ValueError(f"{args.output_dir} holds surfaces already. Choose another output_dir or give --overwrite.")
    if args.complex_points < 0:
        raise ValueError(f"complex_points is {args.complex_points}: expected at least 0.")
    model = SimplexForImageClassification.from_pretrained(args.model)
    if model.image_processor is None:
        raise ValueError(f"{args.model} has no image processor (preprocessor_config.json): add one to its folder.")
    data = load_data(data_args)
    check_labels(model, args.model, dict(enumerate(data.label_names)))
    pictures = laid_out(model, args)
    _, train, test = transformed(data, data_args, model, materialize=True)
    return model, pictures, in_batches(train if args.split == "train" else test, args.per_device_eval_batch_size)


def laid_out(model: SimplexForImageClassification, args: SurfaceArguments) -> list[Picture]:
    """Lay out the points of each figure."""
    config, weights = model.config, model.weights
    structure, names = config.complex, trainable_names(model.backbone)
    labels = vertex_labels(config)
    planes = default_planes(config) if args.planes is None else [numbers(text, "planes") for text in args.planes]
    faces = structure.faces(2)[:1] if args.faces is None else [numbers(text, "faces") for text in args.faces]
    pictures = []
    for kind, chosen in (("plane", planes), ("face", faces)):
        for vertices in chosen:
            chosen_labels = [labels[vertex] for vertex in vertices if 0 <= vertex < len(labels)]
            if kind == "plane":
                points = plane_points(
                    structure, weights, names, vertices=vertices, resolution=args.resolution, margin=args.margin
                )
            elif len(vertices) == 3:
                points = face_points(structure, weights, names, vertices=vertices, resolution=args.resolution)
            else:
                raise ValueError(f"A face is drawn as a triangle: expected three vertices, got {list(vertices)}.")

            def draw(surface: Surface, kind: str = kind, labels: list[str] = chosen_labels) -> "Figure":
                if kind == "plane":
                    return plot_plane(surface, quantity=args.quantity, clip=args.clip, labels=labels)
                return plot_face(surface, quantity=args.quantity, labels=labels)

            pictures.append(Picture(f"{kind}-{'-'.join(map(str, vertices))}", points, draw))
    connectors = [vertex for vertex, role in enumerate(config.roles) if role == CONNECTOR]
    coordinates = sample_complex(
        structure, args.complex_points, sampling="equal", generator=Generator().manual_seed(args.seed)
    )
    pictures.append(
        Picture(
            "complex",
            complex_points(structure, weights, names, coordinates, axes=_three(args.complex_axes)),
            lambda surface: plot_complex(surface, labels=labels, connectors=connectors),
        )
    )
    return pictures


def _three(text: str) -> tuple[int, int, int]:
    axes = numbers(text, "complex_axes")
    if len(axes) != 3:
        raise ValueError(f"complex_axes has {text!r}: expected three numbers such as 0,1,2.")
    return axes[0], axes[1], axes[2]


def numbers(text: str, argument: str) -> tuple[int, ...]:
    """Parse numbers such as "0,1,2"."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{argument} has {text!r}: expected numbers of vertices such as 0,1,2.") from None


def vertex_labels(config: SimplexConfig) -> list[str]:
    """Label modes w_0, w_1, ... and connectors theta_0, theta_1, ..., as in Benton et al. 2021."""
    counts = {True: 0, False: 0}
    labels = []
    for role in config.roles:
        is_connector = role == CONNECTOR
        labels.append(rf"$\theta_{{{counts[True]}}}$" if is_connector else f"$w_{{{counts[False]}}}$")
        counts[is_connector] += 1
    return labels


def default_planes(config: SimplexConfig) -> list[tuple[int, ...]]:
    """Choose the plane of the first three modes, and that of two modes and a connector adjacent to both."""
    modes = [vertex for vertex, role in enumerate(config.roles) if role != CONNECTOR]
    planes = [tuple(modes[:3])] if len(modes) > 2 else []
    structure = config.complex
    for first, second in combinations(modes, 2):
        for vertex in range(config.num_vertices):
            is_connector = config.roles[vertex] == CONNECTOR
            if is_connector and structure.holds([first, vertex]) and structure.holds([second, vertex]):
                return [*planes, (first, second, vertex)]
    return planes


def described(surface: Surface) -> dict[str, Any]:
    """Summarize a surface for the results file."""
    finite = surface.loss[torch.isfinite(surface.loss)]
    return {
        "vertices": surface.points.vertices.tolist(),
        "points": len(surface.loss),
        "loss": [float(finite.min()), float(finite.max())] if len(finite) else None,
        "accuracy": [float(surface.accuracy.min()), float(surface.accuracy.max())] if len(finite) else None,
        "axis_shares": surface.points.axis_shares.tolist(),
    }


if __name__ == "__main__":
    main()
