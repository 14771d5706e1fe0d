"""LoRA-Ensemble: members share a frozen pretrained transformer; low-rank adapters and the head are their own.

Source: Halbheer et al., LoRA-Ensemble: Efficient Uncertainty Modelling for Self-attention Networks, arXiv 2405.14438.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def lora_member(backbone: PreTrainedModel, rank: int, target_modules: list[str]) -> PreTrainedModel:
    """The backbone with fresh LoRA adapters and a trainable head, all else frozen: one member, not yet trained.

    Args:
        backbone: a transformer for image classification; it is changed.
        rank: of the adapters.
        target_modules: the ends of the names of the linear layers that get adapters: the attention's projections.

    Returns:
        The model to train and to predict with.

    Raises:
        ImportError: peft is not installed.
        ValueError: the backbone has none of the target modules (it is no transformer, or names them otherwise).
    """
    from peft import LoraConfig, get_peft_model

    linear = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    if not any(name.split(".")[-1] in target_modules for name in linear):
        raise ValueError(
            f"{type(backbone).__name__} has no linear layers called {', '.join(target_modules)}: LoRA-Ensemble is for "
            "transformers. Leave the method lora_ensemble out, or name the attention's projections in lora_targets."
        )
    heads = {name.split(".")[-1] for name, _ in backbone.named_children()} & {"classifier", "head"}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=target_modules, modules_to_save=sorted(heads) or None)
    member: Any = get_peft_model(backbone, config)
    return member
