"""What the About tab says of an ensemble: structure, card and pictures."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.label_names import label_names_of
from ..hub.model_card import PICTURES
from ..model.checkpoint import locate
from ..model.modeling_simplex import SimplexForImageClassification

__all__ = ["About", "describe"]

_CAPTIONS = {
    "reliability.png": "Calibration: accuracy against confidence",
    "risk_coverage.png": "Error against the share of images that are answered",
    "loss_surface.png": "Loss surface",
}
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PICTURE_LINE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class About:
    """What is known of an ensemble beside its weights.

    Attributes:
        name: Hub id, or name of the folder.
        facts: for one line.
        structure: facts by name.
        card: Markdown without metadata, comments and pictures; empty without a card.
        pictures: PNG files by caption.

    Example:
        >>> About("me/pets", ("3 labels",), {"labels": 3}, "", {}).name
        'me/pets'
    """

    name: str
    facts: tuple[str, ...]
    structure: dict[str, object]
    card: str
    pictures: dict[str, bytes]


def describe(model: SimplexForImageClassification, ensemble: str | os.PathLike[str], **kwargs: Any) -> About:
    """Read what is known of an ensemble.

    Args:
        model: the ensemble.
        ensemble: the Hub id or folder that it was loaded from.
        **kwargs: `revision` and `token` of `from_pretrained`.

    Returns:
        What the tab says.

    Raises:
        OSError: the repository does not exist any more.

    Example::

        describe(model, "me/digits-simplex").facts
    """
    config, decisions = model.config, model.decisions
    calibrated = "not calibrated"
    if decisions is not None:
        images = decisions.fitted_on.get("images")
        calibrated = "calibrated" if images is None else f"calibrated on {images} images"
    count = len(config.simplexes)
    facts = (
        f"{len(label_names_of(model))} labels",
        f"{config.num_vertices} {'vertex' if config.num_vertices == 1 else 'vertices'} in "
        f"{count} {'simplex' if count == 1 else 'simplexes'}",
        f"{len(config.members)} {'member' if len(config.members) == 1 else 'members'}",
        calibrated,
    )
    structure: dict[str, object] = {
        "backbone": config.provenance.get("backbone") or type(model.backbone).__name__,
        "vertices": ", ".join(f"{role} {vertex}" for vertex, role in enumerate(config.roles)),
        "simplexes": ", ".join(str(list(simplex)) for simplex in config.simplexes),
        "weights of a vertex": f"{sum(parameter.numel() for parameter in model.vertices[0].parameters()):,}",
    }
    if decisions is not None:
        structure["temperature"] = f"{decisions.temperature:.3f}"
        structure["fitted on"] = decisions.fitted_on.get("data_set") or "unknown"
    if data_set := config.provenance.get("data_set"):
        structure["trained on"] = data_set
    name = os.fspath(ensemble)
    shown = Path(name).resolve().name if os.path.isdir(name) else name
    return About(shown, facts, structure, _card(ensemble, kwargs), _pictures(ensemble, kwargs))


def _card(ensemble: str | os.PathLike[str], kwargs: dict[str, Any]) -> str:
    if (file := locate(ensemble, "README.md", **kwargs)) is None:
        return ""
    card = file.read_text("utf-8", errors="replace").replace("\r\n", "\n")
    for pattern in (_FRONT_MATTER, _COMMENT, _PICTURE_LINE):
        card = pattern.sub("", card)
    return card.strip()


def _pictures(ensemble: str | os.PathLike[str], kwargs: dict[str, Any]) -> dict[str, bytes]:
    found = {name: locate(ensemble, name, **kwargs) for name in PICTURES}
    return {_CAPTIONS.get(name, name): file.read_bytes() for name, file in found.items() if file is not None}
