"""Which points make the ensemble."""

import math

from torch import Generator, Tensor

from .complexes import SimplicialComplex
from .sampling import sample_complex


def draw_members(
    structure: SimplicialComplex,
    num_members: int,
    *,
    seed: int,
    sampling: str = "equal",
    log_volumes: Tensor | None = None,
) -> list[list[float]]:
    """Draw the members of an ensemble uniformly from a complex (Benton et al. 2021).

    With `"equal"` sampling the members are spread evenly over the simplexes (member j is drawn from simplex j modulo
    their number), as the paper does for ESPRO; with `"volume"` each member's simplex is drawn in proportion to volume.
    The same arguments give the same members on every machine.

    Args:
        structure: the complex.
        num_members: how many; at least one for each simplex under `"equal"` sampling.
        seed: of the draw.
        sampling: `"equal"` or `"volume"`.
        log_volumes: [simplexes] float64 natural logarithms of the volumes, needed for `"volume"`.

    Returns:
        [members, vertices] barycentric coordinates, float64 as Python floats.

    Raises:
        ValueError: too few members to reach every simplex, or what `sample_complex` raises.
    """
    if num_members < 1:
        raise ValueError(f"An ensemble needs at least one member, not {num_members}.")
    if sampling == "equal" and num_members < len(structure.simplexes):
        raise ValueError(
            f"{num_members} members cannot be spread over {len(structure.simplexes)} simplexes: "
            "ask for at least one member for each simplex."
        )
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


def symmetric_members(structure: SimplicialComplex) -> list[list[float]]:
    """As many members for each simplex as it has vertices, whose mean is exact for quadratic functions.

    On a simplex of k + 1 vertices member i has coordinate 1 - k b at vertex i and b at the others, with
    b = (1 - 1 / sqrt(k + 2)) / (k + 1). The mean over these points of any function that is quadratic in the
    coordinates is its mean over the whole simplex: the limit that more and more random members approach.

    Args:
        structure: the complex.

    Returns:
        [members, vertices] barycentric coordinates, simplex after simplex.

    Source: the second-degree rule of Hammer and Stroud 1956, Numerical integration over simplexes.
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
