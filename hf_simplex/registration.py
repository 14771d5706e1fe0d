"""Registers the model type and the pipeline with transformers once transformers imports its own tables.

Registration needs the classes, and the classes need torch. `hf-simplex --help` needs neither, so nothing is imported
here. Each hook runs after the import of the module that it names, or at once if that module is imported already.
"""

import sys
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

__all__: list[str] = []

_PACKAGE = __package__


_CONFIGURATIONS = "transformers.models.auto.configuration_auto"
_MODELS = "transformers.models.auto.modeling_auto"
_PIPELINES = "transformers.pipelines"
_OURS = tuple(f"{_PACKAGE}.model.{name}" for name in ("configuration_simplex", "modeling_simplex", "pipeline_simplex"))


def _module(name: str) -> Any:
    return import_module(name, _PACKAGE)


def _register(_: ModuleType) -> None:
    """Registers each class with the table that it belongs to, as far as transformers has imported the tables.

    A class of a module whose import is still under way is missing. The hook after that import registers it.
    """
    if _CONFIGURATIONS not in sys.modules:
        return
    config = getattr(_module(_OURS[0]), "SimplexConfig", None)
    if config is None:
        return
    sys.modules[_CONFIGURATIONS].AutoConfig.register(config.model_type, config, exist_ok=True)
    if _MODELS not in sys.modules:
        return
    model = getattr(_module(_OURS[1]), "SimplexForImageClassification", None)
    if model is None:
        return
    auto_model = sys.modules[_MODELS].AutoModelForImageClassification
    auto_model.register(config, model, exist_ok=True)
    if _PIPELINES not in sys.modules:
        return
    task, registry = _module(_OURS[0]).TASK, sys.modules[_PIPELINES].PIPELINE_REGISTRY
    pipeline = getattr(_module(_OURS[2]), "SimplexImageClassificationPipeline", None)
    if pipeline is not None and task not in registry.get_supported_tasks():
        registry.register_pipeline(task, pipeline, pt_model=auto_model, type="image")


def _bind_publishing(modeling: ModuleType) -> None:
    """Give the model its `push_to_hub`: what inference needs does not import the room that publishes."""
    model_class = modeling.SimplexForImageClassification

    @wraps(model_class.push_to_hub)
    def push_to_hub(self: Any, repo_id: str, **arguments: Any) -> Any:
        return _module(".hub.publishing").publish_model(self, repo_id, **arguments)

    model_class.push_to_hub = push_to_hub


for _name in (_CONFIGURATIONS, _MODELS, _PIPELINES, *_OURS):
    register_post_import_hook(_register, _name)
register_post_import_hook(_bind_publishing, _OURS[1])
