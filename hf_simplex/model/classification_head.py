"""The head of an image classifier: the weights whose shape depends on the number of labels."""

import copy
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

__all__ = ["head_modules", "head_parameters"]


def head_parameters(module: PreTrainedModel) -> list[str]:
    """Return the names of the parameters whose shape depends on the number of labels.

    Args:
        module: an image classifier.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.classification_head import head_parameters
        >>> head_parameters(ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1)))
        ['classifier.weight', 'classifier.bias']
    """
    wider = copy.deepcopy(module.config)
    wider.num_labels = (module.config.num_labels or 0) + 1
    if hasattr(wider, "num_classes"):
        wider.num_classes = wider.num_labels
    with torch.device("meta"):
        other = dict(type(module)._from_config(wider).named_parameters())
    return [name for name, own in module.named_parameters() if other[name].shape != own.shape]


def head_modules(module: PreTrainedModel, new_weights: Iterable[str] = ()) -> list[str]:
    """Return the names of the modules of the head.

    Args:
        module: an image classifier.
        new_weights: names of newly initialized weights. Their modules belong to the head too.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.model.classification_head import head_modules
        >>> head_modules(ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1)))
        ['classifier']
    """
    names = {name for name, _ in module.named_parameters()}
    found = [*head_parameters(module), *sorted(names & set(new_weights))]
    # A parameter of the classifier itself has no module of its own.
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in found))
