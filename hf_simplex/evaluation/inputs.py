"""Checks the inputs of every metric. A message names the first bad row and its value."""

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets.features.features import cast_to_python_objects
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SUM_TOLERANCE",
    "FloatArray",
    "IntArray",
    "check_labels_or_probabilities",
    "check_num_bins",
    "check_predictions",
    "check_probabilities",
    "check_scores",
    "check_scores_and_flags",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUM_TOLERANCE = 1e-3
"""Maximum difference between the sum of an image's probabilities and 1."""


def check_probabilities(probabilities: ArrayLike) -> FloatArray:
    """Returns probabilities as float64 after checking them.

    Args:
        probabilities: [images, labels] array, tensor (any device and dtype) or nested list; each row sums to 1 within
            0.001.

    Returns:
        [images, labels] float64.

    Raises:
        ValueError: The table is empty or not two-dimensional, an entry is negative or not finite, or a row does not
            sum to 1.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_probabilities
        >>> check_probabilities([[3.0, 1.0]])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: Row 0 of the probabilities sums to 4.0: expected 1 within 0.001. Apply softmax...
    """
    table = _float_array(probabilities, "probabilities")
    if table.ndim != 2:
        raise ValueError(f"Probabilities must have the shape [images, labels], got the shape {list(table.shape)}.")

    def bad_entry(row: int) -> str:
        label = np.flatnonzero(bad[row])[0]
        return f"has {table[row, label]} for label {label}"

    bad = ~(np.isfinite(table) & (table >= 0))
    expected = "a probability, finite and not negative. Apply softmax to logits first"
    _refuse_rows(bad.any(axis=1), "probabilities", bad_entry, expected)
    sums = table.sum(axis=1)
    expected = f"1 within {SUM_TOLERANCE}. Apply softmax to logits first, in float32 or float64"
    _refuse_rows(np.abs(sums - 1.0) > SUM_TOLERANCE, "probabilities", lambda row: f"sums to {sums[row]}", expected)
    return table


def check_predictions(probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Returns probabilities as float64 and label ids as int64 after checking them.

    Args:
        probabilities: [images, labels], see `check_probabilities`.
        references: [images] integer label ids, from 0 to labels - 1.

    Returns:
        [images, labels] float64 and [images] int64.

    Raises:
        ValueError: As `check_probabilities`, the references are not one label id per image, or a label id is out of
            range.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_predictions
        >>> check_predictions([[0.5, 0.5]], [1])
        (array([[0.5, 0.5]]), array([1]))
    """
    table = check_probabilities(probabilities)
    labels = _label_ids(references, "references")
    _check_same_length(table, labels)
    number = table.shape[1]
    expected = f"a label id from 0 to {number - 1}, because the probabilities have {number} labels"
    _refuse_rows(labels >= number, "references", lambda row: f"is {labels[row]}", expected)
    return table, labels


def check_labels_or_probabilities(
    predictions: ArrayLike, references: ArrayLike
) -> tuple[FloatArray | IntArray, IntArray]:
    """Returns predicted label ids [images], or probabilities [images, labels], and references after checking them.

    Args:
        predictions: [images] integer label ids, or [images, labels] probabilities.
        references: [images] integer label ids.

    Returns:
        [images] int64 or [images, labels] float64, and [images] int64.

    Raises:
        ValueError: As `check_predictions`.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_labels_or_probabilities
        >>> check_labels_or_probabilities([2, 0], [1, 0])
        (array([2, 0]), array([1, 0]))
    """
    if _array(predictions, "predictions").ndim != 1:
        return check_predictions(predictions, references)
    labels, expected = _label_ids(predictions, "predictions"), _label_ids(references, "references")
    _check_same_length(labels, expected)
    return labels, expected


def check_scores(scores: ArrayLike, name: str) -> FloatArray:
    """Returns scores as float64 after checking them.

    Args:
        scores: [images] numbers in any unit; infinities are allowed.
        name: what an error message calls them, in the plural.

    Returns:
        [images] float64.

    Raises:
        ValueError: There are none, they are not one-dimensional, or one is NaN.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_scores
        >>> check_scores([0.5, float("nan")], "scores")
        Traceback (most recent call last):
        ValueError: Row 1 of the scores is nan: expected a number.
    """
    values = _float_array(scores, name)
    if values.ndim != 1:
        raise ValueError(f"The {name} must be one number per image, got the shape {list(values.shape)}.")
    _refuse_rows(np.isnan(values), name, lambda row: "is nan", "a number")
    return values


def check_scores_and_flags(scores: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Returns scores as float64 and their out-of-distribution flags as int64 after checking them.

    Args:
        scores: [images], see `check_scores`.
        references: [images], 1 for an out-of-distribution image and 0 for an in-distribution one.

    Returns:
        [images] float64 and [images] int64.

    Raises:
        ValueError: As `check_scores`, or the references are not one flag per score, each 0 or 1.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_scores_and_flags
        >>> check_scores_and_flags([0.1, 0.9], [0, 1])
        (array([0.1, 0.9]), array([0, 1]))
    """
    values, flags = check_scores(scores, "predictions"), _label_ids(references, "references")
    _check_same_length(values, flags)
    expected = "1 for an out-of-distribution image and 0 for an in-distribution one"
    _refuse_rows(flags > 1, "references", lambda row: f"is {flags[row]}", expected)
    return values, flags


def check_num_bins(num_bins: int) -> int:
    """Returns the number of bins after checking that it is 1 or more.

    Example:
        >>> from hf_simplex.evaluation.inputs import check_num_bins
        >>> check_num_bins(0)
        Traceback (most recent call last):
        ValueError: num_bins is 0: expected 1 or more.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: expected 1 or more.")
    return num_bins


def _label_ids(labels: ArrayLike, name: str) -> IntArray:
    values = _array(labels, name)
    if values.ndim != 1:
        got = "None" if labels is None else f"the shape {list(values.shape)}"
        raise ValueError(f"The {name} must be label ids, one integer per image, got {got}.")
    if len(values) == 0:
        raise ValueError(f"The {name} are empty: a metric needs at least one image.")
    if values.dtype.kind not in "biu":
        objects = values.tolist()
        bad = np.array([not isinstance(value, int) for value in objects])
        # An integer beyond int64 also makes an object array. All rows are then integers, so the first row is named.
        bad[0] |= not bad.any()
        _refuse_rows(bad, name, lambda row: f"is {objects[row]!r}", "a label id, an integer")
    _refuse_rows(values < 0, name, lambda row: f"is {values[row]}", "a label id, 0 or more")
    return values.astype(np.int64)


def _check_same_length(predictions: NDArray[Any], references: IntArray) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions but {len(references)} references: give one of each per image."
        )


def _float_array(values: ArrayLike, name: str) -> FloatArray:
    array = _array(values, name, np.float64)
    if array.size == 0:
        raise ValueError(f"The {name} are empty (shape {list(array.shape)}): a metric needs at least one image.")
    return array


def _array(values: ArrayLike, name: str, dtype: type | None = None) -> NDArray[Any]:
    try:
        # numpy does not convert tensors that are on an accelerator, in bfloat16 or require a gradient.
        return np.asarray(cast_to_python_objects(values), dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The {name} must be numbers, in rows of equal length ({error}).") from error


def _refuse_rows(bad: NDArray[np.bool_] | np.bool_, name: str, found: Callable[[int], str], expected: str) -> None:
    """Raises ValueError that names the first bad row, what was `found` there and what was `expected`."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"Row {row} of the {name} {found(row)}: expected {expected}.")
