"""Loss surfaces: mean loss and accuracy over planes, faces, paths and whole complexes of a weight space.

First the points are laid out, from weights and structure alone; then they are evaluated, on a model or on any module::

    points = plane_points(model.config.complex, model.weights, names, vertices=(0, 1, 2))
    surface = model_surface(model, points, batches, batch_norm_batches=training_batches)
    surface.save("plane.safetensors")
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging

from ..model.batch_norm import batch_norm_statistics, copy_statistics, recompute_statistics
from ..model.checkpoint import atomic_write
from ..model.complexes import SimplicialComplex
from ..model.coordinates import face_coordinates, vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.processes import map_over_ranks
from ..model.weight_space import Weights, trainable_names, write_point

PLANE, FACE, PATH, COMPLEX = "plane", "face", "path", "complex"
KINDS = (PLANE, FACE, PATH, COMPLEX)

Measure = Callable[[nn.Module, Any], tuple[Tensor, Tensor | None]]
"""From a module and a batch to each example's loss [batch], and whether it is predicted right [batch] or None."""

_TENSORS = ("vertices", "vertex_positions", "coordinates", "positions", "axis_shares", "loss", "accuracy")
_FORMAT = "hf_simplex.surface"
_CHUNK_COLUMNS = 2**20
# As flat as this no plane is told from a line: an angle in radians, the square root of the Gram matrix's precision
# with a margin.
_FLAT = 1e-6


@dataclass(frozen=True)
class SurfacePoints:
    """Where a surface is evaluated: points of weight space, and where a picture draws them.

    Distances between positions are distances in weight space, in the units of the weights, wherever all of the points
    fit: planes, faces and paths (along the path); a complex of more than 3 dimensions is projected.

    Attributes:
        kind: `"plane"`, `"face"`, `"path"` or `"complex"`.
        structure: the complex.
        vertices: [k] int64, the vertices that the points were laid out by, in their order.
        vertex_positions: [k, axes] float64.
        coordinates: [points, num_vertices] float64; rows sum to 1, on planes they may be negative.
        positions: [points, axes] float64.
        axis_shares: [axes] float64 for a complex, the share of the vertices' variance along each axis; else [0].

    Raises:
        ValueError: an unknown kind, or shapes that do not fit each other.
    """

    kind: str
    structure: SimplicialComplex
    vertices: Tensor
    vertex_positions: Tensor
    coordinates: Tensor
    positions: Tensor
    axis_shares: Tensor

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"The kind of a surface must be one of {KINDS}, got {self.kind!r}.")
        shapes = {name: list(getattr(self, name).shape) for name in ("vertex_positions", "coordinates", "positions")}
        if self.vertices.ndim != 1 or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f"Expected vertices [k] and matrices, got {list(self.vertices.shape)} and {shapes}.")
        axes = shapes["positions"][1]
        expected = {
            "vertex_positions": [len(self.vertices), axes],
            "coordinates": [shapes["positions"][0], self.structure.num_vertices],
            "positions": shapes["positions"],
        }
        if shapes != expected or self.axis_shares.shape not in ((0,), (axes,)):
            raise ValueError(
                f"The parts of a surface do not fit: expected {expected} and axis_shares [0] or [{axes}], got "
                f"{shapes} and {list(self.axis_shares.shape)}."
            )
        if (
            len(self.vertices)
            and not 0 <= int(self.vertices.min()) <= int(self.vertices.max()) < expected["coordinates"][1]
        ):
            raise ValueError(f"Expected vertices of {self.structure}, got {self.vertices.tolist()}.")


@dataclass(frozen=True)
class Surface:
    """Mean loss and accuracy at points of weight space.

    Attributes:
        points: where.
        loss: [points] float64, mean over the data, in nats for a negative log-likelihood. Far from the vertices a
            loss may overflow: inf or NaN is kept as it is.
        accuracy: [points] float64, 0 to 1; NaN where the measure has none.

    Raises:
        ValueError: not one value a point.
    """

    points: SurfacePoints
    loss: Tensor
    accuracy: Tensor

    def __post_init__(self) -> None:
        expected = (len(self.points.coordinates),)
        if self.loss.shape != expected or self.accuracy.shape != expected:
            raise ValueError(
                f"Expected one loss and one accuracy for each of {expected[0]} points, got shapes "
                f"{list(self.loss.shape)} and {list(self.accuracy.shape)}."
            )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, aside first and then renamed into place.

        Raises:
            ValueError: the name does not end in `.safetensors`, or is a folder's.
        """
        target = Path(file)
        if target.suffix != ".safetensors" or target.is_dir():
            raise ValueError(f"A surface is saved as a file named *.safetensors, got {os.fspath(file)!r}.")
        owners = {name: self if name in ("loss", "accuracy") else self.points for name in _TENSORS}
        tensors = {name: getattr(owner, name).contiguous() for name, owner in owners.items()}
        metadata = {
            "format": _FORMAT,
            "kind": self.points.kind,
            "complex": json.dumps(self.points.structure.to_json()),
        }
        with atomic_write(target.parent) as aside:
            save_file(tensors, aside / target.name, metadata=metadata)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Surface":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not whole, or no surface.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {os.fspath(file)!r} to load a surface from.")
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if metadata.get("format") != _FORMAT or set(tensors) != set(_TENSORS):
                raise ValueError(f"it holds {sorted(tensors)} with the metadata {metadata}")
            loss, accuracy = tensors.pop("loss"), tensors.pop("accuracy")
            structure = SimplicialComplex.from_json(json.loads(metadata["complex"]))
            return cls(SurfacePoints(kind=metadata["kind"], structure=structure, **tensors), loss, accuracy)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(file)!r} is not a whole file of a surface that Surface.save wrote ({error}). Evaluate "
                "the surface again."
            ) from error


def plane_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    *,
    vertices: Sequence[int] = (0, 1, 2),
    resolution: int = 31,
    margin: float = 0.2,
) -> SurfacePoints:
    """A regular grid over the plane through three vertices (Benton et al. 2021, figure 3; Garipov et al. 2018).

    The first vertex is the origin, the second lies on the first axis and the third above it: Gram-Schmidt on the two
    edges, in float64 and from their inner products alone.

    Args:
        structure: the complex; it tells which edges of the triangle belong to it.
        weights: one set of weights a vertex, on any device.
        names: the parameters that span the weight space, `weight_space.trainable_names(module)`.
        vertices: three different ones; they need not share a simplex.
        resolution: grid points along each axis, at least 2.
        margin: how far the grid reaches beyond the triangle on each side, relative to the longer side of its bounding
            box; at least 0.

    Returns:
        resolution**2 points, the first axis varying fastest.

    Raises:
        ValueError: not three vertices, one repeated or out of range; vertices on one line, to within the rounding of
            the weights; non-finite weights; a resolution below 2 or a margin that is negative or not finite.
    """
    if len(vertices) != 3:
        raise ValueError(f"A plane goes through three vertices, got {len(vertices)}: {list(vertices)}.")
    if resolution < 2:
        raise ValueError(f"The grid needs a resolution of at least 2, got {resolution}.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"The margin must be 0 or more and finite, got {margin}.")
    gram, rounding = _offset_gram(structure, weights, names, vertices)
    corners = _positions_from_gram(gram)
    height = float(corners[2, 1])
    longest = float(torch.cdist(corners, corners).max())
    # Twice the area; over the longest edge it is the least of the triangle's three heights.
    area = float(corners[1, 0]) * height
    if area <= longest * max(_FLAT * longest, rounding):
        raise ValueError(
            f"Vertices {list(vertices)} lie on one line (or two of them are the same weights), so they span no plane: "
            f"the area of their triangle is {area / 2:.3g}, its longest edge {longest:.3g}. Choose three others."
        )
    low, high = corners.amin(0), corners.amax(0)
    border = margin * float((high - low).max())
    x, y = (
        torch.linspace(float(low[axis]) - border, float(high[axis]) + border, resolution, dtype=torch.float64)
        for axis in (0, 1)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    positions = torch.stack([columns.flatten(), rows.flatten()], dim=1)
    third = positions[:, 1] / height
    second = (positions[:, 0] - third * corners[2, 0]) / corners[1, 0]
    coordinates = torch.zeros(len(positions), structure.num_vertices, dtype=torch.float64)
    coordinates[:, list(vertices)] = torch.stack([1 - second - third, second, third], dim=1)
    return _points(PLANE, structure, vertices, corners, coordinates, positions)


def face_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    *,
    vertices: Sequence[int],
    resolution: int = 20,
) -> SurfacePoints:
    """A regular lattice over a face of any dimension, boundary included; see `geometry.face_coordinates`.

    Args:
        structure: the complex.
        weights: one set of weights a vertex.
        names: the parameters that span the weight space.
        vertices: of the face, all in one simplex. The face may be flat, as it is while a new vertex is at the mean of
            the others.
        resolution: into how many equal parts the lattice divides each edge.

    Raises:
        ValueError: no vertices, a repeated one, vertices that share no simplex; non-finite weights; a resolution below
            1.
    """
    coordinates = face_coordinates(structure, vertices, resolution)
    corners = _positions_from_gram(_offset_gram(structure, weights, names, vertices)[0])
    return _points(FACE, structure, vertices, corners, coordinates, coordinates[:, list(vertices)] @ corners)


def line_coordinates(structure: SimplicialComplex, vertices: Sequence[int], points_per_line: int) -> Tensor:
    """Evenly spaced coordinates along the straight lines from vertex to vertex, all ends included, none doubled.

    Args:
        structure: the complex; the lines may leave it, as between two modes that share no simplex.
        vertices: at least 2, no two neighbours the same: `[0, 1]` for a line, `[0, 4, 1]` for a path by way of 4.
        points_per_line: both ends included, at least 2.

    Returns:
        [(len(vertices) - 1) * (points_per_line - 1) + 1, num_vertices] float64.

    Raises:
        ValueError: fewer than 2 vertices, a vertex out of range or the same as its neighbour, fewer than 2 points.
    """
    if len(vertices) < 2:
        raise ValueError(f"A line joins two vertices, got {list(vertices)}.")
    if points_per_line < 2:
        raise ValueError(f"A line includes both its ends, so it has at least 2 points, got {points_per_line}.")
    for first, second in pairwise(vertices):
        if first == second:
            raise ValueError(f"Vertex {first} comes twice in a row in {list(vertices)}: no line joins it to itself.")
    corners = torch.stack([vertex_coordinates(structure, vertex) for vertex in vertices])
    steps = torch.arange(points_per_line - 1, dtype=torch.float64)[:, None] / (points_per_line - 1)
    lines = [(1 - steps) * start + steps * end for start, end in pairwise(corners)]
    return torch.cat([*lines, corners[-1:]])


def path_points(
    structure: SimplicialComplex, weights: Sequence[Weights], names: Iterable[str], coordinates: Tensor
) -> SurfacePoints:
    """Points along a path through given coordinates, drawn by the distance travelled in weight space.

    Args:
        structure: the complex; the path may leave it.
        weights: one set of weights a vertex.
        names: the parameters that span the weight space.
        coordinates: [points, num_vertices], rows that sum to 1, in the order of the path; from `line_coordinates`,
            for example.

    Returns:
        Positions [points, 1] that begin at 0; `vertices` are those that the path visits.

    Raises:
        ValueError: fewer than 2 points, coordinates of another shape or another sum than 1, non-finite weights, or a
            path of length 0.
    """
    coordinates = _checked_coordinates(coordinates, structure.num_vertices)
    if len(coordinates) < 2:
        raise ValueError(f"A path has at least 2 points, got {len(coordinates)}.")
    used = coordinates.any(dim=0).nonzero().flatten().tolist()
    gram, _ = _offset_gram(structure, weights, names, used)
    steps = coordinates[:, used].diff(dim=0)
    lengths = ((steps @ gram) * steps).sum(dim=1).clamp(min=0.0).sqrt()
    positions = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])[:, None]
    if float(positions[-1]) == 0.0:
        raise ValueError(f"The path has length 0: all its points, mixed of vertices {used}, are the same weights.")
    visited = (coordinates.amax(dim=1) == 1) & ((coordinates != 0).sum(dim=1) == 1)
    vertices = coordinates[visited].argmax(dim=1).tolist()
    return _points(PATH, structure, vertices, positions[visited], coordinates, positions)


def complex_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    coordinates: Tensor | None = None,
    *,
    axes: tuple[int, int, int] = (0, 1, 2),
) -> SurfacePoints:
    """A complex projected on three principal axes of its vertices (Benton et al. 2021, figure 4, right).

    The axes are the leading eigenvectors of the Gram matrix of the centred vertices; each is turned so that its
    largest entry is positive, which makes the picture the same every time.

    Args:
        structure: the complex.
        weights: one set of weights a vertex.
        names: the parameters that span the weight space.
        coordinates: [points, num_vertices] whose rows sum to 1, from `geometry.sample_complex` for example; None for
            no points, which draws the complex alone.
        axes: which principal axes, counted from the one of the largest variance. The leading ones can hide what lies
            close together: modes, for example, where the connectors are far out.

    Returns:
        Positions on 3 axes from the vertices' mean; axes that a smaller complex lacks are 0.

    Raises:
        ValueError: coordinates of another shape or another sum than 1, non-finite weights, or axes that are not three
            different ones, numbered from 0.
    """
    number = structure.num_vertices
    if len(set(axes)) != 3 or min(axes) < 0:
        raise ValueError(f"A picture shows three different principal axes, numbered from 0, got {list(axes)}.")
    if coordinates is None:
        coordinates = torch.zeros(0, number, dtype=torch.float64)
    coordinates = _checked_coordinates(coordinates, number)
    gram, _ = _offset_gram(structure, weights, names, range(number))
    centring = torch.eye(number, dtype=torch.float64) - 1.0 / number
    eigenvalues, eigenvectors = torch.linalg.eigh(centring @ gram @ centring)
    eigenvalues, eigenvectors = eigenvalues.flip(0).clamp(min=0.0), eigenvectors.flip(1)
    largest = eigenvectors.gather(0, eigenvectors.abs().argmax(dim=0, keepdim=True))
    corners = torch.zeros(number, max(*axes, number - 1) + 1, dtype=torch.float64)
    corners[:, :number] = eigenvectors * largest.sign() * eigenvalues.sqrt()
    corners = corners[:, list(axes)]
    total = float(eigenvalues.sum())
    shares = corners.square().sum(dim=0) / total if total > 0 else torch.zeros(3, dtype=torch.float64)
    return SurfacePoints(
        COMPLEX, structure, torch.arange(number), corners, coordinates, coordinates @ corners, axis_shares=shares
    )


def classification(module: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The measure of a transformers classifier: each image's negative log-likelihood in nats, and whether it is right.

    Args:
        module: a backbone whose output has `logits` [batch, labels].
        batch: its keyword arguments, and the labels [batch] int64 as `labels`; on any device.

    Raises:
        ValueError: the batch has no labels.
    """
    if "labels" not in batch:
        raise ValueError(f"A batch needs 'labels' to be evaluated, got {sorted(batch)}.")
    device = next(module.parameters()).device
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    labels = inputs.pop("labels")
    logits = module(**inputs).logits.float()
    return nn.functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=-1) == labels


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
    """Mean loss and accuracy of a module at points of weight space, with any loss.

    Args:
        module: holds one point after the other, in evaluation mode; afterwards, and after an error too, it has its
            former weights, BatchNorm statistics and training flags again.
        weights: one set of weights a vertex, each with a tensor for every parameter of `module`.
        coordinates: [points, vertices], any floating dtype; rows sum to 1 and may be negative.
        batches: the data, read once for each point: a list or a DataLoader, not an iterator. A DataLoader that
            shuffles or augments gives every point other data.
        measure: from the module and a batch to each example's loss, and whether it is right (None: no accuracy).
        batch_norm_batches: inputs of training images for the BatchNorm statistics, read once for each point, as
            `batch_norm.recompute_statistics` takes them. Not needed without BatchNorm.
        among_processes: divide the points among the processes of a distributed run, all of which must call this
            together with the same batches; each point is evaluated by one process, on all of the data.

    Returns:
        Loss [points] float64, the mean over all examples, and accuracy [points] float64, NaN without one.

    Raises:
        ValueError: coordinates of another shape or another sum than 1; non-finite weights; an iterator, which would be
            used up after the first point; no data; BatchNorm without batches; a measure that does not give one value
            an example.
    """
    coordinates = _checked_coordinates(coordinates, len(weights))
    names = trainable_names(module)
    for vertex in coordinates.any(dim=0).nonzero().flatten().tolist():
        for name in names:
            _check_finite(weights[vertex][name], vertex, name)
    for what, data in (("batches", batches), ("batch_norm_batches", batch_norm_batches)):
        if isinstance(data, Iterator):
            raise ValueError(f"The {what} are read once for each point: give a list or a DataLoader, not an iterator.")
    if batch_norm_statistics(module) and batch_norm_batches is None:
        raise ValueError(
            "The module has BatchNorm, whose statistics hold at no other point than its own: give batch_norm_batches, "
            "inputs of training images to compute them from."
        )
    former_weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    former_statistics = copy_statistics(batch_norm_statistics(module))
    former_flags = {child: child.training for child in module.modules()}
    module.eval()
    progress = logging.tqdm(total=len(coordinates), desc="Loss surface", unit="point", leave=False)

    def at(row: list[float]) -> tuple[float, float]:
        # Largest first: sums of the first coordinates, by which write_point divides, then never come below 1.
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
        _put_back(module, former_weights, former_statistics)
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
    """Evaluate the backbone of a model at points that were laid out for it; see `evaluate_points`.

    Args:
        model: its vertices and members are not changed.
        points: from `plane_points`, `face_points`, `path_points` or `complex_points`.
        batches: mappings of `pixel_values` and `labels`, read once for each point.
        batch_norm_batches: mappings of `pixel_values`, read once for each point; not needed without BatchNorm.
        measure: default: negative log-likelihood and accuracy.
        among_processes: of `evaluate_points`.

    Raises:
        ValueError: as `evaluate_points`.
        RuntimeError: a vertex of the model is being trained.
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
                f"A measure gives one loss (and, or None, one right or wrong) an example, got shapes "
                f"{list(losses.shape)} and {None if correct is None else list(correct.shape)}. Use reduction='none'."
            )
        examples += len(losses)
        total += float(losses.cpu().double().sum())
        right += math.nan if correct is None else float(correct.cpu().double().sum())
    if not examples:
        raise ValueError("There is no data to evaluate: the batches are empty.")
    return total / examples, right / examples


@torch.no_grad()
def _offset_gram(
    structure: SimplicialComplex, weights: Sequence[Weights], names: Iterable[str], vertices: Sequence[int]
) -> tuple[Tensor, float]:
    """Inner products [k, k] of the offsets from the first of k vertices; a bound on the rounding of the weights."""
    if len(weights) != structure.num_vertices:
        raise ValueError(f"The complex has {structure.num_vertices} vertices, but {len(weights)} weights are given.")
    for vertex in vertices:
        structure.simplexes_with(vertex)
        if list(vertices).count(vertex) > 1:
            raise ValueError(f"Vertex {vertex} is repeated in {list(vertices)}: name different ones.")
    gram = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    rounding_squared = 0.0
    for name in names:
        for vertex in vertices:
            _check_finite(weights[vertex][name], vertex, name)
        norm = max(float(torch.linalg.vector_norm(weights[vertex][name], dtype=torch.float64)) for vertex in vertices)
        rounding_squared += (0.5 * torch.finfo(weights[vertices[0]][name].dtype).eps * norm) ** 2
        columns = zip(*(weights[vertex][name].flatten().split(_CHUNK_COLUMNS) for vertex in vertices), strict=True)
        for chunks in columns:
            # Offsets before inner products: the vertices are close together, and far from 0.
            chunk = torch.stack([part.double() for part in chunks])
            offsets = chunk - chunk[0]
            gram += (offsets @ offsets.T).cpu()
    return gram, math.sqrt(rounding_squared)


def _positions_from_gram(gram: Tensor) -> Tensor:
    """Positions [k, k - 1] with the given inner products, by Gram-Schmidt: the first at 0, each further one new axis.

    A vertex in the plane of those before it, to within rounding, has 0 on its own axis.
    """
    count = len(gram)
    positions = torch.zeros(count, max(count - 1, 0), dtype=torch.float64)
    for index in range(1, count):
        for axis in range(index - 1):
            own = positions[axis + 1, axis]
            if own > 0:
                overlap = positions[index, :axis] @ positions[axis + 1, :axis]
                positions[index, axis] = (gram[index, axis + 1] - overlap) / own
        rest = gram[index, index] - positions[index].square().sum()
        positions[index, index - 1] = rest.sqrt() if rest > _FLAT**2 * gram[index, index] else 0.0
    return positions


def _points(
    kind: str,
    structure: SimplicialComplex,
    vertices: Sequence[int],
    vertex_positions: Tensor,
    coordinates: Tensor,
    positions: Tensor,
) -> SurfacePoints:
    no_shares = torch.zeros(0, dtype=torch.float64)
    indices = torch.tensor(list(vertices), dtype=torch.int64)
    return SurfacePoints(kind, structure, indices, vertex_positions, coordinates, positions, no_shares)


def _checked_coordinates(coordinates: Tensor, num_vertices: int) -> Tensor:
    if coordinates.ndim != 2 or coordinates.shape[1] != num_vertices:
        raise ValueError(
            f"Expected coordinates [points, {num_vertices}], one column for each vertex, got "
            f"{list(coordinates.shape)}."
        )
    coordinates = coordinates.detach().cpu().double()
    for index, row in enumerate(coordinates.tolist()):
        total = math.fsum(row) if all(map(math.isfinite, row)) else math.nan
        if not abs(total - 1.0) <= 1e-6 * max(1.0, sum(map(abs, row))):
            raise ValueError(f"The coordinates of point {index} must be finite and sum to 1, got {total} for {row}.")
    return coordinates


def _check_finite(tensor: Tensor, vertex: int, name: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise ValueError(
            f"Vertex {vertex} has weights that are not finite, in {name!r}: it has no place in weight space. Train it "
            "again or take an earlier checkpoint."
        )


@torch.no_grad()
def _put_back(module: nn.Module, weights: Weights, found: Mapping[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(weights[name])
    for name, buffer in batch_norm_statistics(module).items():
        buffer.copy_(found[name])
