"""Points are uniform on simplexes and complexes.

Fixed seeds make the statistical tests deterministic. `FALSE_ALARM` is their probability, over seeds, of rejecting a
correct sampler.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise, product

import mpmath
import pytest
import torch
from torch import Generator, Tensor

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.coordinates import validate_coordinates
from hf_simplex.model.sampling import sample_complex, sample_simplex
from hf_simplex.model.volumes import simplex_log_volumes

FALSE_ALARM = 1e-7

CONNECTED = SimplicialComplex(4, ((0, 2, 3), (1, 2, 3)))
PATH = SimplicialComplex(3, ((0, 1), (1, 2)))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def directions(count: int, dimension: int, seed: int) -> Tensor:
    vectors = torch.randn(count, dimension, dtype=torch.float64, generator=seeded(seed))
    return vectors / vectors.norm(dim=1, keepdim=True)


def chi_square_p_value(counts: Sequence[float], expected: Sequence[float]) -> float:
    """The chance of counts at least this far from their expectation, for independent draws into all the cells."""
    assert min(expected) > 20 and math.isclose(sum(counts), sum(expected), rel_tol=1e-9)
    statistic = sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))
    return float(mpmath.gammainc((len(counts) - 1) / 2, statistic / 2, mpmath.inf, regularized=True))


def projection_distribution(ends: list[float], value: float) -> float:
    """The chance that a linear function with these values at the vertices is below `value` in a uniform point.

    The share of the simplex beyond the hyperplane is a divided difference of a truncated power (Curry and Schoenberg
    1966): an exact statement about Euclidean volume, in which no sampling and no barycentric coordinate appears.
    """
    with mpmath.workdps(50):
        k = len(ends) - 1
        above = mpmath.mpf(0)
        for i, end in enumerate(ends):
            if end > value:
                weight = mpmath.fprod(mpmath.mpf(end) - other for j, other in enumerate(ends) if j != i)
                above += (mpmath.mpf(end) - value) ** k / weight
        return float(1 - above)


def projection_deviation(coordinates: Tensor, vertices: Tensor, direction: Tensor) -> float:
    """Kolmogorov's distance, times sqrt(n), between the points' positions along a direction and the exact law."""
    ends = (vertices @ direction).tolist()
    positions = (coordinates @ (vertices @ direction)).sort().values
    # Checking 100 quantiles bounds the distance from below, so the test's false alarm rate only shrinks.
    ranks = torch.linspace(0, len(positions) - 1, 102).long()[1:-1]
    share = ((ranks + 1) / len(positions)).tolist()
    exact = [projection_distribution(ends, position) for position in positions[ranks].tolist()]
    return math.sqrt(len(positions)) * max(abs(a - b) for a, b in zip(share, exact, strict=True))


# Massart's constant in the Dvoretzky-Kiefer-Wolfowitz inequality: the chance of a larger deviation is at most this.
KOLMOGOROV_BOUND = math.sqrt(math.log(2 / FALSE_ALARM) / 2)


@pytest.mark.parametrize("k", range(1, 7))
def test_points_are_uniform_in_euclidean_space_however_unequal_the_edges(k: int) -> None:
    vertices = directions(k + 1, 8, k) * torch.logspace(-3, 1, k + 1, dtype=torch.float64)[:, None]
    coordinates = sample_simplex(k + 1, 40_000, seeded(k))
    for direction in directions(3, 8, 70 + k):
        assert projection_deviation(coordinates, vertices, direction) < KOLMOGOROV_BOUND


def test_normalized_uniform_numbers_would_not_pass_as_uniform_points() -> None:
    numbers = torch.rand(40_000, 3, dtype=torch.float64, generator=seeded(0))
    vertices = directions(3, 8, 2) * torch.logspace(-3, 1, 3, dtype=torch.float64)[:, None]
    wrong = numbers / numbers.sum(1, keepdim=True)
    assert projection_deviation(wrong, vertices, directions(1, 8, 72)[0]) > 2 * KOLMOGOROV_BOUND


Polygon = list[tuple[Fraction, Fraction]]


def clipped(polygon: Polygon, axis: int, bound: Fraction, sign: int) -> Polygon:
    """The part of a convex polygon where sign * (its coordinate along the axis - bound) is not negative."""
    kept: Polygon = []
    for start, end in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        before, after = sign * (start[axis] - bound), sign * (end[axis] - bound)
        if before >= 0:
            kept.append(start)
        if before * after < 0:
            share = before / (before - after)
            kept.append((start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])))
    return kept


def area(polygon: Polygon) -> Fraction:
    turned = polygon[1:] + polygon[:1]
    return abs(sum((a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, turned, strict=True)), Fraction(0))) / 2


def cell_areas(triangles: list[Polygon], columns: list[float], rows: list[float]) -> list[Fraction]:
    """The exact area that the triangles cover in each rectangle of a grid, row after row."""
    areas = []
    for (bottom, top), (left, right) in product(pairwise(rows), pairwise(columns)):
        total = Fraction(0)
        for triangle in triangles:
            part = clipped(clipped(triangle, 0, Fraction(left), 1), 0, Fraction(right), -1)
            part = clipped(clipped(part, 1, Fraction(bottom), 1), 1, Fraction(top), -1)
            total += area(part)
        areas.append(total)
    return areas


def uniformity_p_value(
    complex: SimplicialComplex, vertices: Tensor, coordinates: Tensor, columns: list[float], rows: list[float]
) -> float:
    """Compare the counts of points in the cells of a grid in the plane with the exact areas there."""
    corners = [(Fraction(x), Fraction(y)) for x, y in vertices.tolist()]
    areas = cell_areas([[corners[vertex] for vertex in simplex] for simplex in complex.simplexes], columns, rows)
    points = coordinates @ vertices
    across, up = points.T.contiguous()
    column = torch.bucketize(across, torch.tensor(columns, dtype=torch.float64)) - 1
    row = torch.bucketize(up, torch.tensor(rows, dtype=torch.float64)) - 1
    counts = torch.bincount(row * (len(columns) - 1) + column, minlength=len(areas)).tolist()
    total = sum(areas)
    cells = [(count, len(points) * float(part / total)) for count, part in zip(counts, areas, strict=True)]
    assert not any(count for count, mean in cells if mean == 0.0)
    # Cells too small for the chi-square approximation are counted together with the smallest that is not.
    cells.sort(key=lambda cell: cell[1])
    first = next(index for index, (_, mean) in enumerate(cells) if mean > 50)
    small, large = cells[: first + 1], cells[first + 1 :]
    merged = [(sum(count for count, _ in small), sum(mean for _, mean in small)), *large]
    return chi_square_p_value([count for count, _ in merged], [mean for _, mean in merged])


def test_a_thin_triangle_is_filled_in_proportion_to_area() -> None:
    vertices = torch.tensor([[0.0, 0.0], [0.001, 0.0], [3.0, 10.0]], dtype=torch.float64)
    complex = SimplicialComplex(3, ((0, 1, 2),))
    coordinates = sample_simplex(3, 100_000, seeded(80))
    grid = [0.0, 0.1, 0.5, 1.0, 1.4, 2.0, 2.7, 3.0], [0.0, 0.3, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0]
    assert uniformity_p_value(complex, vertices, coordinates, *grid) > FALSE_ALARM


# Two triangles that share an edge: areas 0.15 and 20.
KITE = torch.tensor([[0.0, 2.0], [0.0, -1.0], [-0.1, 0.0], [13.3, 0.3]], dtype=torch.float64)
KITE_COMPLEX = SimplicialComplex(4, ((0, 1, 2), (3, 0, 1)))
KITE_GRID = [-0.1, -0.03, 0.0, 1.0, 2.0, 4.0, 8.0, 13.3], [-1.0, -0.3, 0.0, 0.4, 1.1, 2.0]


def test_a_complex_is_filled_in_proportion_to_volume() -> None:
    log_volumes = simplex_log_volumes(KITE_COMPLEX, KITE)
    coordinates = sample_complex(
        KITE_COMPLEX, 200_000, sampling="volume", log_volumes=log_volumes, generator=seeded(81)
    )
    assert uniformity_p_value(KITE_COMPLEX, KITE, coordinates, *KITE_GRID) > FALSE_ALARM


def test_equal_chances_for_unequal_simplexes_are_not_uniform_on_the_complex() -> None:
    coordinates = sample_complex(KITE_COMPLEX, 200_000, sampling="equal", generator=seeded(81))
    assert uniformity_p_value(KITE_COMPLEX, KITE, coordinates, *KITE_GRID) < FALSE_ALARM


def simplex_counts(coordinates: Tensor, complex: SimplicialComplex) -> list[int]:
    inside = [(coordinates[:, list(simplex)] > 0).all(1) for simplex in complex.simplexes]
    counts = [int(points.sum()) for points in inside]
    assert sum(counts) == len(coordinates)
    return counts


TRIANGLES = SimplicialComplex(3, ((0, 1, 2),)).union(*[SimplicialComplex(3, ((0, 1, 2),))] * 3)


def test_simplexes_are_chosen_in_proportion_to_volume_at_any_scale() -> None:
    volumes = torch.tensor([0.001, 1.0, 3.0, 0.5], dtype=torch.float64)
    for shift in (-9000.0, 0.0, 9000.0):
        coordinates = sample_complex(
            TRIANGLES, 100_000, sampling="volume", log_volumes=volumes.log() + shift, generator=seeded(82)
        )
        counts = simplex_counts(coordinates, TRIANGLES)
        assert chi_square_p_value(counts, (100_000 * volumes / volumes.sum()).tolist()) > FALSE_ALARM


def test_a_triangle_of_tiny_edges_is_left_to_its_tiny_share() -> None:
    pair, _ = TRIANGLES.sub_complex([0, 1])
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    log_volumes = simplex_log_volumes(pair, torch.cat([1e-3 * corner, 10.0 * corner]))
    coordinates = sample_complex(pair, 100_000, sampling="volume", log_volumes=log_volumes, generator=seeded(83))
    # The small triangle has a share of 1e-8, so 0.001 points are expected: more than 2 have a chance of 2e-10.
    assert simplex_counts(coordinates, pair)[0] <= 2


def test_simplexes_of_volume_zero_are_never_chosen() -> None:
    log_volumes = torch.tensor([-math.inf, 0.0, -math.inf, -math.inf])
    coordinates = sample_complex(TRIANGLES, 10_000, sampling="volume", log_volumes=log_volumes, generator=seeded(84))
    assert simplex_counts(coordinates, TRIANGLES) == [0, 10_000, 0, 0]


def test_equal_sampling_gives_all_simplexes_the_same_chance() -> None:
    coordinates = sample_complex(TRIANGLES, 100_000, sampling="equal", generator=seeded(85))
    assert chi_square_p_value(simplex_counts(coordinates, TRIANGLES), [25_000.0] * 4) > FALSE_ALARM


def test_stratified_points_take_the_simplexes_in_turn() -> None:
    complex = SimplicialComplex(6, ((0, 1, 2), (3, 5), (4,)))
    coordinates = sample_complex(complex, 8, sampling="equal", stratified=True, generator=seeded(86))
    supports = [row.nonzero().flatten().tolist() for row in coordinates]
    assert supports == [[0, 1, 2], [3, 5], [4], [0, 1, 2], [3, 5], [4], [0, 1, 2], [3, 5]]


def test_stratified_points_are_uniform_in_each_simplex() -> None:
    coordinates = sample_complex(KITE_COMPLEX, 80_000, sampling="equal", stratified=True, generator=seeded(87))
    for index, simplex in enumerate(KITE_COMPLEX.simplexes):
        within, corners = coordinates[index::2, list(simplex)], KITE[list(simplex)]
        assert projection_deviation(within, corners, torch.tensor([0.6, 0.8]).double()) < KOLMOGOROV_BOUND


@pytest.mark.parametrize("complex", [CONNECTED, TRIANGLES, PATH, SimplicialComplex(1, ((0,),))])
def test_drawn_coordinates_are_points_of_the_complex(complex: SimplicialComplex) -> None:
    log_volumes = torch.zeros(len(complex.simplexes))
    for coordinates in (
        sample_complex(complex, 500, sampling="volume", log_volumes=log_volumes, generator=seeded(88)),
        sample_complex(complex, 500, sampling="equal", generator=seeded(88)),
        sample_complex(complex, 500, sampling="equal", stratified=True),
    ):
        assert coordinates.shape == (500, complex.num_vertices) and coordinates.dtype == torch.float64
        assert (coordinates >= 0).all()
        validate_coordinates(coordinates, complex, tolerance=1e-15)


def test_no_points_and_single_simplexes_need_no_volumes() -> None:
    assert sample_complex(CONNECTED, 0, sampling="equal", stratified=True).shape == (0, 4)
    single = SimplicialComplex(3, ((2, 0, 1),))
    assert sample_complex(single, 5, sampling="volume").shape == (5, 3)
    assert sample_simplex(1, 4).tolist() == [[1.0]] * 4


def test_a_seed_means_the_same_points_on_every_machine() -> None:
    log_volumes = torch.tensor([1.0, 2.0])

    def draw() -> Iterator[Tensor]:
        yield sample_complex(CONNECTED, 20, sampling="volume", log_volumes=log_volumes, generator=seeded(89))
        yield sample_complex(CONNECTED, 20, sampling="equal", generator=seeded(89))
        yield sample_complex(CONNECTED, 20, sampling="equal", stratified=True, generator=seeded(89))

    expected = list(draw())
    # The meta device stands for an accelerator.
    with torch.device("meta"):
        drawn = list(draw())
    assert all(torch.equal(one, other) for one, other in zip(drawn, expected, strict=True))
    assert sample_simplex(3, 1, seeded(0)).tolist() == [[0.707819864399788, 0.2622331374067651, 0.029946998193446928]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": "uniform"}, 'must be "volume" or "equal", got \'uniform\''),
        ({"sampling": "volume"}, "needs log_volumes"),
        ({"sampling": "volume", "log_volumes": torch.zeros(3)}, r"of shape \[2\], got \[3\]"),
        ({"sampling": "volume", "log_volumes": torch.tensor([0.0, math.nan])}, "numbers below infinity"),
        ({"sampling": "volume", "log_volumes": torch.tensor([0.0, math.inf])}, "numbers below infinity"),
        ({"sampling": "volume", "log_volumes": torch.full((2,), -math.inf)}, 'volume 0 .* Use sampling="equal"'),
        ({"sampling": "volume", "log_volumes": torch.zeros(2), "stratified": True}, 'use sampling="equal"'),
        ({"sampling": "equal", "num_points": -1}, "must not be negative, got num_points=-1"),
        ({"sampling": "equal", "num_points": -1, "stratified": True}, "must not be negative, got num_points=-1"),
    ],
)
def test_draws_refuse_what_makes_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_complex(**{"complex": CONNECTED, "num_points": 3, **arguments})  # type: ignore[arg-type]


def test_volumes_of_different_dimension_are_not_compared() -> None:
    complex = SimplicialComplex(5, ((0, 1, 2), (3, 4)))
    with pytest.raises(ValueError, match=r"dimensions \[2, 1\]. .*different units.* Use sampling=\"equal\""):
        sample_complex(complex, 3, sampling="volume", log_volumes=torch.zeros(2))
    assert sample_complex(complex, 3, sampling="equal").shape == (3, 5)


def test_a_simplex_has_a_vertex_to_draw_from() -> None:
    with pytest.raises(ValueError, match="num_vertices=0"):
        sample_simplex(0, 3)
