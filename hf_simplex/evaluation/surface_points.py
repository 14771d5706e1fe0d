"""Points of a loss surface: grids over planes, lattices over faces, and projected complexes of a weight space.

Layout needs the weights and the structure alone. `hf_simplex.evaluation.surface_evaluation` evaluates the points.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.complexes import SimplicialComplex
from ..model.coordinates import face_coordinates
from ..model.weight_space import Weights

__all__ = [
    "COMPLEX",
    "FACE",
    "PLANE",
    "SurfacePoints",
    "check_finite",
    "check_point_coordinates",
    "complex_points",
    "face_points",
    "plane_points",
]

PLANE, FACE, COMPLEX = "plane", "face", "complex"
# Earlier versions could also write files of kind "path".
_KINDS = (PLANE, FACE, COMPLEX, "path")

_CHUNK_SIZE = 2**20
# Smallest angle of a triangle, in radians, that float64 inner products distinguish from 0: sqrt(eps) with a margin.
_SMALLEST_ANGLE = 1e-6


@dataclass(frozen=True)
class SurfacePoints:
    """Points of weight space and their positions in a picture.

    Distances between positions are distances in weight space, in the units of the weights. The exception is a complex
    of more than 3 dimensions, which is projected.

    Attributes:
        kind: `"plane"`, `"face"` or `"complex"`.
        structure: the complex.
        vertices: [k] int64, the vertices that span the points, in order.
        vertex_positions: [k, axes] float64.
        coordinates: [points, num_vertices] float64 barycentric coordinates. Rows sum to 1; on a plane they may be
            negative.
        positions: [points, axes] float64.
        axis_shares: [axes] float64 for a complex, the share of the vertices' variance along each axis; else [0].

    Raises:
        ValueError: The kind is unknown, or shapes do not match.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import plane_points
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> weights = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])]
        >>> points = plane_points(SimplicialComplex(3, [[0, 1, 2]]), weights, ["w"], resolution=5)
        >>> points.kind, points.coordinates.shape, points.positions.shape
        ('plane', torch.Size([25, 3]), torch.Size([25, 2]))
    """

    kind: str
    structure: SimplicialComplex
    vertices: Tensor
    vertex_positions: Tensor
    coordinates: Tensor
    positions: Tensor
    axis_shares: Tensor

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"The kind of a surface must be one of {_KINDS}, got {self.kind!r}.")
        shapes = {name: list(getattr(self, name).shape) for name in ("vertex_positions", "coordinates", "positions")}
        if self.vertices.ndim != 1 or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f"Expected vertices [k] and matrices, got {list(self.vertices.shape)} and {shapes}.")
        number, axes = self.structure.num_vertices, shapes["positions"][1]
        expected = {
            "vertex_positions": [len(self.vertices), axes],
            "coordinates": [shapes["positions"][0], number],
            "positions": shapes["positions"],
        }
        if shapes != expected or self.axis_shares.shape not in ((0,), (axes,)):
            raise ValueError(
                f"The shapes of a surface do not match: expected {expected} and axis_shares [0] or [{axes}], got "
                f"{shapes} and {list(self.axis_shares.shape)}."
            )
        if any(not 0 <= vertex < number for vertex in self.vertices.tolist()):
            raise ValueError(f"Expected vertices of {self.structure}, got {self.vertices.tolist()}.")


def plane_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    *,
    vertices: Sequence[int] = (0, 1, 2),
    resolution: int = 31,
    margin: float = 0.2,
) -> SurfacePoints:
    """Lays out a regular grid over the plane through three vertices.

    The first vertex is the origin, the second lies on the first axis and the third above it (Gram-Schmidt in float64).

    Args:
        structure: the complex. Edges of the triangle that belong to it are drawn as such.
        weights: one set of weights per vertex, on any device.
        names: the parameters that span the weight space, `weight_space.trainable_names(module)`.
        vertices: three different vertices; they need not share a simplex.
        resolution: number of grid points along each axis, at least 2.
        margin: distance between the triangle and the border of the grid, relative to the longer side of the triangle's
            bounding box; at least 0.

    Returns:
        resolution**2 points; the first axis varies fastest.

    Raises:
        ValueError: The vertices are not three different ones, out of range, or on one line up to rounding; weights are
            not finite; the resolution is below 2; or the margin is negative or not finite.

    Source: Benton et al. 2021, figure 3; Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of
    DNNs, NeurIPS 2018.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import plane_points
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> weights = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])]
        >>> points = plane_points(SimplicialComplex(3, [[0, 1, 2]]), weights, ["w"], resolution=5, margin=0.0)
        >>> points.vertex_positions.tolist()
        [[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]]
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
    # Twice the area of the triangle: over the longest edge it is the smallest height.
    area = float(corners[1, 0]) * height
    if area <= longest * max(_SMALLEST_ANGLE * longest, rounding):
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
    return _without_shares(PLANE, structure, vertices, corners, coordinates, positions)


def face_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    *,
    vertices: Sequence[int],
    resolution: int = 20,
) -> SurfacePoints:
    """Lays out a regular lattice over a face of any dimension, boundary included.

    Args:
        structure: the complex.
        weights: one set of weights per vertex.
        names: the parameters that span the weight space.
        vertices: the vertices of the face, all in one simplex. The face may be flat.
        resolution: number of equal parts of each edge.

    Returns:
        The points of `face_coordinates`.

    Raises:
        ValueError: There are no vertices, one is repeated, or they share no simplex; weights are not finite; the
            resolution is below 1.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import face_points
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> weights = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])]
        >>> face_points(SimplicialComplex(3, [[0, 1, 2]]), weights, ["w"], vertices=(0, 1), resolution=4).positions.T
        tensor([[0., 1., 2., 3., 4.]], dtype=torch.float64)
    """
    coordinates = face_coordinates(structure, vertices, resolution)
    corners = _positions_from_gram(_offset_gram(structure, weights, names, vertices)[0])
    return _without_shares(FACE, structure, vertices, corners, coordinates, coordinates[:, list(vertices)] @ corners)


def complex_points(
    structure: SimplicialComplex,
    weights: Sequence[Weights],
    names: Iterable[str],
    coordinates: Tensor | None = None,
    *,
    axes: tuple[int, int, int] = (0, 1, 2),
) -> SurfacePoints:
    """Projects points of a complex on three principal axes of its vertices.

    The axes are eigenvectors of the Gram matrix of the centred vertices. The sign of each makes its largest entry
    positive, so that the picture is always the same.

    Args:
        structure: the complex.
        weights: one set of weights per vertex.
        names: the parameters that span the weight space.
        coordinates: [points, num_vertices]; rows sum to 1. Default: no points, for a picture of the complex alone.
        axes: indices of the principal axes, 0 for the largest variance. The leading axes can hide vertices that are
            close together.

    Returns:
        Positions on 3 axes from the mean of the vertices; 0 on axes that a smaller complex lacks.

    Raises:
        ValueError: The coordinates have another shape or do not sum to 1, weights are not finite, or the axes are not
            three different indices.

    Source: Benton et al. 2021, figure 4, right.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import complex_points
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> weights = [{"w": torch.tensor(corner)} for corner in ([-2.0, 0.0], [2.0, 0.0], [0.0, 3.0])]
        >>> points = complex_points(SimplicialComplex(3, [[0, 1, 2]]), weights, ["w"], torch.ones(1, 3) / 3)
        >>> points.axis_shares.round(decimals=3)
        tensor([0.5710, 0.4290, 0.0000], dtype=torch.float64)
    """
    number = structure.num_vertices
    if len(set(axes)) != 3 or min(axes) < 0:
        raise ValueError(f"A picture shows three different principal axes, numbered from 0, got {list(axes)}.")
    if coordinates is None:
        coordinates = torch.zeros(0, number, dtype=torch.float64)
    coordinates = check_point_coordinates(coordinates, number)
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


def check_point_coordinates(coordinates: Tensor, num_vertices: int) -> Tensor:
    """Returns barycentric coordinates as float64 on the CPU after checking them. They may be negative.

    Args:
        coordinates: [points, num_vertices], any floating dtype and device.
        num_vertices: number of vertices of the complex.

    Returns:
        [points, num_vertices] float64.

    Raises:
        ValueError: The shape is another, or a row is not finite or does not sum to 1.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import check_point_coordinates
        >>> check_point_coordinates(torch.tensor([[2.0, -1.0]]), 2)
        tensor([[ 2., -1.]], dtype=torch.float64)
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != num_vertices:
        raise ValueError(
            f"Expected coordinates [points, {num_vertices}], one column per vertex, got {list(coordinates.shape)}."
        )
    coordinates = coordinates.detach().cpu().double()
    for index, row in enumerate(coordinates.tolist()):
        total = math.fsum(row) if all(map(math.isfinite, row)) else math.nan
        if not abs(total - 1.0) <= 1e-6 * max(1.0, sum(map(abs, row))):
            raise ValueError(f"The coordinates of point {index} must be finite and sum to 1, got {total} for {row}.")
    return coordinates


def check_finite(tensor: Tensor, vertex: int, name: str) -> None:
    """Raises ValueError if a parameter of a vertex is not finite.

    Args:
        tensor: the parameter.
        vertex: index of the vertex, for the message.
        name: name of the parameter, for the message.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import check_finite
        >>> check_finite(torch.ones(3), vertex=0, name="weight")
    """
    if not bool(tensor.isfinite().all()):
        raise ValueError(
            f"Vertex {vertex} has weights that are not finite, in {name!r}: it is no point of weight space. Train it "
            "again or take an earlier checkpoint."
        )


@torch.no_grad()
def _offset_gram(
    structure: SimplicialComplex, weights: Sequence[Weights], names: Iterable[str], vertices: Sequence[int]
) -> tuple[Tensor, float]:
    """Gram matrix [k, k] of the offsets from the first of k vertices, and a bound on the rounding of the weights."""
    if len(weights) != structure.num_vertices:
        raise ValueError(f"The complex has {structure.num_vertices} vertices, but {len(weights)} weights are given.")
    for vertex in vertices:
        structure.simplexes_with(vertex)
        if list(vertices).count(vertex) > 1:
            raise ValueError(f"Vertex {vertex} is repeated in {list(vertices)}: name different ones.")
    gram = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    rounding_squared = 0.0
    for name in names:
        tensors = [weights[vertex][name] for vertex in vertices]
        for vertex, tensor in zip(vertices, tensors, strict=True):
            check_finite(tensor, vertex, name)
        norm = max(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors)
        rounding_squared += (0.5 * torch.finfo(tensors[0].dtype).eps * norm) ** 2
        for chunks in zip(*(tensor.flatten().split(_CHUNK_SIZE) for tensor in tensors), strict=True):
            # Offsets before inner products: the vertices are close to each other and far from 0.
            chunk = torch.stack([part.double() for part in chunks])
            offsets = chunk - chunk[0]
            gram += (offsets @ offsets.T).cpu()
    return gram, math.sqrt(rounding_squared)


def _positions_from_gram(gram: Tensor) -> Tensor:
    """Gram-Schmidt: positions [k, k - 1] of k vertices with the given inner products, the first at 0.

    Each vertex adds an axis. Its position on that axis is 0 if it lies in the span of the earlier vertices, up to
    rounding.
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
        positions[index, index - 1] = rest.sqrt() if rest > _SMALLEST_ANGLE**2 * gram[index, index] else 0.0
    return positions


def _without_shares(
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
