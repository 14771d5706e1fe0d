"""`hf-simplex inspect`: what an ensemble consists of.

It reads config.json, the index and the headers of the weight files, without torch: to import torch takes longer.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ensembles import check_place, load, warn_of_placeholders
from .options import Ensemble, Json, Revision, Token
from .printing import print_json, print_table

if TYPE_CHECKING:
    from hf_simplex.hub.stored_ensemble import StoredEnsemble
    from hf_simplex.model.recorded_volumes import RecordedVolumes

__all__ = ["inspect"]

_TITLES = {
    "log_volume": "log volume (natural)",
    "coordinates": "barycentric coordinates",
}
"""Titles with units, where the keys of the JSON have none."""

_NOT_RECORDED = "not recorded"
_OF_VOLUMES = ("parameters_per_vertex", "log_volume")
"""What is recorded with the volumes, and known with them only."""


def inspect(
    ensemble: Ensemble,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Load the weights and compute the volumes, even where they are recorded.")
    ] = False,
    as_json: Json = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Show the structure, sizes, volumes and members of an ensemble, without loading its weights.

    Volumes are natural logarithms, in units of the weights. A simplex with one vertex has volume 1. They are recorded
    when an ensemble is saved. Where they are not, --volumes computes them.

    Example: hf-simplex inspect me/resnet50-simplex

    Example: hf-simplex inspect output/quickstart/ensemble --json
    """
    from hf_simplex.hub.stored_ensemble import read_ensemble

    check_place(ensemble)
    stored = read_ensemble(ensemble, revision=revision, token=token)
    known = _compute_volumes(ensemble, revision, token) if volumes else stored.volumes
    source = _NOT_RECORDED if known is None else "computed" if volumes else "recorded"
    described = _describe(stored, known, ensemble, source)
    warn_of_placeholders(stored.structure.labels)
    if as_json:
        print_json(described)
        return
    _print(described, known is not None)


def _compute_volumes(ensemble: str, revision: str | None, token: str | None) -> "RecordedVolumes":
    from hf_simplex.model.recorded_volumes import RecordedVolumes

    model = load(ensemble, revision, token)
    of_each = [None if volume == float("-inf") else volume for volume in model.log_volumes().tolist()]
    return RecordedVolumes(sum(parameter.numel() for parameter in model.vertices[0].parameters()), of_each)


def _print(described: dict[str, Any], volumes_known: bool) -> None:
    shown = {**described, "size": _size(described["bytes"])}
    if not volumes_known:
        shown |= dict.fromkeys(_OF_VOLUMES, f"{_NOT_RECORDED} (hf-simplex inspect --volumes computes them)")
        shown["simplexes"] = [{**row, "log_volume": _NOT_RECORDED} for row in described["simplexes"]]
    summary = (
        "backbone",
        "labels",
        "problem_type",
        "parameters_per_vertex",
        "shared_parameters",
        "size",
        "sampling",
        "log_volume",
    )
    print_table(["", ""], [[_title(name), shown[name]] for name in summary])
    shown["files"] = [{"file": row["file"], "size": _size(row["bytes"])} for row in described["files"]]
    for part in ("vertices", "simplexes", "members", "files"):
        rows = shown[part]
        if rows:
            print_table([_title(name) for name in rows[0]], [list(row.values()) for row in rows])


def _size(number: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _describe(
    stored: "StoredEnsemble", volumes: "RecordedVolumes | None", name: str, volumes_source: str
) -> dict[str, Any]:
    """The output of `inspect`. The log volume of a degenerate simplex is None, since JSON has no infinity."""
    from hf_simplex.model.problem_types import SINGLE_LABEL

    structure, tensors = stored.structure, stored.tensors
    of_each = [None] * len(structure.simplexes) if volumes is None else list(volumes.log_volumes)
    stages = {stage["vertex"]: stage for stage in structure.provenance.get("stages", [])}
    return {
        "ensemble": name,
        "backbone": structure.provenance.get("backbone") or structure.backbone.get("model_type"),
        "labels": len(structure.labels),
        "problem_type": structure.backbone.get("problem_type") or SINGLE_LABEL,
        "parameters_per_vertex": None if volumes is None else volumes.parameters_per_vertex,
        "shared_parameters": sum(tensor.elements for name, tensor in tensors.items() if name.startswith("shared.")),
        "bytes": sum(tensor.bytes for tensor in tensors.values()),
        "sampling": structure.sampling,
        "volumes": volumes_source,
        "log_volume": _log_of_sum([volume for volume in of_each if volume is not None]),
        "vertices": [
            {
                "vertex": vertex,
                "role": role,
                "epochs": stages.get(vertex, {}).get("epochs"),
                "start": stages.get(vertex, {}).get("start"),
                "simplexes": [number for number, simplex in enumerate(structure.simplexes) if vertex in simplex],
            }
            for vertex, role in enumerate(structure.roles)
        ],
        "simplexes": [
            {"simplex": number, "vertices": list(vertices), "log_volume": of_each[number]}
            for number, vertices in enumerate(structure.simplexes)
        ],
        "members": [
            {"member": number, "coordinates": list(coordinates)}
            for number, coordinates in enumerate(structure.members)
        ],
        "files": [{"file": file, "bytes": size} for file, size in stored.file_bytes.items()],
    }


def _log_of_sum(logarithms: list[float]) -> float | None:
    """The logarithm of the sum of volumes, given theirs; None if there is none."""
    if not logarithms:
        return None
    largest = max(logarithms)
    return largest + math.log(math.fsum(math.exp(volume - largest) for volume in logarithms))
