"""Points of weight space: mix vertices by barycentric coordinates, and write the mix into a module."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from .sharding import local_parameters

__all__ = [
    "Weights",
    "cast_like",
    "chunks",
    "copy_weights",
    "mix",
    "set_strides",
    "stacked_parameters",
    "support",
    "swap_in_point",
    "trainable_names",
    "write_point",
]

Weights = Mapping[str, Tensor]
"""One set of weights: a tensor for each parameter name of the module."""

CHUNK_ON_CPU = 2**17
"""Chunk size, in elements, on a CPU. The chunks of a few vertices fit into its cache."""

CHUNK_ON_ACCELERATOR = 2**22
"""Chunk size, in elements, on an accelerator. Large enough to hide kernel launches, small enough to bound memory."""


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the parameters that span the weight space of `module`: those that require gradients.

    A tied parameter appears once.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.weight_space import trainable_names
        >>> trainable_names(nn.Linear(2, 1))
        ['weight', 'bias']
    """
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def write_point(module: nn.Module, vertices: Sequence[Weights], coordinates: Sequence[float]) -> None:
    """Write the point phi = sum_i c_i theta_i into the trainable parameters of `module`, in place.

    Parameters that do not require gradients stay as they are: all points share them.

    Vertices are mixed one after the other by linear interpolation. Two cases are exact to the last bit: a single
    vertex of coordinate 1, and equal vertices. Vertices of coordinate 0 are not read. Mixing runs in float32, or in
    float64 for float64 parameters. With a sharded module, each process mixes its own shards of the vertices.

    Args:
        module: its trainable parameters are overwritten; any floating dtype, any device.
        vertices: theta_i, sets of weights with the names and shapes of the trainable parameters of `module`.
        coordinates: c_i, [vertices] barycentric coordinates that sum to 1.

    Raises:
        ValueError: the numbers of vertices and coordinates differ, all coordinates are 0, or no parameter of `module`
            requires gradients.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.weight_space import write_point
        >>> module = nn.Linear(1, 1, bias=False)
        >>> write_point(module, [{"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[4.0]])}], [0.75, 0.25])
        >>> module.weight.item()
        1.0
    """
    found = support(vertices, coordinates)
    parameters = local_parameters(module)
    sources = [[vertices[index][name] for name in parameters] for index in found]
    mix(list(parameters.values()), sources, list(found.values()))
    _forget_derived(module)


def _forget_derived(module: nn.Module) -> None:
    """Drop what layers keep of former weights in evaluation mode, such as attention biases (LeViT, TinyViT).

    They drop it themselves on their way to training mode.
    """
    for layer in list(module.modules()):
        if type(layer).train is not nn.Module.train:
            mode = layer.training
            layer.train(True)
            layer.train(mode)


@torch.no_grad()
def mix(targets: Sequence[Tensor], sources: Sequence[Sequence[Tensor]], coordinates: Sequence[float]) -> None:
    """Write the weighted mean of sets of tensors into `targets`, in place, with the arithmetic of `write_point`.

    Args:
        targets: any floating dtypes, any device.
        sources: at least one set with the shapes of `targets`; any floating dtypes and devices. If the targets are on
            an accelerator, pinned sources are still being read on return.
        coordinates: a weight for each set, all of the same sign; need not sum to 1.

    Example:
        >>> import torch
        >>> from hf_simplex.model.weight_space import mix
        >>> mean = torch.empty(2)
        >>> mix([mean], [[torch.zeros(2)], [torch.ones(2)]], [1.0, 1.0])
        >>> mean
        tensor([0.5000, 0.5000])
    """
    for chunk, *mixed in chunks(targets, *sources):
        _mix(chunk, mixed, coordinates)


@torch.no_grad()
def copy_weights(module: nn.Module, into: Weights) -> None:
    """Copy the trainable parameters of `module` bit for bit into the tensors of `into`, of the same names and shapes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.weight_space import copy_weights
        >>> kept = {"weight": torch.empty(1, 1)}
        >>> copy_weights(nn.Linear(1, 1, bias=False), kept)
    """
    parameters = local_parameters(module)
    torch._foreach_copy_([into[name] for name in parameters], list(parameters.values()))


@torch.no_grad()
def set_strides(module: nn.Module, like: Weights) -> None:
    """Give the parameters of `module` the strides of other tensors, and keep their values.

    Args:
        module: parameters without a tensor in `like` stay as they are.
        like: tensors of the shapes of the parameters, by name.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.weight_space import set_strides
        >>> module = nn.Linear(2, 3, bias=False)
        >>> set_strides(module, {"weight": torch.empty(2, 3).t()})
        >>> module.weight.stride()
        (1, 3)
    """
    for name, parameter in module.named_parameters():
        if name in like and (strides := like[name].stride()) != parameter.stride():
            empty = torch.empty_strided(parameter.shape, strides, dtype=parameter.dtype, device=parameter.device)
            parameter.data = empty.copy_(parameter.data)


@contextmanager
def swap_in_point(
    module: nn.Module, vertices: Sequence[Weights], coordinates: Sequence[float], vertex: int
) -> Iterator[None]:
    """Swap the point at `coordinates` into `module`, which holds a vertex, for the duration of the context.

    On entry the weights of `module` are saved to `vertices[vertex]`; on exit they are restored bit for bit. A backward
    pass within the context leaves the gradient with respect to the point in `.grad`. The optimizer steps the vertex,
    outside.

    Args:
        module: holds the vertex before and after, the point in between.
        vertices: as for `write_point`; the tensors of `vertices[vertex]` are overwritten.
        coordinates: [vertices] barycentric coordinates.
        vertex: index of the vertex that `module` holds.

    Raises:
        ValueError: as `write_point`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.weight_space import swap_in_point
        >>> module, other = nn.Linear(1, 1, bias=False), {"weight": torch.zeros(1, 1)}
        >>> storage = {"weight": torch.empty(1, 1)}
        >>> with swap_in_point(module, [other, storage], [0.5, 0.5], vertex=1):
        ...     bool(module.weight == storage["weight"] / 2)
        True
    """
    found = support(vertices, coordinates)
    parameters = local_parameters(module)
    saved = [vertices[vertex][name] for name in parameters]
    sources = [saved if index == vertex else [vertices[index][name] for name in parameters] for index in found]
    moved = 0
    try:
        with torch.no_grad():
            # Save and mix chunk by chunk: the mix reads what was just saved from the cache.
            for targets, safe, *mixed in chunks(list(parameters.values()), saved, *sources):
                torch._foreach_copy_(safe, targets)
                moved += 1
                _mix(targets, mixed, list(found.values()))
        yield
    finally:
        with torch.no_grad():
            # An engine that shards may have replaced the parameters. The sources are chunked again too: the memory
            # formats of all sets decide where chunks end.
            for targets, safe, *_ in islice(chunks(list(local_parameters(module).values()), saved, *sources), moved):
                torch._foreach_copy_(targets, safe)


def support(vertices: Sequence[Weights], coordinates: Sequence[float]) -> dict[int, float]:
    """Return the nonzero coordinates by vertex index.

    Raises:
        ValueError: as `write_point`.

    Example:
        >>> from hf_simplex.model.weight_space import support
        >>> support([{}, {}, {}], [0.5, 0.0, 0.5])
        {0: 0.5, 2: 0.5}
    """
    if len(vertices) != len(coordinates):
        raise ValueError(f"{len(vertices)} vertices need as many coordinates, got {len(coordinates)}.")
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
    """Convert tensors to the dtypes and devices of others. Nothing is copied if all match already.

    Example:
        >>> import torch
        >>> from hf_simplex.model.weight_space import cast_like
        >>> cast_like([torch.ones(2)], [torch.ones(2, dtype=torch.float64)])
        [tensor([1., 1.], dtype=torch.float64)]
    """
    if all(tensor.dtype == o.dtype and tensor.device == o.device for tensor, o in zip(tensors, others, strict=True)):
        return list(tensors)
    converted = [torch.empty_like(other) for other in others]
    _copy(tensors, converted)
    return converted


def _copy(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    device = into[0].device
    # On a CPU the caller may read the result at once, so the copy must block.
    non_blocking = device.type != "cpu"
    if tensors[0].device != device and tensors[0].dtype != into[0].dtype:
        # Move before converting: the CPU would convert into memory that is not pinned.
        tensors = [tensor.to(device, non_blocking=non_blocking) for tensor in tensors]
    torch._foreach_copy_(list(into), list(tensors), non_blocking=non_blocking)


def chunks(*weights: Sequence[Tensor], on_cpu: int | None = None) -> Iterator[list[list[Tensor]]]:
    """Split several sets of weights into the same chunks, small enough for the processor's cache.

    A pass that mixes many vertices chunk by chunk reads each from memory once, and writes the result once.

    Args:
        weights: sets of tensors, of the same shapes in the same order; any dtypes and devices.
        on_cpu: chunk size, in elements, if the first set is on a CPU; default: `CHUNK_ON_CPU`.

    Yields:
        For each set the tensors of one chunk, as views: several small tensors, or a slice [elements] of a large one
        in memory order. All sets have the same elements in the same chunk.

    Example:
        >>> import torch
        >>> from hf_simplex.model.weight_space import chunks
        >>> weights = [torch.zeros(6), torch.zeros(2)]
        >>> [[tuple(tensor.shape) for tensor in chunk] for (chunk,) in chunks(weights, on_cpu=4)]
        [[(4,)], [(2,)], [(2,)]]
    """
    size = (on_cpu or CHUNK_ON_CPU) if weights[0][0].device.type == "cpu" else CHUNK_ON_ACCELERATOR
    gathered: list[tuple[Tensor, ...]] = []
    elements = 0
    for tensors in zip(*weights, strict=True):
        if tensors[0].numel() > size and (flat := _flattened(tensors)) is not None:
            for slices in zip(*(tensor.split(size) for tensor in flat), strict=True):
                yield [[tensor] for tensor in slices]
            continue
        gathered.append(tensors)
        elements += tensors[0].numel()
        if elements >= size:
            yield [list(of_set) for of_set in zip(*gathered, strict=True)]
            gathered, elements = [], 0
    if gathered:
        yield [list(of_set) for of_set in zip(*gathered, strict=True)]


def _flattened(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Flat views of tensors of the same memory format; None if the formats differ."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(-1) for tensor in tensors]
    if all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors if tensor.dim() == 4):
        return [tensor.permute(0, 2, 3, 1).view(-1) for tensor in tensors] if tensors[0].dim() == 4 else None
    return None


def stacked_parameters(vertices: Sequence[Weights], names: Iterable[str]) -> Iterator[Tensor]:
    """Stack the vertices, one parameter at a time: the blocks that `simplex_log_volume` takes.

    Args:
        vertices: sets of weights.
        names: the parameters to stack.

    Yields:
        [vertices, parameter size], in the dtype of the weights.

    Example:
        >>> import torch
        >>> from hf_simplex.model.weight_space import stacked_parameters
        >>> [tuple(block.shape) for block in stacked_parameters([{"w": torch.zeros(2, 3)}] * 4, ["w"])]
        [(4, 6)]
    """
    for name in names:
        yield torch.stack([vertex[name].flatten() for vertex in vertices])
