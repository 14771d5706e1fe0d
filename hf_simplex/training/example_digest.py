"""Fingerprint of a data set as the trainer sees it: some of its examples, transforms included."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from ..data.random_streams import isolate_rng

__all__ = ["example_digest"]

# Examples that a fingerprint reads.
_EXAMPLES = 16


def example_digest(dataset: Any) -> str | None:
    """Fingerprint the number of examples and 16 evenly spaced ones, under fixed random numbers.

    An example that differs when it is read again, such as one with random numbers of its own, counts by its structure
    alone. Transforms and labels count; the order of the examples in between does not.

    Args:
        dataset: Map-style, from torch or `datasets`.

    Returns:
        16 hexadecimal digits. None for no data set, and for an iterable one, which may be read only once.

    Example:
        >>> import torch
        >>> from hf_simplex.training.example_digest import example_digest
        >>> rows = [{"pixel_values": torch.zeros(3, 4, 4), "labels": label} for label in (0, 1)]
        >>> example_digest(rows) == example_digest(list(rows)), example_digest(rows) == example_digest(rows[::-1])
        (True, False)
    """
    if isinstance(dataset, IterableDataset | datasets.IterableDataset) or not hasattr(dataset, "__len__"):
        return None
    digest = blake2b(str(len(dataset)).encode(), digest_size=8)
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(_EXAMPLES, len(dataset)), dtype=np.int64)).tolist():
        first, second = _read(dataset, index), _read(dataset, index)
        same = _digest(first, values=True) == _digest(second, values=True)
        digest.update(_digest(first, values=same))
    return digest.hexdigest()


def _read(dataset: Any, index: int) -> Any:
    with isolate_rng(index):
        return dataset[index]


def _digest(value: Any, values: bool) -> bytes:
    digest = blake2b(type(value).__name__.encode(), digest_size=8)
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(str(name).encode() + _digest(value[name], values))
    elif isinstance(value, list | tuple):
        for item in value:
            digest.update(_digest(item, values))
    elif isinstance(value, Tensor | np.ndarray):
        digest.update(f"{value.dtype}{list(value.shape)}".encode())
        if values:
            tensor = torch.as_tensor(value).detach().cpu().contiguous()
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Image.Image):
        digest.update(f"{value.mode}{value.size}".encode() + (value.tobytes() if values else b""))
    elif values and isinstance(value, bool | int | float | str | bytes | np.generic):
        digest.update(repr(value).encode())
    return digest.digest()
