"""Random streams that follow from what they are for, and not from what else a process happened to draw."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


def stream_seed(*key: int) -> int:
    """A seed of its own for each key of non-negative numbers, below 2**63."""
    # Keys are filled up with zeros to a fixed length, so a 0 of their own would make some of them equal.
    return int(np.random.SeedSequence([part + 1 for part in key]).generate_state(1, np.uint64)[0]) % 2**63


def stream(*key: int) -> torch.Generator:
    """A random stream of its own for each key of non-negative numbers."""
    return torch.Generator().manual_seed(stream_seed(*key))


@contextmanager
def isolate_rng(seed: int) -> Iterator[None]:
    """Seeds what Python, NumPy and torch draw on the CPU; afterwards they go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededDataset(Dataset):
    """Gives each example random streams of its own, so that its augmentation depends on seed, epoch and index alone.

    Without it an example's augmentation depends on the number of data loader workers, and on whether the epoch was
    interrupted.

    Args:
        dataset: any with a length.
        seed: of all streams.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # Shared, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Give the examples other streams than those of other epochs."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with isolate_rng(stream_seed(self.seed, int(self._epoch), int(index))):
            return self.dataset[index]
