"""Computes what the explorer shows: losses on a lattice, statistics between vertices, and images to look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Image
from torch import Tensor

from ..data.decoding import decode_rgb
from ..data.image_columns import labels_of
from ..data.image_data import load_image_data, with_validation
from ..data.image_transforms import ImageTransform, build_transforms, collate, with_pixel_values
from ..data.recorded_splits import load_recorded
from ..data.split_records import record_of_run
from ..data.stratification import stratified_indices
from ..evaluation.label_names import label_names_of, match_labels
from ..evaluation.surface_evaluation import classification
from ..model.batch_norm import recompute_statistics
from ..model.coordinates import vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.point_writing import write_point_and_buffers
from ..model.problem_types import refuse_several
from ..model.uncertainty import mutual_information
from ..training.batch_norm_images import batch_norm_batches
from .answers import NOT_SHOWN
from .exploration import Exploration, Region, spread, vertices_digest
from .flat_statistics import FlatStatistics
from .lattice import LatticePoint, lattice_points
from .layout import regions_of

__all__ = ["explore", "explore_data_set"]

STATISTICS_BYTES = 5 * 2**20
"""Largest size of the BatchNorm statistics. EfficientNet-Lite0 has 168 kB of them a point."""

IMAGE_BYTES = 3 * 2**20
"""Largest size of the validation images. At least 20 are kept, whatever their size, and those of the gallery."""

_BATCH_SIZE = 64
_SEARCHED = 1000

Progress = Callable[[float, str], Any]
"""Takes the share that is done, 0 to 1, and what is being done."""


def explore_data_set(
    model: SimplexForImageClassification,
    data_set: str,
    *,
    batch_norm_images: int = 128,
    labels_by_position: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Exploration:
    """Compute what the explorer shows on the validation images of a data set.

    If the ensemble records the run that trained it on this data set, the images are the validation images of the run.
    Otherwise they are the validation split, a part of the training split, or the test split. Such images may have been
    trained on.

    Args:
        model: an ensemble with members and an image processor. It is not changed.
        data_set: as in `data.image_data.load_image_data`.
        batch_norm_images: number of training images for the BatchNorm statistics.
        labels_by_position: see `evaluation.label_names.match_labels`.
        progress: called with the share that is done.
        **options: `config_name`, `image_column`, `label_column`, `revision` and `token` of `load_image_data`.

    Returns:
        What the explorer shows.

    Raises:
        OSError, ValueError: the data set cannot be loaded, its labels are not the ensemble's, or see `explore`.

    Example::

        explore_data_set(model, "digits").save("output/quickstart/ensemble")
    """
    refuse_several(model.config, *NOT_SHOWN)
    if model.image_processor is None:
        raise ValueError("The ensemble has no image processor. Save it with one: set `model.image_processor`.")
    record = record_of_run(model.config.provenance, data_set)
    if record is not None:
        data = load_recorded(data_set, record, **options)
    else:
        given = {name: value for name, value in options.items() if value is not None}
        data = with_validation(load_image_data(data_set, **given))
    shown, split = (data.test, "test") if data.validation is None else (data.validation, "validation")
    order = match_labels(label_names_of(model), data.label_names, by_position=labels_by_position)
    _, transform = build_transforms(model.image_processor)
    batches = batch_norm_batches(
        with_pixel_values(data.train, transform),
        images=min(batch_norm_images, len(data.train)),
        batch_size=_BATCH_SIZE,
        collate=collate,
    )
    return explore(
        model,
        shown,
        order,
        batch_norm_batches=batches,
        data_set=data.name,
        split=split if record is not None else f"{split}, perhaps trained on",
        progress=progress,
    )


def explore(
    model: SimplexForImageClassification,
    images: Dataset,
    order: Sequence[int],
    *,
    batch_norm_batches: Sequence[Mapping[str, Any]],
    data_set: str,
    split: str = "validation",
    resolution: int = 8,
    gallery: int = 12,
    progress: Progress | None = None,
) -> Exploration:
    """Compute losses on a lattice over each face, BatchNorm statistics, and the images of most disagreement.

    Images larger than the ensemble's size are scaled down to it. The predictions are of the scaled images.

    Args:
        model: an ensemble with members and an image processor. It is not changed.
        images: with the columns `image` and `label`; new to the ensemble.
        order: the ensemble's label of each label of the data set.
        batch_norm_batches: inputs of training images, at least 2 images for a backbone with BatchNorm.
        data_set: its name.
        split: what the images are to the ensemble.
        resolution: intervals on each edge.
        gallery: number of images to keep for their disagreement. At most 1,000 images are searched.
        progress: called with the share that is done.

    Returns:
        What the explorer shows.

    Raises:
        ValueError: there are no images, an image cannot be read, the ensemble has no image processor, or the batches
            are missing.
        RuntimeError: a vertex is being trained, or the members are not drawn.

    Example::

        explore(model, data.validation, range(10), batch_norm_batches=batches, data_set="digits")
    """
    refuse_several(model.config, *NOT_SHOWN)
    if not len(images):
        raise ValueError(f"There are no images of {data_set} to explore with.")
    if model.image_processor is None:
        raise ValueError("The ensemble has no image processor. Save it with one: set `model.image_processor`.")
    report: Progress = progress or (lambda share, what: None)
    report(0.0, "Looking for images on which the members disagree")
    chosen = _choose(model, images, order, gallery)
    surface = _measure(model, chosen, batch_norm_batches, resolution, report)
    report(1.0, "Done")
    return Exploration(
        data_set=data_set,
        split=split,
        vertices=vertices_digest(model),
        resolution=resolution,
        images=chosen.images,
        labels=chosen.labels,
        batch=len(chosen.pixel_values),
        gallery=chosen.gallery,
        **surface,
    )


@dataclass(frozen=True)
class _Chosen:
    """Images to keep: the validation batch first, then those of the gallery."""

    images: tuple[Tensor, ...]
    labels: Tensor
    gallery: tuple[int, ...]
    pixel_values: Tensor
    """Of the validation batch."""


def _choose(model: SimplexForImageClassification, images: Dataset, order: Sequence[int], gallery: int) -> _Chosen:
    assert model.image_processor is not None
    _, transform = build_transforms(model.image_processor)
    searched = stratified_indices(labels_of(images), min(len(images), _SEARCHED), 0)
    subset = images.select(searched)
    size = min(_pixel_values(torch.zeros(64, 64, 3, dtype=torch.uint8), transform).shape[-2:])
    feature = subset.features["image"]
    stored = subset.select_columns("image").cast_column("image", Image(decode=False))
    pixels = [_at_most(decode_rgb(row["image"], feature), size) for row in stored]
    values = torch.stack([_pixel_values(image, transform) for image in pixels])
    disagreement = torch.cat(
        [
            mutual_information(
                model(chunk.to(model.device, model.dtype), output_member_probabilities=True).member_probabilities.cpu()
            )
            for chunk in values.split(_BATCH_SIZE)
        ]
    )
    fit = IMAGE_BYTES // max(image.numel() for image in pixels) - gallery
    batch = stratified_indices(labels_of(subset), min(max(20, min(64, fit)), len(pixels)), 0).tolist()
    most = disagreement.argsort(descending=True, stable=True)[:gallery].tolist()
    kept = list(dict.fromkeys([*batch, *most]))
    labels = torch.tensor([order[label] for label in labels_of(subset).tolist()])
    return _Chosen(
        tuple(pixels[index] for index in kept),
        labels[kept],
        tuple(kept.index(index) for index in most),
        values[batch],
    )


@torch.no_grad()
def _measure(
    model: SimplexForImageClassification,
    chosen: _Chosen,
    batch_norm_batches: Sequence[Mapping[str, Any]],
    resolution: int,
    report: Progress,
) -> dict[str, Any]:
    """Losses and statistics at the points: those fields of an `Exploration`, by name."""
    structure = model.config.complex
    regions = regions_of(structure, model.config.roles)
    backbone = model.backbone_at(vertex_coordinates(structure, 0).tolist())
    weights, flat = model.weights, FlatStatistics(backbone)
    points = _lattice(regions, structure.num_vertices, resolution)
    coarse = _coarse_resolution(regions, structure.num_vertices, resolution, 4 * flat.channels)
    inputs = [
        {"pixel_values": values, "labels": labels}
        for values, labels in zip(
            chosen.pixel_values.split(_BATCH_SIZE),
            chosen.labels[: len(chosen.pixel_values)].split(_BATCH_SIZE),
            strict=True,
        )
    ]
    measured: list[tuple[float, float]] = []
    statistics: dict[int, Tensor] = {}
    for row, counts in enumerate(points):
        report(row / len(points), f"Point {row + 1} of {len(points)}")
        shares = [count / resolution for count in counts]
        write_point_and_buffers(backbone, weights, shares, None)
        backbone.eval()
        if max(counts) < resolution and flat.channels:
            recompute_statistics(backbone, batch_norm_batches, f"the point {shares}")
            if all(count % (resolution // coarse) == 0 for count in counts):
                statistics[row] = flat.read()
        found = [classification(backbone, each) for each in inputs]
        loss, right = (torch.cat(values).double().mean().item() for values in zip(*found, strict=True))
        measured.append((loss, right))
    losses, accuracies = torch.tensor(measured, dtype=torch.float64).T.contiguous()
    return {
        "regions": tuple(regions),
        "statistics_resolution": coarse,
        "coordinates": torch.tensor(points, dtype=torch.float64) / resolution,
        "loss": losses.clone(),
        "accuracy": accuracies.clone(),
        "statistics": torch.stack(list(statistics.values())) if statistics else torch.zeros(0, flat.channels),
        "statistics_at": torch.tensor(list(statistics), dtype=torch.int64),
    }


def _lattice(regions: Sequence[Region], vertices: int, resolution: int) -> list[LatticePoint]:
    """The lattice points of all regions. Those of a common edge appear once."""
    return list(
        dict.fromkeys(
            spread(counts, region, vertices)
            for region in regions
            for counts in lattice_points(len(region), resolution)
        )
    )


def _coarse_resolution(regions: Sequence[Region], vertices: int, resolution: int, point_bytes: int) -> int:
    """The finest lattice of statistics that fits into `STATISTICS_BYTES`. With 1, only the vertices are known."""
    for coarse in range(resolution, 1, -1):
        if resolution % coarse == 0:
            between = sum(max(counts) < coarse for counts in _lattice(regions, vertices, coarse))
            if between * point_bytes <= STATISTICS_BYTES:
                return coarse
    return 1


def _at_most(image: PIL.Image.Image, size: int) -> Tensor:
    """Pixels of an image, [height, width, 3] uint8, whose shorter side is at most `size`."""
    if (shorter := min(image.size)) > size:
        width, height = (max(1, round(side * size / shorter)) for side in image.size)
        image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))


def _pixel_values(image: Tensor, transform: ImageTransform) -> Tensor:
    return transform(PIL.Image.fromarray(image.numpy()))
