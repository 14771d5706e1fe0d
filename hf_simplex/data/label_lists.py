"""Lists of labels: the column `label` of a multi-label data set, which has any number of labels for an image.

Such a column is `datasets.List(ClassLabel)`. `multi_hot` makes a table of 0 and 1 of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

__all__ = ["class_names", "is_label_list", "list_note", "multi_hot", "name_lists", "number_lists", "wrong_list"]

_SHOWN = 20
"""Labels that a note names."""

_TEXT = ("string", "large_string")
_NUMBERS = ("int", "uint", "bool", "float", "double")


def is_label_list(feature: Any) -> bool:
    """Whether a column holds lists.

    Args:
        feature: of the column.

    Example:
        >>> from datasets import ClassLabel, List
        >>> from hf_simplex.data.label_lists import is_label_list
        >>> is_label_list(List(ClassLabel(names=["cat", "dog"]))), is_label_list(ClassLabel(names=["cat", "dog"]))
        (True, False)
    """
    return isinstance(feature, List | LargeList)


def class_names(feature: Any) -> list[str]:
    """Returns the names of the labels of a column, by label.

    Args:
        feature: `ClassLabel`, or a list of it.

    Example:
        >>> from datasets import ClassLabel, List
        >>> from hf_simplex.data.label_lists import class_names
        >>> class_names(List(ClassLabel(names=["cat", "dog"])))
        ['cat', 'dog']
    """
    inner: Any = feature.feature if is_label_list(feature) else feature
    return list(inner.names)


def multi_hot(lists: Sequence[Sequence[int]], num_labels: int) -> npt.NDArray[np.int64]:
    """Returns lists of label ids as a table of 0 and 1.

    Args:
        lists: label ids of each image, 0 to `num_labels` - 1.
        num_labels: number of labels.

    Returns:
        [images, labels] int64.

    Raises:
        ValueError: as `wrong_list`, such as -1, which `datasets.ClassLabel` allows for a missing label.

    Example:
        >>> from hf_simplex.data.label_lists import multi_hot
        >>> multi_hot([[0, 2], []], 3)
        array([[1, 0, 1],
               [0, 0, 0]])
    """
    if (wrong := wrong_list(lists, num_labels)) is not None:
        raise ValueError(f"Image {wrong[0]} {wrong[1]}.")
    table = np.zeros((len(lists), num_labels), dtype=np.int64)
    for row, labels in enumerate(lists):
        table[row, list(labels)] = 1
    return table


def wrong_list(lists: Sequence[Any], num_labels: int) -> tuple[int, str] | None:
    """Finds the first image whose list of label ids is missing, repeats one, or has one out of range.

    Args:
        lists: label ids of each image; None for a missing list. An empty list is an image without labels.
        num_labels: number of labels.

    Returns:
        Row of the image and what is wrong; None if nothing is.

    Example:
        >>> from hf_simplex.data.label_lists import wrong_list
        >>> wrong_list([[0], [1, 1]], 2)
        (1, 'has the label 1 twice')
    """
    for row, labels in enumerate(lists):
        if labels is None:
            return row, "has no list of labels; an image without labels has an empty one"
        for place, label in enumerate(labels):
            if label is None or not 0 <= label < num_labels:
                return row, f"has the label {label}; expected 0 to {num_labels - 1}"
            if label in labels[:place]:
                return row, f"has the label {label} twice"
    return None


def number_lists(splits: Mapping[str, Dataset], name: str, label_column: str) -> dict[str, Dataset]:
    """Converts a column `label` of lists to `datasets.List(ClassLabel)`.

    Lists of `ClassLabel` are numbered as the training split does, by name. Lists of text become labels in alphabetical
    order. Lists of numbers must be multi-hot: as long as there are labels, each entry 0 or 1. Such labels are named by
    their place.

    Args:
        splits: data sets with the column `label` by role; `train` is one of them.
        name: of the data set, for messages.
        label_column: what the column was called, for messages.

    Returns:
        The splits by role.

    Raises:
        ValueError: the lists hold something else, an image has a label twice or a missing one, the splits differ, a
            split has a label that the training split lacks, or a column of names lacks one of the training split.

    Example:
        >>> from datasets import Dataset
        >>> from hf_simplex.data.label_lists import class_names, number_lists
        >>> train = Dataset.from_dict({"image": [0, 1], "label": [["cat"], ["ant", "cat"]]})
        >>> found = number_lists({"train": train}, "pets", "label")
        >>> class_names(found["train"].features["label"]), found["train"]["label"][1]
        (['ant', 'cat'], [0, 1])
    """
    lists = {split: _read(dataset, name, split) for split, dataset in splits.items()}
    feature: Any = splits["train"].features["label"]
    inner = feature.feature
    if isinstance(inner, ClassLabel):
        names = inner.names
        lists = {split: _renumbered(splits[split], own, names, name, split) for split, own in lists.items()}
    elif isinstance(inner, Value) and inner.dtype.startswith(_TEXT):
        names = sorted({label for labels in lists["train"] for label in labels if label is not None})
        lists = {split: name_lists(own, names, name, split) for split, own in lists.items()}
    elif isinstance(inner, Value) and inner.dtype.startswith(_NUMBERS):
        names = [str(place) for place in range(len(lists["train"][0]))]
        lists = {split: _from_multi_hot(own, len(names), name, split, label_column) for split, own in lists.items()}
    else:
        names = []
        if not (isinstance(inner, Value) and inner.dtype == "null"):
            raise ValueError(f"The column {label_column!r} of {name} holds no lists of labels, but {feature}.")
    if not names:
        raise ValueError(
            f"All lists of {label_column!r} of {name} are empty, and the column does not name the labels: expected a "
            "label in some list, or a column List(ClassLabel)."
        )
    target = List(ClassLabel(names=names))
    return {
        # Casting the column instead would rewrite all images.
        split: dataset.remove_columns("label").add_column("label", lists[split], feature=target)
        for split, dataset in splits.items()
    }


def name_lists(lists: Sequence[Any], names: Sequence[str], name: str, split: str) -> list[list[int]]:
    """Returns lists of names as lists of label ids.

    Args:
        lists: names of each image's labels.
        names: of all labels.
        name: of the data set, for messages.
        split: role of the split, for messages.

    Raises:
        ValueError: a name is missing, unknown, or twice in a list.

    Example:
        >>> from hf_simplex.data.label_lists import name_lists
        >>> name_lists([["dog"], []], ["cat", "dog"], "pets", "train")
        [[1], []]
    """
    ids = {label: number for number, label in enumerate(names)}
    found = []
    for row, labels in enumerate(lists):
        if len(set(labels)) < len(labels):
            repeated = next(label for label in labels if list(labels).count(label) > 1)
            raise ValueError(
                f"Image {row} of the {split} split of {name} has the label {repeated!r} twice. Correct it."
            )
        if unknown := [label for label in labels if label not in ids]:
            raise ValueError(
                f"Image {row} of the {split} split of {name} has the label {unknown[0]!r}, which the train split "
                "lacks. Remove it, or add images with it to the train split."
            )
        found.append([ids[label] for label in labels])
    return found


def list_note(labels: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Says of a training split that its images have lists of labels.

    Args:
        labels: [images, labels] of 0 and 1.
        names: of the labels.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.data.label_lists import list_note
        >>> list_note(np.array([[1, 1], [0, 0]]), ["cat", "dog"]).split("; ")[1]
        "images with each: 'cat' 1, 'dog' 1"
    """
    counts = labels.sum(axis=1)
    none = int(np.sum(counts == 0))
    places = [str(place) for place in range(len(names))]
    named = "; the lists are 0 and 1 for each label, which is named by its place" if list(names) == places else ""
    each = [f"{name!r} {count}" for name, count in zip(names, labels.sum(axis=0).tolist(), strict=True)]
    more = f" and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
    return (
        f"several labels an image: {counts.mean():.1f} of {labels.shape[1]} on average, {none} of {len(labels)} "
        f"training images have none; images with each: {', '.join(each[:_SHOWN])}{more}{named}"
    )


def _read(dataset: Dataset, name: str, split: str) -> list[Any]:
    lists = dataset.select_columns("label").with_format("arrow")[:]["label"].to_pylist()
    if not lists:
        raise ValueError(f"The {split} split of {name} is empty.")
    for row, labels in enumerate(lists):
        if labels is None or any(label is None for label in labels):
            what = "no list of labels" if labels is None else "a missing label in its list"
            raise ValueError(
                f"Image {row} of the {split} split of {name}{_file(dataset, row)} has {what}. An image without labels "
                "has an empty list. Correct it, or remove the image."
            )
    return lists


def _file(dataset: Dataset, row: int) -> str:
    if "image" not in dataset.column_names:
        return ""
    stored = dataset.select([row]).select_columns("image").cast_column("image", Image(decode=False))[0]["image"]
    return f" ({stored['path']})" if stored and stored["path"] else ""


def _renumbered(dataset: Dataset, lists: list[Any], names: list[str], name: str, split: str) -> list[list[int]]:
    own: Any = dataset.features["label"]
    if not is_label_list(own) or not isinstance(own.feature, ClassLabel):
        raise ValueError(f"The splits of {name} have different labels: names in train, {own} in {split}.")
    if (wrong := wrong_list(lists, len(own.feature.names))) is not None:
        raise ValueError(f"Image {wrong[0]} of the {split} split of {name}{_file(dataset, wrong[0])} {wrong[1]}.")
    if own.feature.names == names:
        return lists
    if unnamed := [label for label in names if label not in own.feature.names]:
        raise ValueError(
            f"The {split} split of {name} does not name the label {unnamed[0]!r} of the train split, and so does not "
            "say whether its images have it. Give both splits the same labels."
        )
    if len(set(own.feature.names)) < len(own.feature.names) or len(set(names)) < len(names):
        raise ValueError(
            f"The {split} split of {name} orders its labels unlike the train split, and several have the same name: "
            f"{own.feature.names[:5]}, {names[:5]}, ... Give both splits the same labels."
        )
    return name_lists([[own.feature.names[label] for label in labels] for labels in lists], names, name, split)


def _from_multi_hot(lists: list[Any], length: int, name: str, split: str, label_column: str) -> list[list[int]]:
    for row, labels in enumerate(lists):
        if len(labels) != length or length < 2 or any(label not in (0, 1) for label in labels):
            raise ValueError(
                f"Image {row} of the {split} split of {name} has {labels!r:.100} in {label_column!r}. A list of "
                f"numbers must be multi-hot: 0 or 1 for each of all labels ({length} in the first training image, at "
                "least 2). For lists of ids, give the column the type List(ClassLabel), or list the names."
            )
    return [[place for place, label in enumerate(labels) if label] for labels in lists]
