"""Checks that a configuration asks for as many parts as its index has, before anything of that size is built."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from .index_file import SHARED, Index
from .structure_checks import check_number_of_points

__all__ = ["check_counts", "check_stored_counts"]

# Settings of backbones that count modules.
_DEPTHS = ("layers", "depth", "blocks", "stages")


def check_counts(
    index: Index,
    name_or_path: str | os.PathLike[str],
    *,
    vertices: int,
    members: int,
    simplexes: int,
    backbone: Mapping[str, Any],
) -> None:
    """Check the number of vertices, members, centroids and layers in config.json against the index.

    A configuration of a few bytes can ask for millions of layers, which would take hours to build.

    Args:
        index: of the ensemble.
        name_or_path: the folder or Hub id, for the error message.
        vertices, members, simplexes: their numbers in config.json.
        backbone: the content of `backbone_config`.

    Raises:
        ValueError: the two contradict each other. The message names the field.

    Example:
        >>> index = Index({"vertices.0.head.bias": "vertex-00000.safetensors"}, None)
        >>> check_counts(index, "ensemble", vertices=1, members=0, simplexes=1, backbone={})
    """
    found: dict[str, set[int]] = {"vertices": set(), "members": set(), "centroids": set()}
    tensors = 0
    for name in index.weight_map:
        kind, number = name.split(".", 2)[:2]
        if kind != SHARED:
            found[kind].add(int(number))
        tensors += name.startswith(("vertices.0.", f"{SHARED}."))
    expected = {"vertices": vertices}
    if found["members"] or found["centroids"]:
        expected |= {"members": members, "centroids": simplexes if members else 0}
    for kind, count in expected.items():
        _check_numbers(kind, count, found[kind], name_or_path)
    for name, value in backbone.items():
        modules = sum(_numbers(value)) if any(word in name for word in _DEPTHS) else 0
        if modules > tensors:
            raise ValueError(
                f"{name_or_path}: backbone_config in config.json has {name}={str(value)[:100]}, but the index names "
                f"only {tensors} tensors of vertex 0; restore or re-save the checkpoint. ({modules} in all)"
            )


def check_stored_counts(index: Index, content: Mapping[str, Any], name_or_path: str | os.PathLike[str]) -> None:
    """Check the number of roles and members in config.json, before the structure is built from them.

    Args:
        index: of the ensemble.
        content: of config.json. Other values than lists are left to the configuration.
        name_or_path: the folder or Hub id, for the error message.

    Raises:
        ValueError: there are more members than an ensemble can have, or a number contradicts the index.

    Example:
        >>> index = Index({"vertices.0.bias": "vertex-00000.safetensors"}, None)
        >>> check_stored_counts(index, {"roles": ["mode"]}, "ensemble")
    """
    for kind, field in (("vertices", "roles"), ("members", "members")):
        if not isinstance(values := content.get(field), list):
            continue
        found = {int(name.split(".", 2)[1]) for name in index.weight_map if name.startswith(f"{kind}.")}
        # Without BatchNorm the index names no members.
        if kind == "vertices" or found:
            _check_numbers(kind, len(values), found, name_or_path)
        if kind == "members":
            try:
                check_number_of_points(len(values))
            except ValueError as error:
                raise ValueError(f"{name_or_path}: members in config.json: {error}") from error


def _check_numbers(kind: str, count: int, found: set[int], name_or_path: str | os.PathLike[str]) -> None:
    numbers = set(range(count))
    for problem, wrong in (("missing", numbers - found), ("unexpected", found - numbers)):
        if wrong:
            raise ValueError(
                f"{name_or_path}: {problem} keys, {kind}.{min(wrong)}.* among them. config.json has {count} {kind}, "
                f"and the index {len(found)}; restore or re-save the checkpoint."
            )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
