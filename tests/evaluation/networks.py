"""A small network, weights of it and data, for loss surfaces."""

import torch
from torch import Tensor, nn

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.weight_space import trainable_names

TRIANGLE = SimplicialComplex(3, [[0, 1, 2]])
# Two modes, 0 and 1, and two connectors.
VOLUME = SimplicialComplex(4, [[0, 2, 3], [1, 2, 3]])
INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(20) % 3
# Batches of unequal size: a mean of means would be another number.
BATCHES = [(INPUTS[:13], TARGETS[:13]), (INPUTS[13:], TARGETS[13:])]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def weights(number: int) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in network(seed).named_parameters()} for seed in range(number)]


def flat(vertices: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([torch.cat([tensor.double().flatten() for tensor in vertex.values()]) for vertex in vertices])


def measure(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    outputs = module(batch[0])
    return nn.functional.cross_entropy(outputs, batch[1], reduction="none"), outputs.argmax(dim=1) == batch[1]


NAMES = trainable_names(network())
