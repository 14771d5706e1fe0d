"""The inference code beside a checkpoint, for those who load it by `trust_remote_code=True` without this package."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME

from .checkpoint import atomic_write
from .configuration_simplex import TASK, SimplexConfig

if TYPE_CHECKING:
    # transformers copies the files that imports name. Without this line the model's code would lack the pipeline's.
    from .pipeline_simplex import SimplexImageClassificationPipeline  # noqa: F401

# Names of files and classes instead of imports: the model and the pipeline import this file.
_AUTO_MAP = {
    "AutoConfig": "configuration_simplex.SimplexConfig",
    "AutoModelForImageClassification": "modeling_simplex.SimplexForImageClassification",
}
_PIPELINE = "pipeline_simplex.SimplexImageClassificationPipeline"

_CODE_KEYS = ("auto_map", "custom_pipelines")


def inference_files() -> list[Path]:
    """The source files that loading and predicting take: configuration, model, pipeline, and all that they import."""
    folder = Path(__file__).parent
    roots = [str(folder / f"{reference.split('.')[0]}.py") for reference in (*_AUTO_MAP.values(), _PIPELINE)]
    return sorted({Path(file) for root in roots for file in (root, *get_relative_import_files(root))})


def write_inference_code(directory: str | os.PathLike[str]) -> None:
    """Write the inference code beside a saved ensemble, and say in its config.json where transformers finds it.

    With torch and transformers alone, `AutoModelForImageClassification.from_pretrained(..., trust_remote_code=True)`
    and `pipeline(..., trust_remote_code=True)` then load it. Where hf_simplex is imported its own classes are used and
    the files are not read. All is written aside first and then renamed into place, config.json last.

    Args:
        directory: where `SimplexForImageClassification.save_pretrained` wrote an ensemble.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is of another model, or no JSON.
    """
    config_file = Path(directory) / CONFIG_NAME
    if not config_file.is_file():
        raise FileNotFoundError(f"{directory} holds no {CONFIG_NAME}: save the ensemble there first.")
    try:
        config = json.loads(config_file.read_text("utf-8"))
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file} is not the configuration of a model ({error!r}).") from error
    if model_type != SimplexConfig.model_type:
        raise ValueError(
            f"{config_file} is of model_type {model_type!r}, for which this code is of no use; expected "
            f"{SimplexConfig.model_type!r}."
        )
    config["auto_map"] = dict(_AUTO_MAP)
    config["custom_pipelines"] = {
        TASK: {
            "impl": _PIPELINE,
            "pt": ["AutoModelForImageClassification"],
            "type": "image",
        }
    }
    with atomic_write(directory) as aside:
        for file in inference_files():
            shutil.copyfile(file, aside / file.name)
        (aside / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def refers_to_code(config_file: Path) -> bool:
    """Whether a config.json names code beside it."""
    return any(json.loads(config_file.read_text("utf-8")).get(name) for name in _CODE_KEYS)


def remove_code_references(config_file: Path) -> None:
    """Make a config.json name no code beside it; one that names none stays as it is, byte for byte."""
    if refers_to_code(config_file):
        config = json.loads(config_file.read_text("utf-8"))
        config = {name: value for name, value in config.items() if name not in _CODE_KEYS}
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
