"""Brings a batch to where and how a module computes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["module_inputs"]


def module_inputs(module: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Move the tensors of a batch to the device of a module, and its floating tensors to the module's dtype.

    Image processors give float32, which the layers of a bfloat16 module refuse.

    Args:
        module: computes on the device and in the dtype of its first parameter. Without parameters, nothing is moved.
        batch: arguments of the module by name, on any device.

    Returns:
        A new dictionary.

    Example:
        >>> import torch
        >>> module_inputs(nn.Linear(2, 1).bfloat16(), {"input": torch.ones(1, 2), "size": 2})
        {'input': tensor([[1., 1.]], dtype=torch.bfloat16), 'size': 2}
    """
    first = next(module.parameters(), None)
    if first is None:
        return dict(batch)
    return {
        name: value.to(first.device, first.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }
