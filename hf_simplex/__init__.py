"""Simplexes of fine-tuned weights: calibrated, uncertainty-aware ensembles for a few extra epochs.

Importing this package registers the model type `simplex` with transformers' Auto classes, and its pipeline.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_simplex import SimplexConfig
from .modeling_simplex import SimplexForImageClassification
from .pipeline_simplex import TASK, SimplexImageClassificationPipeline
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .training import SimplexTrainer, SimplexTrainingArguments


__all__ = [
    "SimplexConfig",
    "SimplexForImageClassification",
    "SimplexImageClassificationPipeline",
    "SimplexTrainer",
    "SimplexTrainingArguments",
]

AutoConfig.register(SimplexConfig.model_type, SimplexConfig)
AutoModelForImageClassification.register(SimplexConfig, SimplexForImageClassification)
PIPELINE_REGISTRY.register_pipeline(
    TASK, SimplexImageClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
)

# Training pulls in datasets and accelerate, which those who only load an ensemble need not wait for.
_LAZY = {"SimplexTrainer": "training", "SimplexTrainingArguments": "training"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
