"""Temperature scaling, metrics after it, and the deep-ensemble-equivalent size of an ensemble.

Uncalibrated log-likelihoods mostly compare temperatures. Ashukha et al., Pitfalls of In-Domain Uncertainty Estimation
and Ensembling in Deep Learning, ICLR 2020, therefore give every method its own best temperature before they compare.
They fit it on half of the test images and swap the halves (test-time cross-validation); here it is fitted on
validation images, and test images are only ever measured.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from .metrics import SMALLEST_PROBABILITY, check_predictions, check_probabilities, classification_metrics

FloatArray = NDArray[np.float64]

# Beyond the highest, predictions are worthless, and nothing is left to gain; below the lowest, nothing bounds it.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0


def fit_temperature(probabilities: ArrayLike, references: ArrayLike) -> float:
    """The temperature T that minimizes the negative log-likelihood of softmax(ln p / T).

    The likelihood is concave in 1/T, so the root of its derivative is the optimum. For an ensemble, give the mean of
    its members' probabilities: the temperature is that of the ensemble, not of its members.

    Args:
        probabilities: of validation images, never of test images: [images, labels], each row summing to 1 within
            0.001. What has underflowed to 0 counts as 2.2e-308, as in `metrics.negative_log_likelihood`.
        references: label ids [images] (integers).

    Returns:
        A number from 0.01 to 100: above 1 where the probabilities are too sure, below 1 where they are not sure
        enough. 100 where the optimum is beyond it; 1, which changes nothing, where it is below 0.01, as when every
        prediction is right: such images cannot say how sure is too sure, and sharpening without end would make the
        first wrong test image cost hundreds of nats.

    Raises:
        ValueError: as for `metrics.accuracy`.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (temperature scaling).
    """
    table, labels = check_predictions(probabilities, references)
    logits = _logarithms(table)
    of_reference = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood with respect to 1/T; it grows with 1/T."""
        return float(np.mean(np.sum(softmax(inverse * logits, axis=1) * logits, axis=1) - of_reference))

    lowest, highest = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    if slope(lowest) >= 0:
        return HIGHEST_TEMPERATURE
    if slope(highest) <= 0:
        return 1.0
    return 1 / float(brentq(slope, lowest, highest))


def scale_temperature(probabilities: ArrayLike, temperature: float) -> FloatArray:
    """Probabilities at another temperature: softmax(ln p / T), which is p^(1/T) with rows made to sum to 1.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        temperature: above 0; 1 changes nothing, above 1 is less sure, below 1 surer.

    Returns:
        [images, labels] float64; the order of the labels of an image stays.

    Raises:
        ValueError: for what are not probabilities, as `metrics.accuracy`, and for a temperature that is not positive
            and finite.

    Source: Guo et al. 2017 (temperature scaling).
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
    """The metrics of every result, after temperature scaling fitted on validation images.

    Args:
        probabilities: of the test images, [images, labels], each row summing to 1 within 0.001.
        references: their label ids [images] (integers).
        validation_probabilities: of other images, which were not trained on either, [validation images, labels].
        validation_references: their label ids [validation images] (integers).

    Returns:
        `accuracy`, `nll` (minus the calibrated log-likelihood), `ece` and `brier`, as
        `metrics.classification_metrics` defines them, and the fitted `temperature`. Scaling leaves the accuracy as
        it is.

    Raises:
        ValueError: as for `metrics.accuracy`; another number of labels in validation; or test and validation
            probabilities that are the same numbers.

    Source: Ashukha et al. 2020 (calibrated log-likelihood).
    """
    test, validation = np.asarray(probabilities), np.asarray(validation_probabilities)
    if np.array_equal(test, validation):
        raise ValueError(
            "The test and the validation probabilities are the same: a temperature is fitted on validation images, "
            "never on those that it is tested on."
        )
    if test.ndim == validation.ndim == 2 and test.shape[1] != validation.shape[1]:
        raise ValueError(f"The test images have {test.shape[1]} labels, those of validation {validation.shape[1]}.")
    temperature = fit_temperature(validation, validation_references)
    scaled = scale_temperature(test, temperature)
    return {**classification_metrics(scaled, references), "temperature": temperature}


def deep_ensemble_equivalent(log_likelihood: float, deep_ensembles: Mapping[int, float]) -> float:
    """How many independently trained networks a deep ensemble needs to be as good: the least size that reaches it.

    Between the measured sizes the log-likelihood of a deep ensemble is interpolated linearly. Where a larger deep
    ensemble happens to be worse than a smaller one, the first size that reaches the log-likelihood counts.

    Args:
        log_likelihood: the calibrated log-likelihood of an ensemble of any kind, in nats an image: minus the `nll` of
            `calibrated_metrics`, so 0 or less, larger is better.
        deep_ensembles: the same for deep ensembles, by their number of networks; 1 (a single network) must be there.
            Ashukha et al. give the mean over several deep ensembles of a size.

    Returns:
        The size, a real number: 1 for what is no better than a single network (nothing is worth less than one), and
        infinity for what is better than the largest deep ensemble that was measured (it is not extrapolated).

    Raises:
        ValueError: there is no single network among the deep ensembles, or a log-likelihood is positive or not
            finite.

    Source: Ashukha et al. 2020 (deep ensemble equivalent, DEE).
    """
    sizes = sorted(deep_ensembles)
    if not sizes or sizes[0] != 1:
        raise ValueError(f"The deep ensembles have the sizes {sizes}: they must start with 1, a single network.")
    for value in (log_likelihood, *deep_ensembles.values()):
        if not (math.isfinite(value) and value <= 0):
            raise ValueError(f"{value} is no mean log-likelihood: expected 0 or less, minus the negative one (nll).")
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
