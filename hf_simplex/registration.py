"""Registers the model type and the pipeline with transformers, without importing it.

Registration needs the classes, and the classes need torch. `hf-simplex --help` needs neither. So each class is
registered after its own module is imported, and the import of transformers' module imports it. Either import may
come first, or start the other.
"""

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

__all__: list[str] = []


def _register_config(ours: ModuleType, auto: ModuleType) -> None:
    auto.AutoConfig.register(ours.SimplexConfig.model_type, ours.SimplexConfig, exist_ok=True)


def _register_model(ours: ModuleType, auto: ModuleType) -> None:
    model_class = ours.SimplexForImageClassification
    auto.AutoModelForImageClassification.register(model_class.config_class, model_class, exist_ok=True)

    @wraps(model_class.push_to_hub)
    def push_to_hub(self: Any, repo_id: str, **kwargs: Any) -> Any:
        # The model's room does not import the rooms that publish and evaluate.
        return import_module(f"{__package__}.hub.publishing").publish_model(self, repo_id, **kwargs)

    @wraps(model_class.calibrate)
    def calibrate(self: Any, validation: Any, **kwargs: Any) -> Any:
        return import_module(f"{__package__}.evaluation.calibrate").calibrate(self, validation, **kwargs)

    model_class.push_to_hub = push_to_hub
    model_class.calibrate = calibrate


def _register_pipeline(ours: ModuleType, pipelines: ModuleType) -> None:
    auto = import_module("transformers.models.auto.modeling_auto")
    pipelines.PIPELINE_REGISTRY.register_pipeline(
        ours.TASK,
        ours.SimplexImageClassificationPipeline,
        pt_model=auto.AutoModelForImageClassification,
        type="image",
    )


def _register_after_import(name: str, register: Callable[[ModuleType, ModuleType], None], theirs: str) -> None:
    """Call `register(our module, their module)` once both are imported, in whichever order."""
    ours = f"{__package__}.model.{name}"

    def import_ours(_: ModuleType) -> None:
        # If our module is in sys.modules, its import started this one, and its own hook is still to run.
        if ours not in sys.modules:
            import_module(ours)

    register_post_import_hook(import_ours, theirs)
    register_post_import_hook(lambda module: register(module, import_module(theirs)), ours)


_register_after_import("configuration_simplex", _register_config, "transformers.models.auto.configuration_auto")
_register_after_import("modeling_simplex", _register_model, "transformers.models.auto.modeling_auto")
_register_after_import("pipeline_simplex", _register_pipeline, "transformers.pipelines")
