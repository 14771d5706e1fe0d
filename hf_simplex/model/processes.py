"""Work and decisions shared by the ranks of a distributed run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["any_rank", "map_over_ranks"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_over_ranks(items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
    """Return `[work(item) for item in items]` on every rank; each rank works on its share of the items.

    All ranks call this together. Without torch.distributed this is the plain list.

    Args:
        items: the same on every rank.
        work: must not communicate between ranks. Its result is pickled and sent, so return tensors on the CPU.

    Example:
        >>> map_over_ranks([1, 2, 3], lambda item: item**2)
        [1, 4, 9]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [work(item) for item in items]
    process, processes = dist.get_rank(), dist.get_world_size()
    own = {index: work(item) for index, item in enumerate(items) if index % processes == process}
    parts: list[dict[int, Result]] = [{} for _ in range(processes)]
    dist.all_gather_object(parts, own)
    return [parts[index % processes][index] for index in range(len(items))]


def any_rank(flag: bool | Tensor, device: torch.device) -> bool:
    """Return whether the flag is set on any rank. All ranks call this together.

    Args:
        flag: a bool or a scalar tensor.
        device: device of the communication.

    Example:
        >>> any_rank(True, torch.device("cpu"))
        True
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        flag = torch.as_tensor(flag, device=device).int()
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
