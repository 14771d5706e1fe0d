"""Ready members: members kept in memory as backbones of their own, so that a prediction mixes no weights."""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .cuda_graph import GraphedMembers
from .shared_weights import shared_memo

__all__ = ["ReadyMembers"]


class ReadyMembers:
    """The first members of an ensemble as backbones of their own, optionally replayed from one CUDA graph.

    Other members are streamed: their weights are mixed for each batch.

    Attributes:
        modules: the ready members, in order.
        graph: their forward passes as one CUDA graph, or None.

    Example:
        >>> ready = ReadyMembers()
        >>> ready.fill([nn.Linear(2, 3)], 1)
        >>> len(ready)
        1
    """

    def __init__(self) -> None:
        self.modules: list[PreTrainedModel] = []
        self.graph: GraphedMembers | None = None

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[PreTrainedModel]:
        return iter(self.modules)

    def fill(self, members: Iterable[Any], number: int, *, cuda_graph: bool = False) -> None:
        """Copy the first `number` members. Parameters that all vertices share are not copied.

        Args:
            members: backbones in evaluation mode; each may be the same module with other weights.
            number: how many to copy.
            cuda_graph: replay the forward passes of the copies from one CUDA graph.

        Example:
            >>> ready = ReadyMembers()
            >>> ready.fill([nn.Linear(2, 3), nn.Linear(2, 3)], 1)
            >>> len(ready)
            1
        """
        self.modules = [copy.deepcopy(member, shared_memo(member)) for member in islice(members, number)]
        self.graph = GraphedMembers(self.modules) if cuda_graph else None

    def clear(self) -> None:
        """Free the ready members.

        Example:
            >>> ReadyMembers().clear()
        """
        self.modules, self.graph = [], None

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
        if self.graph is not None:
            # A captured graph would still read the memory that held the weights before.
            self.graph = GraphedMembers(self.modules)
