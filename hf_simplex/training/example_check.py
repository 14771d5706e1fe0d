"""What an example of a data set must be, checked where a trainer is made."""

from collections.abc import Collection, Mapping
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.random_streams import isolate_rng
from .dry_step import len_of

__all__ = ["KeptColumns", "check_examples"]

LABELS = ("labels", "label", "label_ids")
"""Names of labels that transformers' default collator takes."""

_EXPECTED = (
    "Expected dictionaries of pixel_values (float tensor [channels, height, width]) and labels (int). Make them with "
    "hf_simplex.data.image_transforms.with_pixel_values, or with with_transform of a datasets.Dataset."
)


class KeptColumns:
    """Transform of a `datasets.Dataset` that keeps some of the columns of another transform's result.

    The other transform may read columns that the model does not take.

    Args:
        transform: From a batch of columns to another.
        columns: Columns to keep.

    Example:
        >>> from hf_simplex.training.example_check import KeptColumns
        >>> KeptColumns(lambda batch: {"labels": batch["label"], "file": batch["file"]}, ["labels"])(
        ...     {"label": [1], "file": ["cat.png"]}
        ... )
        {'labels': [1]}
    """

    def __init__(self, transform: Any, columns: Collection[str]) -> None:
        self.transform = transform
        self.columns = frozenset(columns)

    def __call__(self, batch: Any) -> dict[str, Any]:
        return {name: values for name, values in self.transform(batch).items() if name in self.columns}


def check_examples(dataset: Any, name: str, labels: bool) -> None:
    """Check the first example of a map-style data set.

    Random states do not change. An iterable data set is not checked, since it may be read only once.

    Args:
        dataset: The data set, for transformers' default collator.
        name: Its name, for the message.
        labels: Whether examples must have labels.

    Raises:
        TypeError: An example is no dictionary.
        ValueError: `pixel_values` or labels are missing, or something else than expected. The message names the keys.

    Example:
        >>> from hf_simplex.training.example_check import check_examples
        >>> check_examples([{"image": 1, "label": 0}], "train_dataset", labels=True)
        Traceback (most recent call last):
        ValueError: The examples of train_dataset have the keys 'image', 'label', but not pixel_values. Expected ...
    """
    if not len_of(dataset):
        return
    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom":
        # No image needs decoding to name the columns.
        _check_keys(dataset.column_names, name, labels)
    with isolate_rng(0), torch.random.fork_rng(devices=[]):
        example = dataset[0]
    if not isinstance(example, Mapping):
        found = type(example).__name__
        if isinstance(example, list | tuple):
            found += f" of {', '.join(type(part).__name__ for part in example)}"
        raise TypeError(f"The first example of {name} is a {found}. {_EXPECTED}")
    _check_keys(list(example), name, labels)
    pixels = example["pixel_values"]
    if isinstance(pixels, Tensor | np.ndarray):
        is_float = pixels.is_floating_point() if isinstance(pixels, Tensor) else pixels.dtype.kind == "f"
        if pixels.ndim != 3 or not is_float:
            raise ValueError(
                f"pixel_values of {name} have the shape {list(pixels.shape)} and dtype {pixels.dtype}. {_EXPECTED}"
            )
    elif not isinstance(pixels, list):
        raise ValueError(f"pixel_values of {name} are of the type {type(pixels).__name__}. {_EXPECTED}")
    for key in LABELS:
        if labels and isinstance(example.get(key), str):
            raise ValueError(f"{key} of {name} is {example[key]!r}: give each class a number. {_EXPECTED}")


def _check_keys(keys: Collection[str], name: str, labels: bool) -> None:
    missing = [] if "pixel_values" in keys else ["pixel_values"]
    if labels and not any(key in keys for key in LABELS):
        missing.append("labels")
    if missing:
        found = f"the keys {', '.join(map(repr, keys))}" if keys else "no keys"
        raise ValueError(f"The examples of {name} have {found}, but not {' and '.join(missing)}. {_EXPECTED}")
