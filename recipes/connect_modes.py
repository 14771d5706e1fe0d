"""Connect independently trained modes by a simplicial complex of low loss (Benton et al. 2021, section 4).

    python recipes/connect_modes.py recipes/configs/connect_modes.yaml
    python recipes/connect_modes.py recipes/configs/connect_modes.yaml --modes DIR DIR DIR --connectors 3

Takes modes (`--modes`: Hub ids or folders) or trains them from scratch with different seeds (`--train_modes`), then
trains connectors by SPRO, each a vertex of the simplexes that `--joins` names. Written are `OUTPUT/complex/` (the
checkpoint), `OUTPUT/results.json` (loss and accuracy along the straight lines between modes, along the best path
through one connector, where two modes have one in common, and at uniform points of the complex), `OUTPUT/paths.png`.
"""

import copy
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from backbones_from_scratch import SMALL_RESNET, SMALL_VIT, SMALL_VIT_IMAGES, random_mode
from recipe_arguments import parse_arguments
from torch import Tensor
from torch.utils.data import DataLoader
from train_espro import (
    SEEDS_A_COMPONENT,
    DataArguments,
    EsproArguments,
    check_distinct,
    hardware,
    load_data,
    transformed,
    versions,
)
from transformers import ViTImageProcessor, set_seed

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_transforms import collate, resize_image_processor
from hf_simplex.evaluation.surface_evaluation import evaluate_points
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_complex


@dataclass
class ModeArguments:
    """The modes, the connectors, and where the complex is measured."""

    modes: list[str] | None = field(default=None, metadata={"help": "Trained modes: Hub ids or folders, at least 2."})
    train_modes: int | None = field(default=None, metadata={"help": "Train so many modes from scratch instead."})
    backbone: str = field(
        default=SMALL_RESNET,
        metadata={
            "help": f"Architecture of modes from scratch: '{SMALL_RESNET}', '{SMALL_VIT}', a name of timm's, or a Hub "
            "id or folder."
        },
    )
    width: int = field(
        default=32, metadata={"help": f"Channels of the first stage of '{SMALL_RESNET}', half those of '{SMALL_VIT}'."}
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Memory format of the weights: faster for many convolutional backbones."}
    )
    connectors: int = field(default=2, metadata={"help": "Connectors to train, one after the other."})
    joins: list[str] | None = field(
        default=None,
        metadata={
            "help": "For each connector the modes whose simplexes it joins, such as 0,1 2,3 0,1,2,3; default: all."
        },
    )
    path_points: int = field(default=21, metadata={"help": "Points on each line, both ends included."})
    sampled_points: int = field(default=100, metadata={"help": "Points drawn uniformly from the complex."})


@dataclass
class ConnectArguments(EsproArguments):
    """As for train_espro: num_train_epochs and learning_rate are the modes', connector_* the connectors'."""


class PointResults(NamedTuple):
    """Loss (nats) and accuracy (0 to 1) at points of weight space, each [points] float64."""

    loss: np.ndarray[Any, np.dtype[np.float64]]
    accuracy: np.ndarray[Any, np.dtype[np.float64]]


class Images(NamedTuple):
    """What a point is measured on: the train and the test images, and the inputs of its BatchNorm statistics."""

    sets: dict[str, list[dict[str, Tensor]]]
    batch_norm: list[dict[str, Tensor]]


@dataclass
class Setup:
    """What the arguments come to: trained modes, one simplex each, and how to connect and to measure them."""

    mode_args: ModeArguments
    args: ConnectArguments
    joins: list[list[int] | None]
    model: SimplexForImageClassification
    trainer: SimplexTrainer
    images: Images
    told: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the recipe; returns what results.json holds."""
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
        **setup.told,
    }
    with atomic_write(output) as aside:
        (aside / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n", "utf-8")
        draw(results, aside / "paths.png")
    print(summary(results))
    return results


def prepare(argv: Sequence[str] | None, joins_all: bool = False) -> Setup:
    """Read the arguments, load the data, and load or train the modes; a mistake ends the program with code 2.

    Args:
        argv: the command line without the program; default: the process's own.
        joins_all: the recipe lets every connector join all simplexes, so that `--joins` is a mistake.
    """
    try:
        mode_args, data_args, args = parse_arguments((ModeArguments, DataArguments, ConnectArguments), argv)
        joins = check(mode_args, args)
        if joins_all and mode_args.joins is not None:
            raise ValueError("joins was given, but here every connector joins all simplexes: leave it out.")
        data = load_data(data_args)
        modes = start_modes(mode_args, data_args, dict(enumerate(data.label_names)), args)
        train, plain, test = transformed(data, data_args, modes[0], materialize=True)
        if mode_args.modes is not None:
            check_distinct(SimplexForImageClassification.disjoint_union(modes), mode_args.modes)
        dimensions = sum(parameter.numel() for parameter in modes[0].vertices[0].parameters())
        if mode_args.connectors > dimensions:
            raise ValueError(
                f"connectors is {mode_args.connectors}, but the backbone has {dimensions} weights, so no simplex of "
                "more dimensions has a volume."
            )
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error

    def trainer(model: SimplexForImageClassification, seed: int) -> SimplexTrainer:
        own = copy.copy(args)
        # The modes are trained by grow(), the connectors one by one: no simplex is grown further of itself.
        own.seed, own.num_vertices, own.num_members = seed, 1, len(model.config.simplexes)
        return SimplexTrainer(
            model=model, args=own, train_dataset=train, batch_norm_dataset=plain, data_collator=collate
        )

    for index, mode in enumerate(modes):
        trainer(mode, args.seed + SEEDS_A_COMPONENT * index).grow()
    model = SimplexForImageClassification.disjoint_union(modes)
    if mode_args.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    told = {
        "arguments": {**vars(mode_args), **vars(data_args), **args.to_sanitized_dict()},
        "versions": versions(),
        "hardware": hardware(),
    }
    size = args.per_device_eval_batch_size
    sets = {"train": in_batches(plain, size), "test": in_batches(test, size)}
    batch_norm = [{"pixel_values": batch["pixel_values"]} for batch in sets["train"]]
    images = Images(sets, batch_norm[: math.ceil(args.batch_norm_images / size)])
    grower = trainer(model, args.seed + SEEDS_A_COMPONENT * len(modes))
    return Setup(mode_args, args, joins, model, grower, images, told)


def check(mode_args: ModeArguments, args: ConnectArguments) -> list[list[int] | None]:
    """The simplexes that each connector joins; ValueError for arguments that contradict each other."""
    if (mode_args.modes is None) == (mode_args.train_modes is None):
        raise ValueError("Give either modes, trained already, or train_modes, how many to train from scratch.")
    count = len(mode_args.modes) if mode_args.modes is not None else int(mode_args.train_modes or 0)
    if count < 2:
        raise ValueError(f"There are {count} modes: at least 2 are needed to connect them.")
    if mode_args.modes is not None and len(set(mode_args.modes)) < count:
        raise ValueError("A mode is listed twice: a simplex between equal vertices has volume 0.")
    for name, least in (("connectors", 1), ("path_points", 3), ("sampled_points", 1)):
        if getattr(mode_args, name) < least:
            raise ValueError(f"{name} is {getattr(mode_args, name)}: expected at least {least}.")
    if args.num_modes != 1:
        raise ValueError(
            f"num_modes is {args.num_modes}: modes are connected here, not joined into one simplex; give 1."
        )
    if (Path(args.output_dir) / "results.json").exists() and not args.overwrite:
        raise ValueError(f"{args.output_dir} holds results already. Choose another output_dir or give --overwrite.")
    if mode_args.joins is None:
        return [None] * mode_args.connectors
    if len(mode_args.joins) != mode_args.connectors:
        raise ValueError(f"joins names {len(mode_args.joins)} connectors and connectors is {mode_args.connectors}.")
    joins: list[list[int] | None] = []
    for text in mode_args.joins:
        try:
            joined = [int(part) for part in text.split(",")]
        except ValueError:
            raise ValueError(f"joins has {text!r}: expected numbers of modes such as 0,1.") from None
        if wrong := [index for index in joined if not 0 <= index < count]:
            raise ValueError(f"joins has {text!r}: there is no mode {wrong[0]}, they are 0 to {count - 1}.")
        if len(set(joined)) < len(joined):
            raise ValueError(f"joins has {text!r}: a mode is named twice.")
        joins.append(joined)
    return joins


def start_modes(
    mode_args: ModeArguments, data_args: DataArguments, labels: dict[int, str], args: ConnectArguments
) -> list[SimplexForImageClassification]:
    """The given modes, or backbones with random weights from different seeds."""
    modes = []
    for name in mode_args.modes or ():
        mode = SimplexForImageClassification.from_backbone(name, fine_tuned=True)
        check_labels(mode, name, labels)
        if not all(bool(tensor.isfinite().all()) for tensor in mode.weights[0].values()):
            raise ValueError(f"The mode {name} has weights that are not finite.")
        modes.append(mode)
    for index in range(mode_args.train_modes or 0):
        set_seed(args.seed + SEEDS_A_COMPONENT * index)
        modes.append(
            random_mode(
                mode_args.backbone, labels, width=mode_args.width, image_size=data_args.image_size or SMALL_VIT_IMAGES
            )
        )
    SimplexForImageClassification.disjoint_union(modes)
    for mode in modes:
        if mode.image_processor is None:
            mode.image_processor = ViTImageProcessor()
        if data_args.image_size is not None:
            mode.image_processor = resize_image_processor(mode.image_processor, data_args.image_size)
        if mode_args.channels_last:
            mode.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return modes


def check_labels(model: SimplexForImageClassification, name: str, labels: dict[int, str]) -> None:
    """Raise ValueError unless the model may have been trained on data with these labels, in this order."""
    found: Any = model.config.id2label
    if len(found) != len(labels):
        raise ValueError(f"The model {name} has {len(found)} labels and the data have {len(labels)}.")
    # Names such as LABEL_0 tell nothing, so only an order that contradicts the data's is a mistake for certain.
    if found != labels and sorted(found.values()) == sorted(labels.values()):
        raise ValueError(f"The model {name} has the data's labels in another order: {found}, not {labels}.")


def in_batches(dataset: Any, size: int) -> list[dict[str, Tensor]]:
    """All images and labels, in memory, in batches of `size`: every point of the complex is evaluated on them."""
    return list(DataLoader(dataset, size, collate_fn=collate))


def measure(
    model: SimplexForImageClassification,
    modes: int,
    mode_args: ModeArguments,
    images: Images,
    seed: int,
) -> dict[str, Any]:
    """Loss and accuracy at the modes, on lines and paths between them, and at uniform points of the complex."""
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


def at_points(
    model: SimplexForImageClassification, coordinates: list[list[float]], images: Images
) -> dict[str, PointResults]:
    """Loss and accuracy on each data set at points of weight space, BatchNorm statistics from the training images."""
    points = torch.tensor(coordinates, dtype=torch.float64)
    results = {}
    for name, batches in images.sets.items():
        loss, accuracy = evaluate_points(
            model.backbone, model.weights, points, batches, batch_norm_batches=images.batch_norm
        )
        results[name] = PointResults(loss.numpy(), accuracy.numpy())
    return results


def sampled(model: SimplexForImageClassification, number: int, images: Images, seed: int) -> dict[str, Any]:
    """Mean, spread and worst of loss and accuracy over points of the complex, drawn as `sampling_of` says."""
    structure = model.config.complex
    points = sample_complex(
        structure,
        number,
        sampling=sampling_of(structure),
        log_volumes=model.log_volumes(),
        generator=torch.Generator().manual_seed(seed),
    )
    found = at_points(model, points.tolist(), images)
    return {
        name: {
            quantity: {
                "mean": float(values.mean()),
                "standard_deviation": float(values.std()),
                "worst": float(values.max() if quantity == "loss" else values.min()),
                "values": values.tolist(),
            }
            for quantity, values in r._asdict().items()
        }
        for name, r in found.items()
    }


def sampling_of(structure: SimplicialComplex) -> str:
    """How points are drawn: in proportion to volume, so uniformly, where all simplexes are of one dimension.

    Simplexes of different dimension have no common measure: then each is drawn from with equal chance.
    """
    return "volume" if len({len(simplex) for simplex in structure.simplexes}) == 1 else "equal"


def barriers(results: dict[str, PointResults]) -> dict[str, Any]:
    """Along a path: how far the loss rises above, and the accuracy falls below, the mean of the two ends."""
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
    """The results as a few lines of text; accuracies in percent."""
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
    """Accuracy along all straight lines and best paths, and at the points of the complex."""
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
