"""The kinds of backbones, and a small random one of each: timm by family, transformers by class."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
import transformers
from tiny import LABELS
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from sweep.tiny_configurations import SIZE, tiny_configuration

__all__ = ["BATCH", "Kind", "build", "kinds", "smallest_member"]

BATCH = 4
SIZES = (32, 64, 96, 128, 160, 192, 224, 256)
SHALLOW: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    *({name: (1,) * stages} for name in ("depths", "layers") for stages in (3, 4)),
)
"""Arguments with which some architectures of timm have fewer layers."""


@dataclass(frozen=True)
class Kind:
    """A kind of backbone.

    Attributes:
        library: `timm` or `transformers`.
        name: the family, a module of `timm.models`; or the class.
    """

    library: str
    name: str


def kinds() -> list[Kind]:
    """Every family of timm and every image classifier of transformers but the wrapper of timm."""
    classes: list[str] = []
    for name, of_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items():
        if name != "timm_wrapper":
            classes.extend([of_type] if isinstance(of_type, str) else of_type)
    return [*(Kind("timm", name) for name in timm.list_modules()), *(Kind("transformers", name) for name in classes)]


def smallest_member(family: str) -> str:
    """The architecture of a family of timm with the fewest parameters."""
    return min(timm.list_models(module=family), key=lambda architecture: _parameters(architecture) or float("inf"))


def _parameters(architecture: str, **model_args: Any) -> int | None:
    """How many parameters an architecture has; None if it cannot be built."""
    try:
        with torch.device("meta"):
            module = timm.create_model(architecture, num_classes=LABELS, **model_args)
    except Exception:
        # Arguments that an architecture does not have raise errors of every type.
        return None
    return sum(parameter.numel() for parameter in module.parameters())


def build(kind: Kind, architecture: str | None = None) -> tuple[PreTrainedModel, int]:
    """A small random backbone and the size of its images in pixels.

    Args:
        kind: of the backbone.
        architecture: of timm; default: the smallest member of the family.
    """
    torch.manual_seed(0)
    if kind.library == "timm":
        return _timm_backbone(architecture or smallest_member(kind.name))
    model_class = getattr(transformers, kind.name)
    config = tiny_configuration(model_class.config_class, num_labels=LABELS)
    size: Any = next(
        (
            part.image_size
            for part in (config, getattr(config, "vision_config", None))
            if getattr(part, "image_size", None) is not None
        ),
        SIZE,
    )
    return model_class(config).eval(), size if isinstance(size, int) else size[0]


def _timm_backbone(architecture: str) -> tuple[PreTrainedModel, int]:
    """The architecture with few layers if it can be told so, at the smallest size of images that it takes."""
    whole = _parameters(architecture)
    assert whole is not None
    counted = [(_parameters(architecture, **arguments) or whole, arguments) for arguments in SHALLOW]
    fewest, shallow = min(counted, key=lambda entry: entry[0])
    default = timm.get_pretrained_cfg(architecture).input_size[-1]
    for arguments in [shallow, {}] if fewest < whole else [{}]:
        for size in sorted({*(size for size in SIZES if size < default), default}):
            sized = {**arguments, "img_size": size}
            if _parameters(architecture, **sized) is None:
                sized = arguments
            if (backbone := _that_trains(architecture, size, sized)) is not None:
                return backbone, size
    # The error of the architecture as it is.
    return _wrapped(architecture, default, {}), default


def _wrapped(architecture: str, size: int, model_args: dict[str, Any]) -> PreTrainedModel:
    settings = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": architecture,
            "num_classes": LABELS,
            "pretrained_cfg": {**settings, "num_classes": LABELS},
            "model_args": model_args,
        }
    )
    return TimmWrapperForImageClassification(config).eval()


def _that_trains(architecture: str, size: int, model_args: dict[str, Any]) -> PreTrainedModel | None:
    try:
        backbone = _wrapped(architecture, size, model_args)
        with torch.no_grad():
            backbone.train()(torch.zeros(BATCH, 3, size, size), labels=torch.zeros(BATCH, dtype=torch.long))
    except Exception:
        # Images that are too small raise errors of every type.
        return None
    # The trial has changed the BatchNorm statistics.
    torch.manual_seed(0)
    return _wrapped(architecture, size, model_args)
