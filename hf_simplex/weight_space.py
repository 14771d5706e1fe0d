"""Writes the point at given barycentric coordinates into a module: the only place that mixes vertices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .sharding import local_parameters

Weights = Mapping[str, Tensor]
"""One set of weights: tensors by the module's own parameter names."""


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the parameters that span the weight space of `module`; a tied parameter counts once."""
    return [name for name, _ in module.named_parameters()]


@torch.no_grad()
def write_point(module: nn.Module, vertices: Sequence[Weights], coordinates: Sequence[float]) -> None:
    """Write the point `sum_i coordinates[i] * vertices[i]` into the parameters of `module`, in place.

    Vertices are folded in one after the other by linear interpolation. That makes two cases exact to the last bit:
    coordinates that single out one vertex, and vertices that are equal. Vertices of coordinate 0 are not read. Mixing
    happens in float32 (float64 for float64 parameters) whatever the dtypes of vertices and parameters.

    Of a module that is divided among processes each writes its own shards, out of vertices that are divided alike.

    Args:
        module: its parameters are overwritten; any floating dtype, any device.
        vertices: one set of weights a vertex, each with a tensor for every parameter of `module`, of its shape.
        coordinates: [vertices] barycentric coordinates; floats that sum to 1.

    Raises:
        ValueError: as many coordinates as vertices were expected, or the coordinates are all 0.
    """
    if len(vertices) != len(coordinates):
        raise ValueError(f"{len(vertices)} vertices need as many coordinates, not {len(coordinates)}.")
    support = [(float(c), vertex) for c, vertex in zip(coordinates, vertices, strict=True) if c != 0]
    if not support:
        raise ValueError("All coordinates are 0: a point needs coordinates that sum to 1.")
    parameters = local_parameters(module)
    wide = [p for p in parameters.values() if p.dtype in (torch.float32, torch.float64)]
    mixed = {
        name: p if p.dtype in (torch.float32, torch.float64) else torch.empty_like(p, dtype=torch.float32)
        for name, p in parameters.items()
    }
    total = 0.0
    for coordinate, vertex in support:
        total += coordinate
        targets, sources = list(mixed.values()), [vertex[name] for name in mixed]
        if total == coordinate:
            torch._foreach_copy_(targets, sources)
        else:
            sources = [
                source if source.dtype == target.dtype and source.device == target.device else source.to(target)
                for source, target in zip(sources, targets, strict=True)
            ]
            torch._foreach_lerp_(targets, sources, coordinate / total)
    if len(wide) < len(parameters):
        torch._foreach_copy_(list(parameters.values()), list(mixed.values()))


@torch.no_grad()
def copy_weights(module: nn.Module, into: Weights) -> None:
    """Copy the parameters of `module` bit for bit into the tensors of `into`, in place (same names, same shapes)."""
    parameters = local_parameters(module)
    torch._foreach_copy_([into[name] for name in parameters], list(parameters.values()))


@contextmanager
def weights_moved_to(
    module: nn.Module, vertices: Sequence[Weights], coordinates: Sequence[float], vertex: int
) -> Iterator[None]:
    """While the context lasts, `module` holds the point at `coordinates` in place of vertex number `vertex`.

    The weights of `module` on entry are that vertex: they are saved to `vertices[vertex]` before the point is written,
    and put back bit for bit on exit. A forward and a backward pass within the context work on the point, so that
    `.grad` receives the gradient with respect to the point; the optimizer, outside, steps the vertex.

    Args:
        module: holds the vertex on entry and on exit, the point between.
        vertices: as for `write_point`; the tensors of `vertices[vertex]` are overwritten.
        coordinates: [vertices] barycentric coordinates.
        vertex: the index of the vertex that `module` holds.
    """
    copy_weights(module, vertices[vertex])
    try:
        write_point(module, vertices, coordinates)
        yield
    finally:
        one_hot = [float(index == vertex) for index in range(len(vertices))]
        write_point(module, vertices, one_hot)


def blocks(vertices: Sequence[Weights], names: Iterable[str]) -> Iterator[Tensor]:
    """The vertices one parameter at a time, [vertices, parameter size] each: the form in which `geometry` takes them.

    A [vertices, all parameters] matrix of float64 would not fit where the weights themselves just do.
    """
    for name in names:
        yield torch.stack([vertex[name].flatten() for vertex in vertices])
