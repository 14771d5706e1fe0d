"""Vertices, centroids and lattices have the coordinates they should, and invalid coordinates are named."""

import math

import pytest
import torch
from torch import Tensor

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.coordinates import (
    centroid_coordinates,
    face_coordinates,
    validate_coordinates,
    vertex_coordinates,
)

CONNECTED = SimplicialComplex(4, ((0, 2, 3), (1, 2, 3)))


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


def test_a_lattice_over_an_edge_runs_straight_from_one_vertex_to_the_other() -> None:
    line = face_coordinates(CONNECTED, [3, 0], 4)
    assert line[:, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert line[:, 3].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert not line[:, [1, 2]].any()


def test_a_face_is_covered_by_a_regular_lattice() -> None:
    lattice = face_coordinates(CONNECTED, [3, 0, 2], 4)
    points = {tuple(row) for row in (4 * lattice).tolist()}
    assert len(lattice) == 15
    assert points == {(a, 0.0, b, 4.0 - a - b) for a in range(5) for b in range(5 - a)}
    assert lattice[0].tolist() == [0.0, 0.0, 0.0, 1.0] and lattice[-1].tolist() == [0.0, 0.0, 1.0, 0.0]
    validate_coordinates(face_coordinates(CONNECTED, [1, 2, 3], 7), CONNECTED, tolerance=1e-15)
    with pytest.raises(ValueError, match=r"Vertices \[0, 1, 2\] share no simplex"):
        face_coordinates(CONNECTED, [0, 1, 2], 4)
    with pytest.raises(ValueError, match=r"each once, got \[2, 2\]"):
        face_coordinates(CONNECTED, [2, 2], 4)
    with pytest.raises(ValueError, match="at least one vertex"):
        face_coordinates(CONNECTED, [], 4)
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        face_coordinates(CONNECTED, [0, 2], 0)


def test_coordinates_are_on_the_cpu_whatever_the_default_device() -> None:
    # The meta device stands for an accelerator.
    with torch.device("meta"):
        found = [centroid_coordinates(CONNECTED, 1), vertex_coordinates(CONNECTED, 3)]
        found.append(face_coordinates(CONNECTED, [0, 2, 3], 2))
    assert all(coordinates.device.type == "cpu" for coordinates in found)


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
    validate_coordinates(torch.tensor([[0.7, 0.0, 0.2, 0.1]]), CONNECTED)
    with pytest.raises(ValueError, match="must not be negative"):
        validate_coordinates(off, CONNECTED, tolerance=1e-7)
