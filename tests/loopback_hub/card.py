"""The check that the Hub makes on a repo card (`README.md`) before it accepts it."""

import re
from typing import Any

import yaml

# The names that the Hub knows are more than these.
LICENSES = """
apache-2.0 mit openrail bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0
gpl gpl-2.0 gpl-3.0 lgpl lgpl-3.0 agpl-3.0 mpl-2.0 unlicense other unknown
"""
PIPELINE_TAGS = """
image-classification zero-shot-image-classification image-feature-extraction image-segmentation object-detection
image-to-text image-text-to-text text-classification token-classification text-generation feature-extraction fill-mask
question-answering audio-classification video-classification tabular-classification other
"""
MISSING_METADATA = "empty or missing yaml metadata in repo card"

# Keys that hold one name or a list of names.
NAME_KEYS = ("tags", "datasets", "metrics", "language", "base_model")
STRING_KEYS = ("license", "library_name", "pipeline_tag", "license_name", "license_link", "model_name")

METADATA_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def card_metadata(text: str) -> dict[str, Any]:
    """The YAML metadata of a card.

    Args:
        text: the whole card, metadata block included.

    Returns:
        The metadata; empty where the card has no metadata block.

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


def check_card(text: str) -> tuple[list[str], list[str]]:
    """What is wrong with a card, as the Hub's `validate-yaml` endpoint tells it.

    Args:
        text: the whole card.

    Returns:
        Errors (the Hub refuses such a card) and warnings (it does not).
    """
    try:
        metadata = card_metadata(text)
    except ValueError as error:
        return [str(error)], []
    if not metadata:
        return [], [MISSING_METADATA]

    errors = [f'"{key}" must be a string' for key in STRING_KEYS if not isinstance(metadata.get(key, ""), str)]
    errors += [f'"{key}" must be a string or a list of strings' for key in NAME_KEYS if not _names(metadata, key)]
    license_name = metadata.get("license", "mit")
    if isinstance(license_name, str) and license_name not in LICENSES.split():
        errors.append(f'"license" must be one of {LICENSES.split()}, not {license_name!r}')
    if "model-index" in metadata:
        errors += _model_index_errors(metadata["model-index"])

    pipeline_tag = metadata.get("pipeline_tag", "other")
    warnings = []
    if isinstance(pipeline_tag, str) and pipeline_tag not in PIPELINE_TAGS.split():
        warnings.append(f"The pipeline tag {pipeline_tag!r} is not in the official list")
    return errors, warnings


def _names(metadata: dict[str, Any], key: str) -> bool:
    names = metadata.get(key, [])
    return isinstance(names, str) or (isinstance(names, list) and all(isinstance(name, str) for name in names))


def _model_index_errors(model_index: Any) -> list[str]:
    errors: list[str] = []

    def need(condition: bool, where: str, what: str) -> bool:
        if not condition:
            errors.append(f'"{where}" {what}')
        return condition

    def need_strings(mapping: Any, where: str, keys: tuple[str, ...]) -> None:
        if need(isinstance(mapping, dict), where, "is required and must be an object"):
            for key in keys:
                need(isinstance(mapping.get(key), str), f"{where}.{key}", "is required and must be a string")

    def need_list(mapping: dict[str, Any], where: str, key: str) -> list[Any]:
        # An empty list will do: it is what transformers' Trainer writes for a model without results.
        values = mapping.get(key)
        need(isinstance(values, list), f"{where}.{key}", "is required and must be a list")
        return values if isinstance(values, list) else []

    for i, entry in enumerate(need_list({"model-index": model_index}, "metadata", "model-index")):
        where = f"model-index[{i}]"
        need_strings(entry, where, ("name",))
        if not isinstance(entry, dict):
            continue
        for j, result in enumerate(need_list(entry, where, "results")):
            where = f"model-index[{i}].results[{j}]"
            if not need(isinstance(result, dict), where, "must be an object"):
                continue
            need_strings(result.get("task"), f"{where}.task", ("type",))
            need_strings(result.get("dataset"), f"{where}.dataset", ("type", "name"))
            for k, metric in enumerate(need_list(result, where, "metrics")):
                need_strings(metric, f"{where}.metrics[{k}]", ("type",))
                if isinstance(metric, dict):
                    need(metric.get("value") is not None, f"{where}.metrics[{k}].value", "is required")
    return errors
