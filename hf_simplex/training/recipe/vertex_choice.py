"""What a run's vertices vary: a word, names, or a LoraConfig, from a flag, a line of YAML, or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["parse_vertex_parameters"]


def parse_vertex_parameters(value: Any) -> Any:
    """Read the argument `vertex_parameters` of a recipe.

    Args:
        value: `"all"`, `"head"` or `"lora"`; names or patterns of parameters, as a list or separated by commas; the
            dictionary of a peft `LoraConfig`; or the path of a YAML or JSON file with such a list or dictionary. A
            dictionary needs no `peft_type`.

    Returns:
        The value that `SimplexForImageClassification.from_backbone` takes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not YAML, or holds something else.

    Example:
        >>> from hf_simplex.training.recipe.vertex_choice import parse_vertex_parameters
        >>> parse_vertex_parameters("head, *layers.11")
        ['head', '*layers.11']
        >>> parse_vertex_parameters({"r": 4})
        {'peft_type': 'LORA', 'r': 4}
    """
    if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
        path, content = Path(value), None
        if not path.is_file():
            raise FileNotFoundError(f"vertex_parameters names the file {value}, which does not exist.")
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{value} is not YAML: {error}") from error
        if not isinstance(content, dict | list):
            raise ValueError(f"{value} holds {content!r}; expected the settings of a LoraConfig, or a list of names.")
        value = content
    if isinstance(value, Mapping):
        return {"peft_type": "LORA", **value}
    if isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",") if name.strip()]
    return value
