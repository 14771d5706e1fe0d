"""Temperature scaling, calibrated metrics, and the deep ensemble equivalent of an ensemble.

Uncalibrated log-likelihoods mostly compare temperatures. Ashukha et al., Pitfalls of In-Domain Uncertainty Estimation
and Ensembling in Deep Learning, ICLR 2020, therefore compare methods at their optimal temperatures. They fit the
temperature by test-time cross-validation. Here it is fitted on validation images; test images are only measured.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

from .inputs import FloatArray, check_predictions, check_probabilities
from .metrics import SMALLEST_PROBABILITY, classification_metrics

__all__ = [
    "HIGHEST_TEMPERATURE",
    "LOWEST_TEMPERATURE",
    "PRIOR_DEVIATION",
    "calibrated_metrics",
    "check_validation_images",
    "deep_ensemble_equivalent",
    "fit_temperature",
    "scale_temperature",
]

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
"""Range of fitted temperatures. Above it predictions are almost uniform, below it they are almost certain."""

PRIOR_DEVIATION = 0.3
"""Standard deviation of ln T before any image is seen: two out of three temperatures are between 0.74 and 1.35."""


def fit_temperature(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""Fits the temperature T of softmax(ln p / T): the maximum a posteriori under a log-normal prior around 1.

    .. math:: T = \arg\min_T -\sum_{i=1}^n \ln \frac{p_{i y_i}^{1/T}}{\sum_j p_{ij}^{1/T}}
              + \frac{(\ln T)^2}{2 \cdot 0.3^2}

    On many images the prior does not matter, and T is that of maximum likelihood. On few images, of which the model
    gets nearly all right, the likelihood is flat: its maximum can be so sharp that a wrong test image costs many nats.
    The prior keeps the probabilities as they are unless the images speak against it.

    For an ensemble, give the mean of the members' probabilities.

    Args:
        probabilities: [images, labels] of validation images, each row summing to 1 within 0.001. A probability of 0
            counts as 2.2e-308, as in `metrics.negative_log_likelihood`.
        references: [images] integer label ids.

    Returns:
        A number from 0.01 to 100: above 1 for overconfident predictions, below 1 for underconfident ones. An optimum
        outside of this range is the nearest end of it.

    Raises:
        ValueError: As `metrics.accuracy`.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2 (temperature scaling, without
    a prior).

    Example:
        >>> from hf_simplex.evaluation.calibration import fit_temperature
        >>> round(fit_temperature([[0.8, 0.2]] * 30_000, [0, 0, 1] * 10_000), 3)
        1.995
    """
    table, labels = check_predictions(probabilities, references)
    logits = _logarithms(table)
    of_reference = logits[np.arange(len(labels)), labels]
    precision = 1 / (PRIOR_DEVIATION**2 * len(labels))

    def slope(exponent: float) -> float:
        """Derivative of the objective, divided by n, with respect to ln 1/T."""
        inverse = math.exp(exponent)
        likelihood = np.mean(np.sum(softmax(inverse * logits, axis=1) * logits, axis=1) - of_reference)
        return float(inverse * likelihood + precision * exponent)

    lowest, highest = -math.log(HIGHEST_TEMPERATURE), -math.log(LOWEST_TEMPERATURE)
    if slope(lowest) >= 0:
        return HIGHEST_TEMPERATURE
    if slope(highest) <= 0:
        return LOWEST_TEMPERATURE
    return math.exp(-float(brentq(slope, lowest, highest)))


def scale_temperature(probabilities: ArrayLike, temperature: float) -> FloatArray:
    """Returns probabilities at another temperature T: softmax(ln p / T), that is p^(1/T) normalized.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        temperature: above 0. A temperature above 1 lowers the confidence, one below 1 raises it.

    Returns:
        [images, labels] float64. The order of the labels of an image does not change.

    Raises:
        ValueError: The probabilities are not valid, as in `metrics.accuracy`, or the temperature is not positive and
            finite.

    Source: Guo et al. 2017, section 4.2 (temperature scaling).

    Example:
        >>> from hf_simplex.evaluation.calibration import scale_temperature
        >>> scale_temperature([[0.8, 0.2]], 2.0).round(4)
        array([[0.6667, 0.3333]])
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"The temperature is {temperature}: expected a positive, finite number.")
    scaled: FloatArray = softmax(_logarithms(check_probabilities(probabilities)) / temperature, axis=1)
    return scaled


def calibrated_metrics(
    probabilities: ArrayLike,
    references: ArrayLike,
    validation_probabilities: ArrayLike,
    validation_references: ArrayLike,
) -> dict[str, float]:
    """The metrics of every result at the temperature fitted on validation images.

    Args:
        probabilities: [images, labels] of the test images, each row summing to 1 within 0.001.
        references: [images] integer label ids.
        validation_probabilities: [validation images, labels] of images that are in neither the training nor the test
            data.
        validation_references: [validation images] integer label ids.

    Returns:
        `accuracy`, `nll` (minus the calibrated log-likelihood), `ece` and `brier`, as
        `metrics.classification_metrics` defines them, and the fitted `temperature`.

    Raises:
        ValueError: As `metrics.accuracy`, the validation images have another number of labels, or the test and
            validation probabilities are equal.

    Source: Ashukha et al. 2020 (calibrated log-likelihood).

    Example:
        >>> from hf_simplex.evaluation.calibration import calibrated_metrics
        >>> found = calibrated_metrics([[0.5, 0.5], [0.2, 0.8]], [0, 1], [[0.8, 0.2]] * 300, [0, 0, 1] * 100)
        >>> round(found["temperature"], 3), round(found["nll"], 3)
        (1.718, 0.531)
    """
    check_validation_images(probabilities, validation_probabilities)
    temperature = fit_temperature(validation_probabilities, validation_references)
    scaled = scale_temperature(probabilities, temperature)
    return {**classification_metrics(scaled, references), "temperature": temperature}


def check_validation_images(probabilities: ArrayLike, validation_probabilities: ArrayLike) -> None:
    """Checks that test and validation images are not the same, and have as many labels.

    Args:
        probabilities: [images, labels] of the test images.
        validation_probabilities: [validation images, labels].

    Raises:
        ValueError: they are the same, or of another number of labels.

    Example:
        >>> from hf_simplex.evaluation.calibration import check_validation_images
        >>> check_validation_images([[0.5, 0.5]], [[0.8, 0.2]])
    """
    test, validation = np.asarray(probabilities), np.asarray(validation_probabilities)
    if np.array_equal(test, validation):
        raise ValueError(
            "The test and the validation probabilities are the same: a temperature is fitted on validation images, "
            "never on those that it is tested on."
        )
    if test.ndim == validation.ndim == 2 and test.shape[1] != validation.shape[1]:
        raise ValueError(f"The test images have {test.shape[1]} labels, the validation images {validation.shape[1]}.")


def deep_ensemble_equivalent(log_likelihood: float, deep_ensembles: Mapping[int, float]) -> float:
    """Deep ensemble equivalent (DEE): the smallest deep ensemble with at least the given log-likelihood.

    Log-likelihoods between the measured sizes are interpolated linearly. The first size that reaches the
    log-likelihood counts, also if a larger deep ensemble is worse.

    Args:
        log_likelihood: calibrated log-likelihood of any ensemble, in nats per image, 0 or less: minus the `nll`
            of `calibrated_metrics`.
        deep_ensembles: calibrated log-likelihoods of deep ensembles by number of networks, including 1. Ashukha et al.
            give the mean over several deep ensembles of a size.

    Returns:
        The number of networks, a real number: 1 if the ensemble is no better than a single network, infinity if it is
        better than the largest deep ensemble (no extrapolation).

    Raises:
        ValueError: There is no deep ensemble of 1 network, or a log-likelihood is positive or not finite.

    Source: Ashukha et al. 2020 (deep ensemble equivalent).

    Example:
        >>> from hf_simplex.evaluation.calibration import deep_ensemble_equivalent
        >>> round(deep_ensemble_equivalent(-0.38, {1: -0.40, 2: -0.36, 4: -0.32}), 6)
        1.5
    """
    sizes = sorted(deep_ensembles)
    if not sizes or sizes[0] != 1:
        raise ValueError(f"The deep ensembles have the sizes {sizes}: they must start with 1, a single network.")
    for value in (log_likelihood, *deep_ensembles.values()):
        if not (math.isfinite(value) and value <= 0):
            raise ValueError(f"{value} is not a mean log-likelihood: expected a finite number, at most 0.")
    if log_likelihood <= deep_ensembles[1]:
        return 1.0
    for size, larger in pairwise(sizes):
        low, high = deep_ensembles[size], deep_ensembles[larger]
        if log_likelihood <= high:
            return size + (larger - size) * (log_likelihood - low) / (high - low)
    return math.inf


def _logarithms(probabilities: FloatArray) -> FloatArray:
    logarithms: FloatArray = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
    return logarithms
