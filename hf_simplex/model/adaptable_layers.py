"""Which layers can have low-rank adapters that merge into their weights."""

import copy

import torch
from torch import nn

__all__ = ["is_adaptable"]


def is_adaptable(layer: nn.Module) -> bool:
    """Return whether W x + B A x = (W + B A) x holds for a layer, and the layer is called to compute it.

    It does not where a convolution standardizes its weight first. peft gives A neither the dilation nor the padding
    mode of a convolution. The output projection of `nn.MultiheadAttention` is never called: its weights are used in a
    fused kernel.

    Args:
        layer: any module.

    Example:
        >>> from hf_simplex.model.adaptable_layers import is_adaptable
        >>> attention = nn.MultiheadAttention(4, 2)
        >>> is_adaptable(nn.Linear(2, 3)), is_adaptable(attention.out_proj), is_adaptable(nn.LayerNorm(2))
        (True, False, False)
    """
    if isinstance(layer, nn.Embedding):
        return True
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and (
        layer.padding_mode != "zeros" or any(step > 1 for step in layer.dilation)
    ):
        return False
    for plain in (nn.Linear, nn.Conv1d, nn.Conv2d):
        if isinstance(layer, plain):
            return type(layer).forward is plain.forward or _is_linear_in_its_weight(layer)
    return False


@torch.no_grad()
def _is_linear_in_its_weight(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> bool:
    """Whether twice the weight gives twice the output: the layer has a forward pass of its own."""
    trial, generator = copy.deepcopy(layer).to("cpu", torch.float32), torch.Generator().manual_seed(0)
    for parameter in trial.parameters():
        # Its own values may be zero, twice which is zero too.
        parameter.normal_(generator=generator)
    if trial.bias is not None:
        trial.bias.zero_()
    if isinstance(trial, nn.Linear):
        shape = [1, trial.in_features]
    else:
        shape = [1, trial.in_channels, *(size + 1 for size in trial.kernel_size)]
    inputs = torch.randn(shape, generator=generator)
    try:
        once = trial(inputs)
        trial.weight.mul_(2)
        return torch.allclose(trial(inputs), 2 * once, rtol=1e-3, atol=1e-6)
    except (RuntimeError, TypeError, ValueError):
        # It takes other inputs.
        return False
