"""Frozen vertices that are kept on the CPU: their part of a point is on the accelerator by the time it is needed."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..model.weight_space import Weights, mix, support

FROZEN_VERTICES = ("device", "bfloat16", "cpu")


def are_fetched(device: torch.device) -> bool:
    """Whether vertices that are kept on the CPU are apart from a module on `device`."""
    return device.type == "cuda"


class FetchedMix:
    """The frozen part of a point, F of phi = F + c theta, mixed on the accelerator out of vertices on the CPU.

    F does not depend on the vertex that grows, so the next point's is fetched while the module works on the present
    one: on a stream of its own, piece by piece, from pinned memory. On the accelerator this takes the room of one
    vertex, however many are frozen, and of a few pieces.

    Args:
        vertices: the weights of all vertices on the CPU, whole or divided as the module is. Those that are frozen are
            copied into pinned memory, whose allocator rounds the bytes of each up to a power of two.
        vertex: index of the one that grows, which is not read.
        parameters: those of the module by name, in whose shapes and order of memory F is held, in float32 or wider.
    """

    def __init__(self, vertices: Sequence[Weights], vertex: int, parameters: Mapping[str, Tensor]) -> None:
        self._vertex = vertex
        self._device = next(iter(parameters.values())).device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        frozen = [weights for index, weights in enumerate(vertices) if index != vertex]
        dtype = _widest([weights[name] for weights in frozen for name in parameters])
        self._packed: list[Tensor] = []
        self.vertices: list[Weights] = []
        """Those that are frozen as views of the pinned memory; the one that grows is empty."""
        elements = sum(parameter.numel() for parameter in parameters.values())
        for index, weights in enumerate(vertices):
            size = 0 if index == vertex else elements
            packed = torch.empty(size, dtype=dtype, device="cpu", pin_memory=bool(size) and self._stream is not None)
            views = {} if index == vertex else _views(packed, parameters)
            for name, view in views.items():
                view.copy_(weights[name])
            self._packed.append(packed)
            self.vertices.append(views)
        self._mix = torch.empty(elements, dtype=torch.promote_types(dtype, torch.float32), device=self._device)
        if self._stream is not None:
            # If it is let go of while something is still being fetched, the memory must not be given away before.
            self._mix.record_stream(self._stream)
        self._weights = _views(self._mix, parameters)
        self._fetched: list[float] | None = None

    def fetch(self, coordinates: Sequence[float]) -> None:
        """Begin to fetch F of the point at `coordinates`, in place of the one before.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Raises:
            ValueError: as `write_point`.
        """
        coordinates = [float(coordinate) for coordinate in coordinates]
        found = support(self.vertices, coordinates)
        found.pop(self._vertex, None)
        self._fetched = coordinates
        if not found:
            return
        stream: Any = nullcontext()
        if self._stream is not None:
            # The former point is read out of the same memory.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            stream = torch.cuda.stream(self._stream)
        with stream:
            mix([self._mix], [[self._packed[index]] for index in found], list(found.values()))

    def take(self, coordinates: Sequence[float]) -> tuple[Weights, float]:
        """F of the point at `coordinates`, fetched now if it was not before.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Returns:
            F divided by the sum of the frozen vertices' coordinates, valid until the next `fetch`; and that sum.

        Raises:
            ValueError: as `write_point`.
        """
        if self._fetched != list(coordinates):
            self.fetch(coordinates)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return self._weights, sum(c for index, c in enumerate(coordinates) if index != self._vertex)


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _views(packed: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stretches of a flat tensor in the shapes of parameters, and in the order in memory that those have."""
    views, start = {}, 0
    for name, parameter in parameters.items():
        views[name] = packed.as_strided(parameter.shape, parameter.stride(), start)
        start += parameter.numel()
    return views
