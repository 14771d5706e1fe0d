"""The check of one point of a complex, given as a list of numbers. Nothing here needs torch."""

import math
from collections.abc import Sequence

from .complexes import SimplicialComplex

__all__ = ["check_point"]


def check_point(number: int, values: Sequence[float], complex: SimplicialComplex, tolerance: float = 1e-6) -> None:
    """Check that a list holds the barycentric coordinates of a point of the complex.

    Args:
        number: of the point, for the error message.
        values: a coordinate for each vertex.
        complex: the structure.
        tolerance: see `coordinates.validate_coordinates`.

    Raises:
        ValueError: a value is not finite or negative, the sum is not 1, or the point lies in no simplex.

    Example:
        >>> check_point(0, [0.5, 0.5, 0.0], SimplicialComplex(3, [[0, 1], [1, 2]]))
    """
    total = math.fsum(values) if all(map(math.isfinite, values)) else math.nan
    if math.isnan(total):
        raise ValueError(f"The coordinates of point {number} are not all finite: {values}.")
    if min(values) < -tolerance:
        raise ValueError(f"The coordinates of point {number} must not be negative, got {min(values)} in {values}.")
    if abs(total - 1.0) > tolerance:
        raise ValueError(f"The coordinates of point {number} must sum to 1, got {total} for {values}.")
    support = [vertex for vertex, value in enumerate(values) if value > tolerance]
    if not complex.holds(support):
        raise ValueError(
            f"Point {number}, {values}, lies outside the complex: no simplex holds all of the vertices {support}. "
            f"The simplexes are {[list(simplex) for simplex in complex.simplexes]}."
        )
