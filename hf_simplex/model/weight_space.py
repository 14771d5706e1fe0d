"""Writes the point at given barycentric coordinates into a module: the only place that mixes vertices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from .sharding import local_parameters

Weights = Mapping[str, Tensor]
"""One set of weights: tensors by the module's own parameter names."""

PIECE_ON_CPU = 2**17
"""Elements that are worked on at a time on a CPU: some vertices' worth of them stays in the cache."""

PIECE_ON_ACCELERATOR = 2**22
"""The same where each piece costs the launch of a few kernels: what bounds the memory that a pass takes."""


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
    found = support(vertices, coordinates)
    parameters = local_parameters(module)
    sources = [[vertices[index][name] for name in parameters] for index in found]
    mix(list(parameters.values()), sources, list(found.values()))


@torch.no_grad()
def mix(targets: Sequence[Tensor], sources: Sequence[Sequence[Tensor]], coordinates: Sequence[float]) -> None:
    """Write the normalized sum of sets of tensors into others of their shapes, in place and as `write_point` does.

    Args:
        targets: any floating dtypes, any device.
        sources: at least one set; any floating dtypes and devices. Pinned tensors on the CPU are read after the return
            where the targets are on an accelerator.
        coordinates: one for each set, of the same sign.
    """
    for piece, *mixed in chunks(targets, *sources):
        _mix(piece, mixed, coordinates)


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

    The weights of `module` on entry are that vertex: they are saved to `vertices[vertex]` as the point is written, and
    put back bit for bit on exit. A forward and a backward pass within the context work on the point, so that `.grad`
    receives the gradient with respect to the point; the optimizer, outside, steps the vertex.

    Args:
        module: holds the vertex on entry and on exit, the point between.
        vertices: as for `write_point`; the tensors of `vertices[vertex]` are overwritten.
        coordinates: [vertices] barycentric coordinates.
        vertex: the index of the vertex that `module` holds.
    """
    found = support(vertices, coordinates)
    parameters = local_parameters(module)
    saved = [vertices[vertex][name] for name in parameters]
    sources = [saved if index == vertex else [vertices[index][name] for name in parameters] for index in found]
    moved = 0
    try:
        with torch.no_grad():
            # One way through the memory for saving and mixing: what was just saved is mixed out of the cache.
            for targets, safe, *mixed in chunks(list(parameters.values()), saved, *sources):
                torch._foreach_copy_(safe, targets)
                moved += 1
                _mix(targets, mixed, list(found.values()))
        yield
    finally:
        with torch.no_grad():
            # Asked for anew, since an engine that shards may have put other tensors in their place; and cut with the
            # sources again, since the order in memory of each set decides where tensors are cut.
            for targets, safe, *_ in islice(chunks(list(local_parameters(module).values()), saved, *sources), moved):
                torch._foreach_copy_(targets, safe)


def support(vertices: Sequence[Weights], coordinates: Sequence[float]) -> dict[int, float]:
    """The coordinates that are not 0, by vertex; ValueError as in `write_point`."""
    if len(vertices) != len(coordinates):
        raise ValueError(f"{len(vertices)} vertices need as many coordinates, not {len(coordinates)}.")
    found = {index: float(coordinate) for index, coordinate in enumerate(coordinates) if coordinate != 0}
    if not found:
        raise ValueError("All coordinates are 0: a point needs coordinates that sum to 1.")
    return found


def _mix(targets: list[Tensor], sources: Sequence[list[Tensor]], coordinates: Sequence[float]) -> None:
    wide = [tensor.dtype in (torch.float32, torch.float64) for tensor in targets]
    mixed = [
        target if is_wide else torch.empty_like(target, dtype=torch.float32)
        for target, is_wide in zip(targets, wide, strict=True)
    ]
    _copy(sources[0], mixed)
    total = coordinates[0]
    for coordinate, source in zip(coordinates[1:], sources[1:], strict=True):
        total += coordinate
        torch._foreach_lerp_(mixed, cast_like(source, mixed), coordinate / total)
    if not all(wide):
        _copy(mixed, targets)


def cast_like(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in the dtype and on the device of the others; not copied where they are so already."""
    if all(tensor.dtype == o.dtype and tensor.device == o.device for tensor, o in zip(tensors, others, strict=True)):
        return list(tensors)
    converted = [torch.empty_like(other) for other in others]
    _copy(tensors, converted)
    return converted


def _copy(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    device = into[0].device
    # What is copied to the CPU must be there on return, since nothing that reads it there would wait.
    unawaited = device.type != "cpu"
    if tensors[0].device != device and tensors[0].dtype != into[0].dtype:
        # Moved as they are: the CPU would convert them before, into memory that is not pinned.
        tensors = [tensor.to(device, non_blocking=unawaited) for tensor in tensors]
    torch._foreach_copy_(list(into), list(tensors), non_blocking=unawaited)


def chunks(*weights: Sequence[Tensor], on_cpu: int | None = None) -> Iterator[list[list[Tensor]]]:
    """Cut several sets of weights into the same chunks, of which one from each set fits into the processor's cache.

    A pass over many vertices that works piece by piece reads each from memory once and writes the result once.

    Args:
        weights: sets of tensors, of the same shapes in the same order; any dtypes and devices.
        on_cpu: elements of a piece where the first set is on a CPU; default: `PIECE_ON_CPU`.

    Yields:
        For each set the tensors of a piece, not copied: several small tensors as they are, or a stretch of a large
        one, [elements] in the order of the memory. In all sets they hold the same elements.
    """
    size = (on_cpu or PIECE_ON_CPU) if weights[0][0].device.type == "cpu" else PIECE_ON_ACCELERATOR
    gathered: list[tuple[Tensor, ...]] = []
    elements = 0
    for tensors in zip(*weights, strict=True):
        if tensors[0].numel() > size and (flat := _flattened(tensors)) is not None:
            for stretch in zip(*(tensor.split(size) for tensor in flat), strict=True):
                yield [[tensor] for tensor in stretch]
            continue
        gathered.append(tensors)
        elements += tensors[0].numel()
        if elements >= size:
            yield [list(of_set) for of_set in zip(*gathered, strict=True)]
            gathered, elements = [], 0
    if gathered:
        yield [list(of_set) for of_set in zip(*gathered, strict=True)]


def _flattened(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Flat views of tensors that lie in memory in the same order; None where they do not."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(-1) for tensor in tensors]
    if all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors if tensor.dim() == 4):
        return [tensor.permute(0, 2, 3, 1).view(-1) for tensor in tensors] if tensors[0].dim() == 4 else None
    return None


def blocks(vertices: Sequence[Weights], names: Iterable[str]) -> Iterator[Tensor]:
    """The vertices one parameter at a time, [vertices, parameter size] each: the form in which `geometry` takes them.

    A [vertices, all parameters] matrix of float64 would not fit where the weights themselves just do.
    """
    for name in names:
        yield torch.stack([vertex[name].flatten() for vertex in vertices])
