"""Registers the model type and the pipeline with transformers once transformers imports its own tables.

Registration needs the classes, and the classes need torch. `hf-simplex --help` needs neither, so nothing is imported
here. Each hook runs after the import of the module that it names, or at once if that module is imported already.
"""

from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

__all__: list[str] = []

_PACKAGE = __package__


def _module(name: str) -> Any:
    return import_module(name, _PACKAGE)


def _register_configuration(auto: ModuleType) -> None:
    config = _module(".model.configuration_simplex").SimplexConfig
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_model(auto: ModuleType) -> None:
    config = _module(".model.configuration_simplex").SimplexConfig
    model = _module(".model.modeling_simplex").SimplexForImageClassification
    auto.AutoModelForImageClassification.register(config, model, exist_ok=True)


def _register_pipeline(pipelines: ModuleType) -> None:
    pipelines.PIPELINE_REGISTRY.register_pipeline(
        _module(".model.configuration_simplex").TASK,
        _module(".model.pipeline_simplex").SimplexImageClassificationPipeline,
        pt_model=_module("transformers").AutoModelForImageClassification,
        type="image",
    )


def _bind_publishing(modeling: ModuleType) -> None:
    """Give the model its `push_to_hub`: what inference needs does not import the room that publishes."""
    model_class = modeling.SimplexForImageClassification

    @wraps(model_class.push_to_hub)
    def push_to_hub(self: Any, repo_id: str, **arguments: Any) -> Any:
        return _module(".hub.publishing").publish_model(self, repo_id, **arguments)

    model_class.push_to_hub = push_to_hub


register_post_import_hook(_register_configuration, "transformers.models.auto.configuration_auto")
register_post_import_hook(_register_model, "transformers.models.auto.modeling_auto")
register_post_import_hook(_register_pipeline, "transformers.pipelines")
register_post_import_hook(_bind_publishing, f"{_PACKAGE}.model.modeling_simplex")
