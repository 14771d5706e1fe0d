"""What the explorer shows without training data: surfaces, validation images and BatchNorm statistics, in one file."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..hub.own_files import EXPLORER_FILE, EXPLORER_FOLDER
from ..model.checkpoint import atomic_write, locate
from ..model.complex_of_backbones import ComplexOfBackbones
from ..model.digests import tensor_digest
from .lattice import LatticePoint, lattice_points, lattice_weights

__all__ = ["Exploration", "Region", "find_exploration", "spread", "vertices_digest"]

Region = tuple[int, ...]
"""Vertices of a face, or of a straight line between two vertices that share no simplex."""

_FORMAT = "hf_simplex.explorer 1"
_TENSORS = ("coordinates", "loss", "accuracy", "labels", "statistics", "statistics_at")
_FIELDS = ("data_set", "split", "vertices", "regions", "resolution", "statistics_resolution", "batch", "gallery")


@dataclass(frozen=True)
class Exploration:
    """Surfaces of an ensemble, validation images, and BatchNorm statistics between its vertices.

    Attributes:
        data_set: name of the data set.
        split: what the images were to the ensemble, such as `"validation"`.
        vertices: `vertices_digest` of the ensemble.
        regions: faces and lines, by vertices.
        resolution: intervals on each edge of the lattice of losses.
        statistics_resolution: the same for BatchNorm statistics; it divides `resolution`.
        coordinates: [points, vertices] float64 barycentric coordinates of the lattice points of all regions.
        loss: [points] float64, mean NLL over the validation batch, in nats. It may be inf or NaN.
        accuracy: [points] float64, 0 to 1.
        statistics: [statistics points, channels] float32, running means and variances of all BatchNorm layers in a
            row; [0, 0] without BatchNorm. Points at vertices are left out: the ensemble has their statistics.
        statistics_at: [statistics points] int64, rows of `coordinates`.
        images: upright RGB images, each [height, width, 3] uint8.
        labels: [images] int64, the ensemble's label of each image.
        batch: number of images, from the first, on which losses are computed.
        gallery: indices of the images on which the members disagree most, from the most.

    Raises:
        ValueError: shapes, indices or ranges do not fit together.

    Example::

        exploration = find_exploration("me/digits-simplex")
        exploration.loss.max(), len(exploration.images)
    """

    data_set: str
    split: str
    vertices: str
    regions: tuple[Region, ...]
    resolution: int
    statistics_resolution: int
    coordinates: Tensor
    loss: Tensor
    accuracy: Tensor
    statistics: Tensor
    statistics_at: Tensor
    images: tuple[Tensor, ...]
    labels: Tensor
    batch: int
    gallery: tuple[int, ...]
    _rows: Mapping[LatticePoint, int] = field(init=False, repr=False, compare=False)
    _statistics_rows: Mapping[LatticePoint, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points, of_statistics, number = len(self.coordinates), len(self.statistics), len(self.images)
        shapes_fit = (
            self.coordinates.ndim == 2
            and self.loss.shape == self.accuracy.shape == (points,)
            and self.statistics.ndim == 2
            and self.statistics_at.shape == (of_statistics,)
            and self.labels.shape == (number,)
        )
        if not shapes_fit:
            raise ValueError("the shapes of coordinates, loss, accuracy, statistics and labels do not match")
        if not all(image.ndim == 3 and image.shape[2] == 3 and image.dtype == torch.uint8 for image in self.images):
            raise ValueError("an image is not [height, width, 3] of uint8")
        if not (0 < self.batch <= number and all(0 <= index < number for index in self.gallery)):
            raise ValueError(f"batch {self.batch} or gallery {list(self.gallery)} does not fit {number} images")
        if self.resolution < 1 or self.statistics_resolution < 1 or self.resolution % self.statistics_resolution:
            raise ValueError(f"resolutions are {self.resolution} and {self.statistics_resolution}")
        if of_statistics and not (int(self.statistics_at.min()) >= 0 and int(self.statistics_at.max()) < points):
            raise ValueError(f"statistics_at names rows outside of the {points} points")
        if not bool(self.statistics.isfinite().all()):
            raise ValueError("BatchNorm statistics are not finite")
        width = self.coordinates.shape[1]
        counts = [tuple(map(round, row)) for row in (self.coordinates * self.resolution).tolist()]
        rows = {count: row for row, count in enumerate(counts)}
        for region in self.regions:
            if not region or not all(0 <= vertex < width for vertex in region):
                raise ValueError(f"region {list(region)} has no vertices, or some that do not exist")
            if any(spread(own, region, width) not in rows for own in lattice_points(len(region), self.resolution)):
                raise ValueError(f"region {list(region)} lacks some of its lattice points")
        object.__setattr__(self, "_rows", rows)
        coarse = {counts[row]: place for place, row in enumerate(self.statistics_at.tolist())}
        object.__setattr__(self, "_statistics_rows", coarse)

    def region_of(self, coordinates: Sequence[float]) -> Region | None:
        """Return the first region that holds a point; None if none does.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Example::

            exploration.region_of([0.5, 0.5, 0.0])
        """
        support = {vertex for vertex, share in enumerate(coordinates) if share > 0}
        return next((region for region in self.regions if support <= set(region)), None)

    def loss_at(self, coordinates: Sequence[float]) -> tuple[float, float] | None:
        """Interpolate loss and accuracy linearly between lattice points.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Returns:
            Loss in nats and accuracy, 0 to 1; None where no region holds the point.

        Example::

            loss, accuracy = exploration.loss_at([0.5, 0.5, 0.0])
        """
        if (region := self.region_of(coordinates)) is None:
            return None
        shares = lattice_weights([coordinates[vertex] for vertex in region], self.resolution)
        rows = {self._rows[spread(own, region, len(coordinates))]: weight for own, weight in shares.items()}
        loss = math.fsum(weight * float(self.loss[row]) for row, weight in rows.items())
        return loss, math.fsum(weight * float(self.accuracy[row]) for row, weight in rows.items())

    def statistics_at_point(self, coordinates: Sequence[float], of_vertices: Sequence[Tensor]) -> Tensor | None:
        """Interpolate BatchNorm statistics linearly between the points at which they were computed.

        Args:
            coordinates: [vertices] barycentric coordinates.
            of_vertices: [channels] statistics of each vertex, in the order of `statistics`.

        Returns:
            [channels] float32; None where no region holds the point.

        Example::

            exploration.statistics_at_point([0.5, 0.5, 0.0], of_vertices)
        """
        if (region := self.region_of(coordinates)) is None:
            return None
        scale = self.resolution // self.statistics_resolution
        shares = lattice_weights([coordinates[vertex] for vertex in region], self.statistics_resolution)
        mixed = torch.zeros_like(of_vertices[0])
        for own, weight in shares.items():
            counts = spread([scale * count for count in own], region, len(coordinates))
            corner = next((vertex for vertex, count in enumerate(counts) if count == self.resolution), None)
            found = self.statistics[self._statistics_rows[counts]] if corner is None else of_vertices[corner]
            mixed.add_(found, alpha=weight)
        return mixed

    def check_fit(self, model: ComplexOfBackbones) -> None:
        """Check that this was computed for the vertices and labels of an ensemble.

        Args:
            model: the ensemble.

        Raises:
            ValueError: it is of other vertices, or has labels that the ensemble lacks.

        Example::

            find_exploration("ensemble").check_fit(model)
        """
        if self.vertices != vertices_digest(model):
            raise ValueError(
                "The explorer's file was computed for other weights than those of this ensemble. Compute it again, "
                "with hf-simplex demo --data-set NAME --compute."
            )
        least, most, number = int(self.labels.min()), int(self.labels.max()), len(model.config.id2label or {})
        if least < 0 or most >= number:
            raise ValueError(
                f"The explorer's file has the labels {least} to {most}; the ensemble has those from 0 to {number - 1}."
            )

    def save(self, ensemble: str | os.PathLike[str]) -> Path:
        """Save to the folder of an ensemble, as `explorer/explorer.safetensors`, atomically.

        Args:
            ensemble: folder of the ensemble.

        Returns:
            The file.

        Raises:
            ValueError: `explorer` is a link, or a file.

        Example::

            exploration.save("output/quickstart/ensemble")
        """
        folder = Path(ensemble, EXPLORER_FOLDER)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ValueError(f"{folder} is a link or a file: move it away, then save again.")
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        tensors |= {f"images.{index:05d}": image.contiguous() for index, image in enumerate(self.images)}
        metadata = {"format": _FORMAT, **{name: json.dumps(getattr(self, name)) for name in _FIELDS}}
        with atomic_write(folder) as aside:
            save_file(tensors, aside / EXPLORER_FILE, metadata=metadata)
        return folder / EXPLORER_FILE

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Exploration":
        """Load what `save` wrote.

        Args:
            file: the safetensors file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not complete, of another format, or contradicts itself. The message names it.

        Example::

            Exploration.load("ensemble/explorer/explorer.safetensors")
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {os.fspath(file)!r} of the explorer.")
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                # Copies: a mapped file that somebody cuts off ends the process.
                tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}; expected {_FORMAT!r}")
            images = tuple(tensors.pop(name) for name in sorted(tensors) if name.startswith("images."))
            if set(tensors) != set(_TENSORS):
                raise ValueError(f"it holds {sorted(tensors)}; expected {sorted(_TENSORS)}")
            fields = {name: json.loads(metadata[name]) for name in _FIELDS}
            fields["regions"] = tuple(tuple(region) for region in fields["regions"])
            fields["gallery"] = tuple(fields["gallery"])
            return cls(**fields, **tensors, images=images)
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{os.fspath(file)!r} is not a complete file of the explorer ({error}). Compute it again, with "
                "hf-simplex demo --data-set NAME --compute."
            ) from error


def find_exploration(ensemble: str | os.PathLike[str], **kwargs: Any) -> Exploration | None:
    """Load the explorer's file of an ensemble.

    Args:
        ensemble: folder or Hub id.
        **kwargs: `revision`, `token` and `cache_dir` of `from_pretrained`.

    Returns:
        What it holds; None if the ensemble has none.

    Raises:
        OSError: the repository or revision does not exist, or the token has no access to it.
        ValueError: the file is broken. The message names it.

    Example::

        find_exploration("me/digits-simplex", revision="main")
    """
    file = locate(ensemble, EXPLORER_FILE, subfolder=EXPLORER_FOLDER, **kwargs)
    return None if file is None else Exploration.load(file)


def vertices_digest(model: ComplexOfBackbones) -> str:
    """Return a digest of the vertices of an ensemble. It tells whether an explorer's file was computed for them.

    Members and decisions are no part of it: surfaces do not depend on them.

    Example::

        find_exploration("ensemble").vertices == vertices_digest(model)
    """
    trees = [model.shared.tensors(), *model.weights]
    digests = [tensor_digest({name: tensor.detach().cpu() for name, tensor in tree.items()}) for tree in trees]
    return "-".join(digest[:16] for digest in digests)


def spread(counts: Sequence[int], region: Region, vertices: int) -> LatticePoint:
    """Place the counts of a region's corners among all vertices; the others get 0.

    Args:
        counts: of the corners.
        region: their vertices.
        vertices: number of all vertices.

    Example:
        >>> spread((1, 2), (0, 2), 4)
        (1, 0, 2, 0)
    """
    found = [0] * vertices
    for vertex, count in zip(region, counts, strict=True):
        found[vertex] = count
    return tuple(found)
