"""The Hub's check of a card (`README.md`)."""

import re
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

# A few of the names that the Hub accepts.
LICENSES = [
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "gpl-3.0",
    "mpl-2.0",
    "other",
    "unknown",
]

# Keys that hold one name or a list of names, and keys that hold one name.
NAME_KEYS = ("tags", "datasets", "metrics", "language", "base_model")
STRING_KEYS = ("license", "library_name", "pipeline_tag", "model_name")

METADATA_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata of a card, empty without a metadata block.

    Raises:
        ValueError: the block is not valid YAML, or not a mapping.
    """
    block = METADATA_BLOCK.match(text)
    if block is None:
        return {}
    try:
        metadata = yaml.safe_load(block["yaml"])
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata is not valid YAML: {error}") from error
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata must be a mapping, not a {type(metadata).__name__}")
    return metadata


def card_errors(text: str) -> list[str]:
    """What is wrong with a card. The Hub refuses a card with errors."""
    try:
        metadata = card_metadata(text)
    except ValueError as error:
        return [str(error)]
    errors = [f'"{key}" must be a string' for key in STRING_KEYS if not isinstance(metadata.get(key, ""), str)]
    errors += [f'"{key}" must be a string or a list of strings' for key in NAME_KEYS if not _is_names(metadata, key)]
    if metadata.get("license", "mit") not in LICENSES:
        errors.append(f'"license" must be one of {LICENSES}, not {metadata["license"]!r}')
    try:
        if "model-index" in metadata:
            model_index_to_eval_results(metadata["model-index"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        errors.append(f'"model-index" is not valid: {error!r}')
    return errors


def _is_names(metadata: dict[str, Any], key: str) -> bool:
    names = metadata.get(key, [])
    return isinstance(names, str) or (isinstance(names, list) and all(isinstance(name, str) for name in names))
