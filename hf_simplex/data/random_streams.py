"""Random streams with their own seeds, independent of other random numbers that a process draws."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["SeededDataset", "isolate_rng", "stream", "stream_seed"]


def stream_seed(*key: int) -> int:
    """Return a seed below 2**63 for a key of non-negative integers. Different keys give different streams.

    Example:
        >>> from hf_simplex.data.random_streams import stream_seed
        >>> stream_seed(0, 1) == stream_seed(0, 1), stream_seed(0) == stream_seed(0, 0)
        (True, False)
    """
    # SeedSequence pads keys with zeros, so 0 must not occur in a key.
    return int(np.random.SeedSequence([part + 1 for part in key]).generate_state(1, np.uint64)[0]) % 2**63


def stream(*key: int) -> torch.Generator:
    """Return a generator on the CPU for a key of non-negative integers, see `stream_seed`.

    Example:
        >>> import torch
        >>> from hf_simplex.data.random_streams import stream
        >>> torch.equal(torch.rand(2, generator=stream(3, 1)), torch.rand(2, generator=stream(3, 1)))
        True
    """
    return torch.Generator().manual_seed(stream_seed(*key))


@contextmanager
def isolate_rng(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch on the CPU within the context. Their former states are restored at its end.

    Example:
        >>> import torch
        >>> from hf_simplex.data.random_streams import isolate_rng
        >>> with isolate_rng(0):
        ...     first = torch.rand(2)
        >>> with isolate_rng(0):
        ...     print(torch.equal(torch.rand(2), first))
        True
    """
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
    """Map-style data set whose random augmentation depends on seed, epoch and index only.

    The number of data loader workers and an interruption within an epoch make no difference.

    Args:
        dataset: Map-style data set with a length.
        seed: Seed of all examples.

    Example:
        >>> import torch
        >>> from hf_simplex.data.random_streams import SeededDataset
        >>> class Noise:
        ...     def __len__(self):
        ...         return 2
        ...     def __getitem__(self, index):
        ...         return torch.rand(3)
        >>> dataset = SeededDataset(Noise(), seed=0)
        >>> torch.equal(dataset[0], dataset[0]), torch.equal(dataset[0], dataset[1])
        (True, False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # In shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Each has random streams of its own.

        Args:
            epoch: Number of the epoch, from 0.

        Example::

            dataset.set_epoch(1)   # dataset[0] has another augmentation now
        """
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with isolate_rng(stream_seed(self.seed, int(self._epoch), int(index))):
            return self.dataset[index]
