"""Registers the model type and the pipeline with transformers once transformers imports its own tables.

Registration needs the classes, and the classes need torch. `hf-simplex --help` needs neither, so nothing is imported
here. A hook runs after the import of its module, or at once if the module is imported already.
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
    """Registers configuration, model and pipeline with the tables that transformers has imported.

    While the import of a module is under way, its table or class is missing. The hook after that import comes here
    again.
    """
    auto_config: Any = getattr(sys.modules.get(_CONFIGURATIONS), "AutoConfig", None)
    config = auto_config and getattr(_module(_OURS[0]), "SimplexConfig", None)
    if config is None:
        return
    auto_config.register(config.model_type, config, exist_ok=True)
    auto_model: Any = getattr(sys.modules.get(_MODELS), "AutoModelForImageClassification", None)
    model = auto_model and getattr(_module(_OURS[1]), "SimplexForImageClassification", None)
    if model is None:
        return
    auto_model.register(config, model, exist_ok=True)
    registry: Any = getattr(sys.modules.get(_PIPELINES), "PIPELINE_REGISTRY", None)
    pipeline = registry and getattr(_module(_OURS[2]), "SimplexImageClassificationPipeline", None)
    task = _module(_OURS[0]).TASK
    if pipeline is not None and task not in registry.get_supported_tasks():
        registry.register_pipeline(task, pipeline, pt_model=auto_model, type="image")


def _bind_publishing(modeling: ModuleType) -> None:
    """Gives the model its `push_to_hub`. The files of the model do not import `hub`."""
    model_class = modeling.SimplexForImageClassification

    @wraps(model_class.push_to_hub)
    def push_to_hub(self: Any, repo_id: str, **arguments: Any) -> Any:
        return _module(".hub.publishing").publish_model(self, repo_id, **arguments)

    model_class.push_to_hub = push_to_hub


for _name in (_CONFIGURATIONS, _MODELS, _PIPELINES, *_OURS):
    register_post_import_hook(_register, _name)
register_post_import_hook(_bind_publishing, _OURS[1])
