"""The structure of a simplicial complex: which vertices span which simplexes, without any weights."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

__all__ = ["SimplicialComplex"]


def _as_index(value: Any, what: str) -> int:
    """Return `value` as an int. Raise a TypeError that names `what` if it is a bool or no integer."""
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
    """A set of simplexes that may share vertices (Benton et al. 2021).

    It describes a single simplex, an ESPRO ensemble (disjoint simplexes) and a mode connecting volume (simplexes that
    share connectors). Instances are immutable. Methods that grow a complex return a new one, in which vertices and
    simplexes keep their indices.

    Args:
        num_vertices: the number of vertices, with indices from 0.
        simplexes: the vertices of each simplex, as lists or tuples, whose order is kept. k + 1 vertices span a
            k-simplex. List maximal simplexes only; their faces belong to the complex.

    Raises:
        TypeError: a number is not an integer, or a simplex is not a sequence.
        ValueError: there is no vertex or no simplex; a simplex is empty, repeats a vertex, has one out of range,
            equals another or is a face of another; or a vertex belongs to no simplex.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> connected = SimplicialComplex(4, [[0, 2, 3], [1, 2, 3]])  # modes 0 and 1, connectors 2 and 3
        >>> connected.simplexes_with(2)
        [0, 1]
        >>> connected.with_vertex().simplexes
        ((0, 2, 3, 4), (1, 2, 3, 4))
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
        # A frozen dataclass sets its own fields this way.
        object.__setattr__(self, "num_vertices", num_vertices)
        object.__setattr__(self, "simplexes", simplexes)

    def to_json(self) -> dict[str, Any]:
        """Return the complex as a dict of ints and lists, for a JSON file.

        Example:
            >>> SimplicialComplex(2, [[0, 1]]).to_json()
            {'num_vertices': 2, 'simplexes': [[0, 1]]}
        """
        return {"num_vertices": self.num_vertices, "simplexes": [list(simplex) for simplex in self.simplexes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SimplicialComplex":
        """Build a complex from the dict that `to_json` returned.

        Raises:
            ValueError: a key is missing or unknown.

        Example:
            >>> SimplicialComplex.from_json({"num_vertices": 2, "simplexes": [[0, 1]]}).edges()
            [(0, 1)]
        """
        expected = {"num_vertices", "simplexes"}
        if set(data) != expected:
            raise ValueError(f"A simplicial complex is written with the keys {sorted(expected)}, got {sorted(data)}.")
        return cls(data["num_vertices"], data["simplexes"])

    def dimension(self, simplex: int) -> int:
        """The dimension of a simplex: its number of vertices minus one. `simplex` is its index.

        Args:
            simplex: index of the simplex.

        Raises:
            ValueError: there is no such simplex.

        Example:
            >>> SimplicialComplex(3, [[0, 1, 2]]).dimension(0)
            2
        """
        return len(self._simplex(simplex)) - 1

    def simplexes_with(self, vertex: int) -> list[int]:
        """The star of a vertex: the indices of the simplexes that hold it, in increasing order.

        Args:
            vertex: index of the vertex.

        Raises:
            ValueError: there is no such vertex.

        Example:
            >>> SimplicialComplex(3, [[0, 1], [1, 2]]).simplexes_with(1)
            [0, 1]
        """
        self._check_vertex(vertex)
        return [index for index, simplex in enumerate(self.simplexes) if vertex in simplex]

    def holds(self, vertices: Iterable[int]) -> bool:
        """Whether one simplex holds all these vertices. Their convex hull then lies in the complex.

        Args:
            vertices: indices of vertices, in any order.

        Raises:
            ValueError: a vertex does not exist.

        Example:
            >>> path = SimplicialComplex(3, [[0, 1], [1, 2]])
            >>> path.holds([0, 1]), path.holds([0, 2])
            (True, False)
        """
        wanted = set(vertices)
        for vertex in wanted:
            self._check_vertex(vertex)
        return any(wanted.issubset(simplex) for simplex in self.simplexes)

    def with_vertex(self, simplexes: Sequence[int] | None = None) -> "SimplicialComplex":
        """The complex with one more vertex, of index `num_vertices`.

        Args:
            simplexes: the indices of the simplexes that the vertex joins, as their last vertex; default: all.

        Raises:
            ValueError: it joins no simplex, one twice, or one that does not exist.

        Example:
            >>> SimplicialComplex(2, [[0], [1]]).with_vertex().simplexes
            ((0, 2), (1, 2))
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
        """The complex with one more simplex over existing vertices.

        Raises:
            TypeError, ValueError: as the constructor; for example if one simplex is a face of another.

        Example:
            >>> SimplicialComplex(3, [[0, 1], [1, 2]]).with_simplex([0, 2]).simplexes
            ((0, 1), (1, 2), (0, 2))
        """
        return SimplicialComplex(self.num_vertices, (*self.simplexes, tuple(_as_list(vertices, "vertices"))))

    def union(self, *others: "SimplicialComplex") -> "SimplicialComplex":
        """The disjoint union. The vertices of each further complex get the next free indices.

        An ESPRO ensemble (Benton et al. 2021) is the disjoint union of complexes of one simplex.

        Example:
            >>> edge = SimplicialComplex(2, [[0, 1]])
            >>> edge.union(edge).simplexes
            ((0, 1), (2, 3))
        """
        num_vertices, simplexes = self.num_vertices, list(self.simplexes)
        for other in others:
            simplexes += [tuple(num_vertices + vertex for vertex in simplex) for simplex in other.simplexes]
            num_vertices += other.num_vertices
        return SimplicialComplex(num_vertices, tuple(simplexes))

    def sub_complex(self, simplex_indices: Sequence[int]) -> tuple["SimplicialComplex", list[int]]:
        """The complex of some of the simplexes, in the given order.

        Returns:
            The complex, with its vertices renumbered from 0, and the old index of each of its vertices, increasing.

        Raises:
            ValueError: there is no simplex, one twice, or one that does not exist.

        Example:
            >>> part, vertices = SimplicialComplex(3, [[0, 1], [1, 2]]).sub_complex([1])
            >>> part.simplexes, vertices
            (((0, 1),), [1, 2])
        """
        chosen = self._chosen(simplex_indices)
        if not chosen:
            raise ValueError("A complex needs at least one simplex, got an empty choice of simplexes.")
        kept = sorted({vertex for index in chosen for vertex in self.simplexes[index]})
        new = {old: position for position, old in enumerate(kept)}
        simplexes = tuple(tuple(new[vertex] for vertex in self.simplexes[index]) for index in chosen)
        return SimplicialComplex(len(kept), simplexes), kept

    def components(self) -> list[list[int]]:
        """Return the connected components, each as the sorted indices of its simplexes, ordered by first simplex.

        Example:
            >>> SimplicialComplex(5, [[0, 1], [2, 3], [1, 4]]).components()
            [[0, 2], [1]]
        """
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
        """All faces of one dimension, as increasing vertex indices, in lexicographic order.

        A simplex is a face of itself. The list is empty above the largest dimension.

        Raises:
            ValueError: the dimension is negative.

        Example:
            >>> SimplicialComplex(3, [[2, 0, 1]]).faces(1)
            [(0, 1), (0, 2), (1, 2)]
        """
        if dimension < 0:
            raise ValueError(f"The dimension of a face must be at least 0, got {dimension}.")
        return sorted({face for simplex in self.simplexes for face in combinations(sorted(simplex), dimension + 1)})

    def edges(self) -> list[tuple[int, int]]:
        """All edges, as (smaller, larger) vertex indices, in lexicographic order.

        Example:
            >>> SimplicialComplex(3, [[0, 1], [1, 2]]).edges()
            [(0, 1), (1, 2)]
        """
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
    seen: set[int] = set()
    for vertex in simplex:
        if not 0 <= vertex < num_vertices:
            raise ValueError(
                f"Simplex {position}, {list(simplex)}, holds vertex {vertex}, but the {num_vertices} vertices are "
                f"numbered 0 to {num_vertices - 1}."
            )
        if vertex in seen:
            raise ValueError(f"Simplex {position}, {list(simplex)}, holds vertex {vertex} more than once.")
        seen.add(vertex)


def _check_maximal(simplexes: tuple[tuple[int, ...], ...]) -> None:
    stars: dict[int, set[int]] = {}
    for position, simplex in enumerate(simplexes):
        for vertex in simplex:
            stars.setdefault(vertex, set()).add(position)
    for small, face in enumerate(simplexes):
        # All simplexes that hold the face. Small stars first: files with many simplexes are read in no time.
        holders = set.intersection(*sorted((stars[vertex] for vertex in face), key=len)) - {small}
        if not holders:
            continue
        large = min(holders)
        whole = simplexes[large]
        if len(whole) == len(face):
            raise ValueError(f"Simplexes {small}, {list(face)}, and {large}, {list(whole)}, are the same simplex.")
        raise ValueError(
            f"Simplex {small}, {list(face)}, is a face of simplex {large}, {list(whole)}. List maximal simplexes "
            "only: their faces belong to the complex anyway."
        )
