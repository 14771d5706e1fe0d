"""Uniform points of simplexes and complexes.

Points are drawn in float64 on the CPU: a seed gives the same points on every device.
"""

import torch
from torch import Generator, Tensor

from .complexes import SimplicialComplex

__all__ = ["sample_complex", "sample_simplex"]


def sample_simplex(num_vertices: int, num_points: int, generator: Generator | None = None) -> Tensor:
    """Draw barycentric coordinates uniformly from one simplex.

    The uniform distribution is the flat Dirichlet distribution of the coordinates. It is drawn as the spacings of
    sorted uniform numbers in [0, 1] (Devroye 1986, Non-Uniform Random Variate Generation, chapter V). Sorting and
    subtracting round alike on every machine, unlike logarithms.

    Args:
        num_vertices: k + 1 for a k-simplex.
        num_points: the number of points.
        generator: a CPU generator; default: torch's global one.

    Returns:
        [num_points, num_vertices] float64 on the CPU, non-negative; each row sums to 1 up to rounding.

    Raises:
        ValueError: `num_vertices` is below 1, `num_points` is negative, or the generator is not on the CPU.

    Example:
        >>> import torch
        >>> from hf_simplex.model.sampling import sample_simplex
        >>> sample_simplex(3, 1, torch.Generator().manual_seed(0))
        tensor([[0.7078, 0.2622, 0.0299]], dtype=torch.float64)
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
    """Draw barycentric coordinates from a simplicial complex: a simplex, then a uniform point in it.

    Args:
        complex: the structure.
        num_points: the number of points.
        sampling: `"volume"` draws simplexes in proportion to volume, which is uniform on the complex; `"equal"` draws
            all simplexes with equal probability.
        log_volumes: [simplexes] natural logarithms of the volumes, any floating dtype and device; -inf for volume 0.
            Required by `"volume"` for several simplexes, ignored by `"equal"`.
        stratified: with `"equal"`, point j lies in simplex j modulo the number of simplexes.
        generator: a CPU generator; default: torch's global one.

    Returns:
        [num_points, num_vertices] float64 on the CPU, non-negative, 0 outside the chosen simplex; each row sums to 1
        up to rounding.

    Raises:
        ValueError: `sampling` is unknown, the number of points is negative, or the generator is not on the CPU. With
            `"volume"` also: the simplexes differ in dimension, the log volumes are missing, of another shape, NaN,
            +inf or all -inf, or `stratified` is set.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.sampling import sample_complex
        >>> two_edges = SimplicialComplex(3, [[0, 1], [1, 2]])
        >>> (sample_complex(two_edges, 2, sampling="equal", stratified=True) > 0).tolist()
        [[True, True, False], [False, True, True]]
    """
    num_simplexes = len(complex.simplexes)
    if sampling == "volume":
        if stratified:
            raise ValueError('stratified=True gives each simplex the same number of points: use sampling="equal".')
        probabilities = _volume_probabilities(complex, log_volumes)
        cumulative = probabilities.cumsum(0)
        # Rounding may leave the last sum off 1. Draws are scaled by it, so none lands beyond it or on an empty step.
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
            f"Points are drawn on the CPU, so that a seed gives the same points on every device. The generator is on "
            f"{generator.device}: use torch.Generator()."
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
            f"The simplexes have dimensions {dimensions}. Volumes of different dimension have different units, like "
            "lengths and areas, and cannot be compared. "
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
            "Every simplex has volume 0 (log volume -inf), so none can be drawn in proportion to volume. "
            'Use sampling="equal".'
        )
    return log_volumes.softmax(0)
