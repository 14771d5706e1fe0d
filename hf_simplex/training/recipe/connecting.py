"""Setup of the recipes that connect modes, and evaluation at points of a complex."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.image_transforms import collate
from ...evaluation.surface_evaluation import evaluate_points
from ...model.complexes import SimplicialComplex
from ...model.modeling_simplex import SimplexForImageClassification
from ...model.sampling import sample_complex
from ..arguments import check_mode_start
from ..trainer import SimplexTrainer
from ..varied_modes import rotated
from .arguments import DataArguments, EsproArguments, ModeArguments
from .components import SEEDS_A_COMPONENT, check_distinct, start_modes
from .images import in_batches, load_data, transformed
from .parsing import exit_on_mistake, parse_arguments
from .requirements import check_installed
from .run_record import hardware, versions

__all__ = [
    "ConnectArguments",
    "Images",
    "PointResults",
    "Setup",
    "at_points",
    "check",
    "prepare",
    "sampled",
    "sampling_of",
]


@dataclass
class ConnectArguments(EsproArguments):
    """Training arguments: num_train_epochs and learning_rate for modes, connector_* for connectors.

    Example:
        >>> ConnectArguments("output", use_cpu=True, report_to="none", connector_epochs=5).connector_epochs
        5
    """


class PointResults(NamedTuple):
    """Loss (nats) and accuracy (0 to 1) at points of weight space, float64 of shape [points].

    Example:
        >>> PointResults(loss=np.array([0.1, 0.3]), accuracy=np.array([1.0, 0.9])).loss.max().item()
        0.3
    """

    loss: np.ndarray[Any, np.dtype[np.float64]]
    accuracy: np.ndarray[Any, np.dtype[np.float64]]


class Images(NamedTuple):
    """Batches for evaluation, by split, and batches for BatchNorm statistics.

    Example::

        Images({"test": in_batches(test, 250)}, batch_norm=in_batches(train, 250))
    """

    sets: dict[str, list[dict[str, Tensor]]]
    batch_norm: list[dict[str, Tensor]]


@dataclass
class Setup:
    """Trained modes, and what is needed to connect and evaluate them.

    Args:
        mode_args: arguments of modes and connectors.
        args: training arguments.
        joins: modes that each connector joins; None joins all modes.
        model: complex with one vertex for each mode.
        trainer: trainer of the connectors.
        images: batches for evaluation.
        record: arguments, versions and hardware for the results file.

    Example::

        setup = prepare(["recipes/configs/connect_modes.yaml"])
        setup.model.config.num_vertices
    """

    mode_args: ModeArguments
    args: ConnectArguments
    joins: list[list[int] | None]
    model: SimplexForImageClassification
    trainer: SimplexTrainer
    images: Images
    record: dict[str, Any]


def prepare(argv: Sequence[str] | None, joins_all: bool = False) -> Setup:
    """Parse the arguments, load the data, and load or train the modes. Exit with code 2 on a user's mistake.

    Args:
        argv: command line without the program. Default: `sys.argv[1:]`.
        joins_all: each connector joins all simplexes, so `--joins` is an error.

    Example::

        setup = prepare(["recipes/configs/connect_modes.yaml"])
        setup.trainer.grow_connector()
    """
    with exit_on_mistake():
        mode_args, data_args, args = parse_arguments((ModeArguments, DataArguments, ConnectArguments), argv)
        joins = check(mode_args, args)
        check_installed("matplotlib", "plots", "The run draws a picture at its end.")
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
                f"connectors is {mode_args.connectors}, but the backbone has {dimensions} weights: give at most "
                f"{dimensions} connectors."
            )

    def trainer(model: SimplexForImageClassification, index: int) -> SimplexTrainer:
        own = copy.copy(args)
        own.seed = args.seed + SEEDS_A_COMPONENT * index
        own.mode_learning_rates = rotated(args.mode_learning_rates, index)
        own.mode_label_smoothing = rotated(args.mode_label_smoothing, index)
        # grow() trains only a mode. The recipe then trains the connectors one by one.
        own.num_vertices, own.num_members = 1, len(model.config.simplexes)
        return SimplexTrainer(
            model=model, args=own, train_dataset=train, batch_norm_dataset=plain, data_collator=collate
        )

    for index, mode in enumerate(modes):
        trainer(mode, index).grow()
    model = SimplexForImageClassification.disjoint_union(modes)
    if mode_args.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    record = {
        "arguments": {**vars(mode_args), **vars(data_args), **args.to_sanitized_dict()},
        "versions": versions(),
        "hardware": hardware(),
    }
    size = args.per_device_eval_batch_size
    sets = {"train": in_batches(plain, size), "test": in_batches(test, size)}
    batch_norm = [{"pixel_values": batch["pixel_values"]} for batch in sets["train"]]
    images = Images(sets, batch_norm[: math.ceil(args.batch_norm_images / size)])
    grower = trainer(model, len(modes))
    return Setup(mode_args, args, joins, model, grower, images, record)


def check(mode_args: ModeArguments, args: ConnectArguments) -> list[list[int] | None]:
    """Check the arguments against each other, and parse `joins`.

    Returns:
        The modes that each connector joins; None joins all modes.

    Raises:
        ValueError: an argument is out of range or contradicts another.

    Example:
        >>> from hf_simplex.training.recipe.arguments import ModeArguments
        >>> from hf_simplex.training.recipe.connecting import ConnectArguments, check
        >>> args = ConnectArguments("output", use_cpu=True, report_to="none")
        >>> check(ModeArguments(train_modes=3, joins=["0,1", "0,1,2"]), args)
        [[0, 1], [0, 1, 2]]
    """
    if (mode_args.modes is None) == (mode_args.train_modes is None):
        raise ValueError("Give either modes (trained models) or train_modes (the number to train from scratch).")
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
    check_mode_start(args)
    if args.probe_head:
        raise ValueError("probe_head was given, but modes are loaded, or trained from scratch: leave it out.")
    if args.resume:
        raise ValueError("resume was given, but this recipe does not go on with an unfinished run: leave it out.")
    if Path(args.output_dir).is_file():
        raise ValueError(f"output_dir is {args.output_dir}, which is a file: give a folder.")
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


def at_points(
    model: SimplexForImageClassification, coordinates: list[list[float]], images: Images
) -> dict[str, PointResults]:
    """Evaluate points of the complex on each split, with BatchNorm statistics recomputed at each point.

    Args:
        model: complex.
        coordinates: barycentric coordinates, one row per point.
        images: batches.

    Example::

        at_points(model, [[0.5, 0.5]], images)["test"].loss
    """
    points = torch.tensor(coordinates, dtype=torch.float64)
    results = {}
    for name, batches in images.sets.items():
        loss, accuracy = evaluate_points(
            model.backbone, model.weights, points, batches, batch_norm_batches=images.batch_norm
        )
        results[name] = PointResults(loss.numpy(), accuracy.numpy())
    return results


def sampled(model: SimplexForImageClassification, number: int, images: Images, seed: int) -> dict[str, Any]:
    """Summarize loss and accuracy over random points of the complex, drawn as `sampling_of` says.

    Args:
        model: complex.
        number: number of points.
        images: batches.
        seed: seed of the points.

    Returns:
        By split and quantity: mean, standard deviation, worst value, and all values.

    Example::

        sampled(model, 100, images, seed=0)["test"]["accuracy"]["mean"]
    """
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
    """Choose the sampling of a complex: by volume if all simplexes have the same dimension, else with equal chance.

    Sampling by volume is uniform. Simplexes of different dimension have no common measure.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.training.recipe.connecting import sampling_of
        >>> sampling_of(SimplicialComplex(4, ((0, 1, 2), (2, 3))))
        'equal'
    """
    return "volume" if len({len(simplex) for simplex in structure.simplexes}) == 1 else "equal"
