"""A part of an ensemble: some simplexes or the first members, read from the files of their vertices only."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging

from .configuration_simplex import SimplexConfig
from .index_file import SHARED

__all__ = ["read_part", "select_part"]

logger = logging.get_logger(__name__)


def select_part(
    config: SimplexConfig,
    names: Sequence[str],
    *,
    simplex: int | Sequence[int] | None = None,
    num_members: int | None = None,
) -> tuple[SimplexConfig, dict[str, str]]:
    """Return the configuration of a part of an ensemble, and the tensors of that part.

    Args:
        config: of the whole ensemble.
        names: tensor names of the whole ensemble, such as `vertices.5.head.weight`.
        simplex: index of a simplex, or a sequence of indices. Their members are kept. Default: the simplexes of the
            kept members.
        num_members: keep only the first members; default: all. Their simplexes stay whole, so the part has centroids
            and volumes and can be grown further.

    Returns:
        The part's configuration, and its tensor names by those in the whole. The configuration has no decisions unless
        all members are kept.

    Raises:
        TypeError: `simplex` is neither an integer nor a sequence of integers.
        ValueError: the simplex does not exist, or there are fewer members.

    Example:
        >>> config = SimplexConfig(simplexes=[[0], [1]], roles=["mode"] * 2, members=[[1.0, 0.0], [0.0, 1.0]])
        >>> part, renamed = select_part(config, ["vertices.0.bias", "vertices.1.bias"], simplex=1)
        >>> part.simplexes, part.members, renamed
        ([[0]], [[1.0]], {'vertices.1.bias': 'vertices.0.bias'})
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
        part.provenance["stages"] = [_moved(stage, vertices) for stage in stages]
    if part.decisions is not None and (part.members, part.simplexes) != (config.members, config.simplexes):
        logger.warning(
            "A part of the ensemble is loaded, without the decisions of the whole: temperature, threshold and "
            "prediction sets were fitted for all members. Call calibrate on the part."
        )
        part.decisions = None
    part.check()
    kept = {"vertices": vertices, "members": members, "centroids": chosen if members else []}
    counts = {
        "vertices": config.num_vertices,
        "members": len(config.members),
        "centroids": len(config.simplexes) if config.members else 0,
    }
    renamed = {}
    for name in names:
        if name.startswith(f"{SHARED}."):
            renamed[name] = name
            continue
        kind, index, rest = name.split(".", 2)
        if int(index) in kept[kind]:
            renamed[name] = f"{kind}.{kept[kind].index(int(index))}.{rest}"
        elif int(index) >= counts[kind]:
            # The configuration has no such part: loading reports it as unexpected.
            renamed[name] = name
    return part, renamed


def _moved(stage: Mapping[str, Any], vertices: Sequence[int]) -> dict[str, Any]:
    """The stage with the part's numbers of its vertices. The start of a leaf is left out if it is in no part."""
    moved = {name: vertices.index(stage[name]) for name in ("vertex", "start") if stage.get(name) in vertices}
    return {**{name: value for name, value in stage.items() if name != "start"}, **moved}


def _first_holding(member: Sequence[float], simplexes: Sequence[Sequence[int]], chosen: Sequence[int]) -> int | None:
    support = {vertex for vertex, coordinate in enumerate(member) if coordinate}
    return next((index for index in chosen if support <= set(simplexes[index])), None)


def read_part(
    weight_map: Mapping[str, str], opened: Mapping[str, Any], renamed: Mapping[str, str]
) -> dict[str, Tensor]:
    """Read the tensors of a part.

    Args:
        weight_map: the file name of each tensor of the whole ensemble.
        opened: each needed file by name, as `safetensors.safe_open` returns it.
        renamed: from `select_part`: tensor names in the whole ensemble to those in the part.

    Returns:
        Tensors by the part's names. Tensors that the files lack are left out.

    Raises:
        ValueError: PyTorch has no such dtype, or a tensor is inconsistent.

    Example::

        with safe_open("ensemble/vertex-00000.safetensors", framework="pt") as file:
            state = read_part(index.weight_map, {"vertex-00000.safetensors": file}, renamed)
    """
    state: dict[str, Tensor] = {}
    for file, content in opened.items():
        for name in sorted(content.keys()):
            if name in renamed and weight_map[name] == file:
                try:
                    state[renamed[name]] = content.get_tensor(name)
                except (SafetensorError, TypeError, AttributeError, RuntimeError, ValueError) as error:
                    raise ValueError(f"{name} in {file} cannot be read: {error}. Restore or re-save it.") from error
    return state
