"""Interpolation on a lattice is linear, exact at the points, and continuous."""

import math

import pytest
import torch

from hf_simplex.explorer.lattice import lattice_points, lattice_weights


@pytest.mark.parametrize("corners", [1, 2, 3, 4])
@pytest.mark.parametrize("resolution", [1, 3, 8])
def test_interpolation_of_a_linear_function_is_exact(corners: int, resolution: int) -> None:
    points = lattice_points(corners, resolution)
    assert len(set(points)) == len(points) == math.comb(resolution + corners - 1, corners - 1)
    assert all(sum(point) == resolution for point in points)
    slopes = torch.arange(corners, dtype=torch.float64) ** 2 + 1
    for shares in torch.distributions.Dirichlet(torch.ones(corners)).sample((50,)).double():
        shares = shares / shares.sum()
        weights = lattice_weights(shares.tolist(), resolution)
        assert len(weights) <= corners and set(weights) <= set(points)
        assert sum(weights.values()) == pytest.approx(1) and min(weights.values()) > 0
        found = sum(
            weight * float(torch.tensor(point) / resolution @ slopes.float()) for point, weight in weights.items()
        )
        assert found == pytest.approx(float(shares @ slopes), abs=1e-5)


def test_a_lattice_point_is_its_own_neighbour() -> None:
    for point in lattice_points(3, 6):
        assert lattice_weights([count / 6 for count in point], 6) == {point: 1.0}


def test_what_is_no_point_is_refused() -> None:
    for shares in ([0.5, 0.6], [-0.1, 1.1], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="shares of 0 or more"):
            lattice_weights(shares, 4)
