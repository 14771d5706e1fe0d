"""Which parameters of a backbone differ between the vertices. All others are stored once, for all vertices."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

__all__ = [
    "ALL",
    "HEAD",
    "LORA",
    "check_vertex_parameters",
    "describe_vertex_parameters",
    "is_adapter_config",
    "matching_parameters",
]

ALL, HEAD, LORA = "all", "head", "lora"


def is_adapter_config(value: Any) -> bool:
    """Return whether a value is the dictionary of a peft `LoraConfig`.

    Example:
        >>> from hf_simplex.model.vertex_parameters import is_adapter_config
        >>> is_adapter_config({"peft_type": "LORA", "r": 8}), is_adapter_config(["classifier"])
        (True, False)
    """
    return isinstance(value, Mapping) and str(value.get("peft_type")).upper().removeprefix("PEFTTYPE.") == "LORA"


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
    if is_adapter_config(value):
        for setting, may_be_empty in (("target_modules", False), ("modules_to_save", True)):
            names = value.get(setting)
            if not _are_names(names) or not (names or may_be_empty):
                raise ValueError(
                    f"vertex_parameters has {setting}={names!s:.100}; expected a list of names of modules."
                )
        return
    if value != ALL and not (_are_names(value) and value):
        raise ValueError(
            f"vertex_parameters is {value!r}; expected 'all', a list of names of parameters or modules, or the "
            "dictionary of a peft LoraConfig, with peft_type 'LORA'."
        )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


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
