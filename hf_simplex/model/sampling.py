"""Uniform points of simplexes and complexes.

Random draws are float64 on the CPU, so that a seed means the same points on every device.
"""

import torch
from torch import Generator, Tensor

from .complexes import SimplicialComplex


def sample_simplex(num_vertices: int, num_points: int, generator: Generator | None = None) -> Tensor:
    """Draw barycentric coordinates uniformly from one simplex.

    Barycentric coordinates map to points by an affine map, whose Jacobian is constant, so the flat Dirichlet
    distribution is exactly uniform on every simplex of that dimension. It is drawn as the gaps that sorted uniform
    numbers leave in [0, 1] (Devroye 1986, Non-Uniform Random Variate Generation, chapter V): sorting and subtracting
    round the same way everywhere, unlike logarithms, so a seed gives the same points on every machine.

    Args:
        num_vertices: k + 1 for a k-simplex.
        num_points: how many points.
        generator: a CPU generator; None is torch's global one.

    Returns:
        [num_points, num_vertices] float64 on the CPU, non-negative; each row sums to 1 up to rounding.

    Raises:
        ValueError: `num_vertices` below 1, `num_points` below 0, or a generator of another device.
    """
    if num_vertices < 1:
        raise ValueError(f"A simplex has at least one vertex, got num_vertices={num_vertices}.")
    cuts = _uniform((num_points, num_vertices - 1), generator).sort(dim=1).values
    return cuts.diff(dim=1, prepend=cuts.new_zeros(num_points, 1), append=cuts.new_ones(num_points, 1))


def sample_complex(
    complex: SimplicialComplex,
    num_points: int,
    *,
    sampling: str,
    log_volumes: Tensor | None = None,
    stratified: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Draw barycentric coordinates from a simplicial complex: choose a simplex, then a uniform point in it.

    Args:
        complex: the structure.
        num_points: how many points.
        sampling: `"volume"` chooses a simplex in proportion to its volume, which is uniform on the complex;
            `"equal"` chooses all simplexes with equal chance.
        log_volumes: [simplexes] natural logarithms of the volumes, any floating dtype and device; -inf for volume 0.
            Needed by `"volume"` when there is more than one simplex, unused by `"equal"`.
        stratified: with `"equal"`, point j lies in simplex j modulo the number of simplexes, rather than in a random
            one: no simplex is left out by chance.
        generator: a CPU generator; None is torch's global one.

    Returns:
        [num_points, num_vertices] float64 on the CPU, non-negative, zero outside the chosen simplex; each row sums
        to 1 up to rounding.

    Raises:
        ValueError: an unknown `sampling`; with `"volume"`: simplexes of different dimension, whose volumes are in
            different units, log volumes that are missing, misshapen, NaN, +inf or all -inf, or `stratified`; a
            negative number of points; a generator of another device.
    """
    num_simplexes = len(complex.simplexes)
    if sampling == "volume":
        if stratified:
            raise ValueError('stratified=True gives each simplex the same number of points: use sampling="equal".')
        probabilities = _volume_probabilities(complex, log_volumes)
        cumulative = probabilities.cumsum(0)
        # Scaled by the last sum, which rounding may leave off 1, no draw can land beyond it or on an empty step.
        chosen = torch.searchsorted(cumulative, _uniform((num_points,), generator) * cumulative[-1], right=True)
    elif sampling != "equal":
        raise ValueError(f'sampling must be "volume" or "equal", got {sampling!r}.')
    elif stratified:
        chosen = torch.arange(_checked_count(num_points), device="cpu") % num_simplexes
    else:
        chosen = (_uniform((num_points,), generator) * num_simplexes).long()
    coordinates = torch.zeros(num_points, complex.num_vertices, dtype=torch.float64, device="cpu")
    for index, simplex in enumerate(complex.simplexes):
        rows = (chosen == index).nonzero()
        coordinates[rows, torch.tensor(simplex, device="cpu")] = sample_simplex(len(simplex), len(rows), generator)
    return coordinates


def _uniform(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    _checked_count(shape[0])
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"Points are drawn on the CPU so that a seed means the same on every device, but the generator is on "
            f"{generator.device}. Use torch.Generator()."
        )
    return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")


def _checked_count(num_points: int) -> int:
    if num_points < 0:
        raise ValueError(f"The number of points must not be negative, got num_points={num_points}.")
    return num_points


def _volume_probabilities(complex: SimplicialComplex, log_volumes: Tensor | None) -> Tensor:
    dimensions = [complex.dimension(simplex) for simplex in range(len(complex.simplexes))]
    if len(set(dimensions)) > 1:
        raise ValueError(
            f"The simplexes have dimensions {dimensions}. Volumes of different dimension are in different units, as "
            "lengths and areas are, so they cannot be weighed against each other. "
            'Use sampling="equal" or simplexes of equal dimension.'
        )
    if log_volumes is None:
        if len(dimensions) > 1:
            raise ValueError('sampling="volume" needs log_volumes, the log volume of each simplex.')
        return torch.ones(1, dtype=torch.float64, device="cpu")
    log_volumes = log_volumes.detach().cpu().double()
    if log_volumes.shape != (len(dimensions),):
        raise ValueError(f"Expected log_volumes of shape [{len(dimensions)}], got {list(log_volumes.shape)}.")
    if log_volumes.isnan().any() or log_volumes.isposinf().any():
        raise ValueError(f"Log volumes must be numbers below infinity, got {log_volumes.tolist()}.")
    if log_volumes.isneginf().all():
        raise ValueError(
            "Every simplex has volume 0 (log volume -inf), so none can be chosen in proportion to its volume. "
            'Use sampling="equal".'
        )
    return log_volumes.softmax(0)
