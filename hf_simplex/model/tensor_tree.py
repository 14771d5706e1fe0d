"""Named tensors as a module, whose state dict has the backbone's names."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["TensorTree", "empty_like", "first_non_finite"]


class TensorTree(nn.Module):
    """A module that holds tensors under dotted names and has no forward.

    It stores a vertex under the backbone's names, without the backbone's code.

    Args:
        parameters: tensors of any shape and floating dtype by name, registered as frozen parameters.
        buffers: tensors of any shape and dtype by name, registered as buffers.

    Raises:
        KeyError: two names collide (one is a prefix of the other).

    Example:
        >>> tree = TensorTree({"head.weight": torch.ones(2)}, {})
        >>> list(tree.state_dict())
        ['head.weight']
    """

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in parameters.items():
            module, leaf = self._branch(name)
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        for name, tensor in buffers.items():
            module, leaf = self._branch(name)
            module.register_buffer(leaf, tensor)

    def _branch(self, name: str) -> tuple[nn.Module, str]:
        module: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module, leaf

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by dotted name, parameters first, then buffers, not copied.

        Example:
            >>> list(TensorTree({"head.weight": torch.ones(2)}, {}).tensors())
            ['head.weight']
        """
        parameters: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        # One pass. named_parameters() and named_buffers() also search for shared tensors, which costs time.
        for prefix, module in self.named_modules():
            for found, own in ((parameters, module._parameters), (buffers, module._buffers)):
                found.update({f"{prefix}.{name}" if prefix else name: t for name, t in own.items() if t is not None})
        return parameters | buffers


def empty_like(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return uninitialized tensors of the same names, shapes and dtypes on the default device.

    The default device is `meta` while transformers builds a model before it reads the weights.

    Example:
        >>> empty_like({"bias": torch.zeros(3)})["bias"].shape
        torch.Size([3])
    """
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}


def first_non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with a value that is not finite; None if there is none.

    Example:
        >>> first_non_finite({"weight": torch.ones(2), "bias": torch.tensor([0.0, float("nan")])})
        'bias'
    """
    return next(
        (name for name, tensor in state.items() if not tensor.is_meta and not bool(tensor.isfinite().all())), None
    )
