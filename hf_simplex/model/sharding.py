"""Sharded weights: local shards, full tensors, and reductions over shards."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = [
    "all_reduce_sum",
    "full_tensor",
    "local_parameters",
    "local_tensor",
    "replica_index",
    "shard_group",
    "sharded_like",
]


def local_tensor(tensor: Tensor) -> Tensor:
    """The local shard of a distributed tensor, not copied; any other tensor itself.

    Example:
        >>> import torch
        >>> from hf_simplex.model.sharding import local_tensor
        >>> local_tensor(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def local_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The local shard of each trainable parameter of `module` by name, without autograd and not copied.

    Raises:
        ValueError: no parameter requires gradients.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.sharding import local_parameters
        >>> list(local_parameters(nn.Linear(2, 1)))
        ['weight', 'bias']
    """
    if isinstance(module, FSDPModule):
        # After a forward pass without backward, FSDP2 leaves some modules unsharded.
        for child in module.modules():
            if isinstance(child, FSDPModule):
                child.reshard()
    found = {name: local_tensor(p.data) for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError(f"No parameter of the {type(module).__name__} requires gradients: it has no weight space.")
    return found


@torch.no_grad()
def sharded_like(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Shard full weights in the same way as the parameters of `module`, without communication.

    Args:
        weights: a full tensor for each trainable parameter of `module`, of its shape; any device, any floating dtype.
        module: its parameters are plain tensors, or FSDP2's.

    Returns:
        The local shards by parameter name, on the module's device. A parameter that is not sharded gets the given
        tensor itself.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from hf_simplex.model.sharding import sharded_like
        >>> sharded_like({"weight": torch.ones(1, 2)}, nn.Linear(2, 1, bias=False))
        {'weight': tensor([[1., 1.]])}
    """
    shards = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = weights[name]
        if isinstance(parameter, DTensor):
            distributed = distribute_tensor(
                whole.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
            # A view would keep the full tensor in memory.
            whole = distributed.to_local().clone()
        shards[name] = whole
    return shards


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor. A distributed one is gathered: all processes of its mesh must call this together.

    Example:
        >>> import torch
        >>> from hf_simplex.model.sharding import full_tensor
        >>> full_tensor(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_group(module: nn.Module) -> dist.ProcessGroup | None:
    """The process group over which the weights of `module` are sharded; None without sharding.

    Raises:
        ValueError: the parameters are not all sharded alike, over one dimension of the mesh.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.sharding import shard_group
        >>> shard_group(nn.Linear(2, 1)) is None
        True
    """
    layouts = {
        (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    if len(layouts) > 1:
        raise ValueError(
            f"The weights of the {type(module).__name__} are sharded in {len(layouts)} different ways: shard "
            "all parameters over the same device mesh (FSDP without ignored modules or tensor parallelism)."
        )
    layout = layouts.pop() if layouts else None
    if layout is None:
        return None
    mesh, placements = layout
    divided = [axis for axis, placement in enumerate(placements) if placement.is_shard()]
    if len(divided) != 1:
        raise ValueError(
            f"The weights of the {type(module).__name__} have the placements {placements}: expected one sharded "
            "dimension, with or without replicas of it."
        )
    return mesh.get_group(divided[0])


def replica_index(module: nn.Module, process_index: int) -> int:
    """Index of the replica of `module` that this process works on. Processes that shard one replica share its index.

    Args:
        module: plain, or sharded by FSDP2, with replicas (HSDP) or without.
        process_index: rank of this process; the result for a plain module.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.sharding import replica_index
        >>> replica_index(nn.Linear(2, 1), process_index=3)
        3
    """
    parameter = next(module.parameters())
    if not isinstance(parameter, DTensor):
        return process_index
    coordinate = parameter.device_mesh.get_coordinate()
    replicas = [axis for axis, placement in enumerate(parameter.placements) if placement.is_replicate()]
    return 0 if not replicas or coordinate is None else coordinate[replicas[0]]


def all_reduce_sum(group: dist.ProcessGroup | None, partial: Tensor, device: torch.device) -> Tensor:
    """The sum of `partial` over the processes of a group, the same bits on all of them.

    Args:
        group: from `shard_group`; None returns `partial` itself.
        partial: any shape, on the CPU.
        device: the device of the weights, used for the communication.

    Example:
        >>> import torch
        >>> from hf_simplex.model.sharding import all_reduce_sum
        >>> all_reduce_sum(None, torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    if group is None:
        return partial
    total = partial.to(device)
    dist.all_reduce(total, group=group)
    return total.to(partial.device)
