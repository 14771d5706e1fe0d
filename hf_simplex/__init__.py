"""Simplexes of fine-tuned weights: calibrated, uncertainty-aware ensembles for a few extra epochs.

Importing this package registers the model type `simplex` and the pipeline `simplex-image-classification` with
transformers. It does not import torch or transformers: see `registration`.

Example::

    import hf_simplex
    from transformers import pipeline

    pipeline("image-classification", model="me/resnet50-simplex")("cat.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import registration as registration
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .model.configuration_simplex import SimplexConfig
    from .model.modeling_simplex import SimplexForImageClassification
    from .model.pipeline_simplex import SimplexImageClassificationPipeline
    from .training.arguments import SimplexTrainingArguments
    from .training.trainer import SimplexTrainer


__all__ = [
    "SimplexConfig",
    "SimplexForImageClassification",
    "SimplexImageClassificationPipeline",
    "SimplexTrainer",
    "SimplexTrainingArguments",
    "__version__",
]

_MODULES = {
    "SimplexConfig": "model.configuration_simplex",
    "SimplexForImageClassification": "model.modeling_simplex",
    "SimplexImageClassificationPipeline": "model.pipeline_simplex",
    "SimplexTrainer": "training.trainer",
    "SimplexTrainingArguments": "training.arguments",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
