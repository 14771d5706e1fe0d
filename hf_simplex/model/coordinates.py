"""Barycentric coordinates of vertices, centroids and faces, and their validation."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from .complexes import SimplicialComplex
from .points import check_point

__all__ = ["centroid_coordinates", "face_coordinates", "validate_coordinates", "vertex_coordinates"]


def vertex_coordinates(complex: SimplicialComplex, vertex: int) -> Tensor:
    """The coordinates of a vertex.

    Args:
        complex: the structure.
        vertex: the index of the vertex.

    Returns:
        [num_vertices] float64 on the CPU: 1 at the vertex, else 0.

    Raises:
        ValueError: there is no such vertex.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.coordinates import vertex_coordinates
        >>> vertex_coordinates(SimplicialComplex(3, [[0, 1, 2]]), 1)
        tensor([0., 1., 0.], dtype=torch.float64)
    """
    complex.simplexes_with(vertex)
    return _equal_coordinates(complex, [vertex])


def centroid_coordinates(complex: SimplicialComplex, simplex: int | None = None) -> Tensor:
    """The coordinates of the centroid of one simplex: equal over its vertices.

    A complex of several simplexes has no centroid. The mean of all its vertices lies outside the complex, where
    training does not keep the loss low.

    Args:
        complex: the structure.
        simplex: the index of the simplex; default: the only one.

    Returns:
        [num_vertices] float64 on the CPU.

    Raises:
        ValueError: there is no such simplex, or `simplex` is None for a complex of several.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.coordinates import centroid_coordinates
        >>> centroid_coordinates(SimplicialComplex(3, [[0, 1], [1, 2]]), 1)
        tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    if simplex is None:
        if len(complex.simplexes) > 1:
            raise ValueError(
                f"A complex of {len(complex.simplexes)} simplexes has no single centroid: the mean of all vertices is "
                f"not a point of the complex. Choose a simplex, 0 to {len(complex.simplexes) - 1}."
            )
        simplex = 0
    complex.dimension(simplex)
    return _equal_coordinates(complex, complex.simplexes[simplex])


def face_coordinates(complex: SimplicialComplex, vertices: Sequence[int], resolution: int) -> Tensor:
    """A regular lattice of points over a face, boundary included.

    On an edge these are evenly spaced points, on a triangle a triangular lattice.

    Args:
        complex: the structure.
        vertices: the m + 1 vertices of the face, all in one simplex.
        resolution: the number of intervals on each edge, at least 1.

    Returns:
        [binomial(resolution + m, m), num_vertices] float64 on the CPU: all coordinates that are multiples of
        1 / resolution, from the first vertex to the last.

    Raises:
        ValueError: there is no vertex, one is repeated, they share no simplex, or the resolution is below 1.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.coordinates import face_coordinates
        >>> face_coordinates(SimplicialComplex(3, [[0, 1, 2]]), [0, 2], resolution=2).tolist()
        [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]
    """
    _check_face(complex, vertices)
    if resolution < 1:
        raise ValueError(f"The resolution must be at least 1, got {resolution}.")
    # A lattice point is a multiset of `resolution` vertices.
    shares = torch.tensor(list(combinations_with_replacement(vertices, resolution)), device="cpu")
    counts = torch.zeros(len(shares), complex.num_vertices, dtype=torch.float64, device="cpu")
    counts.scatter_add_(1, shares, torch.ones_like(shares, dtype=torch.float64))
    return counts / resolution


def validate_coordinates(coordinates: Tensor, complex: SimplicialComplex, tolerance: float = 1e-6) -> None:
    """Check that every row holds the barycentric coordinates of a point of the complex.

    Args:
        coordinates: [num_points, num_vertices], any floating dtype.
        complex: the structure.
        tolerance: allowed deviation of a coordinate from 0, outside the simplex or below 0, and of a sum from 1.

    Raises:
        ValueError: the shape is wrong; or a row is not finite, is negative, does not sum to 1, or lies in no simplex.
            The message names the row and its value.

    Example:
        >>> import torch
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.coordinates import validate_coordinates
        >>> validate_coordinates(torch.tensor([[0.5, 0.5, 0.0]]), SimplicialComplex(3, [[0, 1], [1, 2]]))
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != complex.num_vertices:
        raise ValueError(
            f"Expected coordinates of shape [points, {complex.num_vertices}], one column for each vertex, got "
            f"{list(coordinates.shape)}."
        )
    points = coordinates.detach().cpu().double()
    for row in _suspicious_rows(points, complex, tolerance):
        check_point(row, points[row].tolist(), complex, tolerance)


def _suspicious_rows(points: Tensor, complex: SimplicialComplex, tolerance: float) -> list[int]:
    """Return rows in one pass, all wrong ones among them."""
    if not len(points):
        return []
    # Sums in another order than math.fsum differ in the last digits.
    wrong = ~((points.sum(dim=1) - 1).abs() < tolerance - 1e-9) | (points < -tolerance).any(dim=1)
    supports, inverse = torch.unique(points > tolerance, dim=0, return_inverse=True)
    outside = [not complex.holds(support.nonzero()[:, 0].tolist()) for support in supports]
    return (wrong | torch.tensor(outside, device="cpu")[inverse]).nonzero()[:, 0].tolist()


def _equal_coordinates(complex: SimplicialComplex, vertices: Sequence[int]) -> Tensor:
    coordinates = torch.zeros(complex.num_vertices, dtype=torch.float64, device="cpu")
    coordinates[list(vertices)] = 1.0 / len(vertices)
    return coordinates


def _check_face(complex: SimplicialComplex, vertices: Sequence[int]) -> None:
    if not vertices or len(set(vertices)) < len(vertices):
        raise ValueError(f"A face has at least one vertex, each once, got {list(vertices)}.")
    if not complex.holds(vertices):
        raise ValueError(
            f"Vertices {list(vertices)} share no simplex, so they span no face of the complex. The simplexes are "
            f"{[list(simplex) for simplex in complex.simplexes]}."
        )
