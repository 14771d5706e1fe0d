"""Members are points of the complex, the same for the same seed, and spread over all simplexes."""

import pytest
import torch

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.coordinates import validate_coordinates
from hf_simplex.model.members import draw_members, place_members, symmetric_members

TWO = SimplicialComplex(5, [[0, 1, 2], [3, 4]])


def test_the_same_seed_draws_the_same_members_and_another_seed_others() -> None:
    assert draw_members(TWO, 6, seed=3) == draw_members(TWO, 6, seed=3)
    assert draw_members(TWO, 6, seed=3) != draw_members(TWO, 6, seed=4)


def test_members_alternate_between_the_simplexes_and_lie_within() -> None:
    coordinates = torch.tensor(draw_members(TWO, 7, seed=0), dtype=torch.float64)
    validate_coordinates(coordinates, TWO)
    assert ((coordinates[:, :3].sum(1) > 0.5) == torch.tensor([True, False] * 3 + [True])).all()


def test_a_seed_means_these_members_on_every_machine() -> None:
    expected = [
        [0.707819864399788, 0.2622331374067651, 0.029946998193446928, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.45938294312745087, 0.5406170568725491],
    ]
    for member, values in zip(draw_members(TWO, 2, seed=0), expected, strict=True):
        assert member == pytest.approx(values, abs=1e-15)


def test_volume_sampling_prefers_the_larger_simplex() -> None:
    structure = SimplicialComplex(4, [[0, 1], [2, 3]])
    drawn = draw_members(structure, 500, seed=0, sampling="volume", log_volumes=torch.tensor([9.0, 1.0]).log())
    assert 420 < sum(member[0] > 0 for member in drawn) < 480


@pytest.mark.parametrize(("number", "message"), [(0, "at least one member"), (1, "spread over 2 simplexes")])
def test_too_few_members_are_refused(number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_members(TWO, number, seed=0)


@pytest.mark.parametrize("vertices", [1, 2, 3, 4, 7])
def test_the_mean_over_symmetric_members_is_exact_for_quadratic_functions(vertices: int) -> None:
    structure = SimplicialComplex(vertices, [list(range(vertices))])
    members = torch.tensor(symmetric_members(structure), dtype=torch.float64)
    validate_coordinates(members, structure)
    assert len(members) == vertices
    # The flat Dirichlet distribution has E[c_i c_j] = (1 + [i = j]) / (n (n + 1)) and, by symmetry, E[c_i] = 1 / n.
    second = (torch.ones(vertices, vertices) + torch.eye(vertices)) / (vertices * (vertices + 1))
    assert torch.allclose(members.T @ members / vertices, second.double(), atol=1e-12)
    assert torch.allclose(members.mean(0), torch.full((vertices,), 1 / vertices, dtype=torch.float64), atol=1e-12)


def test_symmetric_members_reach_every_simplex() -> None:
    coordinates = torch.tensor(symmetric_members(TWO), dtype=torch.float64)
    validate_coordinates(coordinates, TWO)
    assert (coordinates[:3, :3] > 0).all() and (coordinates[3:, 3:] > 0).all() and len(coordinates) == 5


def test_rules_place_members_at_vertices_and_centroids() -> None:
    shared = SimplicialComplex(3, [[0, 1], [1, 2]])
    vertices = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    centroids = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    assert place_members(shared, "vertices") == vertices
    assert place_members(shared, "centroid") == centroids
    # A point of two simplexes is one member.
    assert place_members(shared) == [*vertices[:2], centroids[0], vertices[2], centroids[1]]
    assert place_members(SimplicialComplex(1, [[0]])) == [[1.0]]
    assert place_members(shared, "symmetric") == symmetric_members(shared)
    with pytest.raises(ValueError, match="'random': choose from vertices_and_centroid, vertices"):
        place_members(shared, "random")
