"""Evaluates loss and accuracy at points of weight space, of a model or of any module.

Three steps give a loss surface: lay out the points, evaluate them, save the result::

    points = plane_points(model.config.complex, model.weights, trainable_names(model.backbone), vertices=(0, 1, 2))
    surface = model_surface(model, points, batches, batch_norm_batches=training_batches)
    surface.save("plane.safetensors")
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..model.batch_norm import batch_norm_statistics, copy_statistics, recompute_statistics
from ..model.coordinates import vertex_coordinates
from ..model.label_activation import activation_of
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.module_inputs import module_inputs
from ..model.processes import map_over_ranks
from ..model.weight_space import Weights, trainable_names, write_point
from .surface_points import SurfacePoints, check_finite, check_point_coordinates
from .surfaces import Surface

__all__ = ["Measure", "classification", "evaluate_points", "model_surface"]

Measure = Callable[[nn.Module, Any], tuple[Tensor, Tensor | None]]
"""Maps a module and a batch to losses, [batch], and what is right of each prediction, [batch] 0 to 1, bool or None."""


def classification(module: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The default measure: negative log-likelihood and accuracy of a transformers image classifier.

    Of a multi-label classifier, the binary cross-entropy of an image is the mean over its labels, and its accuracy the
    share of them that are right at 0.5.

    Args:
        module: a backbone whose output has `logits` [batch, labels].
        batch: keyword arguments of the module, and `labels` [batch] int64, or [batch, labels] of 0 and 1; on any
            device.

    Returns:
        Negative log-likelihoods [batch] float32 in nats, and whether each prediction is right, [batch] bool; or the
        share of its labels, [batch] float32.

    Raises:
        ValueError: The batch has no labels.

    Example::

        losses, right = classification(backbone, {"pixel_values": images, "labels": labels})
    """
    if "labels" not in batch:
        raise ValueError(f"A batch needs 'labels' to be evaluated, got {sorted(batch)}.")
    inputs = module_inputs(module, batch)
    labels = inputs.pop("labels")
    logits = module(**inputs).logits.float()
    activation = activation_of(getattr(module, "config", None))
    return activation.losses(logits, labels), activation.right(logits, labels)


@torch.no_grad()
def evaluate_points(
    module: nn.Module,
    weights: Sequence[Weights],
    coordinates: Tensor,
    batches: Iterable[Any],
    measure: Measure = classification,
    *,
    batch_norm_batches: Iterable[Any] | None = None,
    among_processes: bool = False,
) -> tuple[Tensor, Tensor]:
    """Evaluates the mean loss and accuracy of a module at points of weight space.

    Args:
        module: holds one point after another, in evaluation mode. Its weights, BatchNorm statistics and training flags
            are restored afterwards, also after an error.
        weights: one set of weights per vertex, with a tensor for each parameter of `module`.
        coordinates: [points, vertices], any floating dtype. Rows sum to 1 and may be negative.
        batches: a list or a DataLoader, read once per point. A DataLoader that shuffles or augments gives each point
            other data.
        measure: the loss of each example, and whether it is right.
        batch_norm_batches: training inputs for the BatchNorm statistics, read once per point, as
            `batch_norm.recompute_statistics` takes them. Not needed without BatchNorm.
        among_processes: divide the points among the processes of a distributed run. All processes must call this
            function with the same batches. Each process evaluates its points on all data.

    Returns:
        Loss [points] float64, mean over all examples, and accuracy [points] float64, NaN without one.

    Raises:
        ValueError: The coordinates have another shape or do not sum to 1, weights are not finite, the batches are
            empty or an iterator, the module has BatchNorm but `batch_norm_batches` is missing, or the measure does
            not return one value per example.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_evaluation import evaluate_points
        >>> weights = [{"weight": torch.tensor([[value]])} for value in (1.0, 3.0)]
        >>> loss, accuracy = evaluate_points(
        ...     torch.nn.Linear(1, 1, bias=False),
        ...     weights,
        ...     torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
        ...     [torch.ones(4, 1)],
        ...     lambda module, batch: (module(batch).squeeze(1), None),
        ... )
        >>> loss
        tensor([1., 2.], dtype=torch.float64)
    """
    coordinates = check_point_coordinates(coordinates, len(weights))
    names = trainable_names(module)
    for vertex in coordinates.any(dim=0).nonzero().flatten().tolist():
        for name in names:
            check_finite(weights[vertex][name], vertex, name)
    for what, data in (("batches", batches), ("batch_norm_batches", batch_norm_batches)):
        if isinstance(data, Iterator):
            raise ValueError(f"The {what} are read once per point: give a list or a DataLoader, not an iterator.")
    if batch_norm_statistics(module) and batch_norm_batches is None:
        raise ValueError(
            "The module has BatchNorm, and statistics of one point do not hold at another: give batch_norm_batches, "
            "training inputs to recompute them from."
        )
    written = [parameter for parameter in module.parameters() if parameter.requires_grad]
    former_weights = [parameter.detach().clone() for parameter in written]
    former_statistics = copy_statistics(batch_norm_statistics(module))
    former_flags = {child: child.training for child in module.modules()}
    module.eval()
    progress = logging.tqdm(total=len(coordinates), desc="Points", unit="point", leave=False, disable=None)

    def at(row: list[float]) -> tuple[float, float]:
        # write_point divides by partial sums of the coordinates. In descending order, these sums stay away from 0.
        order = sorted(range(len(row)), key=row.__getitem__, reverse=True)
        write_point(module, [weights[vertex] for vertex in order], [row[vertex] for vertex in order])
        if former_statistics:
            assert batch_norm_batches is not None
            recompute_statistics(module, batch_norm_batches)
        progress.update()
        return _mean_measure(module, batches, measure)

    try:
        with progress:
            rows = coordinates.tolist()
            results = map_over_ranks(rows, at) if among_processes else [at(row) for row in rows]
    finally:
        for parameter, former in zip(written, former_weights, strict=True):
            parameter.copy_(former)
        for name, buffer in batch_norm_statistics(module).items():
            buffer.copy_(former_statistics[name])
        for child, training in former_flags.items():
            child.training = training
    loss, accuracy = torch.tensor(results, dtype=torch.float64).reshape(-1, 2).unbind(dim=1)
    return loss.clone(), accuracy.clone()


def model_surface(
    model: SimplexForImageClassification,
    points: SurfacePoints,
    batches: Iterable[Any],
    *,
    batch_norm_batches: Iterable[Any] | None = None,
    measure: Measure = classification,
    among_processes: bool = False,
) -> Surface:
    """Evaluates the backbone of a model at the points of a surface, see `evaluate_points`.

    Args:
        model: its vertices and members are not changed.
        points: from `plane_points`, `face_points` or `complex_points`.
        batches: mappings of `pixel_values` and `labels`, read once per point.
        batch_norm_batches: mappings of `pixel_values`, read once per point. Not needed without BatchNorm.
        measure: default: negative log-likelihood and accuracy.
        among_processes: as for `evaluate_points`.

    Returns:
        The surface.

    Raises:
        ValueError: As `evaluate_points`.
        RuntimeError: A vertex of the model is being trained.

    Example::

        points = plane_points(model.config.complex, model.weights, trainable_names(model.backbone))
        surface = model_surface(model, points, batches, batch_norm_batches=training_batches)
    """
    backbone = model.backbone_at(vertex_coordinates(model.config.complex, 0).tolist())
    loss, accuracy = evaluate_points(
        backbone,
        model.weights,
        points.coordinates,
        batches,
        measure,
        batch_norm_batches=batch_norm_batches,
        among_processes=among_processes,
    )
    return Surface(points, loss, accuracy)


def _mean_measure(module: nn.Module, batches: Iterable[Any], measure: Measure) -> tuple[float, float]:
    examples, total, right = 0, 0.0, 0.0
    for batch in batches:
        losses, correct = measure(module, batch)
        if losses.ndim != 1 or (correct is not None and correct.shape != losses.shape):
            raise ValueError(
                f"A measure returns one loss per example, and one bool per example or None; got shapes "
                f"{list(losses.shape)} and {None if correct is None else list(correct.shape)}. Use reduction='none'."
            )
        examples += len(losses)
        total += float(losses.cpu().double().sum())
        right += math.nan if correct is None else float(correct.cpu().double().sum())
    if not examples:
        raise ValueError("There is no data to evaluate: the batches are empty.")
    return total / examples, right / examples
