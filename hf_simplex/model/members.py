"""Choice of the ensemble's members: random or symmetric points of the complex."""

import math

from torch import Generator, Tensor

from .complexes import SimplicialComplex
from .coordinates import centroid_coordinates, vertex_coordinates
from .sampling import sample_complex
from .structure_checks import check_number_of_points

__all__ = ["DEFAULT_RULE", "MEMBER_RULES", "draw_members", "place_members", "symmetric_members"]

DEFAULT_RULE = "vertices_and_centroid"
MEMBER_RULES = (DEFAULT_RULE, "vertices", "centroid", "symmetric")
"""Rules of `place_members`."""


def draw_members(
    structure: SimplicialComplex,
    num_members: int,
    *,
    seed: int,
    sampling: str = "equal",
    log_volumes: Tensor | None = None,
) -> list[list[float]]:
    """Draw the members of an ensemble uniformly from a complex (Benton et al. 2021).

    `"equal"` sampling spreads the members evenly over the simplexes, as the paper does for ESPRO: member j comes from
    simplex j modulo their number. `"volume"` draws the simplex of each member in proportion to its volume. The same
    arguments give the same members on every machine.

    Args:
        structure: the complex.
        num_members: the number of members. `"equal"` sampling needs at least one for each simplex.
        seed: seed of the draw.
        sampling: `"equal"` or `"volume"`.
        log_volumes: [simplexes] float64 natural logarithms of the volumes, for `"volume"`.

    Returns:
        [members, vertices] barycentric coordinates, as Python floats.

    Raises:
        ValueError: there are too few members or more than 10,000, or see `sample_complex`.

    Example:
        >>> members = draw_members(SimplicialComplex(3, ((0, 1, 2),)), 5, seed=0)
        >>> len(members), len(members[0])
        (5, 3)
    """
    if num_members < 1:
        raise ValueError(f"An ensemble needs at least one member, not {num_members}.")
    if sampling == "equal" and num_members < len(structure.simplexes):
        raise ValueError(
            f"{num_members} members cannot be spread over {len(structure.simplexes)} simplexes: "
            "ask for at least one member for each simplex."
        )
    check_number_of_points(num_members)
    generator = Generator().manual_seed(seed)
    coordinates = sample_complex(
        structure,
        num_members,
        sampling=sampling,
        log_volumes=log_volumes,
        stratified=sampling == "equal",
        generator=generator,
    )
    return coordinates.tolist()


def place_members(structure: SimplicialComplex, rule: str = DEFAULT_RULE) -> list[list[float]]:
    """Place the members of an ensemble by a rule.

    A simplex of one vertex has that vertex as its centroid. A point of several simplexes is one member.

    Args:
        structure: the complex.
        rule: `"vertices_and_centroid"` of each simplex, `"vertices"`, `"centroid"` of each simplex, or `"symmetric"`
            (`symmetric_members`).

    Returns:
        [members, vertices] barycentric coordinates, simplex after simplex.

    Raises:
        ValueError: the rule is unknown.

    Example:
        >>> place_members(SimplicialComplex(2, ((0, 1),)))
        [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """
    if rule not in MEMBER_RULES:
        raise ValueError(f"The rule of the members is {rule!r}: choose from {', '.join(MEMBER_RULES)}.")
    if rule == "symmetric":
        return symmetric_members(structure)
    members = []
    for index, simplex in enumerate(structure.simplexes):
        if rule != "centroid":
            members += [vertex_coordinates(structure, vertex).tolist() for vertex in simplex]
        if rule != "vertices":
            members.append(centroid_coordinates(structure, index).tolist())
    return [member for number, member in enumerate(members) if member not in members[:number]]


def symmetric_members(structure: SimplicialComplex) -> list[list[float]]:
    """Place one member near each vertex of each simplex, so that the mean of a quadratic function is exact.

    On a simplex of k + 1 vertices, member i has coordinate 1 - k b at vertex i and b at the others, with
    b = (1 - 1 / sqrt(k + 2)) / (k + 1). The mean of a quadratic function over these points equals its mean over the
    simplex, the limit of many random members.

    Args:
        structure: the complex.

    Returns:
        [members, vertices] barycentric coordinates, simplex after simplex.

    Source: the second-degree rule of Hammer and Stroud 1956, Numerical integration over simplexes.

    Example:
        >>> [[round(c, 3) for c in member] for member in symmetric_members(SimplicialComplex(2, ((0, 1),)))]
        [[0.789, 0.211], [0.211, 0.789]]
    """
    members = []
    for simplex in structure.simplexes:
        others = (1 - 1 / math.sqrt(len(simplex) + 1)) / len(simplex)
        for own in simplex:
            member = [0.0] * structure.num_vertices
            for vertex in simplex:
                member[vertex] = others
            member[own] = 1 - (len(simplex) - 1) * others
            members.append(member)
    return members
