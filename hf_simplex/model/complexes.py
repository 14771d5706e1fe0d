"""The structure of a simplicial complex: which vertices span which simplexes, without any weights."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any


def _as_index(value: Any, what: str) -> int:
    """`value` as a plain int; TypeError, naming `what`, for anything that is not an integer (booleans included)."""
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an integer, got the boolean {value!r}.")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {value!r} of type {type(value).__name__}.") from None


def _as_list(values: Any, what: str) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} must be a sequence, got {values!r} of type {type(values).__name__}.")
    return list(values)


@dataclass(frozen=True)
class SimplicialComplex:
    """Several simplexes over one list of vertices, possibly sharing some of them.

    One simplex, an ESPRO ensemble (disjoint simplexes) and a mode connecting volume (simplexes that share connectors)
    are all written this way. Instances never change: the methods that grow a complex return a new one, in which
    every old vertex and every old simplex keeps its index.

    Args:
        num_vertices: how many vertices there are; they are numbered from 0.
        simplexes: the vertices of each simplex, as lists or tuples, in an order that is kept. k + 1 vertices span
            a k-simplex. Only maximal simplexes are listed: their faces belong to the complex without being named.

    Raises:
        TypeError: a number that is not an integer, or a simplex that is not a sequence.
        ValueError: there is no vertex or no simplex, a simplex is empty, repeats a vertex, holds one out of range,
            equals another or is a face of another, or a vertex belongs to no simplex.

    Source: Benton et al. 2021, whose simplicial complexes are sets of simplexes that may share vertices.
    """

    num_vertices: int
    simplexes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        num_vertices = _as_index(self.num_vertices, "num_vertices")
        if num_vertices < 1:
            raise ValueError(f"num_vertices must be at least 1, got {num_vertices}.")
        simplexes = tuple(
            tuple(_as_index(vertex, f"every vertex of simplex {position}") for vertex in vertices)
            for position, vertices in enumerate(
                _as_list(simplex, f"simplex {position}")
                for position, simplex in enumerate(_as_list(self.simplexes, "simplexes"))
            )
        )
        if not simplexes:
            raise ValueError("A simplicial complex needs at least one simplex, got none.")
        for position, simplex in enumerate(simplexes):
            _check_simplex(position, simplex, num_vertices)
        _check_maximal(simplexes)
        lonely = sorted(set(range(num_vertices)).difference(*simplexes))
        if lonely:
            raise ValueError(
                f"Vertices {lonely} belong to no simplex. Add them to one, or list a vertex that stands alone as a "
                f"simplex of its own, such as [{lonely[0]}]."
            )
        # A frozen dataclass can normalise its own fields in no other way.
        object.__setattr__(self, "num_vertices", num_vertices)
        object.__setattr__(self, "simplexes", simplexes)

    def to_json(self) -> dict[str, Any]:
        """The complex as plain ints, lists and one dict, ready for a JSON file."""
        return {"num_vertices": self.num_vertices, "simplexes": [list(simplex) for simplex in self.simplexes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SimplicialComplex":
        """The complex that `to_json` wrote; ValueError when a key is missing or unknown."""
        expected = {"num_vertices", "simplexes"}
        if set(data) != expected:
            raise ValueError(f"A simplicial complex is written with the keys {sorted(expected)}, got {sorted(data)}.")
        return cls(data["num_vertices"], data["simplexes"])

    def dimension(self, simplex: int) -> int:
        """The dimension of a simplex, given by its index: one less than its number of vertices."""
        return len(self._simplex(simplex)) - 1

    def simplexes_with(self, vertex: int) -> list[int]:
        """The indices of the simplexes that hold a vertex (its star), in increasing order."""
        self._check_vertex(vertex)
        return [index for index, simplex in enumerate(self.simplexes) if vertex in simplex]

    def holds(self, vertices: Iterable[int]) -> bool:
        """Whether some simplex holds all these vertices, so that their convex hull lies in the complex."""
        wanted = set(vertices)
        for vertex in wanted:
            self._check_vertex(vertex)
        return any(wanted.issubset(simplex) for simplex in self.simplexes)

    def with_vertex(self, simplexes: Sequence[int] | None = None) -> "SimplicialComplex":
        """The complex grown by one vertex, whose index is the old `num_vertices`.

        Args:
            simplexes: the indices of the simplexes that the new vertex joins, as their last vertex; None is all.

        Raises ValueError when it would join none, the same one twice, or one that does not exist.
        """
        chosen = list(range(len(self.simplexes))) if simplexes is None else self._chosen(simplexes)
        if not chosen:
            raise ValueError(
                "A new vertex must join at least one simplex. To add a mode that stands alone, use "
                "union(SimplicialComplex(1, [[0]]))."
            )
        return SimplicialComplex(
            self.num_vertices + 1,
            tuple(
                (*simplex, self.num_vertices) if index in chosen else simplex
                for index, simplex in enumerate(self.simplexes)
            ),
        )

    def with_simplex(self, vertices: Sequence[int]) -> "SimplicialComplex":
        """The complex with one more simplex, spanned by vertices it already has.

        Raises what the constructor raises: so a ValueError when the new simplex is a face of an old one, or an old
        one is a face of it.
        """
        return SimplicialComplex(self.num_vertices, (*self.simplexes, tuple(_as_list(vertices, "vertices"))))

    def union(self, *others: "SimplicialComplex") -> "SimplicialComplex":
        """The disjoint union: the vertices of each further complex are numbered after those before it.

        An ESPRO ensemble (Benton et al. 2021) is the union of its components, each a complex of one simplex.
        """
        num_vertices, simplexes = self.num_vertices, list(self.simplexes)
        for other in others:
            simplexes += [tuple(num_vertices + vertex for vertex in simplex) for simplex in other.simplexes]
            num_vertices += other.num_vertices
        return SimplicialComplex(num_vertices, tuple(simplexes))

    def sub_complex(self, simplex_indices: Sequence[int]) -> tuple["SimplicialComplex", list[int]]:
        """The complex of some of the simplexes alone, in the given order.

        Returns the complex, whose vertices are renumbered without gaps, and the old index of each of its vertices
        in increasing order. Raises ValueError when no simplex is chosen, or one twice, or one that does not exist.
        """
        chosen = self._chosen(simplex_indices)
        if not chosen:
            raise ValueError("A complex needs at least one simplex, got an empty choice of simplexes.")
        kept = sorted({vertex for index in chosen for vertex in self.simplexes[index]})
        new = {old: position for position, old in enumerate(kept)}
        simplexes = tuple(tuple(new[vertex] for vertex in self.simplexes[index]) for index in chosen)
        return SimplicialComplex(len(kept), simplexes), kept

    def components(self) -> list[list[int]]:
        """The connected components, each as increasing indices of its simplexes, ordered by their first simplex."""
        merged: list[tuple[set[int], list[int]]] = []
        for index, simplex in enumerate(self.simplexes):
            vertices, indices, apart = set(simplex), [index], []
            for other in merged:
                if vertices.isdisjoint(other[0]):
                    apart.append(other)
                else:
                    vertices |= other[0]
                    indices += other[1]
            merged = [*apart, (vertices, indices)]
        return sorted(sorted(indices) for _, indices in merged)

    def faces(self, dimension: int) -> list[tuple[int, ...]]:
        """All faces of one dimension, each once, as increasing vertex indices, in lexicographic order.

        Simplexes count as faces of themselves. The list is empty above the largest dimension; ValueError below 0.
        """
        if dimension < 0:
            raise ValueError(f"The dimension of a face must be at least 0, got {dimension}.")
        return sorted({face for simplex in self.simplexes for face in combinations(sorted(simplex), dimension + 1)})

    def edges(self) -> list[tuple[int, int]]:
        """All edges, each once, as (smaller, larger) vertex indices in lexicographic order."""
        return [(first, second) for first, second in self.faces(1)]

    def _simplex(self, index: int) -> tuple[int, ...]:
        if not 0 <= index < len(self.simplexes):
            raise ValueError(f"There is no simplex {index}: the complex has {len(self.simplexes)}, numbered from 0.")
        return self.simplexes[index]

    def _check_vertex(self, vertex: int) -> None:
        if not 0 <= vertex < self.num_vertices:
            raise ValueError(f"There is no vertex {vertex}: the complex has {self.num_vertices}, numbered from 0.")

    def _chosen(self, simplexes: Sequence[int]) -> list[int]:
        chosen = [_as_index(index, "the index of a simplex") for index in _as_list(simplexes, "simplexes")]
        for index in chosen:
            self._simplex(index)
            if chosen.count(index) > 1:
                raise ValueError(f"Simplex {index} is chosen more than once in {chosen}.")
        return chosen


def _check_simplex(position: int, simplex: tuple[int, ...], num_vertices: int) -> None:
    if not simplex:
        raise ValueError(f"Simplex {position} is empty; a simplex has at least one vertex.")
    for vertex in simplex:
        if not 0 <= vertex < num_vertices:
            raise ValueError(
                f"Simplex {position}, {list(simplex)}, holds vertex {vertex}, but the {num_vertices} vertices are "
                f"numbered 0 to {num_vertices - 1}."
            )
        if simplex.count(vertex) > 1:
            raise ValueError(f"Simplex {position}, {list(simplex)}, holds vertex {vertex} more than once.")


def _check_maximal(simplexes: tuple[tuple[int, ...], ...]) -> None:
    for (first, one), (second, other) in combinations(enumerate(simplexes), 2):
        if set(one) == set(other):
            raise ValueError(f"Simplexes {first}, {list(one)}, and {second}, {list(other)}, are the same simplex.")
        if set(one) < set(other) or set(other) < set(one):
            (small, face), (large, whole) = sorted([(first, one), (second, other)], key=lambda item: len(item[1]))
            raise ValueError(
                f"Simplex {small}, {list(face)}, is a face of simplex {large}, {list(whole)}. List maximal simplexes "
                "only: their faces belong to the complex anyway."
            )
