"""Points of loss surfaces: positions are distances in weight space, and grids and lattices are regular."""

import math

import pytest
import torch
from networks import NAMES, TRIANGLE, VOLUME, flat, weights

from hf_simplex.evaluation.surface_points import SurfacePoints, complex_points, face_points, plane_points
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_complex


def test_distances_in_the_plane_are_distances_in_weight_space() -> None:
    vertices = weights(4)
    points = plane_points(VOLUME, vertices, NAMES, vertices=(3, 0, 1), resolution=7)
    assert points.coordinates.shape == (49, 4) and bool((points.coordinates[:, 2] == 0).all())
    where, corners = points.coordinates @ flat(vertices), flat(vertices)[[3, 0, 1]]
    expected = torch.cdist(torch.cat([corners, where]), torch.cat([corners, where]))
    drawn = torch.cat([points.vertex_positions, points.positions])
    assert torch.allclose(torch.cdist(drawn, drawn), expected, rtol=1e-9, atol=1e-6)
    assert points.vertex_positions[0].tolist() == [0, 0] and points.vertex_positions[1, 1] == 0
    assert points.vertex_positions[2, 1] > 0


def test_the_grid_is_regular_and_reaches_beyond_the_triangle_by_the_margin() -> None:
    points = plane_points(TRIANGLE, weights(3), NAMES, resolution=5, margin=0.25)
    low, high = points.vertex_positions.amin(0), points.vertex_positions.amax(0)
    border = 0.25 * (high - low).max()
    assert torch.allclose(points.positions.amin(0), low - border)
    assert torch.allclose(points.positions.amax(0), high + border)
    for axis in (0, 1):
        steps = points.positions[:, axis].unique().diff()
        assert len(steps) == 4 and torch.allclose(steps, steps[0])
    assert points.coordinates.min() < 0
    assert torch.allclose(points.coordinates.sum(1), torch.ones(25, dtype=torch.float64))


def test_without_a_margin_the_first_two_vertices_are_points_of_the_grid() -> None:
    vertices = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])]
    points = plane_points(TRIANGLE, vertices, ["w"], resolution=5, margin=0.0)
    assert points.positions[0].tolist() == [0, 0] and points.coordinates[0].tolist() == [1, 0, 0]
    assert points.positions[4].tolist() == [4, 0] and points.coordinates[4].tolist() == [0, 1, 0]
    assert points.coordinates[21] == pytest.approx([0, 0, 1])


def test_a_face_holds_its_lattice_and_lies_flat_without_distortion() -> None:
    vertices = weights(4)
    points = face_points(VOLUME, vertices, NAMES, vertices=(3, 1, 2), resolution=4)
    assert len(points.coordinates) == 15 and points.coordinates.min() == 0
    where = points.coordinates @ flat(vertices)
    assert torch.allclose(torch.cdist(points.positions, points.positions), torch.cdist(where, where), atol=1e-6)


def test_a_flat_face_is_a_face_all_the_same() -> None:
    first, second = weights(2)
    vertices = [first, second, {name: (first[name] + second[name]) / 2 for name in NAMES}]
    points = face_points(TRIANGLE, vertices, NAMES, vertices=(0, 1, 2), resolution=3)
    assert bool(points.positions.isfinite().all())
    assert float(points.positions[:, 1].abs().max()) < 1e-5 * float(points.positions[:, 0].max())


def test_up_to_four_vertices_keep_all_their_distances_on_principal_axes() -> None:
    vertices = weights(4)
    coordinates = sample_complex(VOLUME, 10, sampling="equal", generator=torch.Generator().manual_seed(0))
    points = complex_points(VOLUME, vertices, NAMES, coordinates)
    corners = flat(vertices)
    assert torch.allclose(torch.cdist(points.vertex_positions, points.vertex_positions), torch.cdist(corners, corners))
    assert torch.allclose(points.vertex_positions.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert float(points.axis_shares.sum()) == pytest.approx(1)
    variances = points.vertex_positions.square().sum(0)
    assert torch.allclose(variances / variances.sum(), points.axis_shares)
    assert bool((points.axis_shares.diff() <= 0).all())
    assert torch.allclose(points.positions, coordinates @ points.vertex_positions)


def test_more_vertices_are_projected_and_the_shares_say_what_is_lost() -> None:
    structure = SimplicialComplex(6, [[0, 1, 2, 3, 4, 5]])
    points = complex_points(structure, weights(6), NAMES)
    centred = flat(weights(6)) - flat(weights(6)).mean(0)
    singular = torch.linalg.svdvals(centred).square()
    assert torch.allclose(points.axis_shares, singular[:3] / singular.sum())
    assert points.axis_shares.sum() < 0.99 and points.positions.shape == (0, 3)


def test_other_principal_axes_show_what_the_leading_ones_hide() -> None:
    structure = SimplicialComplex(6, [[0, 1, 2, 3, 4, 5]])
    leading, others = (complex_points(structure, weights(6), NAMES, axes=axes) for axes in ((0, 1, 2), (2, 0, 4)))
    assert torch.equal(others.vertex_positions[:, :2], leading.vertex_positions[:, [2, 0]])
    centred = flat(weights(6)) - flat(weights(6)).mean(0)
    singular = torch.linalg.svdvals(centred).square()
    assert torch.allclose(others.axis_shares, singular[[2, 0, 4]] / singular.sum())
    beyond = complex_points(structure, weights(6), NAMES, axes=(0, 1, 7))
    assert not beyond.vertex_positions[:, 2].any() and beyond.axis_shares[2] == 0
    for axes in ((0, 1, 1), (0, 1, -1)):
        with pytest.raises(ValueError, match="three different principal axes"):
            complex_points(structure, weights(6), NAMES, axes=axes)


@pytest.mark.parametrize(
    ("vertices", "message"),
    [((0, 1), "three vertices, got 2"), ((0, 1, 1), "Vertex 1 is repeated"), ((0, 1, 9), "no vertex 9")],
)
def test_a_plane_needs_three_different_vertices(vertices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plane_points(TRIANGLE, weights(3), NAMES, vertices=vertices)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, -1.7])
def test_vertices_on_one_line_span_no_plane(share: float) -> None:
    first, second = weights(2)
    # In float32, whose rounding makes the line not quite straight.
    third = {name: first[name] + share * (second[name] - first[name]) for name in NAMES}
    with pytest.raises(ValueError, match="lie on one line"):
        plane_points(TRIANGLE, [first, second, third], NAMES)
    with pytest.raises(ValueError, match="lie on one line"):
        plane_points(TRIANGLE, [third, second, first], NAMES)


def test_a_mode_given_twice_spans_no_plane() -> None:
    first, second = weights(2)
    for vertices in ([first, first, second], [first, second, first], [second, first, first], [first] * 3):
        with pytest.raises(ValueError, match="two of them are the same"):
            plane_points(TRIANGLE, vertices, NAMES)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    vertices = weights(3)
    vertices[1]["0.bias"][2] = value
    with pytest.raises(ValueError, match=r"Vertex 1 has weights that are not finite, in '0\.bias'"):
        plane_points(TRIANGLE, vertices, NAMES)


def test_bad_arguments_are_named() -> None:
    vertices = weights(3)
    for arguments, message in (({"resolution": 1}, "at least 2, got 1"), ({"margin": -0.1}, "finite, got -0.1")):
        with pytest.raises(ValueError, match=message):
            plane_points(TRIANGLE, vertices, NAMES, **arguments)
    points = plane_points(VOLUME, weights(4), NAMES, vertices=(0, 1, 3), resolution=3)
    with pytest.raises(ValueError, match="do not match"):
        SurfacePoints(
            "plane",
            TRIANGLE,
            points.vertices,
            points.vertex_positions,
            points.coordinates,
            points.positions,
            points.axis_shares,
        )
