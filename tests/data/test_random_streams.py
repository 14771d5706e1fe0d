"""Random streams follow from their keys, and disturb no others."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hf_simplex.data.random_streams import SeededDataset, isolate_rng, stream, stream_seed


class Noise(Dataset):
    """Eight examples that draw from torch, Python and NumPy."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(torch.rand(())), random.random(), float(np.random.rand())])


def test_each_key_has_its_own_stream() -> None:
    keys = [(0,), (0, 0), (0, 0, 0), (1,), (0, 1), (1, 0), (7, 0, 3)]
    assert len({stream_seed(*key) for key in keys}) == len(keys)
    assert torch.equal(torch.rand(3, generator=stream(1, 2)), torch.rand(3, generator=stream(1, 2)))


def test_isolated_draws_leave_the_global_streams_unchanged() -> None:
    drawn = []
    for apart in (False, True):
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        if apart:
            with isolate_rng(2**62):
                Noise()[0]
        drawn.append(Noise()[0])
    assert torch.equal(*drawn)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streams_of_an_example_depend_on_seed_epoch_and_index_only(workers: int) -> None:
    expected = torch.stack([SeededDataset(Noise(), seed=5)[index] for index in range(8)])
    dataset = SeededDataset(Noise(), seed=5)
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    torch.rand(3)
    assert torch.equal(torch.cat(list(loader)), expected)
    dataset.set_epoch(1)
    second = torch.cat(list(loader))
    assert not (second == expected).any()
    dataset.set_epoch(0)
    assert torch.equal(torch.cat(list(loader)), expected)
    assert len(torch.unique(torch.cat([expected, second]))) == 48
    assert not (SeededDataset(Noise(), seed=6)[0] == expected[0]).any()
