"""The columns `image` and `label` of a data set, and its classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, Value

from .joined_labels import check_no_joined_labels
from .label_advice import label_advice
from .label_lists import class_names, is_label_list, multi_hot, number_lists
from .message_words import image_names
from .split_names import role_of

__all__ = ["check_trained_classes", "checked_labels", "labels_of", "two_columns"]

_USUAL: tuple[str, ...] = ("label", "labels")
"""Usual names of a column of labels."""

_SHOWN = 3
"""Images that a message names."""


def two_columns(
    splits: dict[str, Dataset], name: str, image_column: str | None, label_column: str | None
) -> dict[str, Dataset]:
    """Keeps two columns, named `image` and `label`, and converts labels to `datasets.ClassLabel`, or lists of it.

    Args:
        splits: the splits by role; `train` is one of them.
        name: of the data set, for messages.
        image_column: column of images; None: the only one.
        label_column: column of labels, or of lists of labels; None: the only `ClassLabel`, else `label` or `labels`,
            else the only list of `ClassLabel`.

    Returns:
        The splits by role.

    Raises:
        ValueError: a column is missing, ambiguous or of another kind, or the splits differ.

    Example::

        splits = two_columns({"train": train, "test": test}, "pets", "img", "species")
    """
    features = splits["train"].features
    image_column = _find_column(splits["train"], name, "image_column", image_column, Image, ())
    usual = _USUAL
    if not set(usual) & set(features):
        usual = tuple(column for column, feature in features.items() if isinstance(_inner(feature), ClassLabel))
    label_column = _find_column(splits["train"], name, "label_column", label_column, ClassLabel, usual)
    if not isinstance(features[image_column], Image):
        raise ValueError(
            f"The column {image_column!r} of {name} holds no images; its columns are {_describe(features)}."
        )
    splits = {split: _same_classes(dataset, features, name, label_column, split) for split, dataset in splits.items()}
    several = is_label_list(features[label_column])
    for split, dataset in splits.items():
        # Lists of names that are numbered otherwise are numbered anew below.
        same = several and isinstance(_inner(dataset.features.get(label_column)), type(_inner(features[label_column])))
        compared = (image_column,) if same else (image_column, label_column)
        if any(dataset.features.get(column) != features[column] for column in compared):
            raise ValueError(
                f"The splits of {name} have different columns: {_describe(features)} in train, "
                f"{_describe(dataset.features)} in {split}."
            )
    splits = {
        split: dataset.select_columns([image_column, label_column]).rename_columns(
            {image_column: "image", label_column: "label"}
        )
        for split, dataset in splits.items()
    }
    if isinstance(features[label_column], ClassLabel):
        return splits
    if several:
        return number_lists(splits, name, label_column)
    return _name_classes(splits, name, label_column)


def _inner(feature: Any) -> Any:
    """What lists hold; None for a column that holds no lists."""
    return feature.feature if is_label_list(feature) else None


def _same_classes(dataset: Dataset, features: Features, name: str, label_column: str, split: str) -> Dataset:
    """Numbers the classes of a split as the training split does, by name."""
    own, wanted = dataset.features.get(label_column), features[label_column]
    if not isinstance(own, ClassLabel) or not isinstance(wanted, ClassLabel) or own.names == wanted.names:
        return dataset
    labels = dataset.select_columns(label_column)[:][label_column]
    used = sorted({own.names[label] for label in labels if label is not None and 0 <= label < len(own.names)})
    if unknown := [label for label in used if label not in wanted.names]:
        raise ValueError(_untrained(split, name, unknown[0]))
    if len(set(own.names)) < len(own.names) or len(set(wanted.names)) < len(wanted.names):
        raise ValueError(
            f"The {split} split of {name} orders its classes unlike the train split, and several have the same name: "
            f"{own.names[:5]}, {wanted.names[:5]}, ... Give both splits the same classes."
        )
    numbers = [
        wanted.names.index(own.names[label]) if label is not None and 0 <= label < len(own.names) else label
        for label in labels
    ]
    return dataset.remove_columns(label_column).add_column(label_column, numbers, feature=wanted)


def _find_column(
    dataset: Dataset, name: str, argument: str, asked: str | None, kind: type, usual_names: tuple[str, ...]
) -> str:
    features = dataset.features
    if asked is not None:
        if asked not in features:
            raise ValueError(f"{name} has no column {asked!r}; its columns are {_describe(features)}.")
        return asked
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if usual_names == _USUAL and not set(found) & set(_USUAL):
        # A ClassLabel such as "source" must not win over lists of the usual name without a word.
        found += [column for column in _USUAL if is_label_list(features.get(column))]
    if not found:
        found = [column for column in usual_names if column in features]
    if len(found) != 1:
        advice = (
            f"Choose one with {argument} (--{argument} of a recipe, --{argument.replace('_', '-')} of hf-simplex)."
        )
        raise ValueError(
            f"{name} has {len(found)} candidates for {argument}; its columns are {_describe(features)}. "
            f"{label_advice(dataset) if kind is ClassLabel else advice}"
        )
    return found[0]


def _describe(features: Features) -> str:
    return ", ".join(f"{column} ({getattr(kind, 'dtype', type(kind).__name__)})" for column, kind in features.items())


def _name_classes(splits: dict[str, Dataset], name: str, label_column: str) -> dict[str, Dataset]:
    feature = splits["train"].features["label"]
    kinds = ("string", "large_string", "int", "uint", "bool")
    if not (isinstance(feature, Value) and (feature.dtype.startswith(kinds) or _has_gaps(splits["train"]))):
        raise ValueError(f"The column {label_column!r} of {name} holds no class labels, but {feature}.")
    classes = sorted(value for value in splits["train"].unique("label") if value is not None)
    if feature.dtype.startswith(("string", "large_string")):
        check_no_joined_labels(classes, name, label_column)
    ids = {value: position for position, value in enumerate(classes)}
    class_label = ClassLabel(names=[str(value) for value in classes])
    named = {}
    for split, dataset in splits.items():
        values = dataset.select_columns("label")[:]["label"]
        unknown = {value for value in values if value is not None and value not in ids}
        if unknown:
            raise ValueError(_untrained(split, name, min(unknown)))
        # Casting the column instead would rewrite all images.
        named[split] = dataset.remove_columns("label").add_column(
            "label", [ids.get(value) for value in values], feature=class_label
        )
    return named


def _has_gaps(dataset: Dataset) -> bool:
    """Whether a column has missing labels and is of floats for this alone. `checked_labels` names their images."""
    values = dataset.unique("label")
    return None in values and all(
        value is None or (isinstance(value, float) and value.is_integer()) for value in values
    )


def check_trained_classes(labels: Mapping[str, npt.NDArray[np.int64]], label_names: Sequence[str], name: str) -> None:
    """Checks that every class has training images.

    Args:
        labels: labels of each split by role, [N], or [N, labels] of 0 and 1; `train` is one of them.
        label_names: names of the classes.
        name: of the data set, for messages.

    Raises:
        ValueError: another split has a class that the training split lacks.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.data.image_columns import check_trained_classes
        >>> check_trained_classes({"train": np.array([0, 1]), "test": np.array([1])}, ("cat", "dog"), "pets")
    """
    for split, own in labels.items():
        if own.ndim == 2:
            unknown = np.flatnonzero(own.any(axis=0) & ~labels["train"].any(axis=0))
        else:
            unknown = np.setdiff1d(own, labels["train"])
        if len(unknown):
            raise ValueError(_untrained(split, name, label_names[unknown[0]]))


def _untrained(split: str, name: str, label: Any) -> str:
    return (
        f"The {split} split of {name} has the label {label!r}, which the train split lacks. Remove its images, or add "
        "some to the train split."
    )


def labels_of(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Returns the column `label`, [N] int64. A missing label is -1. Lists of labels become [N, labels] of 0 and 1.

    Example:
        >>> from hf_simplex.data.image_columns import labels_of
        >>> from hf_simplex.data.image_data import load_image_data
        >>> labels_of(load_image_data("digits").test).shape
        (797,)
    """
    column: pa.ChunkedArray = dataset.select_columns("label").with_format("arrow")[:]["label"]
    if is_label_list(feature := dataset.features["label"]):
        return multi_hot(column.to_pylist(), len(class_names(feature)))
    labels: npt.NDArray[np.int64] = column.fill_null(-1).to_numpy()
    return labels


def checked_labels(
    dataset: Dataset, label_names: tuple[str, ...], name: str, split: str, argument: str = "test_split"
) -> npt.NDArray[np.int64]:
    """Returns the labels of a split.

    Args:
        dataset: the split, of `two_columns`.
        label_names: names of the classes.
        name: of the data set, for messages.
        split: role of the split, for messages.
        argument: the argument that chooses another split, for messages.

    Returns:
        [N] int64; of lists of labels [N, labels], 0 and 1.

    Raises:
        ValueError: the split is empty, an image is missing, or a label is missing or out of range.

    Example::

        labels = checked_labels(dataset, ("cat", "dog"), "pets", "train")
    """
    if len(dataset) == 0:
        raise ValueError(f"The {split} split of {name} is empty.")
    # The table may have rows that the split has not. To look at each row reads all images.
    if dataset.data.column("image").null_count:
        stored = dataset.select_columns("image").cast_column("image", Image(decode=False))
        if missing := [row for row, example in enumerate(stored) if example["image"] is None]:
            raise ValueError(
                f"{len(missing)} example(s) of the {split} split of {name} have no image; the first is example "
                f"{missing[0]}. Remove them."
            )
    labels = labels_of(dataset)
    if labels.ndim == 2:
        # `number_lists` has checked them.
        return labels
    other_split = (
        f" Many test splits on the Hub have no labels: choose another split with {argument} (--{argument})."
        if role_of(split) == "test"
        else ""
    )
    column: pa.ChunkedArray = dataset.select_columns("label").with_format("arrow")[:]["label"]
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy()).tolist()
        raise ValueError(
            f"{len(missing)} example(s) of the {split} split of {name} have no label (an empty "
            f"cell; in CSV also NA, null or None): {', '.join(image_names(dataset, missing[:_SHOWN]))}"
            f"{', ...' if len(missing) > _SHOWN else ''}. Give them a label, or remove them.{other_split}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(label_names)))
    if len(wrong):
        first = int(wrong[0])
        file = dataset.cast_column("image", Image(decode=False))[first]["image"]["path"]
        raise ValueError(
            f"{len(wrong)} example(s) of the {split} split of {name} have no valid label; expected 0 to "
            f"{len(label_names) - 1}, the first is {labels[first]} (-1: missing), of image {first}"
            f"{f' ({file})' if file else ''}. Correct them, or remove them.{other_split}"
        )
    return labels
