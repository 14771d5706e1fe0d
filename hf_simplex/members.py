"""Which points make the ensemble."""

from torch import Generator, Tensor

from .complexes import SimplicialComplex
from .geometry import sample_complex


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
