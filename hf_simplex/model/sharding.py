"""Weights that an engine divides among processes: the shards held here, whole tensors, sums over shards."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, not copied: its shard of a distributed one, else the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def local_parameters(module: nn.Module) -> dict[str, Tensor]:
    """What this process holds of each parameter of `module` by name, without autograd and not copied."""
    if isinstance(module, FSDPModule):
        # A forward pass without a backward pass leaves some of FSDP2's modules with gathered copies of their weights.
        for child in module.modules():
            if isinstance(child, FSDPModule):
                child.reshard()
    return {name: local(p.data) for name, p in module.named_parameters()}


@torch.no_grad()
def sharded_like(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """What this process would hold of whole `weights` if they were divided as the parameters of `module` are.

    Nothing is communicated: each process cuts its shards out of the whole weights that it is given.

    Args:
        weights: a whole tensor for each parameter of `module`, of its shape; any device, any floating dtype.
        module: its parameters are plain tensors, or FSDP2's.

    Returns:
        Shards by parameter name, on the module's device; a given tensor itself where its parameter is not divided.
    """
    shards = {}
    for name, parameter in module.named_parameters():
        whole = weights[name]
        if isinstance(parameter, DTensor):
            spread = distribute_tensor(
                whole.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
            # A copy, so that the whole tensor is not kept for the sake of its part.
            whole = spread.to_local().clone()
        shards[name] = whole
    return shards


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor; of a distributed one it is gathered, so that all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharing_processes(module: nn.Module) -> dist.ProcessGroup | None:
    """The processes that share one copy of the weights of `module`; None where each process has a copy of its own.

    Raises:
        ValueError: some parameters are divided and others are not, or not all in the same way.
    """
    layouts = {
        (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        for parameter in module.parameters()
    }
    if len(layouts) > 1:
        raise ValueError(
            f"The weights of the {type(module).__name__} are divided among processes in {len(layouts)} ways: shard "
            "all parameters over the same device mesh (FSDP without ignored modules or tensor parallelism)."
        )
    layout = layouts.pop()
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


def copy_number(module: nn.Module, process_index: int) -> int:
    """Which copy of the weights of `module` this process works on: processes that share one have the same number.

    Args:
        module: plain, or divided by FSDP2, with replicas (HSDP) or without.
        process_index: the number of this process, which is the copy's where each process has its own.
    """
    parameter = next(module.parameters())
    if not isinstance(parameter, DTensor):
        return process_index
    coordinate = parameter.device_mesh.get_coordinate()
    replicas = [axis for axis, placement in enumerate(parameter.placements) if placement.is_replicate()]
    return 0 if not replicas or coordinate is None else coordinate[replicas[0]]


def sum_over(processes: dist.ProcessGroup | None, partial: Tensor, device: torch.device) -> Tensor:
    """The sum of what each of `processes` has, the same bits on all of them; `partial` itself where they are None.

    Args:
        processes: of `sharing_processes`.
        partial: any shape, on the CPU.
        device: where the processes' weights are, and so what they communicate through.
    """
    if processes is None:
        return partial
    total = partial.to(device)
    dist.all_reduce(total, group=processes)
    return total.to(partial.device)
