"""The forward passes of several modules as one CUDA graph: one launch, where a GPU would wait for Python's many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP_PASSES = 3
"""Before a capture, as torch asks for: libraries choose their algorithms and allocate their workspaces."""

STREAMS = 4
"""On which the members are spread: 16 small ones took 0.11 of 16 plain passes on an H200, on one stream 0.29."""

MAX_GRAPHS = 8
"""Kinds of batches that graphs are captured for; each keeps its input, its output and a share of working memory."""


@dataclass(frozen=True)
class _Captured:
    graph: "torch.cuda.CUDAGraph"
    pixel_values: Tensor
    log_probabilities: Tensor


class MembersOnCuda:
    """The log probabilities of members for a batch of images, replayed from a CUDA graph.

    A graph is captured at the first batch of each kind: shape, strides, dtype, device and state of autocast. The first
    `MAX_GRAPHS` kinds are; others run as they would without graphs. What else shapes a forward pass (hooks, torch's
    flags of precision and determinism) is that of the capture. Calls must not overlap: a graph's memory is shared by
    all its replays.

    Args:
        members: modules in evaluation mode on one CUDA device, from `pixel_values` to an output with `logits`. Their
            weights' memory must stay where it is: after `module.to(...)` make another of these.
        streams: on how many CUDA streams the members are spread within the graph.
    """

    def __init__(self, members: Sequence[nn.Module], streams: int = STREAMS) -> None:
        self.members, self.num_streams = members, streams
        self._captured: dict[Any, _Captured] = {}
        self._pool: Any = None

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """[batch, members, labels] float32 for [batch, channels, height, width] on the members' device.

        Raises:
            RuntimeError: the members' code cannot be captured: it waits for the GPU, for example.
        """
        autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (pixel_values.shape, pixel_values.stride(), pixel_values.dtype, pixel_values.device, autocast)
        if key not in self._captured:
            if len(self._captured) >= MAX_GRAPHS:
                return log_probabilities(self.members, pixel_values)
            self._captured[key] = self._capture(pixel_values)
        captured = self._captured[key]
        captured.pixel_values.copy_(pixel_values)
        captured.graph.replay()
        # The next replay overwrites what the graph returns.
        return captured.log_probabilities.clone()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles capture graphs of their own."""
        return {**self.__dict__, "_captured": {}, "_pool": None}

    def _capture(self, pixel_values: Tensor) -> _Captured:
        device = pixel_values.device
        autocast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            # Weights that were cast outside the graph, and would be freed there, must not become part of it.
            cache_enabled=False,
        )
        # The outer stream context restores the stream that is current, also after a capture that failed.
        with (
            torch.cuda.device(device),
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.inference_mode(False),
            torch.no_grad(),
            autocast,
        ):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            streams = [torch.cuda.Stream(device) for _ in range(self.num_streams if self.num_streams > 1 else 0)]
            static = torch.empty_like(pixel_values).copy_(pixel_values)
            current, side = torch.cuda.current_stream(), torch.cuda.Stream(device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_PASSES):
                    log_probabilities(self.members, static, streams)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads, such as those that load images, may allocate memory meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    output = log_probabilities(self.members, static, streams)
            except RuntimeError as error:
                raise RuntimeError(
                    f"The members could not be captured in a CUDA graph ({error}). Call materialize() without "
                    "cuda_graph=True, in a new process: in this one torch may draw no random numbers on the GPU now."
                ) from error
        return _Captured(graph, static, output)


def log_probabilities(
    members: Sequence[nn.Module], pixel_values: Tensor, streams: "Sequence[torch.cuda.Stream]" = ()
) -> Tensor:
    """[batch, members, labels] float32 of members, one after the other or spread over CUDA streams.

    Args:
        members: modules from `pixel_values` to an output with `logits`.
        pixel_values: [batch, channels, height, width].
        streams: forked from the current stream and joined to it again; default: the current stream alone.
    """
    if not streams:
        return torch.stack([_log_softmax(member, pixel_values) for member in members], dim=1)
    current = torch.cuda.current_stream(pixel_values.device)
    for stream in streams:
        stream.wait_stream(current)
    found = []
    for number, member in enumerate(members):
        with torch.cuda.stream(streams[number % len(streams)]):
            found.append(_log_softmax(member, pixel_values))
    for stream in streams:
        current.wait_stream(stream)
    return torch.stack(found, dim=1)


def _log_softmax(member: nn.Module, pixel_values: Tensor) -> Tensor:
    logits: Tensor = member(pixel_values=pixel_values).logits
    return logits.float().log_softmax(dim=-1)
