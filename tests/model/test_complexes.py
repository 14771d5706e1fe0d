"""What a simplicial complex is, and how one grows."""

import dataclasses
import json
import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_simplex.model.complexes import SimplicialComplex

TRIANGLE = SimplicialComplex(3, ((0, 1, 2),))
# Two modes, 0 and 1, that share the connectors 2 and 3.
CONNECTED = SimplicialComplex(4, ((0, 2, 3), (1, 2, 3)))


@st.composite
def complexes(draw: st.DrawFn) -> SimplicialComplex:
    """Any valid complex of up to 7 vertices: the maximal ones among random vertex sets, in random order."""
    num_vertices = draw(st.integers(1, 7))
    vertex_sets = draw(st.sets(st.frozensets(st.integers(0, num_vertices - 1), min_size=1), max_size=6))
    vertex_sets |= {frozenset([vertex]) for vertex in range(num_vertices)}
    maximal = sorted(sorted(one) for one in vertex_sets if not any(one < other for other in vertex_sets))
    simplexes = [tuple(draw(st.permutations(simplex))) for simplex in draw(st.permutations(maximal))]
    return SimplicialComplex(num_vertices, tuple(simplexes))


def some_complexes(test: Any) -> Any:
    return settings(max_examples=60, deadline=None, derandomize=True, database=None)(given(complexes())(test))


def test_lists_become_tuples_and_the_order_of_vertices_is_kept() -> None:
    complex = SimplicialComplex(4, [[3, 0], [2, 1, 0]])  # type: ignore[arg-type]
    assert complex.simplexes == ((3, 0), (2, 1, 0))
    assert complex == SimplicialComplex(4, ((3, 0), (2, 1, 0)))
    assert hash(complex) == hash(SimplicialComplex(4, ((3, 0), (2, 1, 0))))


def test_a_complex_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRIANGLE.num_vertices = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("num_vertices", "simplexes", "message"),
    [
        (0, [[0]], "num_vertices must be at least 1, got 0"),
        (2, [], "at least one simplex"),
        (2, [[0, 1], []], "Simplex 1 is empty"),
        (3, [[0, 1, 2, 1]], r"Simplex 0, \[0, 1, 2, 1\], holds vertex 1 more than once"),
        (3, [[0, 1], [1, 3]], r"Simplex 1, \[1, 3\], holds vertex 3, but the 3 vertices are numbered 0 to 2"),
        (3, [[0, 1, -1]], r"Simplex 0, \[0, 1, -1\], holds vertex -1"),
        (3, [[0, 1, 2], [2, 0, 1]], r"Simplexes 0, \[0, 1, 2\], and 1, \[2, 0, 1\], are the same"),
        (3, [[0, 1, 2], [2, 0]], r"Simplex 1, \[2, 0\], is a face of simplex 0, \[0, 1, 2\]"),
        (3, [[1], [0, 1, 2]], r"Simplex 0, \[1\], is a face of simplex 1, \[0, 1, 2\]"),
        (5, [[0, 1], [1, 4]], r"Vertices \[2, 3\] belong to no simplex"),
    ],
)
def test_a_broken_structure_is_named(num_vertices: int, simplexes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplicialComplex(num_vertices, simplexes)


@pytest.mark.parametrize(
    ("num_vertices", "simplexes", "message"),
    [
        (2, [[0, 1.0]], "every vertex of simplex 0 must be an integer, got 1.0 of type float"),
        (2, [[0], ["1"]], "every vertex of simplex 1 must be an integer, got '1'"),
        (2, [[False, True]], "got the boolean False"),
        (2.0, [[0, 1]], "num_vertices must be an integer, got 2.0"),
        (2, [0, 1], "simplex 0 must be a sequence, got 0 of type int"),
        (2, ["01"], "simplex 0 must be a sequence, got '01'"),
        (2, None, "simplexes must be a sequence, got None"),
    ],
)
def test_only_integers_number_vertices(num_vertices: Any, simplexes: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SimplicialComplex(num_vertices, simplexes)


@some_complexes
def test_json_gives_the_complex_back(complex: SimplicialComplex) -> None:
    assert SimplicialComplex.from_json(json.loads(json.dumps(complex.to_json()))) == complex


@pytest.mark.parametrize("data", [{"num_vertices": 1}, {"num_vertices": 1, "simplexes": [[0]], "edges": []}])
def test_json_with_other_keys_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="written with the keys"):
        SimplicialComplex.from_json(data)


def test_dimension_is_one_less_than_the_number_of_vertices() -> None:
    complex = SimplicialComplex(5, ((0, 1, 2), (2, 3), (4,)))
    assert [complex.dimension(simplex) for simplex in range(3)] == [2, 1, 0]
    for simplex in (-1, 3):
        with pytest.raises(ValueError, match=f"There is no simplex {simplex}: the complex has 3"):
            complex.dimension(simplex)


def test_a_star_is_every_simplex_that_holds_the_vertex() -> None:
    assert [CONNECTED.simplexes_with(vertex) for vertex in range(4)] == [[0], [1], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="There is no vertex 4: the complex has 4"):
        CONNECTED.simplexes_with(4)


def test_only_vertices_of_one_simplex_are_held_together() -> None:
    assert CONNECTED.holds([2, 0])
    assert CONNECTED.holds([])
    assert not CONNECTED.holds([0, 1])
    with pytest.raises(ValueError, match="There is no vertex 9"):
        CONNECTED.holds([9])


def test_growing_from_one_mode_gives_one_simplex() -> None:
    complex = SimplicialComplex(1, ((0,),))
    for _ in range(3):
        complex = complex.with_vertex()
    assert complex == SimplicialComplex(4, ((0, 1, 2, 3),))


def test_a_connector_joins_all_simplexes_or_the_chosen_ones() -> None:
    modes = SimplicialComplex(3, ((0,), (1,), (2,)))
    assert modes.with_vertex().simplexes == ((0, 3), (1, 3), (2, 3))
    assert modes.with_vertex([2, 0]).simplexes == ((0, 3), (1,), (2, 3))
    assert SimplicialComplex(2, ((0,), (1,))).with_vertex().with_vertex() == CONNECTED


def test_a_new_vertex_must_join_simplexes_that_exist_and_each_once() -> None:
    with pytest.raises(ValueError, match="must join at least one simplex"):
        CONNECTED.with_vertex([])
    with pytest.raises(ValueError, match="There is no simplex 2"):
        CONNECTED.with_vertex([2])
    with pytest.raises(ValueError, match="Simplex 1 is chosen more than once"):
        CONNECTED.with_vertex([1, 1])
    with pytest.raises(TypeError, match=r"must be an integer, got 0.0"):
        CONNECTED.with_vertex([0.0])  # type: ignore[list-item]


def test_a_new_simplex_spans_old_vertices() -> None:
    path = SimplicialComplex(3, ((0, 1), (1, 2)))
    assert path.with_simplex([2, 0]).simplexes == ((0, 1), (1, 2), (2, 0))
    with pytest.raises(ValueError, match="is a face of simplex"):
        path.with_simplex([0, 1, 2])
    with pytest.raises(ValueError, match="holds vertex 3"):
        path.with_simplex([0, 3])


def test_an_espro_ensemble_is_a_disjoint_union_of_components() -> None:
    edge, mode = SimplicialComplex(2, ((1, 0),)), SimplicialComplex(1, ((0,),))
    ensemble = TRIANGLE.union(edge, mode)
    assert ensemble == SimplicialComplex(6, ((0, 1, 2), (4, 3), (5,)))
    assert ensemble.components() == [[0], [1], [2]]
    assert TRIANGLE.union() == TRIANGLE


def test_a_sub_complex_keeps_the_old_indices_of_its_vertices() -> None:
    complex = SimplicialComplex(6, ((0, 1), (5, 2, 3), (3, 4)))
    assert complex.sub_complex([2, 1]) == (SimplicialComplex(4, ((1, 2), (3, 0, 1))), [2, 3, 4, 5])
    with pytest.raises(ValueError, match="empty choice"):
        complex.sub_complex([])
    with pytest.raises(ValueError, match="There is no simplex 3"):
        complex.sub_complex([3])
    with pytest.raises(ValueError, match="Simplex 0 is chosen more than once"):
        complex.sub_complex([0, 0])


def test_components_are_joined_by_later_simplexes() -> None:
    complex = SimplicialComplex(7, ((0, 1), (2, 3), (4,), (5, 6), (6, 2, 1)))
    assert complex.components() == [[0, 1, 3, 4], [2]]


@some_complexes
def test_components_share_no_vertex_and_together_are_the_complex(complex: SimplicialComplex) -> None:
    components = complex.components()
    assert sorted(simplex for component in components for simplex in component) == list(range(len(complex.simplexes)))
    for one, other in combinations([complex.sub_complex(component)[1] for component in components], 2):
        assert not set(one) & set(other)
    for component in components:
        assert len(complex.sub_complex(component)[0].components()) == 1


@some_complexes
def test_a_sub_complex_of_everything_is_the_complex(complex: SimplicialComplex) -> None:
    everything = list(range(len(complex.simplexes)))
    assert complex.sub_complex(everything) == (complex, list(range(complex.num_vertices)))


@some_complexes
def test_faces_are_the_vertex_sets_that_a_simplex_holds(complex: SimplicialComplex) -> None:
    for dimension in range(complex.num_vertices + 1):
        expected = [face for face in combinations(range(complex.num_vertices), dimension + 1) if complex.holds(face)]
        assert complex.faces(dimension) == expected
    assert complex.edges() == complex.faces(1)


def test_a_simplex_has_binomially_many_faces() -> None:
    simplex = SimplicialComplex(6, ((5, 3, 1, 0, 2, 4),))
    assert [len(simplex.faces(dimension)) for dimension in range(7)] == [math.comb(6, n + 1) for n in range(7)]
    with pytest.raises(ValueError, match="at least 0, got -1"):
        simplex.faces(-1)
