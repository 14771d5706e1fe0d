"""Training images whose labels are checked as they are read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torch.utils.data import Dataset

__all__ = ["CheckedLabels"]

_NAMES = ("labels", "label", "label_ids")
_IGNORED = CrossEntropyLoss().ignore_index


class CheckedLabels(Dataset):
    """Map-style data set that raises an error for a label out of range.

    Labels that are no single integers, such as those of mixed images, are not checked, nor is the label -100, which
    the loss leaves out.

    Args:
        dataset: Map-style, with mappings as examples.
        num_labels: Number of labels of the model.

    Raises:
        ValueError: On reading an image with a label out of range. The message names image and label.

    Example:
        >>> from hf_simplex.training.checked_labels import CheckedLabels
        >>> CheckedLabels([{"labels": 0}, {"labels": 3}], num_labels=3)[1]
        Traceback (most recent call last):
        ValueError: Image 1 has the label 3, but the model has 3 labels: expected 0 to 2. Correct it or leave it out.
    """

    def __init__(self, dataset: Any, num_labels: int) -> None:
        self.dataset = dataset
        self.num_labels = num_labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        example = self.dataset[index]
        for name in _NAMES if isinstance(example, Mapping) else ():
            if (label := _integer(example.get(name))) is None or label == _IGNORED:
                continue
            if not 0 <= label < self.num_labels:
                raise ValueError(
                    f"Image {index} has the label {label}, but the model has {self.num_labels} labels: expected 0 to "
                    f"{self.num_labels - 1}. Correct it or leave it out."
                )
        return example


def _integer(label: Any) -> int | None:
    """The label as an integer; None if it is something else."""
    if isinstance(label, Tensor | np.ndarray):
        if label.ndim != 0 or (label.is_floating_point() if isinstance(label, Tensor) else label.dtype.kind not in "iu"):
            return None
        return int(label)
    return int(label) if isinstance(label, int | np.integer) else None
