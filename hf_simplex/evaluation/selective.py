"""Selective prediction: risk against coverage, and a confidence threshold with guaranteed error.

A selective classifier answers the images whose confidence is at least a threshold and abstains from the others. The
coverage is the share of images that it answers; the error (selective risk) is the share of wrong answers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from .inputs import FloatArray, check_scores

__all__ = [
    "GuaranteedThreshold",
    "RiskCoverage",
    "area_under_risk_coverage",
    "guaranteed_threshold",
    "risk_coverage_curve",
]


class RiskCoverage(NamedTuple):
    """Points of a risk-coverage curve, from the highest threshold to full coverage.

    Attributes:
        thresholds: [points] float64, the different confidences in descending order.
        coverages: [points] float64, share of images with at least that confidence, ascending to 1.
        errors: [points] float64, error among these images, 0 to 1.

    Example:
        >>> from hf_simplex.evaluation.selective import risk_coverage_curve
        >>> risk_coverage_curve([0.9, 0.6], [True, False]).coverages
        array([0.5, 1. ])
    """

    thresholds: FloatArray
    coverages: FloatArray
    errors: FloatArray


@dataclass(frozen=True)
class GuaranteedThreshold:
    """A confidence threshold whose error is guaranteed, or none if no threshold reaches the target.

    Attributes:
        target_error: largest acceptable error, 0 to 1.
        confidence_level: probability with which the error stays below the bound, 0 to 1.
        threshold: lowest confidence of an answer; None if no threshold reaches the target.
        coverage: share of the validation images that are answered, 0 to 1; None without a threshold.
        error: error among the answered validation images, 0 to 1; None without a threshold.
        error_bound: upper bound of the error on new images, 0 to 1; None without a threshold.
        images: number of validation images.

    Example:
        >>> from hf_simplex.evaluation.selective import GuaranteedThreshold
        >>> str(GuaranteedThreshold(0.01, 0.95, None, None, None, None, images=600))
        'No threshold keeps the error below 0.01 with probability 0.95 on 600 images.'
    """

    target_error: float
    confidence_level: float
    threshold: float | None
    coverage: float | None
    error: float | None
    error_bound: float | None
    images: int

    def __str__(self) -> str:
        goal = f"the error below {self.target_error:g} with probability {self.confidence_level:g}"
        if self.threshold is None:
            needed = _images_needed(self.target_error, self.confidence_level)
            few = "" if self.images >= needed else f" It takes {needed}, even if all answers are right."
            return f"No threshold keeps {goal} on {self.images} images.{few}"
        return (
            f"The threshold {self.threshold:.4g} keeps {goal}: it answers {self.coverage:.1%} of {self.images} images "
            f"with error {self.error:.4g}, bound {self.error_bound:.4g}."
        )


def risk_coverage_curve(confidences: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Computes the error among the most confident images at each coverage.

    Args:
        confidences: [images], larger for more certain predictions, in any unit: the largest probability, or a negative
            uncertainty.
        correct: [images] bool, whether the prediction is right.

    Returns:
        One point per distinct confidence. Images of equal confidence are answered together.

    Raises:
        ValueError: There are no images, a confidence is NaN, or `correct` is not one bool per image.

    Source: El-Yaniv and Wiener, On the Foundations of Noise-free Selective Classification, JMLR 2010; Geifman and
    El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.

    Example:
        >>> from hf_simplex.evaluation.selective import risk_coverage_curve
        >>> curve = risk_coverage_curve([0.9, 0.8, 0.8, 0.6], [True, True, False, False])
        >>> curve.coverages.tolist(), curve.errors.round(3).tolist()
        ([0.25, 0.75, 1.0], [0.0, 0.333, 0.5])
    """
    values, wrong = _check(confidences, correct)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    last = np.append(values[1:] != values[:-1], True)
    answered = np.arange(1, len(values) + 1)[last]
    return RiskCoverage(
        thresholds=values[last],
        coverages=answered / len(values),
        errors=np.cumsum(wrong[order])[last] / answered,
    )


def area_under_risk_coverage(confidences: ArrayLike, correct: ArrayLike) -> float:
    r"""Area under the risk-coverage curve (AURC): the mean error over the thresholds at each image's confidence.

    .. math:: \text{AURC} = \frac{1}{n} \sum_i \text{error}(\{j : \kappa_j \ge \kappa_i\})

    for the confidences kappa of n images.

    Args:
        confidences: [images], larger for more certain predictions, in any unit.
        correct: [images] bool, whether the prediction is right.

    Returns:
        A number from 0 (all predictions are right) to 1.

    Raises:
        ValueError: As `risk_coverage_curve`.

    Source: Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.

    Example:
        >>> from hf_simplex.evaluation.selective import area_under_risk_coverage
        >>> area_under_risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, True, False])
        0.0625
    """
    curve = risk_coverage_curve(confidences, correct)
    return float(np.sum(curve.errors * np.diff(curve.coverages, prepend=0.0)))


def guaranteed_threshold(
    confidences: ArrayLike, correct: ArrayLike, *, target_error: float, confidence_level: float = 0.95
) -> GuaranteedThreshold:
    r"""Finds a threshold of large coverage whose error is at most a target with high probability (algorithm SGR).

    A binary search over the sorted confidences visits at most ceil(log2 n) thresholds. With k errors among m answered
    images, the error of a threshold is bounded by the b that solves

    .. math:: \sum_{j=0}^{k} \binom{m}{j} b^j (1 - b)^{m - j} = \frac{\delta}{\lceil \log_2 n \rceil}

    for delta = 1 - `confidence_level`. This is the exact (Clopper-Pearson) bound, with a union bound over the visited
    thresholds. Of the visited thresholds with a bound of at most the target, the result has the largest coverage.

    Args:
        confidences: [images] of validation images, larger for more certain predictions, in any unit.
        correct: [images] bool, whether the prediction is right.
        target_error: largest acceptable error, between 0 and 1.
        confidence_level: probability of the guarantee, between 0 and 1, over the draw of the validation images.

    Returns:
        The threshold; its `threshold` is None if no visited threshold reaches the target.

    Raises:
        ValueError: As `risk_coverage_curve`, or a rate is not between 0 and 1.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017, algorithm 2. Unlike
    the paper's, this search includes full coverage and never returns a threshold that misses the target.

    Example:
        >>> from hf_simplex.evaluation.selective import guaranteed_threshold
        >>> found = guaranteed_threshold([0.9] * 200 + [0.6] * 100, [True] * 200 + [False] * 100, target_error=0.05)
        >>> found.threshold, round(found.coverage, 3), round(found.error_bound, 3)
        (0.9, 0.667, 0.026)
    """
    for name, value in (("target_error", target_error), ("confidence_level", confidence_level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}: expected a number between 0 and 1.")
    values, wrong = _check(confidences, correct)
    number = len(values)
    ascending = np.sort(values)
    steps = _steps(number)
    delta = (1 - confidence_level) / steps
    best = GuaranteedThreshold(target_error, confidence_level, None, None, None, None, number)
    # Ranks from 1. The threshold at `low` misses the target. The one at `high` reaches it, once one was found.
    low, high = 0, number
    for _ in range(steps):
        rank = math.ceil((low + high) / 2)
        threshold = float(ascending[rank - 1])
        answered = values >= threshold
        total, errors = int(answered.sum()), int(wrong[answered].sum())
        bound = 1.0 if errors == total else float(beta.ppf(1 - delta, errors + 1, total - errors))
        if bound <= target_error:
            high = rank
            best = GuaranteedThreshold(
                target_error, confidence_level, threshold, total / number, errors / total, bound, number
            )
        else:
            low = rank
    return best


def _steps(images: int) -> int:
    """The number of thresholds that the search visits."""
    return max(1, math.ceil(math.log2(images)))


def _images_needed(target_error: float, confidence_level: float) -> int:
    """The smallest number of images that bounds the error by the target, if all answers are right."""
    fewer, needed = 0, 1
    while needed > fewer:
        # More images take more steps, each with a smaller share of the probability.
        fewer = needed
        needed = math.ceil(math.log((1 - confidence_level) / _steps(fewer)) / math.log1p(-target_error))
    return fewer


def _check(confidences: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Confidences, and whether each prediction is wrong."""
    values = check_scores(confidences, "confidences")
    flags = np.asarray(correct)
    if flags.dtype != np.bool_ or flags.shape != values.shape:
        raise ValueError(
            f"Expected one bool per image for {len(values)} confidences, got {flags.dtype} of shape "
            f"{list(flags.shape)}: give whether each prediction is right."
        )
    return values, ~flags
