"""What two processes do together, for test_two_processes.py: each checks its claims."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import backbone, images
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_simplex.complexes import SimplicialComplex
from hf_simplex.sharding import copy_number, local_parameters, sharded_like, whole
from hf_simplex.spro import GrowingVertex

POINT = [0.2, 0.3, 0.5]


def replicated_shards() -> DeviceMesh:
    """HSDP with a replica a process; its shards are the whole weights."""
    return init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone("vit", seed).named_parameters()}


def spro_steps(module: nn.Module, rank: int, average: bool) -> dict[str, torch.Tensor]:
    """Two steps of SPRO at fixed points on this process's half of the images; returns weights and volumes."""
    structure = SimplicialComplex(3, [[0, 1, 2]])
    growing = GrowingVertex(module, [weights(seed) for seed in range(3)], structure, 2, volume_weight=0.1)
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
    return {name: whole(p).detach().clone() for name, p in module.named_parameters()} | {
        "volumes": torch.tensor(volumes)
    }


def sharded_weights_train_as_whole_ones(rank: int, mesh: DeviceMesh | None = None) -> None:
    module = backbone("vit", 2)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)) if mesh is None else mesh)
    found = spro_steps(module, rank, average=True)
    expected = spro_steps(backbone("vit", 2), rank, average=False)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def weights_in_replicated_shards_train_as_whole_ones(rank: int) -> None:
    sharded_weights_train_as_whole_ones(rank, replicated_shards())


def each_process_keeps_its_shards_of_frozen_vertices(rank: int) -> None:
    module = backbone("vit", 2)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    shards = sharded_like(weights(0), module)
    sizes = torch.tensor(sum(tensor.numel() for tensor in shards.values()))
    assert all(shards[name].shape == p.shape for name, p in local_parameters(module).items())
    dist.all_reduce(sizes)
    assert int(sizes) == sum(tensor.numel() for tensor in weights(0).values())


def copies_are_numbered_by_replica(rank: int) -> None:
    assert copy_number(backbone("vit"), rank) == rank
    for mesh, expected in ((init_device_mesh("cpu", (2,)), 0), (replicated_shards(), rank)):
        module = backbone("vit")
        fully_shard(module, mesh=mesh)
        assert copy_number(module, rank) == expected


CLAIMS = [
    sharded_weights_train_as_whole_ones,
    weights_in_replicated_shards_train_as_whole_ones,
    each_process_keeps_its_shards_of_frozen_vertices,
    copies_are_numbered_by_replica,
]


def main(directory: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    held = directory / f"process-{rank}"
    held.mkdir()
    for claim in CLAIMS:
        claim(rank)
        (held / claim.__name__).touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
