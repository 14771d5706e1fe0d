"""Named tensors as a module, so that a state dict carries them under the backbone's own names."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TensorTree(nn.Module):
    """A module without a forward that holds tensors under dotted names.

    Vertices are kept this way: `TensorTree({"head.weight": w}, {})` has the state dict key `head.weight`, exactly as
    the backbone has it, but no code and no submodules of the backbone.

    Args:
        parameters: tensors of any shape and floating dtype by name; held as frozen parameters.
        buffers: tensors of any shape and dtype by name; held as buffers.

    Raises:
        KeyError: two names collide (one is a prefix of the other).
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
        """All tensors by their dotted name: the parameters first, then the buffers, not copied."""
        parameters: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        # In one pass, and without torch's search for tensors that are there twice.
        for prefix, module in self.named_modules():
            for found, own in ((parameters, module._parameters), (buffers, module._buffers)):
                found.update({f"{prefix}.{name}" if prefix else name: t for name, t in own.items() if t is not None})
        return parameters | buffers


def like(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Uninitialized tensors of the same names, shapes and dtypes on the default device.

    The default device is `meta` while transformers lays out a checkpoint that it is about to read.
    """
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
