"""The weights that all vertices share, held once by the ensemble, its working backbone and its ready members."""

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["own_bytes", "shared_memo", "shared_state", "split_parameters", "tie_shared"]


def split_parameters(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters that differ between vertices, and those that all vertices share, by name, not copied.

    Args:
        module: a backbone from `backbones.build_backbone`, in which just the former require gradients.

    Example:
        >>> from hf_simplex.model.shared_weights import split_parameters
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.requires_grad_(False)
        >>> varying, shared = split_parameters(layer)
        >>> list(varying), list(shared)
        (['bias'], ['weight'])
    """
    varying: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        (varying if parameter.requires_grad else shared)[name] = parameter.data
    return varying, shared


def shared_state(module: nn.Module) -> set[str]:
    """Return the names of the shared parameters in the state dict of a backbone, where a tied one has several.

    Args:
        module: a backbone.

    Example:
        >>> from hf_simplex.model.shared_weights import shared_state
        >>> shared_state(nn.Linear(2, 1).requires_grad_(False)) == {"weight", "bias"}
        True
    """
    parameters = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}


def tie_shared(module: nn.Module, shared: Mapping[str, Tensor]) -> None:
    """Replace the shared parameters of a backbone by the given ones, which it then holds without a copy.

    Args:
        module: a backbone.
        shared: frozen parameters by name.

    Example:
        >>> import torch
        >>> from hf_simplex.model.shared_weights import tie_shared
        >>> layer, weight = nn.Linear(2, 1), nn.Parameter(torch.ones(1, 2), requires_grad=False)
        >>> tie_shared(layer, {"weight": weight})
        >>> layer.weight is weight
        True
    """
    if not shared:
        return
    present = dict(module.named_parameters())
    replaced = {id(present[name]): parameter for name, parameter in shared.items()}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            # By identity: a tied parameter has several names and is listed under one of them.
            if parameter is not None and id(parameter) in replaced:
                child._parameters[name] = replaced[id(parameter)]  # type: ignore[assignment]


def shared_memo(module: nn.Module) -> dict[int, nn.Parameter]:
    """Return the memo with which `copy.deepcopy` of a backbone keeps the shared parameters instead of copying them.

    Args:
        module: a backbone.

    Example:
        >>> import copy
        >>> from hf_simplex.model.shared_weights import shared_memo
        >>> layer = nn.Linear(2, 1).requires_grad_(False)
        >>> copy.deepcopy(layer, shared_memo(layer)).weight is layer.weight
        True
    """
    return {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}


def own_bytes(module: nn.Module) -> int:
    """Return the memory of what a backbone does not share: its varying parameters and its buffers, in bytes.

    Args:
        module: a backbone.

    Example:
        >>> from hf_simplex.model.shared_weights import own_bytes
        >>> own_bytes(nn.Linear(2, 3))
        36
    """
    own = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*own, *module.buffers()))
