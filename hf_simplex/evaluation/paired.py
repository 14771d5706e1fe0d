"""Differences between two classifiers on the same images, with paired standard errors."""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from .label_kinds import label_kind

__all__ = ["Difference", "PairedDifferences", "beyond_noise", "describe_differences", "paired_differences"]


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
        error: 0 to 1; of several labels an image, the Hamming error.
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
        references: [images] integer label ids, or [images, labels] of 0 and 1 for several labels an image; at least 2
            images. Images are independent, the labels of an image need not be.

    Returns:
        First minus second, with standard errors.

    Raises:
        ValueError: as `metrics.accuracy` or different numbers of labels, or there is one image only.

    Example:
        >>> from hf_simplex.evaluation.paired import paired_differences
        >>> found = paired_differences([[0.9, 0.1], [0.4, 0.6]], [[0.9, 0.1], [0.6, 0.4]], [0, 1])
        >>> found["error"]
        {'mean': -0.5, 'standard_error': 0.5}
    """
    kind = label_kind(references)
    ours, labels = kind.check(first, references)
    theirs, _ = kind.check(second, references)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"The classifiers have {ours.shape[1]} and {theirs.shape[1]} labels: expected the same labels."
        )
    if len(labels) < 2:
        raise ValueError("There is one image: a standard error needs at least 2.")
    return PairedDifferences(
        error=_difference(kind.errors(ours, labels), kind.errors(theirs, labels)),
        nll=_difference(kind.losses(ours, labels), kind.losses(theirs, labels)),
        brier=_difference(kind.brier_scores(ours, labels), kind.brier_scores(theirs, labels)),
    )


def describe_differences(differences: PairedDifferences, error_name: str = "error") -> str:
    """Says by how much a classifier differs from another in error and NLL, and whether that is more than noise.

    More than two standard errors count as more than noise.

    Args:
        differences: of `paired_differences`.
        error_name: what the error is called, see `comparison.error_name`.

    Example:
        >>> from hf_simplex.evaluation.paired import describe_differences
        >>> error, nll = {"mean": -0.012, "standard_error": 0.004}, {"mean": 0.001, "standard_error": 0.002}
        >>> describe_differences({"error": error, "nll": nll, "brier": nll})
        'error -1.20 ± 0.40 points (better), NLL +0.001 ± 0.002 nats (no difference beyond noise)'
    """
    return ", ".join(
        f"{name} {scale * found['mean']:+.{digits}f} ± {scale * found['standard_error']:.{digits}f} {unit} "
        f"({_judged(found)})"
        for name, found, scale, digits, unit in (
            (error_name, differences["error"], 100, 2, "points"),
            ("NLL", differences["nll"], 1, 3, "nats"),
        )
    )


def beyond_noise(difference: Difference) -> bool:
    """Says whether a difference is larger than two of its standard errors.

    Args:
        difference: of `paired_differences`.

    Example:
        >>> from hf_simplex.evaluation.paired import beyond_noise
        >>> beyond_noise({"mean": -0.1, "standard_error": 0.02}), beyond_noise({"mean": 0.1, "standard_error": 0.05})
        (True, False)
    """
    return abs(difference["mean"]) > 2 * difference["standard_error"]


def _judged(found: Difference) -> str:
    if not beyond_noise(found):
        return "no difference beyond noise"
    return "better" if found["mean"] < 0 else "worse"


def _difference(first: ArrayLike, second: ArrayLike) -> Difference:
    values = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return Difference(mean=float(values.mean()), standard_error=float(values.std(ddof=1) / np.sqrt(len(values))))
