"""Which parameters of a backbone differ between the vertices. All others are stored once, for all vertices."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from transformers import PreTrainedModel

from .classification_head import head_modules
from .low_rank_adapters import insert_adapters, is_adapter_config, is_inserted, normalized_adapter_config

__all__ = [
    "ALL",
    "HEAD",
    "LORA",
    "VertexParameters",
    "check_vertex_parameters",
    "describe_vertex_parameters",
    "matching_parameters",
    "resolve_vertex_parameters",
    "separate_shared",
]

ALL, HEAD, LORA = "all", "head", "lora"

VertexParameters = str | Sequence[str] | Mapping[str, Any]
"""`"all"`, `"head"`, patterns of names, or the dictionary of a peft `LoraConfig`."""


def check_vertex_parameters(value: Any) -> None:
    """Check the form of `vertex_parameters` in a configuration.

    Args:
        value: from config.json: `"all"`, a list of patterns, or the dictionary of a peft `LoraConfig`.

    Raises:
        ValueError: it is something else.

    Example:
        >>> from hf_simplex.model.vertex_parameters import check_vertex_parameters
        >>> check_vertex_parameters(["classifier", "vit.layers.11.*"])
    """
    patterns = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    if value != ALL and not patterns and not is_adapter_config(value):
        raise ValueError(
            f"vertex_parameters is {value!r}; expected 'all', a list of names of parameters or modules, or the "
            "dictionary of a peft LoraConfig, with peft_type 'LORA'."
        )


def describe_vertex_parameters(value: Any) -> str:
    """Say in a few words what differs between the vertices.

    Args:
        value: `vertex_parameters` of a configuration.

    Example:
        >>> from hf_simplex.model.vertex_parameters import describe_vertex_parameters
        >>> describe_vertex_parameters(["classifier"])
        'classifier'
        >>> describe_vertex_parameters({"peft_type": "LORA", "r": 4, "modules_to_save": ["classifier"]})
        'LoRA of rank 4 and classifier'
    """
    if isinstance(value, Mapping):
        whole = value.get("modules_to_save") or []
        return " and ".join([f"LoRA of rank {value.get('r', 8)}", *([_listed(whole)] if whole else [])])
    return "all parameters" if value == ALL else _listed(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def matching_parameters(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Select parameters by patterns.

    A pattern is the name of a parameter or of a module, whose parameters it selects, with `*` for any text and `?` for
    any character.

    Args:
        names: of all parameters.
        patterns: at least one.

    Returns:
        The selected names, in the order of `names`.

    Raises:
        ValueError: a pattern selects nothing. The message names similar modules.

    Example:
        >>> from hf_simplex.model.vertex_parameters import matching_parameters
        >>> matching_parameters(["vit.layers.0.norm.bias", "vit.layers.1.norm.bias", "head.bias"], ["*.1", "head"])
        ['vit.layers.1.norm.bias', 'head.bias']
    """
    names = list(names)
    prefixes = {
        name: [".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)] for name in names
    }
    selected: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if any(fnmatchcase(prefix, pattern) for prefix in prefixes[name])}
        if not found:
            raise ValueError(
                f"vertex_parameters has the pattern {pattern!r}, which matches nothing{_near(pattern, prefixes)}"
            )
        selected |= found
    return [name for name in names if name in selected]


def _near(pattern: str, prefixes: Mapping[str, Sequence[str]]) -> str:
    known = [HEAD, *dict.fromkeys(prefix for all_prefixes in prefixes.values() for prefix in all_prefixes)]
    bare = pattern.strip("*.")
    inside = [name for name in known if bare and bare in name]
    similar = inside or difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
    if not similar:
        return f": the backbone has {', '.join(dict.fromkeys(name.split('.')[0] for name in known))}."
    hint = f", or {f'*{bare}*'!r} for all that hold it" if inside and f"*{bare}*" != pattern else ""
    return f". Similar names: {', '.join(similar[:3])}{hint}."


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
        >>> from hf_simplex.model.vertex_parameters import resolve_vertex_parameters
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
        >>> from hf_simplex.model.vertex_parameters import separate_shared
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
