"""Frozen vertices on the CPU: an accelerator prefetches their mix for the next point."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..model.weight_space import Weights, mix, support

__all__ = ["FROZEN_VERTICES", "FetchedMix", "are_fetched"]

FROZEN_VERTICES = ("device", "bfloat16", "cpu")
"""Where frozen vertices are kept: as given, rounded on the device of the module, or on the CPU."""


def are_fetched(device: torch.device) -> bool:
    """Whether a module on `device` fetches vertices that are kept on the CPU.

    Example:
        >>> import torch
        >>> from hf_simplex.training.frozen_vertices import are_fetched
        >>> are_fetched(torch.device("cpu"))
        False
    """
    return device.type == "cuda"


class FetchedMix:
    """The frozen part of a point, F of phi = F + c theta, mixed on the accelerator from vertices on the CPU.

    F does not depend on the growing vertex. So F of the next point is fetched while the module works on the current
    one: on a separate stream, chunk by chunk, from pinned memory. The accelerator holds one vertex and a few chunks,
    for any number of frozen vertices.

    Args:
        vertices: the weights of all vertices on the CPU, full or sharded as the module is. Frozen ones are copied into
            pinned memory. Its allocator rounds the size of each up to a power of two.
        vertex: index of the growing vertex, which is not read.
        parameters: the parameters of the module by name. F has their shapes and memory formats, in float32 or wider.

    Example:
        >>> import torch
        >>> from hf_simplex.training.frozen_vertices import FetchedMix
        >>> vertices = [{"w": torch.zeros(1)}, {"w": torch.ones(1)}, {}]
        >>> fetched = FetchedMix(vertices, 2, {"w": torch.empty(1)})
        >>> fetched.fetch([0.25, 0.25, 0.5])
        >>> fetched.take([0.25, 0.25, 0.5])
        ({'w': tensor([0.5000])}, 0.5)
    """

    def __init__(self, vertices: Sequence[Weights], vertex: int, parameters: Mapping[str, Tensor]) -> None:
        self._vertex = vertex
        self._device = next(iter(parameters.values())).device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        frozen = [weights for index, weights in enumerate(vertices) if index != vertex]
        dtype = _widest([weights[name] for weights in frozen for name in parameters])
        self._packed: list[Tensor] = []
        self.vertices: list[Weights] = []
        """The frozen vertices as views of pinned memory; the growing one is empty."""
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
            # The allocator must not reuse this memory while a fetch is still running.
            self._mix.record_stream(self._stream)
        self._weights = _views(self._mix, parameters)
        self._fetched: list[float] | None = None

    def fetch(self, coordinates: Sequence[float]) -> None:
        """Start to fetch F of the point at `coordinates`. It overwrites the previous F.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Raises:
            ValueError: as `write_point`.

        Example::

            fetched.fetch([0.25, 0.25, 0.5])   # returns at once; `take` waits
        """
        coordinates = [float(coordinate) for coordinate in coordinates]
        found = support(self.vertices, coordinates)
        found.pop(self._vertex, None)
        self._fetched = coordinates
        if not found:
            return
        stream: Any = nullcontext()
        if self._stream is not None:
            # Work on the previous point may still read the same memory.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            stream = torch.cuda.stream(self._stream)
        with stream:
            mix([self._mix], [[self._packed[index]] for index in found], list(found.values()))

    def take(self, coordinates: Sequence[float]) -> tuple[Weights, float]:
        """Return F of the point at `coordinates`. It is fetched now, unless `fetch` was called for this point.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Returns:
            F divided by the sum of the frozen coordinates, valid until the next `fetch`, and that sum.

        Raises:
            ValueError: as `write_point`.

        Example::

            mixed, share = fetched.take([0.25, 0.25, 0.5])   # share is 0.5
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
    """Views of a flat tensor in the shapes and memory formats of parameters."""
    views, start = {}, 0
    for name, parameter in parameters.items():
        views[name] = packed.as_strided(parameter.shape, parameter.stride(), start)
        start += parameter.numel()
    return views
