"""Differences between two classifiers on the same images, with paired standard errors."""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from .inputs import FloatArray, check_predictions
from .metrics import SMALLEST_PROBABILITY

__all__ = ["Difference", "PairedDifferences", "paired_differences"]


class Difference(TypedDict):
    """A mean difference and its standard error.

    Attributes:
        mean: of the first minus the second classifier, over the images.
        standard_error: of that mean, paired over the images.

    Example:
        >>> from hf_simplex.evaluation.paired import Difference
        >>> Difference(mean=-0.1, standard_error=0.02)["mean"]
        -0.1
    """

    mean: float
    standard_error: float


class PairedDifferences(TypedDict):
    """Differences of one classifier to another; negative where the first is better.

    Attributes:
        error: 0 to 1.
        nll: in nats.
        brier: 0 to 2.

    Example:
        >>> from hf_simplex.evaluation.paired import paired_differences
        >>> paired_differences([[0.9, 0.1]] * 2, [[0.8, 0.2]] * 2, [0, 0])["error"]
        {'mean': 0.0, 'standard_error': 0.0}
    """

    error: Difference
    nll: Difference
    brier: Difference


def paired_differences(first: ArrayLike, second: ArrayLike, references: ArrayLike) -> PairedDifferences:
    """Compares two classifiers on the same images.

    The standard error is that of the mean of the differences per image. It is smaller than the standard errors of the
    two means, since both classifiers find the same images hard.

    Args:
        first, second: probabilities [images, labels].
        references: [images] integer label ids; at least 2.

    Returns:
        First minus second, with standard errors.

    Raises:
        ValueError: as `metrics.accuracy`, or there is one image only.

    Example:
        >>> from hf_simplex.evaluation.paired import paired_differences
        >>> found = paired_differences([[0.9, 0.1], [0.4, 0.6]], [[0.9, 0.1], [0.6, 0.4]], [0, 1])
        >>> found["error"]
        {'mean': -0.5, 'standard_error': 0.5}
    """
    ours, labels = check_predictions(first, references)
    theirs, _ = check_predictions(second, references)
    if len(labels) < 2:
        raise ValueError("There is one image: a standard error needs at least 2.")
    return PairedDifferences(
        error=_difference(ours.argmax(axis=1) != labels, theirs.argmax(axis=1) != labels),
        nll=_difference(_losses(ours, labels), _losses(theirs, labels)),
        brier=_difference(_brier(ours, labels), _brier(theirs, labels)),
    )


def _difference(first: ArrayLike, second: ArrayLike) -> Difference:
    values = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return Difference(mean=float(values.mean()), standard_error=float(values.std(ddof=1) / np.sqrt(len(values))))


def _losses(probabilities: FloatArray, labels: np.ndarray) -> FloatArray:
    losses: FloatArray = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST_PROBABILITY))
    return losses


def _brier(probabilities: FloatArray, labels: np.ndarray) -> FloatArray:
    scores: FloatArray = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return scores
