"""Claims about SPRO with sharded weights, of two processes that two_processes.py starts."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from tiny import backbone, images
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sharding import full_tensor, local_parameters, replica_index, sharded_like
from hf_simplex.training.spro import GrowingVertex

__all__ = [
    "each_process_keeps_its_shards_of_frozen_vertices",
    "replicas_are_numbered",
    "replicated_shards",
    "replicated_shards_train_like_whole_weights",
    "sharded_weights_train_like_whole_ones",
    "shards_are_fetched_and_rounded_like_whole_weights",
    "weights_sharded_in_several_ways_are_refused",
]

POINT = [0.2, 0.3, 0.5]


def replicated_shards() -> DeviceMesh:
    """HSDP with one replica in each process. A shard is the whole weights."""
    return init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone("vit", seed).named_parameters()}


def spro_steps(module: nn.Module, rank: int, average: bool, **settings: Any) -> dict[str, torch.Tensor]:
    """Weights and log volumes after two steps of SPRO at fixed points, on the half of the images of this process."""
    structure = SimplicialComplex(3, [[0, 1, 2]])
    vertices = [weights(seed) for seed in range(3)]
    growing = GrowingVertex(module, vertices, structure, 2, volume_weight=0.1, **settings)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    volumes = []
    for step in range(2):
        halves = [images(4, seed=2 * step + half) for half in range(2)]
        parts = [halves[rank]] if average else halves
        for pixels in parts:
            with growing.at(POINT) as coordinate:
                loss = nn.functional.cross_entropy(module(pixels).logits, torch.tensor([0, 1, 2, 0]))
                (coordinate * loss / len(parts)).backward()
        volumes.append(growing.add_volume_gradient().log_volume)
        optimizer.step()
        optimizer.zero_grad()
    return {name: full_tensor(p).detach().clone() for name, p in module.named_parameters()} | {
        "volumes": torch.tensor(volumes)
    }


def sharded_weights_train_like_whole_ones(rank: int, mesh: DeviceMesh | None = None, **settings: Any) -> None:
    module = backbone("vit", 2)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)) if mesh is None else mesh)
    found = spro_steps(module, rank, average=True, **settings)
    expected = spro_steps(backbone("vit", 2), rank, average=False, **settings)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def replicated_shards_train_like_whole_weights(rank: int) -> None:
    sharded_weights_train_like_whole_ones(rank, replicated_shards())


def shards_are_fetched_and_rounded_like_whole_weights(rank: int) -> None:
    with mock.patch("hf_simplex.training.placement.are_fetched", lambda device: True):
        for frozen_vertices in ("cpu", "bfloat16"):
            sharded_weights_train_like_whole_ones(
                rank, frozen_vertices=frozen_vertices, volume_measure="normalized", volume_target=0.2
            )


def each_process_keeps_its_shards_of_frozen_vertices(rank: int) -> None:
    module = backbone("vit", 2)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    shards = sharded_like(weights(0), module)
    sizes = torch.tensor(sum(tensor.numel() for tensor in shards.values()))
    assert all(shards[name].shape == p.shape for name, p in local_parameters(module).items())
    dist.all_reduce(sizes)
    assert int(sizes) == sum(tensor.numel() for tensor in weights(0).values())


def replicas_are_numbered(rank: int) -> None:
    assert replica_index(backbone("vit"), rank) == rank
    for mesh, expected in ((init_device_mesh("cpu", (2,)), 0), (replicated_shards(), rank)):
        module = backbone("vit")
        fully_shard(module, mesh=mesh)
        assert replica_index(module, rank) == expected


def weights_sharded_in_several_ways_are_refused(rank: int) -> None:
    module = backbone("vit")
    fully_shard(module.classifier, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ValueError, match="sharded in 2 different ways"):
        GrowingVertex(module, [weights(seed) for seed in range(2)], SimplicialComplex(2, [[0, 1]]), 1)


# ---- the trainer -----------------------------------------------------------------------------------------------
