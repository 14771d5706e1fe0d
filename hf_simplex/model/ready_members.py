"""Ready members: members kept in memory as backbones of their own, so that a prediction mixes no weights."""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .batched_members import BatchedMembers
from .cuda_graph import GraphedMembers
from .shared_weights import shared_memo

__all__ = ["ReadyMembers"]


class ReadyMembers:
    """The first members of an ensemble as backbones of their own, or all of them as one CUDA graph or one batch.

    Other members are streamed: their weights are mixed for each batch.

    Attributes:
        modules: the ready members, in order.
        graph: their forward passes as one CUDA graph, or None.
        batched: all members in one pass of one backbone, or None. There are no ready modules then.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.ready_members import ReadyMembers
        >>> ready = ReadyMembers()
        >>> ready.fill([nn.Linear(2, 3)], 1, member_bytes=36)
        1
        >>> len(ready)
        1
    """

    def __init__(self) -> None:
        self.modules: list[PreTrainedModel] = []
        self.graph: GraphedMembers | None = None
        self.batched: BatchedMembers | None = None

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def number(self) -> int:
        """The number of members that need no mixing of weights.

        Example:
            >>> ReadyMembers().number
            0
        """
        return len(self.modules) if self.batched is None else self.batched.num_members

    def __iter__(self) -> Iterator[PreTrainedModel]:
        return iter(self.modules)

    def fill(
        self,
        members: Iterable[Any],
        number: int,
        member_bytes: int,
        max_bytes: int | None = None,
        cuda_graph: bool = False,
        batched: bool = False,
    ) -> int:
        """Keep the first members ready. Parameters that all vertices share are not copied.

        Args:
            members: backbones in evaluation mode; each may be the same module with other weights.
            number: how many there are.
            member_bytes: memory that a member takes, in bytes.
            max_bytes: memory limit in bytes; default: none.
            cuda_graph: replay the forward passes of all members from one CUDA graph.
            batched: run all members as one batch.

        Returns:
            The number of ready members.

        Raises:
            ValueError: `max_bytes` is negative; or with `cuda_graph` or `batched`, not all members fit.

        Example:
            >>> from torch import nn
            >>> from hf_simplex.model.ready_members import ReadyMembers
            >>> ReadyMembers().fill([nn.Linear(2, 3), nn.Linear(2, 3)], 2, member_bytes=36, max_bytes=40)
            1
        """
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}: expected at least 0, or None for no bound.")
        fit = number if max_bytes is None else min(number, max_bytes // member_bytes)
        if (cuda_graph or batched) and fit < number:
            raise ValueError(
                f"{'A CUDA graph' if cuda_graph else 'A batch'} needs all {number} members ready, which take "
                f"{number * member_bytes} bytes, and max_bytes is {max_bytes}."
            )
        if batched:
            self.batched = BatchedMembers(members)
            return fit
        self.modules = [copy.deepcopy(member, shared_memo(member)) for member in islice(members, fit)]
        self.graph = GraphedMembers(self.modules) if cuda_graph else None
        return fit

    def logits(self, pixel_values: Tensor) -> Tensor | None:
        """Return the logits of all members from one graph or one batch; None if there is neither for these images.

        Args:
            pixel_values: [batch, channels, height, width].

        Returns:
            [batch, members, labels] float32, or None.

        Example:
            >>> import torch
            >>> ReadyMembers().logits(torch.zeros(1, 3, 8, 8)) is None
            True
        """
        if self.graph is not None and pixel_values.is_cuda:
            return self.graph(pixel_values)
        return None if self.batched is None else self.batched(pixel_values)

    def clear(self) -> None:
        """Free the ready members.

        Example:
            >>> ReadyMembers().clear()
        """
        self.modules, self.graph, self.batched = [], None, None

    def apply_to_tensors(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Cast or move the members, as `torch.nn.Module._apply` does.

        Args:
            function: from a tensor to the new one.
            recurse: also convert submodules.

        Example::

            ready.apply_to_tensors(lambda tensor: tensor.cuda())
        """
        for member in self.modules:
            member._apply(function, recurse)
        if self.batched is not None:
            self.batched.apply_to_tensors(function)
        if self.graph is not None:
            # A captured graph would still read the memory that held the weights before.
            self.graph = GraphedMembers(self.modules)
