"""A part of an ensemble: some of its simplexes or its first members, read from the files of their vertices alone."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .configuration_simplex import SimplexConfig


def part_of(
    config: SimplexConfig,
    names: Sequence[str],
    *,
    simplex: int | Sequence[int] | None = None,
    num_members: int | None = None,
) -> tuple[SimplexConfig, dict[str, str]]:
    """The configuration of a part of an ensemble, and which of its tensors the part takes over under which names.

    Args:
        config: of the whole ensemble; it is not changed.
        names: of the whole ensemble's tensors, such as `vertices.5.head.weight`.
        simplex: index of a simplex, or several; the members that lie in them stay. Default: all that the members need.
        num_members: only the first so many of the members; default: all. Their simplexes stay whole, so that the part
            has centroids and volumes and can be grown further.

    Returns:
        The part's configuration, and from each name in the whole to that in the part.

    Raises:
        TypeError: `simplex` is no integer, or sequence of integers.
        ValueError: there is no such simplex, or there are fewer members than asked for.
    """
    whole = config.complex
    chosen = list(range(len(whole.simplexes)))
    if simplex is not None:
        chosen = [simplex] if isinstance(simplex, int) else list(simplex)
        whole.sub_complex(chosen)
    homes = {j: _first_holding(member, whole.simplexes, chosen) for j, member in enumerate(config.members)}
    members = [j for j, home in homes.items() if home is not None]
    if num_members is not None:
        if not 1 <= num_members <= len(members):
            where = "" if simplex is None else f" in simplex {simplex}"
            raise ValueError(f"num_members is {num_members}: expected 1 to {len(members)}, the members{where}.")
        members = members[:num_members]
        if simplex is None:
            chosen = sorted({home for j in members if (home := homes[j]) is not None})
    structure, vertices = whole.sub_complex(chosen)
    part = copy.deepcopy(config)
    part.simplexes = [list(indices) for indices in structure.simplexes]
    part.roles = [config.roles[vertex] for vertex in vertices]
    part.members = [[config.members[j][vertex] for vertex in vertices] for j in members]
    if "stages" in part.provenance:
        stages = [stage for stage in part.provenance["stages"] if stage["vertex"] in vertices]
        part.provenance["stages"] = [{**stage, "vertex": vertices.index(stage["vertex"])} for stage in stages]
    part.check()
    kept = {"vertices": vertices, "members": members, "centroids": chosen if members else []}
    counts = {
        "vertices": config.num_vertices,
        "members": len(config.members),
        "centroids": len(config.simplexes) if config.members else 0,
    }
    renamed = {}
    for name in names:
        kind, index, rest = name.split(".", 2)
        if int(index) in kept[kind]:
            renamed[name] = f"{kind}.{kept[kind].index(int(index))}.{rest}"
        elif int(index) >= counts[kind]:
            # Of nothing that the configuration has: loading finds it unexpected, as it does in the whole.
            renamed[name] = name
    return part, renamed


def _first_holding(member: Sequence[float], simplexes: Sequence[Sequence[int]], chosen: Sequence[int]) -> int | None:
    support = {vertex for vertex, coordinate in enumerate(member) if coordinate}
    return next((index for index in chosen if support <= set(simplexes[index])), None)


def read_part(
    weight_map: Mapping[str, str], files: Mapping[str, Path], renamed: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors of a part by their new names.

    Args:
        weight_map: from each tensor's name in the whole ensemble to its file's.
        files: from the names of the files that are needed to where they are.
        renamed: from `part_of`.

    Returns:
        What the files hold of them: a tensor that is missing there is missing here.
    """
    state: dict[str, Tensor] = {}
    for file, path in files.items():
        with safe_open(path, framework="pt") as opened:
            for name in sorted(opened.keys()):
                if name in renamed and weight_map[name] == file:
                    state[renamed[name]] = opened.get_tensor(name)
    return state
