"""BatchNorm statistics for a point: between vertices no running average is valid, so they are computed afresh."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of `module` that keep running statistics, by name (SyncBatchNorm and timm's included)."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
    }


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of `module`'s BatchNorm layers by buffer name, not copied; empty without BatchNorm."""
    return {
        f"{name}.{buffer_name}" if name else buffer_name: buffer
        for name, layer in batch_norm_layers(module).items()
        for buffer_name, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def recompute_statistics(module: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the BatchNorm statistics of `module` by the averages over `batches` at its present weights.

    Mean and (unbiased) variance of each batch are averaged over the batches, each weighted by its number of images,
    as in Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2. Only the BatchNorm layers run
    in training mode: dropout stays off. Without BatchNorm layers no batch is read. SyncBatchNorm does not communicate
    here, so that each process of a distributed run may work on a point of its own.

    Args:
        module: its running statistics are overwritten, its weights and its training flags are left alone.
        batches: mappings of keyword arguments for `module`, or single tensors [batch, ...] on any device.

    Raises:
        ValueError: there is no batch to compute the statistics from, or one that is a single image.
    """
    layers = batch_norm_layers(module)
    if not layers:
        return
    was_training = {child: child.training for child in module.modules()}
    momenta = {layer: layer.momentum for layer in layers.values()}
    device = next(iter(layers.values())).running_mean.device  # type: ignore[union-attr]
    module.eval()
    images = 0
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.train()
        for batch in batches:
            inputs = {"": batch} if isinstance(batch, Tensor) else batch
            inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
            size = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
            if size < 2:
                raise ValueError("A batch of 1 image has no variance: give BatchNorm batches of at least 2 images.")
            images += size
            for layer in layers.values():
                layer.momentum = size / images
            with _without_communication():
                module(inputs[""]) if isinstance(batch, Tensor) else module(**inputs)
        if images == 0:
            raise ValueError("BatchNorm statistics need at least one batch of training images, and none was given.")
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for child, training in was_training.items():
            child.training = training


@contextmanager
def _without_communication() -> Iterator[None]:
    """SyncBatchNorm as plain BatchNorm. The class is changed, since subclasses (timm's) do more than its forward."""
    synchronized = nn.SyncBatchNorm.forward
    nn.SyncBatchNorm.forward = _BatchNorm.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.SyncBatchNorm.forward = synchronized  # type: ignore[method-assign]


def copy_statistics(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the given statistics that no later forward pass changes."""
    return {name: tensor.detach().clone() for name, tensor in source.items()}
