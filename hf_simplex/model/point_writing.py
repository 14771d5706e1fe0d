"""Writes a point of a complex into a backbone: its weights and its buffers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .weight_space import write_point

__all__ = ["write_point_and_buffers"]


@torch.no_grad()
def write_point_and_buffers(
    backbone: nn.Module,
    weights: Sequence[Mapping[str, Tensor]],
    coordinates: Sequence[float],
    point_statistics: nn.Module | None,
) -> None:
    """Write mixed parameters, the point's own statistics, and the nearest vertex's other buffers into a backbone.

    Args:
        backbone: its trainable parameters and its buffers are overwritten.
        weights: parameters and buffers of each vertex.
        coordinates: [vertices] barycentric coordinates.
        point_statistics: holds the BatchNorm statistics of the point as buffers; None takes the nearest vertex's.

    Raises:
        ValueError: see `weight_space.write_point`.

    Example::

        write_point_and_buffers(model.backbone, model.weights, [0.5, 0.5], model.centroids[0])
    """
    write_point(backbone, weights, coordinates)
    nearest = weights[max(range(len(weights)), key=lambda index: coordinates[index])]
    own = {} if point_statistics is None else dict(point_statistics.named_buffers())
    for name, buffer in backbone.named_buffers():
        # No vertex has the non-persistent buffers: the backbone keeps its own.
        if (source := own.get(name, nearest.get(name))) is not None:
            buffer.copy_(source)
