"""BatchNorm statistics at points between vertices, recomputed from training images."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .module_inputs import module_inputs

__all__ = ["batch_norm_layers", "batch_norm_statistics", "copy_statistics", "recompute_statistics"]


def batch_norm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of `module` that track running statistics, by name; SyncBatchNorm and timm's included.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.batch_norm import batch_norm_layers
        >>> list(batch_norm_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
        ['1']
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
    }


def batch_norm_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of the BatchNorm layers of `module` by buffer name, not copied; empty without BatchNorm.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.batch_norm import batch_norm_statistics
        >>> list(batch_norm_statistics(nn.BatchNorm2d(4)))
        ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return {
        f"{name}.{buffer_name}" if name else buffer_name: buffer
        for name, layer in batch_norm_layers(module).items()
        for buffer_name, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def recompute_statistics(module: nn.Module, batches: Iterable[Any], point: str = "this point") -> None:
    """Recompute the BatchNorm statistics of `module` at its present weights.

    The running mean and variance become the averages of the batches' means and unbiased variances, weighted by batch
    size (Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, section 3.2). Only
    BatchNorm layers run in training mode; dropout stays off. SyncBatchNorm does not communicate, so that each process
    can work on a point of its own.

    Args:
        module: its running statistics are overwritten. Weights and training flags do not change.
        batches: mappings of keyword arguments for `module`, or single tensors [batch, ...], on any device. Not read
            if there are no BatchNorm layers. Floating tensors are cast to the dtype of `module`.
        point: what the module holds, for messages.

    Raises:
        ValueError: there is no batch, or a batch of a single image; or the statistics are not finite, and the message
            names point and layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.batch_norm import recompute_statistics
        >>> layer = nn.BatchNorm1d(1)
        >>> recompute_statistics(layer, [torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0], [6.0]])])
        >>> layer.running_mean
        tensor([3.5000])
    """
    layers = batch_norm_layers(module)
    if not layers:
        return
    was_training = {child: child.training for child in module.modules()}
    momenta = {layer: layer.momentum for layer in layers.values()}
    module.eval()
    images = 0
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.train()
        for batch in batches:
            inputs = module_inputs(module, {"": batch} if isinstance(batch, Tensor) else batch)
            size = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
            if size < 2:
                raise ValueError("A batch of 1 image has no variance: give BatchNorm batches of at least 2 images.")
            images += size
            for layer in layers.values():
                layer.momentum = size / images
            with _without_communication(layers.values()):
                module(inputs[""]) if isinstance(batch, Tensor) else module(**inputs)
        if images == 0:
            raise ValueError("BatchNorm statistics need at least one batch of training images, and none was given.")
        for name, layer in layers.items():
            if not all(bool(tensor.isfinite().all()) for tensor in layer.buffers(recurse=False)):
                raise ValueError(
                    f"The BatchNorm statistics of layer {name or type(layer).__name__!r} at {point} are not finite: "
                    "look for images that are not finite, or weights so large that the layers before it overflow."
                )
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for child, training in was_training.items():
            child.training = training


class _LocalBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm that normalizes over the images of its own process."""

    forward = _BatchNorm.forward


@contextmanager
def _without_communication(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Make the SyncBatchNorm layers among `layers` normalize over the images of their own process.

    Each layer gets another class within the context. A subclass of SyncBatchNorm, such as timm's with an activation,
    keeps its own forward: in the method resolution order, `_LocalBatchNorm` comes after it and before SyncBatchNorm.
    """
    classes = {layer: type(layer) for layer in layers if isinstance(layer, nn.SyncBatchNorm)}
    try:
        for layer, own in classes.items():
            bases = (_LocalBatchNorm,) if own is nn.SyncBatchNorm else (own, _LocalBatchNorm)
            layer.__class__ = type(own.__name__, bases, {})
        yield
    finally:
        for layer, own in classes.items():
            layer.__class__ = own


def copy_statistics(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the given statistics, which later forward passes do not change.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.batch_norm import batch_norm_statistics, copy_statistics
        >>> kept = copy_statistics(batch_norm_statistics(nn.BatchNorm2d(4)))
    """
    return {name: tensor.detach().clone() for name, tensor in source.items()}
