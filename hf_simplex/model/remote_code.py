"""The inference code beside a checkpoint: `trust_remote_code=True` loads it without this package."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME

from .checkpoint import atomic_write
from .configuration_simplex import TASK, SimplexConfig

__all__ = [
    "inference_files",
    "refers_to_code",
    "remove_code_references",
    "write_inference_code",
]

if TYPE_CHECKING:
    # transformers copies imported files. This import adds the pipeline's file to the model's.
    from .pipeline_simplex import SimplexImageClassificationPipeline  # noqa: F401

# Strings, because importing these classes would be circular: the model imports this file.
_AUTO_MAP = {
    "AutoConfig": "configuration_simplex.SimplexConfig",
    "AutoModelForImageClassification": "modeling_simplex.SimplexForImageClassification",
}
_PIPELINE = "pipeline_simplex.SimplexImageClassificationPipeline"

_CODE_KEYS = ("auto_map", "custom_pipelines")


def inference_files() -> list[Path]:
    """Return the source files of configuration, model and pipeline, and the files that they import.

    Example:
        >>> "modeling_simplex.py" in [file.name for file in inference_files()]
        True
    """
    folder = Path(__file__).parent
    roots = [str(folder / f"{reference.split('.')[0]}.py") for reference in (*_AUTO_MAP.values(), _PIPELINE)]
    return sorted({Path(file) for root in roots for file in (root, *get_relative_import_files(root))})


def write_inference_code(directory: str | os.PathLike[str]) -> None:
    """Write the inference code beside a saved ensemble, and refer to it in config.json.

    `AutoModelForImageClassification.from_pretrained(..., trust_remote_code=True)` and
    `pipeline(..., trust_remote_code=True)` then need only torch and transformers. If hf_simplex is imported, its own
    classes are used. The write is atomic.

    Args:
        directory: a folder written by `SimplexForImageClassification.save_pretrained`.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is another model's, or not JSON.

    Example::

        model.save_pretrained("ensemble")
        write_inference_code("ensemble")
    """
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"{directory} holds no {CONFIG_NAME}: save the ensemble there first.")
    # Read under the lock: what another process saves meanwhile, or a killed save has left aside, is not undone.
    with atomic_write(directory) as aside:
        config = _config_for_code(Path(directory) / CONFIG_NAME)
        for file in inference_files():
            shutil.copyfile(file, aside / file.name)
        (aside / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _config_for_code(config_file: Path) -> dict[str, Any]:
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file.parent} holds no {CONFIG_NAME}: save the ensemble there first.")
    try:
        config = dict(json.loads(config_file.read_text("utf-8")))
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file} is not the configuration of a model ({error!r}).") from error
    if model_type != SimplexConfig.model_type:
        raise ValueError(
            f"{config_file} has model_type {model_type!r}, but this code loads models of type "
            f"{SimplexConfig.model_type!r} only."
        )
    config["auto_map"] = dict(_AUTO_MAP)
    config["custom_pipelines"] = {
        TASK: {
            "impl": _PIPELINE,
            "pt": ["AutoModelForImageClassification"],
            "type": "image",
        }
    }
    return config


def refers_to_code(config_file: Path) -> bool:
    """Return whether a config.json refers to code.

    Example::

        refers_to_code(Path("ensemble/config.json"))
    """
    return any(json.loads(config_file.read_text("utf-8")).get(name) for name in _CODE_KEYS)


def remove_code_references(config_file: Path) -> None:
    """Remove the references to code from a config.json. A file without any stays the same, byte for byte.

    Example::

        remove_code_references(Path("ensemble/config.json"))
    """
    if refers_to_code(config_file):
        config = json.loads(config_file.read_text("utf-8"))
        config = {name: value for name, value in config.items() if name not in _CODE_KEYS}
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
