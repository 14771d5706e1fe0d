"""Log volumes agree with a reference of 100 digits, and heights with volumes."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, product

import mpmath
import pytest
import torch
from torch import Generator, Tensor

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_simplex
from hf_simplex.model.volumes import (
    complex_log_volume,
    height_over_face,
    log_volume_with_floor,
    regular_simplex_log_volume,
    simplex_log_volume,
    simplex_log_volumes,
)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


# --- Reference: the Cayley-Menger determinant of exact squared distances, in 100 digits.

SCALE = 400


def exact_integers(values: Tensor) -> list[int]:
    """The values times 2**SCALE, which must be integers."""
    scaled = [math.ldexp(value, SCALE) for value in values.double().tolist()]
    assert all(value.is_integer() for value in scaled)
    return [int(value) for value in scaled]


def exact_squared_distances(vertices: Tensor) -> list[list[int]]:
    rows = [exact_integers(row) for row in vertices]
    distances = [[0] * len(rows) for _ in rows]
    for i, j in combinations(range(len(rows)), 2):
        distances[i][j] = distances[j][i] = sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))
    return distances


def cayley_menger_log_volume(squared_distances: list[list[int]]) -> mpmath.mpf:
    """Log volume from integers, squared distances times 2**(2 SCALE)."""
    count = len(squared_distances)
    with mpmath.workdps(100):
        matrix = mpmath.ones(count + 1)
        matrix[count, count] = 0
        for i, j in product(range(count), repeat=2):
            matrix[i, j] = mpmath.ldexp(mpmath.mpf(squared_distances[i][j]), -2 * SCALE)
        k = count - 1
        determinant = abs(mpmath.det(matrix))
        return mpmath.log(determinant / (mpmath.mpf(2) ** k * mpmath.factorial(k) ** 2)) / 2


def reference_log_volume(vertices: Tensor) -> mpmath.mpf:
    return cayley_menger_log_volume(exact_squared_distances(vertices))


def error(log_volume: Tensor, reference: mpmath.mpf) -> float:
    assert log_volume.dtype == torch.float64 and log_volume.shape == ()
    return float(abs(mpmath.mpf(float(log_volume)) - reference))


def directions(count: int, dimension: int, seed: int) -> Tensor:
    vectors = normal(count, dimension, seed=seed)
    return vectors / vectors.norm(dim=1, keepdim=True)


def lengths(count: int, ratio: float, seed: int) -> Tensor:
    """Edge lengths around 1 in random order, of which the longest is `ratio` times the shortest."""
    half = math.log10(ratio) / 2
    return torch.logspace(-half, half, count, dtype=torch.float64)[torch.randperm(count, generator=seeded(seed))]


def star(k: int, dimension: int, ratio: float, seed: int) -> Tensor:
    """Edges of different length from one vertex."""
    edges = directions(k, dimension, seed) * lengths(k, ratio, seed)[:, None]
    return torch.cat([torch.zeros(1, dimension, dtype=torch.float64), edges])


def path(k: int, dimension: int, ratio: float, seed: int) -> Tensor:
    """Edges of different length, one after the other, from a random vertex."""
    steps = directions(k, dimension, seed) * lengths(k, ratio, seed)[:, None]
    return torch.cat([normal(1, dimension, seed=seed + 1), steps]).cumsum(0)


def clusters(k: int, dimension: int, ratio: float, seed: int) -> Tensor:
    """Two clusters, whose distance is `ratio` times their size."""
    near = directions(k + 1, dimension, seed) / math.sqrt(ratio)
    return near + math.sqrt(ratio) * directions(1, dimension, seed + 1) * (torch.arange(k + 1) % 2)[:, None]


def sliver(k: int, dimension: int, ratio: float, seed: int) -> Tensor:
    """Vertices near one line: the edges are about `ratio` times the heights."""
    line = math.sqrt(ratio) * normal(k + 1, 1, seed=seed) * directions(1, dimension, seed + 1)
    return line + normal(k + 1, dimension, seed=seed + 2) / math.sqrt(ratio)


# --- Volume


@pytest.mark.parametrize("ratio", [1.0, 1e5, 1e8])
@pytest.mark.parametrize("layout", [star, path, clusters, sliver])
@pytest.mark.parametrize("k", [1, 2, 3, 6, 12])
def test_the_error_of_a_log_volume_is_below_1e_9_up_to_a_ratio_of_1e5(
    layout: Callable[[int, int, float, int], Tensor], k: int, ratio: float
) -> None:
    """Beyond it the error grows with the ratio of the longest edge to the shortest edge or height."""
    for dimension in (k, k + 1, 150):
        vertices = layout(k, dimension, ratio, 100 * k + dimension)
        assert error(simplex_log_volume(vertices), reference_log_volume(vertices)) < max(1e-12, 1e-14 * ratio)


def test_the_log_volume_of_float32_blocks_equals_the_reference() -> None:
    vertices = star(3, 100_000, 1e5, 0).float()
    blocks = vertices.split([1, 29_999, 32_768, 37_232], dim=1)
    assert error(simplex_log_volume(blocks), reference_log_volume(vertices)) < 1e-12


def isometric_image(rows: Tensor) -> Iterator[Tensor]:
    """Rows of 16 numbers mapped isometrically, without rounding, into 2**20 dimensions, as a generator of blocks.

    The image is 65,536 copies of the rows times a Hadamard matrix, with columns in random order and random signs, over
    2**10. Inner products are 16 * 65,536 / 2**20 = 1 times those of the rows.
    """
    # Sums of 16 multiples of 2**-26 that stay below 2**27 fit into the 53 bits of a float64: the image is exact.
    assert torch.equal(rows * 2**26, (rows * 2**26).round()) and 16 * float(rows.abs().max()) < 2**27
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    image, generator = rows @ hadamard, seeded(0)
    for _ in range(32):
        columns = torch.cat([torch.randperm(16, generator=generator) for _ in range(2048)])
        signs = 2.0 * torch.randint(2, (len(columns),), generator=generator) - 1.0
        yield image[:, columns] * signs / 2**10


@pytest.mark.parametrize("layout", [path, clusters])
def test_log_volume_equals_the_reference_for_twelve_dimensions_in_a_million(
    layout: Callable[[int, int, float, int], Tensor],
) -> None:
    rows = torch.round(layout(12, 16, 1e5, 7) * 2**26) / 2**26
    assert error(simplex_log_volume(isometric_image(rows)), reference_log_volume(rows)) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_volume_is_that_of_the_vertices_as_stored(dtype: torch.dtype) -> None:
    vertices = normal(5, 300, seed=1).to(dtype)
    assert error(simplex_log_volume(vertices), reference_log_volume(vertices)) < 1e-12


@pytest.mark.parametrize("log2_edge", [-400, 400])
def test_volumes_may_exceed_the_range_of_float64(log2_edge: int) -> None:
    vertices = torch.cat([torch.zeros(1, 9), torch.eye(9)]).double() * 2.0**log2_edge
    expected = 9 * log2_edge * math.log(2) - math.log(math.factorial(9))
    assert float(simplex_log_volume(vertices)) == pytest.approx(expected, rel=1e-14)


def test_volumes_known_from_school() -> None:
    triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    corner = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    assert simplex_log_volume(triangle).exp() == pytest.approx(6.0, rel=1e-14)
    assert simplex_log_volume(triangle[1:]).exp() == pytest.approx(4.0, rel=1e-14)
    assert simplex_log_volume(corner).exp() == pytest.approx(1 / 6, rel=1e-14)
    assert simplex_log_volume(triangle[:1]) == 0.0


def test_order_division_and_translation_do_not_change_a_log_volume() -> None:
    vertices = normal(6, 70_000, seed=2).float()
    expected = pytest.approx(float(simplex_log_volume(vertices)), rel=1e-13)
    order = torch.randperm(70_000, generator=seeded(3))
    assert simplex_log_volume(vertices.flip(0)[:, order]) == expected
    assert simplex_log_volume(block for block in vertices.split(999, dim=1)) == expected
    assert (
        simplex_log_volume([vertices[:, :5].double(), vertices[:, 5:5], vertices[:, 5:].requires_grad_()]) == expected
    )
    # Integers and their translations are exact in float64.
    near = torch.randint(2, (4, 2**16), generator=seeded(13)).double()
    expected = pytest.approx(float(simplex_log_volume(near)), rel=1e-13)
    for power in (20, 40, 53):
        assert simplex_log_volume(near - (2.0**power - 1)) == expected


def test_flat_simplexes_have_log_volume_minus_infinity() -> None:
    flat = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 2.0], [3.0, 6.0, 4.0]])
    repeated = normal(4, 50, seed=4)[[0, 1, 2, 1]]
    dependent = normal(5, 100_000, seed=4)
    dependent[4] = dependent[:4].mean(0)
    too_many = normal(4, 2, seed=5)
    for vertices in (flat, repeated, dependent, too_many, torch.zeros(2, 3), torch.zeros(3, 0)):
        assert simplex_log_volume(vertices) == -math.inf
    nearly_flat = flat.double()
    nearly_flat[2, 2] += 2.0**-30
    assert error(simplex_log_volume(nearly_flat), reference_log_volume(nearly_flat)) < 1e-6


def test_the_log_volumes_of_a_complex_are_those_of_its_simplexes() -> None:
    complex = SimplicialComplex(7, ((4, 0, 2), (4, 3), (5, 1, 3, 0), (6,)))
    vertices = normal(7, 50, seed=6)
    volumes = simplex_log_volumes(complex, vertices.split(20, dim=1))
    alone = [float(simplex_log_volume(vertices[list(simplex)])) for simplex in complex.simplexes]
    assert volumes.tolist() == pytest.approx(alone, rel=1e-13)


def test_the_volume_of_a_complex_is_the_sum_over_its_simplexes() -> None:
    volumes = torch.tensor([3.0, 5.0, 0.0], dtype=torch.float64)
    assert complex_log_volume(volumes.log() - 2000.0) == pytest.approx(math.log(8.0) - 2000.0, rel=1e-15)
    assert complex_log_volume(torch.tensor([-math.inf, -math.inf])) == -math.inf
    with pytest.raises(ValueError, match="at least one simplex"):
        complex_log_volume(torch.zeros(0))


def test_what_has_no_volume_is_refused() -> None:
    with pytest.raises(TypeError, match=r"floating-point tensors \[vertices, block size\], got torch.int64"):
        simplex_log_volume(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="got list"):
        simplex_log_volume([[0.0, 1.0]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"got shape \[3\]"):
        simplex_log_volume(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one block of vertices, got none"):
        simplex_log_volume([])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        simplex_log_volume(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"one row for each of 3 vertices, got \[2, 4\]"):
        simplex_log_volume([torch.zeros(3, 4), torch.zeros(2, 4)])
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            simplex_log_volume(torch.tensor([[0.0, 1.0], [value, 0.0]]))
    with pytest.raises(ValueError, match=r"at most 2\*\*1000, got 4e\+304"):
        simplex_log_volume(torch.tensor([[0.0], [4e304]], dtype=torch.float64))


@pytest.mark.parametrize("k", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("log2_edge", [-20, 0, 7])
def test_a_regular_simplex_has_its_closed_form_volume(k: int, log2_edge: int) -> None:
    # The unit vectors of k + 1 dimensions are sqrt(2) apart.
    vertices = torch.eye(k + 1) * 2.0**log2_edge
    log_edge = (log2_edge + 0.5) * math.log(2)
    expected = float(simplex_log_volume(vertices))
    assert float(regular_simplex_log_volume(k, log_edge)) == pytest.approx(expected, rel=1e-13, abs=1e-13)


def test_random_vertices_in_high_dimension_span_nearly_regular_simplexes() -> None:
    dimension, k = 100_000, 6
    for seed in range(5):
        vertices = 0.02 * normal(k + 1, dimension, seed=seed)
        regular = regular_simplex_log_volume(k, math.log(0.02 * math.sqrt(2 * dimension)))
        # V**2 is a product of independent chi squares: log V has standard deviation sqrt(k / (2 dimension)); 6 of them
        # are a false alarm of 2e-9 for each seed.
        assert abs(simplex_log_volume(vertices) - regular) < 6 * math.sqrt(k / (2 * dimension))


def test_regular_simplexes_take_tensors_and_refuse_negative_dimensions() -> None:
    edges = torch.tensor([0.0, 1.0])
    assert regular_simplex_log_volume(1, edges).tolist() == [0.0, 1.0]
    assert regular_simplex_log_volume(0, -math.inf) == 0.0
    with pytest.raises(ValueError, match="at least 0, got -1"):
        regular_simplex_log_volume(-1, 0.0)


# --- Height


def height_and_volume(face: Tensor, vertex: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Squared height and log volume, from inner products with the offset from the face's mean."""
    edges, offset = face[1:] - face[0], vertex - face.mean(0)
    height_squared, _ = height_over_face(edges @ edges.T, edges @ offset, offset @ offset)
    return height_squared, log_volume_with_floor(simplex_log_volume(face), height_squared, floor, len(face))


@pytest.mark.parametrize("k", range(1, 9))
def test_face_times_height_over_k_is_the_volume(k: int) -> None:
    for dimension in (k, 1000):
        vertices = normal(k + 1, dimension, seed=k)
        _, log_volume = height_and_volume(vertices[:-1], vertices[-1], floor=0.0)
        assert log_volume == pytest.approx(float(simplex_log_volume(vertices)), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("k", [1, 2, 3, 6, 12])
def test_the_error_of_a_height_grows_with_the_squared_ratio_of_longest_edge_to_height(k: int, scale: float) -> None:
    # Inner products round relative to the longest edge.
    for ratio in (1.0, 10.0, 1000.0):
        vertices = scale * star(k, 1000, ratio, k)
        height_squared, log_volume = height_and_volume(vertices[:-1], vertices[-1], floor=0.0)
        ratio_squared = float(torch.cdist(vertices, vertices).max()) ** 2 / float(height_squared)
        bound = 200 * torch.finfo(torch.float64).eps * ratio_squared
        assert bound < 1e-6
        assert log_volume == pytest.approx(float(simplex_log_volume(vertices)), rel=1e-14, abs=bound)


def test_the_height_is_right_over_faces_with_very_different_edges() -> None:
    face = 1e3 * star(4, 50, 1e9, 9)
    vertex = normal(50, seed=10)
    _, log_volume = height_and_volume(face, vertex, floor=0.0)
    expected = float(simplex_log_volume(torch.cat([face, vertex[None]])))
    assert log_volume == pytest.approx(expected, abs=1e-5)


def test_what_the_projection_leaves_is_perpendicular_to_the_face() -> None:
    edges, offset = normal(4, 30, seed=11), normal(30, seed=12)
    height_squared, projection = height_over_face(edges @ edges.T, edges @ offset, offset @ offset)
    perpendicular = offset - projection @ edges
    torch.testing.assert_close(edges @ perpendicular, torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(height_squared, perpendicular @ perpendicular, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", range(1, 6))
def test_a_vertex_at_the_mean_of_its_face_has_the_volume_of_the_floor(k: int) -> None:
    face, floor = normal(k, 200, seed=40 + k), 1e-3
    height_squared, log_volume = height_and_volume(face, face.mean(0), floor)
    assert height_squared == 0.0
    expected = float(simplex_log_volume(face)) + math.log(floor) - math.log(k)
    assert log_volume == pytest.approx(expected, abs=1e-12)
    assert height_and_volume(face, face.mean(0), floor=0.0)[1] == -math.inf


def test_repeated_and_dependent_face_vertices_leave_the_height_over_the_rest() -> None:
    vertices = normal(4, 40, seed=60)
    expected, _ = height_and_volume(vertices[:3], vertices[3], floor=0.1)
    dependent = vertices[:3].mean(0, keepdim=True)
    for extra in (vertices[:1], vertices[1:2], dependent, torch.cat([vertices[:3], dependent])):
        height_squared, log_volume = height_and_volume(torch.cat([vertices[:3], extra]), vertices[3], floor=0.1)
        assert height_squared == pytest.approx(float(expected), rel=1e-10)
        assert log_volume.isfinite()


def test_coinciding_vertices_count_as_a_regular_face_of_the_floor() -> None:
    face = normal(1, 10, seed=61).expand(3, 10)
    height_squared, log_volume = height_and_volume(face, face[0], floor=1e-4)
    assert height_squared < 1e-30
    regular_face = float(regular_simplex_log_volume(2, math.log(1e-4)))
    assert log_volume == pytest.approx(regular_face + math.log(1e-4) - math.log(3), abs=1e-12)


def test_the_squared_height_is_never_negative() -> None:
    for seed in range(50):
        face = 100.0 * normal(4, 30, seed=seed)
        weights = sample_simplex(4, 1, seeded(seed))[0]
        height_squared, _ = height_and_volume(face, weights @ face, floor=0.0)
        assert 0.0 <= height_squared < 1e-8


def test_heights_refuse_what_makes_no_sense() -> None:
    one = torch.ones((), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"got shapes \[2, 2\], \[3\] and \[\]"):
        height_over_face(torch.eye(2), torch.zeros(3), one)
    for floor in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="floor of the height must be 0 or more"):
            log_volume_with_floor(0.0, one, floor, 1)
    with pytest.raises(ValueError, match="dimension 1 or more"):
        log_volume_with_floor(0.0, one, 1.0, 0)
