"""Barycentric coordinates of vertices, centroids, edges and faces, and what makes them valid."""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from .complexes import SimplicialComplex


def vertex_coordinates(complex: SimplicialComplex, vertex: int) -> Tensor:
    """The coordinates of a vertex: [num_vertices] float64, 1 at the vertex. ValueError when it does not exist."""
    complex.simplexes_with(vertex)
    return _equal_coordinates(complex, [vertex])


def centroid_coordinates(complex: SimplicialComplex, simplex: int | None = None) -> Tensor:
    """The coordinates of the centroid of one simplex: equal over its vertices.

    A complex of several simplexes has no centroid of its own: equal coordinates over all its vertices are a point
    outside the complex, through which nothing keeps the loss low. So `simplex` may be left out only when there is
    one.

    Args:
        complex: the structure.
        simplex: the index of the simplex; None for the only one.

    Returns:
        [num_vertices] float64 on the CPU.

    Raises:
        ValueError: there is no such simplex, or None for a complex of several.
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


def edge_coordinates(complex: SimplicialComplex, first: int, second: int, num_points: int) -> Tensor:
    """Evenly spaced points on the edge between two vertices, both ends included.

    Args:
        complex: the structure.
        first: the vertex where the line starts.
        second: the vertex where it ends.
        num_points: how many points, at least 2.

    Returns:
        [num_points, num_vertices] float64 on the CPU.

    Raises:
        ValueError: the vertices are the same or share no simplex, or fewer than 2 points.
    """
    _check_face(complex, [first, second])
    if num_points < 2:
        raise ValueError(f"A line includes both its ends, so it has at least 2 points, got num_points={num_points}.")
    steps = torch.arange(num_points, dtype=torch.float64, device="cpu")
    coordinates = torch.zeros(num_points, complex.num_vertices, dtype=torch.float64, device="cpu")
    coordinates[:, first] = steps.flip(0) / (num_points - 1)
    coordinates[:, second] = steps / (num_points - 1)
    return coordinates


def face_coordinates(complex: SimplicialComplex, vertices: Sequence[int], resolution: int) -> Tensor:
    """A regular lattice of points over a face, boundary included: on a triangle, a triangular lattice.

    Args:
        complex: the structure.
        vertices: the m + 1 vertices of the face, all in one simplex.
        resolution: into how many equal parts the lattice divides each edge, at least 1.

    Returns:
        [binomial(resolution + m, m), num_vertices] float64 on the CPU: all coordinates that are multiples of
        1 / resolution, beginning at the first vertex and ending at the last.

    Raises:
        ValueError: no vertices, a repeated one, vertices that share no simplex, or a resolution below 1.
    """
    _check_face(complex, vertices)
    if resolution < 1:
        raise ValueError(f"The resolution must be at least 1, got {resolution}.")
    # A lattice point is a way to hand out `resolution` equal shares among the vertices.
    shares = torch.tensor(list(combinations_with_replacement(vertices, resolution)), device="cpu")
    counts = torch.zeros(len(shares), complex.num_vertices, dtype=torch.float64, device="cpu")
    counts.scatter_add_(1, shares, torch.ones_like(shares, dtype=torch.float64))
    return counts / resolution


def validate_coordinates(coordinates: Tensor, complex: SimplicialComplex, tolerance: float = 1e-6) -> None:
    """Check that every row holds the barycentric coordinates of a point of the complex.

    Args:
        coordinates: [num_points, num_vertices], any floating dtype.
        complex: the structure.
        tolerance: how far a coordinate may lie below 0, or above 0 outside the simplex, and a sum from 1.

    Raises:
        ValueError: the wrong shape; or a row, named with its value, that is not finite, is negative, does not sum
            to 1 or has vertices that no simplex holds together.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != complex.num_vertices:
        raise ValueError(
            f"Expected coordinates of shape [points, {complex.num_vertices}], one column for each vertex, got "
            f"{list(coordinates.shape)}."
        )
    for row, values in enumerate(coordinates.detach().cpu().double().tolist()):
        total = math.fsum(values) if all(map(math.isfinite, values)) else math.nan
        if math.isnan(total):
            raise ValueError(f"The coordinates of point {row} are not all finite: {values}.")
        if min(values) < -tolerance:
            raise ValueError(f"The coordinates of point {row} must not be negative, got {min(values)} in {values}.")
        if abs(total - 1.0) > tolerance:
            raise ValueError(f"The coordinates of point {row} must sum to 1, got {total} for {values}.")
        support = [vertex for vertex, value in enumerate(values) if value > tolerance]
        if not complex.holds(support):
            raise ValueError(
                f"Point {row}, {values}, lies outside the complex: no simplex holds all of the vertices {support}. "
                f"The simplexes are {[list(simplex) for simplex in complex.simplexes]}."
            )


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
