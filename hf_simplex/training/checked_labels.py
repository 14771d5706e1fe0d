"""Training images whose labels are checked as they are read."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torch.utils.data import Dataset

__all__ = ["CheckedLabels", "check_label_columns"]

_NAMES = ("labels", "label", "label_ids")
_IGNORED = CrossEntropyLoss().ignore_index


class CheckedLabels(Dataset):
    """Map-style data set that raises an error for a label out of range.

    Labels that are no single integers, such as those of mixed images, are not checked, nor is the label -100, which
    the loss leaves out. Of several labels of an image, each must be a number from 0 to 1.

    Args:
        dataset: Map-style, with mappings as examples.
        num_labels: Number of labels of the model.
        several: Whether an image has several labels, a number for each label of the model.

    Raises:
        ValueError: On reading an image with a label out of range. The message names image and label.

    Example:
        >>> from hf_simplex.training.checked_labels import CheckedLabels
        >>> CheckedLabels([{"labels": 0}, {"labels": 3}], num_labels=3)[1]
        Traceback (most recent call last):
        ValueError: Image 1 has the label 3, but the model has 3 labels: expected 0 to 2. Correct it or leave it out.
    """

    def __init__(self, dataset: Any, num_labels: int, *, several: bool = False) -> None:
        self.dataset = dataset
        self.num_labels = num_labels
        self.several = several

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        example = self.dataset[index]
        for name in _NAMES if isinstance(example, Mapping) else ():
            if self.several:
                if name in example:
                    _check_several(index, example[name], self.num_labels)
                continue
            if (label := _integer(example.get(name))) is None or label == _IGNORED:
                continue
            if not 0 <= label < self.num_labels:
                raise _out_of_range(index, label, self.num_labels)
        return example


def check_label_columns(dataset: Any, num_labels: int, *, several: bool = False) -> None:
    """Check all labels of a `datasets.Dataset` before training, without decoding images.

    Args:
        dataset: Other data sets are not checked, nor is one with a transform, which may change its labels.
        num_labels: Number of labels of the model.
        several: Whether an image has several labels. Then a column is a list of numbers for each image.

    Raises:
        ValueError: A label is out of range. The message names image and label.

    Example:
        >>> import datasets
        >>> from hf_simplex.training.checked_labels import check_label_columns
        >>> check_label_columns(datasets.Dataset.from_dict({"labels": [0, 1, 2]}), num_labels=3)
    """
    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] == "custom":
        return
    for name in _NAMES:
        if name in dataset.column_names:
            column = dataset.select_columns(name).with_format("arrow")[:][name]
            if several:
                for index, labels in enumerate(column.to_pylist()):
                    _check_several(index, labels, num_labels)
                continue
            if not pa.types.is_integer(column.type):
                continue
            labels = column.fill_null(_IGNORED).to_numpy()
            wrong = np.flatnonzero(((labels < 0) | (labels >= num_labels)) & (labels != _IGNORED))
            if len(wrong):
                raise _out_of_range(int(wrong[0]), int(labels[wrong[0]]), num_labels)


def _check_several(index: int, labels: Any, num_labels: int) -> None:
    """Raise ValueError unless the labels of an image are a number from 0 to 1 for each label."""
    try:
        values = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (num_labels,) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"Image {index} has the labels {labels!r:.200}, but problem_type is 'multi_label_classification' and the "
            f"model has {num_labels} labels: expected {num_labels} numbers, 1.0 where the image has the label and 0.0 "
            "where it has not."
        )


def _out_of_range(index: int, label: int, num_labels: int) -> ValueError:
    return ValueError(
        f"Image {index} has the label {label}, but the model has {num_labels} labels: expected 0 to "
        f"{num_labels - 1}. Correct it or leave it out."
    )


def _integer(label: Any) -> int | None:
    """The label as an integer; None if it is something else."""
    if isinstance(label, Tensor | np.ndarray):
        is_integer = np.issubdtype(np.asarray(label).dtype, np.integer)
        return int(label) if label.ndim == 0 and is_integer else None
    return int(label) if isinstance(label, int | np.integer) else None
