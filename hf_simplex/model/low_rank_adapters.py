"""Low-rank adapters of peft as vertices: inserted into a backbone, merged into its weights, or saved as adapters."""

import copy
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adaptable_layers import is_adaptable
from .vertex_parameters import is_adapter_config

__all__ = [
    "insert_adapters",
    "check_adapters",
    "is_inserted",
    "mean_of_merged",
    "merged",
    "normalized_adapter_config",
    "write_adapter",
]

_ADAPTER = "default"
_ADAPTER_FILE = "adapter_model.safetensors"
# These settings rewrite the shared weights, add layers, or mean something else than W + B A.
_UNSUPPORTED = (
    "alora_invocation_tokens", "arrow_config", "corda_config", "ensure_weight_tying", "eva_config", "kasa_config",
    "layer_replication", "loftq_config", "lora_ga_config", "monteclora_config", "target_parameters",
    "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# These say where an adapter came from or how it is run.
_NOT_STORED = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core", "peft_version",
    "revision", "runtime_config", "task_type",
)  # fmt: skip


def is_inserted(module: nn.Module) -> bool:
    """Return whether a module has adapters of peft.

    Example:
        >>> from hf_simplex.model.low_rank_adapters import is_inserted
        >>> is_inserted(nn.Linear(2, 2))
        False
    """
    # Not by names: a backbone may have a base_layer of its own (timm's dla).
    return any(type(layer).__module__.partition(".")[0] == "peft" for layer in module.modules())


def check_adapters(value: Any, statistics: Mapping[str, Tensor]) -> None:
    """Check that a point can be written as an adapter of peft.

    Args:
        value: `vertex_parameters` of the configuration.
        statistics: the BatchNorm statistics of the point; an adapter has no place for them.

    Raises:
        ValueError: the vertices are not low-rank adapters, or the backbone has BatchNorm.

    Example:
        >>> from hf_simplex.model.low_rank_adapters import check_adapters
        >>> check_adapters({"peft_type": "LORA", "r": 8}, {})
    """
    if not is_adapter_config(value):
        raise ValueError("as_adapter=True, but the vertices are no low-rank adapters. Leave it out for a plain model.")
    if statistics:
        raise ValueError(
            "as_adapter=True, but an adapter of peft has no place for the BatchNorm statistics of a point, such as "
            f"{next(iter(statistics))}. Leave it out for a plain model."
        )


def _peft() -> Any:
    try:
        import peft  # an optional dependency
    except ImportError as error:
        raise ImportError(
            "The vertices are low-rank adapters, which need peft: pip install 'hf-simplex[lora]', or pip install peft."
        ) from error
    return peft


def normalized_adapter_config(value: Any, module: PreTrainedModel, head: Sequence[str]) -> dict[str, Any]:
    """Turn a peft `LoraConfig` into the dictionary that a configuration stores.

    Targets are stored by their full names. Without targets, all linear layers and all convolutions without groups get
    adapters, if these merge into their weights (see `adaptable_layers.is_adaptable`). Without `modules_to_save`, the
    head varies as a whole; give an empty list to keep it shared.

    Args:
        value: a `LoraConfig`, its dictionary, or None for the defaults of peft.
        module: the backbone, without adapters.
        head: names of the modules of its head.

    Returns:
        JSON values; settings at peft's defaults are left out.

    Raises:
        ImportError: peft is not installed.
        TypeError: the value is the configuration of another method than LoRA.
        ValueError: a setting is unknown or not supported, or a target matches nothing.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.low_rank_adapters import normalized_adapter_config
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> found = normalized_adapter_config({"peft_type": "LORA", "target_modules": ["q_proj"]}, vit, ["classifier"])
        >>> found["target_modules"], found["modules_to_save"]
        (['vit.layers.0.attention.q_proj'], ['classifier'])
    """
    lora_config_class = _peft().LoraConfig
    if isinstance(value, Mapping):
        unknown = set(value) - set(lora_config_class().to_dict()) - {"peft_type"}
        if unknown:
            raise ValueError(f"vertex_parameters has {min(unknown)!r}, which is no setting of peft's LoraConfig.")
        value = lora_config_class(**{name: setting for name, setting in value.items() if name != "peft_type"})
    elif value is None:
        value = lora_config_class()
    if not isinstance(value, lora_config_class):
        raise TypeError(f"vertex_parameters is a {type(value).__name__}; expected a LoraConfig of peft.")
    defaults = lora_config_class().to_dict()
    stored = {
        name: _as_json(setting)
        for name, setting in value.to_dict().items()
        if name not in _NOT_STORED and setting != defaults[name]
    }
    if wrong := [name for name in _UNSUPPORTED if stored.get(name)]:
        raise ValueError(f"vertex_parameters has {wrong[0]}={stored[wrong[0]]!r}, which vertices do not support.")
    if stored.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise ValueError(
            f"init_lora_weights is {stored['init_lora_weights']!r}, which changes the shared weights; expected True, "
            "False or 'gaussian'."
        )
    whole = stored.get("modules_to_save")
    stored["modules_to_save"] = list(head) if whole is None else list(whole)
    stored["target_modules"] = _targets(stored.pop("target_modules", None), stored, module)
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        # They are contained in the names of the targets.
        stored.pop(name, None)
    return {"peft_type": "LORA", **stored}


def _as_json(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value


def _targets(asked: Any, settings: Mapping[str, Any], module: PreTrainedModel) -> list[str]:
    """The full names of the layers that get adapters."""
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d | nn.Embedding)
        and not any(name == whole or name.endswith(f".{whole}") for whole in settings["modules_to_save"])
    }
    if asked is None or asked == "all-linear":
        kinds = nn.Linear if asked else (nn.Linear, nn.Conv2d)
        found = [
            name
            for name, layer in layers.items()
            if isinstance(layer, kinds)
            and getattr(layer, "groups", 1) == 1
            and is_adaptable(layer)
            and not _is_excluded(name, settings.get("exclude_modules"))
        ]
        if not found:
            raise ValueError(f"The given {type(module).__name__} has no layer for adapters: give target_modules.")
        return found
    for target in () if isinstance(asked, str) else asked:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            names = {name.rpartition(".")[2] for name in layers}
            near = difflib.get_close_matches(target, names, n=3, cutoff=0.3) or sorted(names)[:5]
            raise ValueError(
                f"target_modules has {target!r}, which is no linear or convolution layer of the given "
                f"{type(module).__name__}. Similar names: {', '.join(near)}."
            )
    with torch.device("meta"):
        trial = type(module)._from_config(copy.deepcopy(module.config))
    peft = _peft()
    try:
        config = peft.LoraConfig(target_modules=asked, **_settings(settings, without=("modules_to_save",)))
        peft.inject_adapter_in_model(config, trial, _ADAPTER)
    except (ValueError, TypeError) as error:
        raise ValueError(f"peft cannot insert adapters at target_modules={asked!r}: {error}") from error
    found = [name for name, layer in trial.named_modules() if _is_adapted(layer) and name in layers]
    if wrong := [name for name in found if not is_adaptable(layers[name])]:
        raise ValueError(
            f"target_modules has {wrong[0]}, whose adapter would not merge into its weight: this "
            f"{type(layers[wrong[0]]).__name__} computes something else than W x + b. Leave it out."
        )
    return found


def _is_excluded(name: str, excluded: Any) -> bool:
    """As in peft: a pattern for the whole name, or names of modules."""
    if isinstance(excluded, str):
        return re.fullmatch(excluded, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in excluded or ())


def _settings(stored: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    return {name: setting for name, setting in stored.items() if name not in ("peft_type", *without)}


def _is_adapted(layer: nn.Module) -> bool:
    return hasattr(layer, "lora_A") and hasattr(layer, "base_layer")


def insert_adapters(module: PreTrainedModel, stored: Mapping[str, Any]) -> set[str]:
    """Insert adapters into the layers of a backbone, in place.

    Args:
        module: the backbone, without adapters.
        stored: from `normalized_adapter_config`.

    Returns:
        Names of the parameters that peft trains: A and B, and the biases that `bias` asks for.

    Raises:
        ImportError: peft is not installed.
        ValueError: a target does not exist, or peft refuses the settings.

    Source: Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.low_rank_adapters import insert_adapters
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> sorted(insert_adapters(vit, {"peft_type": "LORA", "target_modules": ["vit.layers.0.attention.q_proj"]}))[0]
        'vit.layers.0.attention.q_proj.lora_A.default.weight'
    """
    peft = _peft()
    known = {name for name, _ in module.named_modules()}
    if missing := sorted(set(stored["target_modules"]) - known):
        raise ValueError(f"target_modules has {missing[0]!r}, which the backbone has not.")
    try:
        # modules_to_save is ours: peft would wrap those modules and rename their parameters.
        config = peft.LoraConfig(**_settings(stored, without=("modules_to_save",)))
        peft.inject_adapter_in_model(config, module, _ADAPTER)
        _keep_settings_of_convolutions(module)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # peft checks its settings each in its own way, or not at all.
        raise ValueError(
            f"peft cannot insert the adapters of vertex_parameters. {type(error).__name__}: {error}"
        ) from error
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def _keep_settings_of_convolutions(module: nn.Module) -> None:
    """Let adapted convolutions say their stride and padding, by which some backbones (MobileNet) pad their input."""
    for layer in module.modules():
        if _is_adapted(layer) and isinstance(base := layer.base_layer, nn.Conv2d):
            for name in ("kernel_size", "stride", "padding", "dilation", "groups"):
                setattr(layer, name, getattr(base, name))


@torch.no_grad()
def merged(module: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a backbone with its adapters merged into its weights, W + s B A, under the plain names.

    Args:
        module: a backbone with adapters, or without.

    Raises:
        ValueError: a merged weight is not finite.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.low_rank_adapters import merged
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> is_inserted(merged(vit))
        False
    """
    plain = copy.deepcopy(module)
    for name, layer in list(plain.named_modules()):
        if _is_adapted(layer):
            layer.merge(safe_merge=True)
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, layer.get_base_layer())
    plain.__dict__.pop("peft_config", None)
    return plain


@torch.no_grad()
def mean_of_merged(modules: Iterable[PreTrainedModel]) -> PreTrainedModel:
    """Return the mean of several backbones after their adapters are merged: weights W + s mean(B A).

    Args:
        modules: at least one, of the same architecture, each read before the next; so they may be one module that
            holds other weights each time.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.low_rank_adapters import mean_of_merged
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> torch.equal(mean_of_merged([vit, vit]).classifier.weight, vit.classifier.weight)
        True
    """
    plain = (merged(module) for module in modules)
    mean = next(plain)
    for number, other in enumerate(plain, start=2):
        for target, tensor in zip(mean.parameters(), other.parameters(), strict=True):
            target.lerp_(tensor, 1 / number)
    return mean


def write_adapter(module: PreTrainedModel, stored: Mapping[str, Any], backbone: str | None, directory: Path) -> None:
    """Write the adapters that a backbone holds as files of peft, which `PeftModel.from_pretrained` loads.

    Args:
        module: a backbone with adapters.
        stored: `vertex_parameters` of the configuration.
        backbone: Hub id or folder of the weights that the adapters belong to; None if it is unknown.
        directory: an existing folder.

    Example::

        backbone = model.backbone_at([1.0, 0.0])
        write_adapter(backbone, model.config.vertex_parameters, "google/vit-base", Path("adapter"))
    """
    whole = stored.get("modules_to_save") or None
    config = _peft().LoraConfig(
        **_settings(stored, without=("modules_to_save",)),
        modules_to_save=whole,
        base_model_name_or_path=backbone,
        inference_mode=True,
    )
    config.save_pretrained(str(directory))
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = name.replace(f".{_ADAPTER}.", ".").removesuffix(f".{_ADAPTER}").replace(".base_layer.", ".")
            tensors[f"base_model.model.{plain}"] = parameter.detach().cpu().contiguous()
    save_file(tensors, os.path.join(directory, _ADAPTER_FILE), metadata={"format": "pt"})
