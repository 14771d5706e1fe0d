"""Regular lattices over simplexes of any dimension, and piecewise linear interpolation between their points."""

import math
from collections.abc import Sequence

__all__ = ["LatticePoint", "lattice_points", "lattice_weights"]

LatticePoint = tuple[int, ...]
"""Barycentric coordinates in units of 1 / resolution: a count for each corner."""

# Sums of shares that miss a whole number by no more than this are that number.
_ROUNDING = 1e-9


def lattice_points(corners: int, resolution: int) -> list[LatticePoint]:
    """List the points of a lattice, from the first corner to the last.

    Args:
        corners: number of corners, at least 1.
        resolution: number of intervals on each edge, at least 1.

    Returns:
        binomial(resolution + corners - 1, corners - 1) tuples of counts, whose sum is the resolution.

    Example:
        >>> lattice_points(2, 2)
        [(2, 0), (1, 1), (0, 2)]
    """
    if corners == 1:
        return [(resolution,)]
    return (
        [
            (first, *rest)
            for first in range(resolution, -1, -1)
            for rest in lattice_points(corners - 1, resolution - first)
        ]
        if resolution
        else [(0,) * corners]
    )


def lattice_weights(shares: Sequence[float], resolution: int) -> dict[LatticePoint, float]:
    """Find the lattice points around a point, and their weights for linear interpolation.

    The lattice is cut into simplexes by Freudenthal's triangulation. A point has the weights of the simplex around it,
    which are its barycentric coordinates there.

    Args:
        shares: barycentric coordinates of the point, 0 or more, with sum 1.
        resolution: number of intervals on each edge, at least 1.

    Returns:
        Weights above 0 with sum 1, by lattice point; at most one for each corner.

    Raises:
        ValueError: a share is negative or not finite, or the sum is not 1.

    Source: Freudenthal 1942, Simplizialzerlegungen von beschränkter Flachheit.

    Example:
        >>> lattice_weights([0.75, 0.25], 2)
        {(2, 0): 0.5, (1, 1): 0.5}
    """
    if not all(math.isfinite(share) and share >= -_ROUNDING for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"Expected shares of 0 or more with sum 1, got {list(shares)}.")
    # Sums from each corner to the last. They fall, and the count of a corner is the difference of two of them.
    sums = [
        min(max(resolution * math.fsum(shares[index:]), 0.0), float(resolution)) for index in range(1, len(shares))
    ]
    sums = [float(round(value)) if abs(value - round(value)) < _ROUNDING else value for value in sums]
    low = [math.floor(value) for value in sums]
    parts = [value - floor for value, floor in zip(sums, low, strict=True)]
    # Where two sums are equal the first grows first, so that the sums still fall.
    order = sorted(range(len(parts)), key=lambda index: -parts[index])
    edges = [1.0, *(parts[index] for index in order), 0.0]
    weights: dict[LatticePoint, float] = {}
    for step in range(len(order) + 1):
        if step:
            low[order[step - 1]] += 1
        if (weight := edges[step] - edges[step + 1]) > 0:
            weights[_counts(low, resolution)] = weight
    return weights


def _counts(sums: Sequence[int], resolution: int) -> LatticePoint:
    ends = [resolution, *sums, 0]
    return tuple(ends[index] - ends[index + 1] for index in range(len(ends) - 1))
