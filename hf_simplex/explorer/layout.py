"""What there is to wander through: the faces of a complex, and paths between its modes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..model.complexes import SimplicialComplex
from ..model.structure_checks import CONNECTOR
from .exploration import Region

__all__ = ["Path", "faces_of", "paths_of", "regions_of", "vertex_names"]

MAX_FACES = 12
"""Largest number of faces that are shown: a simplex of seven vertices has 35."""

_MAX_PAIRS = 3


@dataclass(frozen=True)
class Path:
    """A way between two vertices along straight lines.

    Attributes:
        name: what a person reads.
        vertices: where it goes, from the first to the last.

    Example:
        >>> Path("mode 0 to mode 1, straight", (0, 1)).legs
        [(0, 1)]
    """

    name: str
    vertices: tuple[int, ...]

    @property
    def legs(self) -> list[tuple[int, int]]:
        """The straight lines.

        Example:
            >>> Path("mode 0 to mode 1 through connector 2", (0, 2, 1)).legs
            [(0, 2), (2, 1)]
        """
        return list(itertools.pairwise(self.vertices))


def vertex_names(roles: Sequence[str]) -> list[str]:
    """Name vertices by role and index.

    Example:
        >>> vertex_names(["mode", "connector"])
        ['mode 0', 'connector 1']
    """
    return [f"{role} {vertex}" for vertex, role in enumerate(roles)]


def faces_of(structure: SimplicialComplex, simplex: int) -> list[Region]:
    """List the faces that are shown: the triangles of a simplex, or all of it if it has at most three vertices.

    Example:
        >>> faces_of(SimplicialComplex(4, [[0, 1, 2, 3]]), 0)
        [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]
        >>> faces_of(SimplicialComplex(2, [[0, 1]]), 0)
        [(0, 1)]
    """
    vertices = structure.simplexes[simplex]
    return list(itertools.combinations(vertices, min(3, len(vertices))))


def paths_of(structure: SimplicialComplex, roles: Sequence[str]) -> list[Path]:
    """List paths between modes: straight, and through each connector that shares simplexes with both.

    With fewer than two modes, the paths lead from the first vertex to the others of its simplex.

    Args:
        structure: the complex.
        roles: of each vertex.

    Returns:
        The paths of the first three pairs of modes.

    Example:
        >>> paths = paths_of(SimplicialComplex(3, [[0, 2], [1, 2]]), ["mode", "mode", "connector"])
        >>> [path.vertices for path in paths]
        [(0, 1), (0, 2, 1)]
    """
    names = vertex_names(roles)
    modes = [vertex for vertex, role in enumerate(roles) if role != CONNECTOR]
    if len(modes) < 2:
        first, *others = structure.simplexes[0]
        return [Path(f"{names[first]} to {names[other]}, straight", (first, other)) for other in others]
    paths = []
    for first, second in itertools.islice(itertools.combinations(modes, 2), _MAX_PAIRS):
        between = f"{names[first]} to {names[second]}"
        paths.append(Path(f"{between}, straight", (first, second)))
        for vertex, role in enumerate(roles):
            if role == CONNECTOR and structure.holds([first, vertex]) and structure.holds([vertex, second]):
                paths.append(Path(f"{between}, through {names[vertex]}", (first, vertex, second)))
    return paths


def regions_of(structure: SimplicialComplex, roles: Sequence[str]) -> list[Region]:
    """List all faces and lines that are computed: the faces, then the lines of paths outside of them.

    Example:
        >>> regions_of(SimplicialComplex(2, [[0], [1]]), ["mode", "mode"])
        [(0,), (1,), (0, 1)]
    """
    faces = dict.fromkeys(face for simplex in range(len(structure.simplexes)) for face in faces_of(structure, simplex))
    regions = list(faces)[:MAX_FACES]
    for path in paths_of(structure, roles):
        for leg in path.legs:
            if not any(set(leg) <= set(region) for region in regions):
                regions.append(leg)
    return regions
