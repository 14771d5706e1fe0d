"""Applies `vertex_parameters` to a backbone: resolves what a user asks for, and separates what all vertices share."""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedModel

from .classification_head import head_modules
from .low_rank_adapters import insert_adapters, is_inserted, normalized_adapter_config
from .vertex_parameters import ALL, HEAD, LORA, is_adapter_config, matching_parameters

__all__ = ["resolve_vertex_parameters", "separate_shared"]


def resolve_vertex_parameters(value: Any, module: PreTrainedModel, new_weights: Iterable[str] = ()) -> Any:
    """Turn what a user asks for into what the configuration stores, with the head by its name.

    Args:
        value: `"all"`, `"head"`, a name or pattern or several of them, `"lora"`, a peft `LoraConfig` or its
            dictionary; None for the parameters of `module` that require gradients.
        module: the backbone, without adapters.
        new_weights: names of its newly initialized weights. They belong to the head.

    Returns:
        `"all"`, a list of patterns, or the dictionary of a LoraConfig.

    Raises:
        ImportError: adapters are asked for, and peft is not installed.
        TypeError: the value is of another type.
        ValueError: a pattern or a target of the adapters matches nothing; no parameter requires gradients; new weights
            would stay as they were drawn; or the backbone has adapters already or is quantized.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.vertex_selection import resolve_vertex_parameters
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> resolve_vertex_parameters("head", vit)
        ['classifier']
    """
    kind = type(module).__name__
    if is_inserted(module):
        raise ValueError(
            f"The given {kind} has adapters already. Give the backbone without them, and vertex_parameters=LoraConfig("
            "...); or merge them first (merge_and_unload)."
        )
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if value is None:
        if not trainable:
            raise ValueError(f"No parameter of the given {kind} requires gradients: there is nothing to train.")
        return ALL if len(trainable) == len(list(module.named_parameters())) else trainable
    if isinstance(value, str) and value == ALL:
        return ALL
    if getattr(module, "is_quantized", False) or getattr(module.config, "quantization_config", None) is not None:
        raise ValueError(f"The given {kind} is quantized: a simplex needs weights in floating point. Load it without.")
    is_adapter = value == LORA or is_adapter_config(value) or type(value).__name__.endswith("Config")
    if is_adapter:
        asked = None if isinstance(value, str) else value
        return normalized_adapter_config(asked, module, head_modules(module, new_weights))
    if isinstance(value, Mapping):
        raise ValueError(f"vertex_parameters has peft_type {value.get('peft_type')!r}; only 'LORA' is supported.")
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"vertex_parameters is {value!r}; expected 'all', 'head', 'lora', names or patterns of parameters, or a "
            "LoraConfig of peft."
        )
    resolved: list[str] = []
    for pattern in patterns:
        resolved += head_modules(module, new_weights) if pattern == HEAD else [pattern]
    if not resolved:
        raise ValueError("vertex_parameters is empty: give 'all', 'head', or names of parameters.")
    selected = matching_parameters([name for name, _ in module.named_parameters()], resolved)
    if left := sorted(set(new_weights) - set(selected)):
        raise ValueError(
            f"vertex_parameters leaves out {left[0]}, which is newly initialized and would never be trained: add "
            "'head'."
        )
    return list(dict.fromkeys(resolved))


def separate_shared(module: PreTrainedModel, vertex_parameters: Any) -> None:
    """Insert the adapters, if any, and let exactly the parameters require gradients that differ between vertices.

    Args:
        module: a backbone without adapters; changed in place.
        vertex_parameters: from `resolve_vertex_parameters`.

    Raises:
        ImportError: adapters are asked for, and peft is not installed.
        ValueError: a pattern or a target of the adapters matches nothing.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.vertex_selection import separate_shared
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> separate_shared(vit, ["classifier"])
        >>> [name for name, parameter in vit.named_parameters() if parameter.requires_grad]
        ['classifier.weight', 'classifier.bias']
    """
    if vertex_parameters == ALL:
        for parameter in module.parameters():
            # Quantized weights cannot: loading a backbone for inference keeps them as they are.
            parameter.requires_grad_(parameter.is_floating_point())
        return
    whole = vertex_parameters
    varying: set[str] = set()
    if isinstance(vertex_parameters, Mapping):
        varying = insert_adapters(module, vertex_parameters)
        whole = vertex_parameters.get("modules_to_save") or []
    if whole:
        varying.update(matching_parameters([name for name, _ in module.named_parameters()], whole))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in varying)
