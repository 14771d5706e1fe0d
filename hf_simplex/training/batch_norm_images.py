"""Random training images for BatchNorm statistics."""

import itertools
import math
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from transformers.data.data_collator import DataCollator

from ..data.random_streams import SeededDataset, isolate_rng

__all__ = ["batch_norm_batches"]


def batch_norm_batches(
    dataset: Any,
    *,
    images: int,
    batch_size: int,
    seed: int = 0,
    collate: DataCollator | None = None,
    label_names: tuple[str, ...] | list[str] = ("labels",),
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Load random training images as batches of inputs without labels. The same arguments give the same images.

    Args:
        dataset: Map-style or iterable, from torch or `datasets`. An iterable data set gives its first images.
        images: Number of images. A last batch of one image is left out, since it has no variance.
        batch_size: Images in a batch, at least 2.
        seed: Seed of the choice and of the augmentation.
        collate: Collate function. Default: as `torch.utils.data.DataLoader`.
        label_names: Entries of a batch that are left out.
        num_workers: Workers of the data loader.

    Returns:
        Batches of inputs by name, each [batch, ...], on the CPU.

    Example:
        >>> import torch
        >>> from hf_simplex.training.batch_norm_images import batch_norm_batches
        >>> rows = [{"pixel_values": torch.rand(3, 4, 4), "labels": 0} for _ in range(10)]
        >>> [batch["pixel_values"].shape[0] for batch in batch_norm_batches(rows, images=6, batch_size=4)]
        [4, 2]
    """
    if not isinstance(dataset, IterableDataset | datasets.IterableDataset):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        chosen = sorted(order[:images].tolist())
        dataset = dataset.select(chosen) if isinstance(dataset, datasets.Dataset) else Subset(dataset, chosen)
        dataset = SeededDataset(dataset, seed)
    size = max(2, min(batch_size, images))
    loader = DataLoader(dataset, size, collate_fn=collate, num_workers=num_workers)
    with isolate_rng(seed):
        batches = [
            {name: value for name, value in batch.items() if name not in label_names}
            for batch in itertools.islice(loader, math.ceil(images / size))
        ]
    return [batch for batch in batches if _batch_size(batch) > 1]


def _batch_size(batch: dict[str, Any]) -> int:
    return next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))
