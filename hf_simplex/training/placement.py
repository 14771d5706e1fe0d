"""Placement of the vertices during training: sharded like the module, on its device, rounded, or on the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed import ProcessGroup

from ..model.sharding import local_parameters, shard_group, sharded_like
from ..model.weight_space import Weights, swap_in_point
from .frozen_vertices import FROZEN_VERTICES, FetchedMix, are_fetched

__all__ = ["VertexPlacement"]


class VertexPlacement:
    """Places the vertices of a complex for a module that holds one of them, and swaps points into the module.

    `place` shards the vertices like the module. The vertices are not sharded before its first call.

    Args:
        module: holds the growing vertex; any engine may wrap it.
        vertices: the weights of all vertices by parameter name. Those of the growing vertex store the module's weights
            while it holds a point.
        vertex: index of the growing vertex.
        frozen_vertices: `"device"` leaves the frozen vertices as given. `"bfloat16"` rounds them, on the module's
            device. `"cpu"` keeps them on the CPU; an accelerator fetches their mix for each point.

    Raises:
        ValueError: `frozen_vertices` is unknown.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.training.placement import VertexPlacement
        >>> module = nn.Linear(1, 1, bias=False)
        >>> vertices = [{"weight": torch.zeros(1, 1)}, {"weight": torch.empty(1, 1)}]
        >>> placement = VertexPlacement(module, vertices, 1, "device")
        >>> placement.place()
        >>> with placement.at([1.0, 0.0]):
        ...     module.weight.item()
        0.0
    """

    def __init__(self, module: nn.Module, vertices: Sequence[Weights], vertex: int, frozen_vertices: str) -> None:
        if frozen_vertices not in FROZEN_VERTICES:
            raise ValueError(f"frozen_vertices is {frozen_vertices!r}: choose from {', '.join(FROZEN_VERTICES)}.")
        self.module = module
        self.vertices = vertices
        """The weights of all vertices as placed: whole, or the local shards."""
        if frozen_vertices == "bfloat16":
            self.vertices = [w if index == vertex else _rounded(w) for index, w in enumerate(vertices)]
        self.vertex = vertex
        self.frozen_vertices = frozen_vertices
        self.group: ProcessGroup | None = None
        """The processes over which the weights are sharded; None without sharding."""
        self._device: torch.device | None = None
        self._mix: FetchedMix | None = None

    @torch.no_grad()
    def place(self) -> None:
        """Shard the vertices like the module and move the frozen ones. No effect if the module has not changed.

        Raises:
            ValueError: the engine shards the parameters of the module in several ways.

        Example::

            fully_shard(module)
            placement.place()
        """
        group, device = shard_group(self.module), next(self.module.parameters()).device
        if (group, device) == (self.group, self._device):
            return
        self.group, self._device = group, device
        parameters = local_parameters(self.module)
        on_device = next(iter(parameters.values())).device
        is_fetched = self.frozen_vertices == "cpu" and are_fetched(on_device)
        placed: list[Weights] = []
        for index, weights in enumerate(self.vertices):
            if index == self.vertex and self.frozen_vertices != "device" and on_device.type != "cpu":
                placed.append({name: torch.empty_like(parameter) for name, parameter in parameters.items()})
                continue
            shards = weights if group is None else sharded_like(weights, self.module)
            if index != self.vertex and (is_fetched or self.frozen_vertices == "bfloat16"):
                target = torch.device("cpu") if is_fetched else on_device
                shards = {name: shards[name].to(target) for name in parameters}
            placed.append(shards)
        self.vertices = placed
        if is_fetched:
            self._mix = FetchedMix(placed, self.vertex, parameters)
            self.vertices = [w if i == self.vertex else self._mix.vertices[i] for i, w in enumerate(placed)]

    @property
    def fetches(self) -> bool:
        """Whether an accelerator fetches points from the CPU, so that `prefetch` saves time.

        Example::

            placement.fetches   # False on a CPU
        """
        return self._mix is not None

    def prefetch(self, coordinates: Sequence[float]) -> None:
        """Start to fetch the frozen part of the next point while the module works on another, if `fetches`.

        Args:
            coordinates: [vertices] barycentric coordinates of the next point. `at` still accepts any other point.

        Example::

            with placement.at(points[0]):
                placement.prefetch(points[1])
        """
        if self._mix is not None:
            self._mix.fetch(coordinates)

    @contextmanager
    def at(self, coordinates: Sequence[float]) -> Iterator[None]:
        """Swap the point at `coordinates` into the module for the duration of the context.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Example::

            with placement.at([0.5, 0.5]):
                loss(module(inputs), labels).backward()
        """
        vertices, vertex = self.vertices, self.vertex
        if self._mix is not None:
            own = coordinates[vertex]
            weights, share = self._mix.take(coordinates)
            vertices, coordinates, vertex = [weights, self.vertices[self.vertex]], [share, own], 1
        with swap_in_point(self.module, vertices, coordinates, vertex):
            yield


def _rounded(weights: Weights) -> Weights:
    # Integer buffers, such as counters, are not rounded.
    return {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in weights.items()}
