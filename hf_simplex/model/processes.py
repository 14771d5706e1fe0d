"""What the processes of a distributed run divide among themselves, and what they agree on."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")
Found = TypeVar("Found")


def map_over_ranks(items: Sequence[Item], work: Callable[[Item], Found]) -> list[Found]:
    """`[work(item) for item in items]` on every process, of which each works on its share of the items.

    All processes of a distributed run must call this together, with the same items; in any other run it is the plain
    list.

    Args:
        items: in the same order everywhere.
        work: must not communicate; what it returns is sent between the processes, tensors best on the CPU.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [work(item) for item in items]
    process, processes = dist.get_rank(), dist.get_world_size()
    own = {index: work(item) for index, item in enumerate(items) if index % processes == process}
    parts: list[dict[int, Found]] = [{} for _ in range(processes)]
    dist.all_gather_object(parts, own)
    return [parts[index % processes][index] for index in range(len(items))]


def any_rank(flag: bool | Tensor, device: torch.device) -> bool:
    """Whether the flag, a bool or a scalar tensor, is set on any process; all must call this together."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        flag = torch.as_tensor(flag, device=device).int()
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)
