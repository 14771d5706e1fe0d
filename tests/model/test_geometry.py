"""Volumes are exact, samples are uniform, and the volume's gradient is finite everywhere.

The statistical tests use fixed seeds, so they give the same result each time. `FALSE_ALARM` is the chance, over seeds,
that one of them would reject a correct sampler.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, pairwise, product

import mpmath
import pytest
import torch
from torch import Generator, Tensor

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.coordinates import (
    centroid_coordinates,
    edge_coordinates,
    face_coordinates,
    validate_coordinates,
    vertex_coordinates,
)
from hf_simplex.model.sampling import sample_complex, sample_simplex
from hf_simplex.model.volumes import (
    complex_log_volume,
    gram_matrix,
    height_over_face,
    log_height_gradient,
    log_volume_with_floor,
    regular_simplex_log_volume,
    simplex_log_volume,
    simplex_log_volumes,
)

FALSE_ALARM = 1e-7
# The bound on the relative error of every log volume below, also where the log volume is close to 0.
RELATIVE_ERROR = 1e-14

CONNECTED = SimplicialComplex(4, ((0, 2, 3), (1, 2, 3)))
PATH = SimplicialComplex(3, ((0, 1), (1, 2)))


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


def relative_error(log_volume: Tensor, reference: mpmath.mpf) -> float:
    assert log_volume.dtype == torch.float64 and log_volume.shape == ()
    return float(abs((mpmath.mpf(float(log_volume)) - reference) / reference))


def directions(count: int, dimension: int, seed: int) -> Tensor:
    vectors = normal(count, dimension, seed=seed)
    return vectors / vectors.norm(dim=1, keepdim=True)


def lengths(count: int, seed: int) -> Tensor:
    """Edge lengths between 1e-6 and 1e6, both of them reached, in random order."""
    exponents = torch.linspace(-6, 6, count, dtype=torch.float64) if count > 1 else torch.tensor([6.0 - seed % 13])
    return 10.0 ** exponents.double()[torch.randperm(count, generator=seeded(seed))]


def star(k: int, dimension: int, seed: int) -> Tensor:
    """Edges of very different length from one vertex."""
    edges = directions(k, dimension, seed) * lengths(k, seed)[:, None]
    return torch.cat([torch.zeros(1, dimension, dtype=torch.float64), edges])


def path(k: int, dimension: int, seed: int) -> Tensor:
    """Edges of very different length, one after the other, beginning anywhere."""
    steps = directions(k, dimension, seed) * lengths(k, seed)[:, None]
    return torch.cat([normal(1, dimension, seed=seed + 1), steps]).cumsum(0)


def clusters(k: int, dimension: int, seed: int) -> Tensor:
    """Two clusters with edges of 1e-6, a distance of 1e6 apart."""
    near = directions(k + 1, dimension, seed) * 1e-6
    return near + 1e6 * directions(1, dimension, seed + 1) * (torch.arange(k + 1) % 2)[:, None]


def sliver(k: int, dimension: int, seed: int) -> Tensor:
    """All edges about 1e6 and all vertices within about 1e-6 of one line, so every height is tiny."""
    line = 1e6 * normal(k + 1, 1, seed=seed) * directions(1, dimension, seed + 1)
    return line + 1e-6 * normal(k + 1, dimension, seed=seed + 2)


# --- Volume


@pytest.mark.parametrize("layout", [star, path, clusters, sliver])
@pytest.mark.parametrize("k", range(1, 13))
def test_log_volume_equals_a_hundred_digit_reference(layout: Callable[[int, int, int], Tensor], k: int) -> None:
    for dimension in (k, k + 1, 150):
        vertices = layout(k, dimension, 100 * k + dimension)
        assert relative_error(simplex_log_volume(vertices), reference_log_volume(vertices)) < RELATIVE_ERROR


def test_log_volume_equals_the_reference_for_dense_weights_in_a_million_dimensions() -> None:
    vertices = star(3, 1_000_000, 0).float()
    blocks = vertices.split([1, 99_999, 32_768, 867_232], dim=1)
    assert relative_error(simplex_log_volume(blocks), reference_log_volume(vertices)) < RELATIVE_ERROR


def isometric_image(rows: Tensor) -> Iterator[Tensor]:
    """Rows of 16 numbers mapped isometrically, without rounding, into 2**20 dimensions; blocks are made on demand.

    The image is 65,536 copies of the rows times a Hadamard matrix, each with the columns in a random order and with
    random signs, over 2**10. So inner products are 16 * 65,536 / 2**20 = 1 times those of the rows.
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


@pytest.mark.parametrize("layout", [star, path, clusters])
def test_log_volume_equals_the_reference_for_twelve_dimensions_in_a_million(
    layout: Callable[[int, int, int], Tensor],
) -> None:
    rows = torch.round(layout(12, 16, 7) * 2**26) / 2**26
    assert relative_error(simplex_log_volume(isometric_image(rows)), reference_log_volume(rows)) < RELATIVE_ERROR


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_volume_is_that_of_the_vertices_as_stored(dtype: torch.dtype) -> None:
    vertices = normal(5, 300, seed=1).to(dtype)
    assert relative_error(simplex_log_volume(vertices), reference_log_volume(vertices)) < RELATIVE_ERROR


@pytest.mark.parametrize("step", [1e-6, -1e-6, 1e-13, -1e-13])
def test_log_volumes_close_to_zero_keep_their_relative_accuracy(step: float) -> None:
    vertices = torch.tensor([[0.0], [1.0 + step]], dtype=torch.float64)
    assert relative_error(simplex_log_volume(vertices), reference_log_volume(vertices)) < RELATIVE_ERROR


@pytest.mark.parametrize("log2_edge", [-400, 400])
def test_volumes_may_exceed_the_range_of_float64(log2_edge: int) -> None:
    vertices = torch.cat([torch.zeros(1, 9), torch.eye(9)]).double() * 2.0**log2_edge
    expected = 9 * log2_edge * math.log(2) - math.log(math.factorial(9))
    assert float(simplex_log_volume(vertices)) == pytest.approx(expected, rel=RELATIVE_ERROR)


def test_volumes_known_from_school() -> None:
    triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    corner = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    assert simplex_log_volume(triangle).exp() == pytest.approx(6.0, rel=RELATIVE_ERROR)
    assert simplex_log_volume(triangle[1:]).exp() == pytest.approx(4.0, rel=RELATIVE_ERROR)
    assert simplex_log_volume(corner).exp() == pytest.approx(1 / 6, rel=RELATIVE_ERROR)
    assert simplex_log_volume(triangle[:1]) == 0.0


def test_order_division_and_translation_change_no_bit_of_a_log_volume() -> None:
    vertices = normal(6, 70_000, seed=2).float()
    expected = simplex_log_volume(vertices)
    order = torch.randperm(70_000, generator=seeded(3))
    assert simplex_log_volume(vertices.flip(0)[:, order]) == expected
    assert simplex_log_volume(block for block in vertices.split(999, dim=1)) == expected
    assert (
        simplex_log_volume([vertices[:, :5].double(), vertices[:, 5:5], vertices[:, 5:].requires_grad_()]) == expected
    )
    # Between 2**25 and 2**26, a float64 holds all bits of a sum with a multiple of 2**-27.
    rounded = (vertices.double() * 2**27).round() / 2**27
    assert simplex_log_volume(rounded + 2.0**25) == simplex_log_volume(rounded)


def test_vertices_far_from_the_origin_are_summed_without_rounding() -> None:
    # The largest digits there are, all of one sign, in as many columns as are summed at once.
    near = torch.randint(2, (4, 2**16), generator=seeded(13)).double()
    for power in (20, 40, 53):
        assert simplex_log_volume(near - (2.0**power - 1)) == simplex_log_volume(near)


def test_bits_below_the_range_are_left_out_and_values_beyond_it_refused() -> None:
    triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert simplex_log_volume(triangle + 2.0**-1020 * torch.eye(3, 2)) == simplex_log_volume(triangle)
    assert simplex_log_volume(triangle * 2.0**-1060) == -math.inf
    with pytest.raises(ValueError, match=r"at most 2\*\*1000, got 4e\+304"):
        simplex_log_volume(triangle * 1e304)


def test_flat_simplexes_have_log_volume_minus_infinity() -> None:
    flat = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 2.0], [3.0, 6.0, 4.0]])
    repeated = normal(4, 50, seed=4)[[0, 1, 2, 1]]
    too_many = normal(4, 2, seed=5)
    for vertices in (flat, repeated, too_many, torch.zeros(2, 3), torch.zeros(3, 0)):
        assert simplex_log_volume(vertices) == -math.inf
    nearly_flat = flat.double()
    nearly_flat[2, 2] += 2.0**-50
    assert relative_error(simplex_log_volume(nearly_flat), reference_log_volume(nearly_flat)) < RELATIVE_ERROR


def test_the_log_volumes_of_a_complex_are_those_of_its_simplexes() -> None:
    complex = SimplicialComplex(7, ((4, 0, 2), (4, 3), (5, 1, 3, 0), (6,)))
    vertices = normal(7, 50, seed=6)
    volumes = simplex_log_volumes(complex, vertices.split(20, dim=1))
    assert volumes.tolist() == [float(simplex_log_volume(vertices[list(simplex)])) for simplex in complex.simplexes]


def test_the_volume_of_a_complex_is_the_sum_over_its_simplexes() -> None:
    volumes = torch.tensor([3.0, 5.0, 0.0], dtype=torch.float64)
    assert complex_log_volume(volumes.log() - 2000.0) == pytest.approx(math.log(8.0) - 2000.0, rel=1e-15)
    assert complex_log_volume(torch.tensor([-math.inf, -math.inf])) == -math.inf
    with pytest.raises(ValueError, match="at least one simplex"):
        complex_log_volume(torch.zeros(0))


def test_what_has_no_volume_is_refused() -> None:
    with pytest.raises(TypeError, match=r"floating-point tensors \[vectors, block size\], got torch.int64"):
        simplex_log_volume(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="got list"):
        simplex_log_volume([[0.0, 1.0]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"got shape \[3\]"):
        simplex_log_volume(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one block of vectors, got none"):
        simplex_log_volume([])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        simplex_log_volume(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"one row for each of 3 vertices, got \[2, 4\]"):
        simplex_log_volume([torch.zeros(3, 4), torch.zeros(2, 4)])
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            simplex_log_volume(torch.tensor([[0.0, 1.0], [value, 0.0]]))


@pytest.mark.parametrize("k", range(13))
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


# --- Inner products, height and gradient


def test_gram_matrices_add_up_over_blocks() -> None:
    left, right = normal(3, 70_000, seed=7), normal(2, 70_000, seed=8).float()
    expected = left @ right.double().T
    torch.testing.assert_close(gram_matrix(left, right), expected, rtol=1e-12, atol=1e-12)
    blocks = gram_matrix(left.split(30_001, dim=1), iter(right.split(30_001, dim=1)))
    torch.testing.assert_close(blocks, expected, rtol=1e-12, atol=1e-12)
    assert gram_matrix(torch.zeros(0, 5), right[:, :5]).shape == (0, 2)


def test_gram_matrices_refuse_blocks_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"same blocks, got shapes \[2, 5\] and \[2, 4\]"):
        gram_matrix(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"same blocks, got shapes \[2, 5\] and None"):
        gram_matrix([torch.zeros(2, 5)] * 2, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"expected inner products \[2, 2\] as in the first block, got \[2, 3\]"):
        gram_matrix([torch.zeros(2, 5)] * 2, [torch.zeros(2, 5), torch.zeros(3, 5)])
    with pytest.raises(ValueError, match="at least one block"):
        gram_matrix([], [])


def height_and_gradient(face: Tensor, vertex: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Squared height, log volume and its gradient with respect to the vertex, all from inner products."""
    edges, offset = face[1:] - face[0], vertex - face.mean(0)
    height_squared, projection = height_over_face(
        gram_matrix(edges, edges), gram_matrix(edges, offset[None])[:, 0], offset @ offset
    )
    log_volume = log_volume_with_floor(simplex_log_volume(face), height_squared, floor, len(face))
    offset_coefficient, edge_coefficients = log_height_gradient(height_squared, projection, floor)
    return height_squared, log_volume, offset_coefficient * offset + edge_coefficients @ edges


@pytest.mark.parametrize("k", range(1, 9))
def test_face_times_height_over_k_is_the_volume(k: int) -> None:
    for dimension in (k, 1000):
        vertices = normal(k + 1, dimension, seed=k)
        _, log_volume, _ = height_and_gradient(vertices[:-1], vertices[-1], floor=0.0)
        assert log_volume == pytest.approx(float(simplex_log_volume(vertices)), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("k", range(1, 13))
def test_the_incremental_form_is_the_full_form_up_to_the_squared_ratio_of_longest_edge_to_height(
    k: int, scale: float
) -> None:
    # Inner products are rounded relative to the longest edge, and the squared height is what is left of them.
    for span in (1.0, 10.0, 1000.0):
        stretches = torch.logspace(0, math.log10(span), k, dtype=torch.float64)[torch.randperm(k, generator=seeded(k))]
        vertices = scale * torch.cat([torch.zeros(1, 1000).double(), directions(k, 1000, k) * stretches[:, None]])
        height_squared, log_volume, _ = height_and_gradient(vertices[:-1], vertices[-1], floor=0.0)
        expected = float(simplex_log_volume(vertices))
        ratio_squared = float(torch.cdist(vertices, vertices).max()) ** 2 / float(height_squared)
        bound = 200 * torch.finfo(torch.float64).eps * ratio_squared
        assert bound < 1e-6
        assert log_volume == pytest.approx(expected, rel=1e-14, abs=bound)


def test_the_height_is_right_over_faces_with_very_different_edges() -> None:
    face = star(4, 50, 9)
    vertex = normal(50, seed=10)
    _, log_volume, _ = height_and_gradient(face, vertex, floor=0.0)
    # The offset is measured from the mean of the face, 1e5 away: 1e-16 * (1e5)**2 of the squared height is lost.
    expected = float(simplex_log_volume(torch.cat([face, vertex[None]])))
    assert log_volume == pytest.approx(expected, abs=1e-5)


def test_what_the_projection_leaves_is_perpendicular_to_the_face() -> None:
    edges, offset = normal(4, 30, seed=11), normal(30, seed=12)
    height_squared, projection = height_over_face(edges @ edges.T, edges @ offset, offset @ offset)
    perpendicular = offset - projection @ edges
    torch.testing.assert_close(edges @ perpendicular, torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(height_squared, perpendicular @ perpendicular, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_gradient_equals_central_differences(k: int, floor: float) -> None:
    vertices = normal(k + 1, 9, seed=20 + k)
    face, vertex = vertices[:-1], vertices[-1]
    _, _, gradient = height_and_gradient(face, vertex, floor)
    step = 1e-5
    for coordinate, direction in enumerate(torch.eye(9, dtype=torch.float64)):
        _, above, _ = height_and_gradient(face, vertex + step * direction, floor)
        _, below, _ = height_and_gradient(face, vertex - step * direction, floor)
        assert gradient[coordinate] == pytest.approx(float(above - below) / (2 * step), abs=1e-7)


def test_the_gradient_without_floor_is_that_of_the_exact_log_volume() -> None:
    vertices = normal(5, 8, seed=30)
    _, _, gradient = height_and_gradient(vertices[:-1], vertices[-1], floor=0.0)
    direction, step = torch.zeros(5, 8, dtype=torch.float64), 1e-5
    direction[-1] = normal(8, seed=31)
    change = simplex_log_volume(vertices + step * direction) - simplex_log_volume(vertices - step * direction)
    assert gradient @ direction[-1] == pytest.approx(float(change) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("k", range(1, 6))
def test_a_vertex_at_the_mean_of_its_face_has_a_finite_log_volume_and_gradient(k: int) -> None:
    face, floor = normal(k, 200, seed=40 + k), 1e-3
    height_squared, log_volume, gradient = height_and_gradient(face, face.mean(0), floor)
    assert height_squared == 0.0
    expected = float(simplex_log_volume(face)) + math.log(floor) - math.log(k)
    assert log_volume == pytest.approx(expected, abs=1e-12)
    assert torch.equal(gradient, torch.zeros(200, dtype=torch.float64))


def test_at_height_zero_without_floor_the_gradient_is_zero_and_the_log_volume_minus_infinity() -> None:
    face = normal(3, 20, seed=50)
    _, log_volume, gradient = height_and_gradient(face, face.mean(0), floor=0.0)
    assert log_volume == -math.inf
    assert torch.equal(gradient, torch.zeros(20, dtype=torch.float64))


def test_the_gradient_is_never_longer_than_half_the_inverse_floor() -> None:
    face, floor = normal(3, 20, seed=51), 1e-3
    away = normal(20, seed=52)
    edges = face[1:] - face[0]
    away -= torch.linalg.lstsq(edges.T, away[:, None]).solution[:, 0] @ edges
    away /= away.norm()
    norms = []
    for height in (0.0, 1e-9, 1e-4, 1e-3, 1e-2, 1.0):
        _, _, gradient = height_and_gradient(face, face.mean(0) + height * away, floor)
        norms.append(float(gradient.norm()))
        assert norms[-1] == pytest.approx(height / (height**2 + floor**2), rel=1e-6)
    assert max(norms) <= 0.5 / floor * (1 + 1e-6)


def test_repeated_and_dependent_face_vertices_leave_the_height_over_the_rest() -> None:
    vertices = normal(4, 40, seed=60)
    expected, _, _ = height_and_gradient(vertices[:3], vertices[3], floor=0.1)
    dependent = vertices[:3].mean(0, keepdim=True)
    for extra in (vertices[:1], vertices[1:2], dependent, torch.cat([vertices[:3], dependent])):
        face = torch.cat([vertices[:3], extra])
        height_squared, log_volume, gradient = height_and_gradient(face, vertices[3], floor=0.1)
        assert height_squared == pytest.approx(float(expected), rel=1e-10)
        assert log_volume.isfinite() and gradient.isfinite().all()


def test_a_vertex_on_coinciding_vertices_still_has_a_finite_log_volume_and_gradient() -> None:
    face = normal(1, 10, seed=61).expand(3, 10)
    height_squared, log_volume, gradient = height_and_gradient(face, face[0], floor=1e-4)
    assert height_squared < 1e-30
    regular_face = float(regular_simplex_log_volume(2, math.log(1e-4)))
    assert log_volume == pytest.approx(regular_face + math.log(1e-4) - math.log(3), abs=1e-12)
    assert gradient.norm() < 1e-6


def test_the_squared_height_is_never_negative() -> None:
    for seed in range(50):
        face = 100.0 * normal(4, 30, seed=seed)
        weights = sample_simplex(4, 1, seeded(seed))[0]
        height_squared, _, _ = height_and_gradient(face, weights @ face, floor=0.0)
        assert 0.0 <= height_squared < 1e-8


def test_heights_refuse_what_makes_no_sense() -> None:
    one = torch.ones((), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"got shapes \[2, 2\], \[3\] and \[\]"):
        height_over_face(torch.eye(2), torch.zeros(3), one)
    for floor in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="floor of the height must be 0 or more"):
            log_volume_with_floor(0.0, one, floor, 1)
        with pytest.raises(ValueError, match="floor of the height must be 0 or more"):
            log_height_gradient(one, torch.zeros(0), floor)
    with pytest.raises(ValueError, match="dimension 1 or more"):
        log_volume_with_floor(0.0, one, 1.0, 0)


# --- Uniformity


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
        yield from (centroid_coordinates(CONNECTED, 1), vertex_coordinates(CONNECTED, 3))
        yield from (edge_coordinates(CONNECTED, 0, 2, 3), face_coordinates(CONNECTED, [0, 2, 3], 2))

    expected = list(draw())
    # Another default device, here one that holds no values at all, is what an accelerator would be.
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


# --- Coordinates


def test_coordinates_of_a_vertex_and_of_a_centroid() -> None:
    assert vertex_coordinates(CONNECTED, 2).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert centroid_coordinates(CONNECTED, 1).tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])
    assert centroid_coordinates(SimplicialComplex(2, ((0, 1),))).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="There is no vertex 4"):
        vertex_coordinates(CONNECTED, 4)
    with pytest.raises(ValueError, match="There is no simplex 2"):
        centroid_coordinates(CONNECTED, 2)
    with pytest.raises(ValueError, match=r"2 simplexes has no single centroid.* Choose a simplex, 0 to 1"):
        centroid_coordinates(CONNECTED)


def test_an_edge_runs_straight_from_one_vertex_to_the_other() -> None:
    line = edge_coordinates(CONNECTED, 3, 0, 5)
    assert line[:, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert line[:, 3].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert not line[:, [1, 2]].any()
    validate_coordinates(edge_coordinates(CONNECTED, 1, 2, 7), CONNECTED, tolerance=1e-15)
    with pytest.raises(ValueError, match=r"Vertices \[0, 1\] share no simplex"):
        edge_coordinates(CONNECTED, 0, 1, 5)
    with pytest.raises(ValueError, match=r"each once, got \[2, 2\]"):
        edge_coordinates(CONNECTED, 2, 2, 5)
    with pytest.raises(ValueError, match="num_points=1"):
        edge_coordinates(CONNECTED, 0, 2, 1)


def test_a_face_is_covered_by_a_regular_lattice() -> None:
    lattice = face_coordinates(CONNECTED, [3, 0, 2], 4)
    points = {tuple(row) for row in (4 * lattice).tolist()}
    assert len(lattice) == 15
    assert points == {(a, 0.0, b, 4.0 - a - b) for a in range(5) for b in range(5 - a)}
    assert lattice[0].tolist() == [0.0, 0.0, 0.0, 1.0] and lattice[-1].tolist() == [0.0, 0.0, 1.0, 0.0]
    validate_coordinates(face_coordinates(CONNECTED, [1, 2, 3], 7), CONNECTED, tolerance=1e-15)
    with pytest.raises(ValueError, match=r"Vertices \[0, 1, 2\] share no simplex"):
        face_coordinates(CONNECTED, [0, 1, 2], 4)
    with pytest.raises(ValueError, match="at least one vertex"):
        face_coordinates(CONNECTED, [], 4)
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        face_coordinates(CONNECTED, [0, 2], 0)


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        (torch.ones(4) / 4, r"shape \[points, 4\], .* got \[4\]"),
        (torch.ones(1, 3) / 3, r"shape \[points, 4\], .* got \[1, 3\]"),
        (torch.tensor([[1.0, 0.0, 0.0, 0.0], [math.nan, 0.0, 0.0, 1.0]]), "point 1 are not all finite"),
        (torch.tensor([[math.inf, 0.0, -math.inf, 1.0]]), "point 0 are not all finite"),
        (torch.tensor([[1.5, 0.0, -0.5, 0.0]]), "point 0 must not be negative, got -0.5"),
        (torch.tensor([[0.5, 0.0, 0.25, 0.0]]), "point 0 must sum to 1, got 0.75"),
        (torch.tensor([[0.5, 0.5, 0.0, 0.0]]), r"Point 0.* outside the complex: .* vertices \[0, 1\]"),
        (torch.full((1, 4), 0.25), r"no simplex holds all of the vertices \[0, 1, 2, 3\]"),
    ],
)
def test_what_is_no_point_of_the_complex_is_named(coordinates: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_coordinates(coordinates, CONNECTED)


def test_coordinates_may_be_off_by_the_tolerance() -> None:
    off = torch.tensor([[0.5, 4e-7, 0.5, -4e-7]], dtype=torch.float64)
    validate_coordinates(off, CONNECTED)
    validate_coordinates(sample_complex(CONNECTED, 50, sampling="equal").float(), CONNECTED)
    with pytest.raises(ValueError, match="must not be negative"):
        validate_coordinates(off, CONNECTED, tolerance=1e-7)
