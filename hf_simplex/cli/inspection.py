"""`hf-simplex inspect`: what an ensemble consists of."""

from typing import TYPE_CHECKING, Any

from .ensembles import load, warn_of_placeholders
from .options import Ensemble, Json, Revision, Token
from .printing import print_json, print_table

if TYPE_CHECKING:
    from hf_simplex import SimplexForImageClassification

__all__ = ["inspect"]

_TITLES = {
    "log_volume": "log volume (natural)",
    "coordinates": "barycentric coordinates",
}
"""Titles with units, where the keys of the JSON have none."""


def inspect(ensemble: Ensemble, as_json: Json = False, revision: Revision = None, token: Token = None) -> None:
    """Show the structure, size, volumes and members of an ensemble.

    Volumes are natural logarithms, in units of the weights. A simplex with one vertex has volume 1.

    Example: hf-simplex inspect me/resnet50-simplex

    Example: hf-simplex inspect output/quickstart/ensemble --json
    """
    model = load(ensemble, revision, token)
    described = _describe(model, ensemble)
    warn_of_placeholders(model)
    if as_json:
        print_json(described)
        return
    shown = {**described, "size": _size(described["bytes"])}
    summary = ("backbone", "labels", "parameters_per_vertex", "shared_parameters", "size", "sampling", "log_volume")
    print_table(["", ""], [[_title(name), shown[name]] for name in summary])
    for part in ("vertices", "simplexes", "members"):
        rows = described[part]
        if rows:
            print_table([_title(name) for name in rows[0]], [list(row.values()) for row in rows])


def _size(number: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _describe(model: "SimplexForImageClassification", name: str) -> dict[str, Any]:
    """The output of `inspect`. The log volume of a degenerate simplex is None, since JSON has no infinity."""
    config: Any = model.config
    log_volumes = model.log_volumes()
    of_each = [None if volume == float("-inf") else volume for volume in log_volumes.tolist()]
    total = log_volumes.logsumexp(dim=0).item()
    stages = {stage["vertex"]: stage for stage in config.provenance.get("stages", [])}
    tensors = model.state_dict().values()
    return {
        "ensemble": name,
        "backbone": config.provenance.get("backbone") or config.backbone_config.model_type,
        "labels": config.num_labels,
        "parameters_per_vertex": sum(parameter.numel() for parameter in model.vertices[0].parameters()),
        "shared_parameters": sum(parameter.numel() for parameter in model.shared.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "sampling": config.sampling,
        "log_volume": None if total == float("-inf") else total,
        "vertices": [
            {
                "vertex": vertex,
                "role": role,
                "epochs": stages.get(vertex, {}).get("epochs"),
                "start": stages.get(vertex, {}).get("start"),
                "simplexes": [number for number, simplex in enumerate(config.simplexes) if vertex in simplex],
            }
            for vertex, role in enumerate(config.roles)
        ],
        "simplexes": [
            {"simplex": number, "vertices": vertices, "log_volume": of_each[number]}
            for number, vertices in enumerate(config.simplexes)
        ],
        "members": [
            {"member": number, "coordinates": coordinates} for number, coordinates in enumerate(config.members)
        ],
    }
