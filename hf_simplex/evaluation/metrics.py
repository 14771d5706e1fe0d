r"""Accuracy, likelihood, calibration and detection metrics as functions on arrays.

In the formulas p are probabilities [images, labels], y are integer label ids [images], and n is the number of images.
Arrays, tensors on any device and lists are accepted. Logits are refused: apply softmax first.

`hf_simplex.evaluation.evaluate_modules` has the same metrics as modules of the library `evaluate`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

from .inputs import (
    FloatArray,
    check_labels_or_probabilities,
    check_num_bins,
    check_predictions,
    check_scores,
)

__all__ = [
    "SMALLEST_PROBABILITY",
    "ReliabilityBins",
    "accuracy",
    "adaptive_calibration_error",
    "brier_score",
    "classification_metrics",
    "classwise_calibration_error",
    "expected_calibration_error",
    "misclassification_auroc",
    "negative_log_likelihood",
    "ood_auroc",
    "reliability_bins",
]

SMALLEST_PROBABILITY = float(np.finfo(np.float64).tiny)
"""The smallest normal float64, 2.2e-308. It replaces a probability that has underflowed to 0."""


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    r"""Top-1 accuracy: the share of images whose predicted label is the reference label.

    .. math:: \text{accuracy} = \frac{1}{n} \sum_i [\arg\max_j p_{ij} = y_i]

    The first label wins a tie.

    Args:
        predictions: [images, labels] probabilities, or [images] integer label ids.
        references: [images] integer label ids.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: The input is empty, of the wrong shape or length, or not probabilities and label ids. The message
            names the first bad row and its value.

    Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015 (one minus top-1 error).

    Example:
        >>> from hf_simplex.evaluation.metrics import accuracy
        >>> accuracy([[0.7, 0.3], [0.6, 0.4]], [0, 1])
        0.5
    """
    predictions, references = check_labels_or_probabilities(predictions, references)
    labels = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions
    return float(np.mean(labels == references))


def negative_log_likelihood(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""Negative log-likelihood of the reference labels, mean over images (the log score, cross entropy).

    .. math:: \text{NLL} = -\frac{1}{n} \sum_i \ln p_{i y_i}

    A probability that has underflowed to 0 counts as 2.2e-308, the smallest normal float64. One image thus costs at
    most 708.4 nats. Other small probabilities are not clipped.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.

    Returns:
        Nats, 0 or more; ln(labels) for uniform probabilities.

    Raises:
        ValueError: As `accuracy`.

    Source: Good, Rational Decisions, Journal of the Royal Statistical Society B 14, 1952; Gneiting and Raftery,
    Strictly Proper Scoring Rules, Prediction, and Estimation, JASA 2007.

    Example:
        >>> from hf_simplex.evaluation.metrics import negative_log_likelihood
        >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
        0.4904
    """
    probabilities, references = check_predictions(probabilities, references)
    likelihoods = probabilities[np.arange(len(references)), references]
    # A row may sum to slightly over 1. Its loss is still not negative.
    return float(-np.mean(np.log(np.clip(likelihoods, SMALLEST_PROBABILITY, 1.0))))


def brier_score(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""Brier score: the mean squared distance between the probabilities and the one-hot reference.

    .. math:: \text{Brier} = \frac{1}{n} \sum_i \sum_j (p_{ij} - [y_i = j])^2

    This is Brier's own definition, a sum over labels. Definitions that divide by the number of labels, or by two, are
    smaller by that factor.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.

    Returns:
        A number from 0 (best) to 2 (certain and wrong on every image).

    Raises:
        ValueError: As `accuracy`.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950.

    Example:
        >>> from hf_simplex.evaluation.metrics import brier_score
        >>> brier_score([[0.5, 0.5], [0.25, 0.75]], [0, 1])
        0.3125
    """
    probabilities, references = check_predictions(probabilities, references)
    differences = probabilities.copy()
    differences[np.arange(len(references)), references] -= 1.0
    return float(np.sum(differences**2) / len(references))


def expected_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    r"""Expected calibration error (ECE) of the top label over bins of equal width.

    .. math:: \text{ECE} = \sum_b \frac{|B_b|}{n} \, |\text{accuracy}(B_b) - \text{confidence}(B_b)|

    The confidence of an image is its largest probability. Bin b of M holds the confidences in ((b-1)/M, b/M]. A
    confidence of 0 belongs to the first bin. Empty bins add nothing.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        num_bins: number of bins, at least 1.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: As `accuracy`, or `num_bins` is below 1.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015;
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3 (15 bins).

    Example:
        >>> from hf_simplex.evaluation.metrics import expected_calibration_error
        >>> round(expected_calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0], num_bins=10), 4)
        0.45
    """
    confidences, correct = _top_label(*check_predictions(probabilities, references))
    return _calibration_error(confidences, correct, _equal_width_edges(num_bins))


def adaptive_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    r"""Expected calibration error of the top label over bins of equal mass.

    .. math:: \text{ACE} = \sum_b \frac{|B_b|}{n} \, |\text{accuracy}(B_b) - \text{confidence}(B_b)|

    Only the bins differ from `expected_calibration_error`. Bin b of M ends at rank ceil(b n / M) of the sorted
    confidences, inclusive. Equal confidences share a bin, so the order of the images does not matter. Without ties the
    sizes of the bins differ by at most one.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        num_bins: number of bins, at least 1. With fewer images than bins, each image has a bin of its own.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: As `accuracy`, or `num_bins` is below 1.

    Source: Nguyen and O'Connor, Posterior Calibration and Exploratory Analysis for Natural Language Processing Models,
    EMNLP 2015 (adaptive binning); Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019. The
    adaptive calibration error of Nixon et al. bins the probabilities of every label; this one bins the top label's.

    Example:
        >>> from hf_simplex.evaluation.metrics import adaptive_calibration_error
        >>> round(adaptive_calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0], num_bins=1), 4)
        0.35
    """
    confidences, correct = _top_label(*check_predictions(probabilities, references))
    return _calibration_error(confidences, correct, _equal_mass_edges(confidences, num_bins))


def classwise_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    r"""Classwise (static) calibration error: the mean over labels of the calibration error of a label's probability.

    .. math::
        \text{cwECE} = \frac{1}{K} \sum_j \sum_b \frac{|B_{bj}|}{n} \,
        |\text{frequency}_j(B_{bj}) - \text{probability}_j(B_{bj})|

    B_bj holds the images whose probability of label j is in bin b, frequency_j is the share of them with the reference
    j, and K is the number of labels. The bins are those of `expected_calibration_error`. With many labels most
    probabilities are near 0 and so is this error: compare it only between results with the same labels.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        num_bins: number of bins, at least 1.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: As `accuracy`, or `num_bins` is below 1.

    Source: Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019 (static calibration error); Kull
    et al., Beyond Temperature Scaling, NeurIPS 2019 (classwise-ECE).

    Example:
        >>> from hf_simplex.evaluation.metrics import classwise_calibration_error
        >>> round(classwise_calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0], num_bins=10), 4)
        0.45
    """
    probabilities, references = check_predictions(probabilities, references)
    edges = _equal_width_edges(num_bins)
    errors = [
        _calibration_error(probabilities[:, label], references == label, edges)
        for label in range(probabilities.shape[1])
    ]
    return float(np.mean(errors))


class ReliabilityBins(NamedTuple):
    """Bins of a reliability diagram.

    Attributes:
        edges: [num_bins + 1] float64 from 0 to 1. Bin b is (edges[b], edges[b + 1]].
        shares: [num_bins] float64, share of the images in the bin; they sum to 1.
        confidences: [num_bins] float64, mean confidence in the bin; NaN if it is empty.
        accuracies: [num_bins] float64, accuracy in the bin; NaN if it is empty.

    Example:
        >>> from hf_simplex.evaluation.metrics import reliability_bins
        >>> reliability_bins([[0.9, 0.1], [0.2, 0.8]], [0, 0], num_bins=2).edges
        array([0. , 0.5, 1. ])
    """

    edges: FloatArray
    shares: FloatArray
    confidences: FloatArray
    accuracies: FloatArray


def reliability_bins(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> ReliabilityBins:
    r"""Confidence and accuracy in each bin of `expected_calibration_error`.

    .. math:: \text{ECE} = \sum_b \text{shares}_b \, |\text{accuracies}_b - \text{confidences}_b|

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        num_bins: number of bins of equal width, at least 1.

    Returns:
        The bins, see `ReliabilityBins`.

    Raises:
        ValueError: As `accuracy`, or `num_bins` is below 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (reliability diagrams).

    Example:
        >>> from hf_simplex.evaluation.metrics import reliability_bins
        >>> bins = reliability_bins([[0.9, 0.1], [0.2, 0.8]], [0, 0], num_bins=2)
        >>> bins.shares.tolist(), bins.accuracies.tolist()
        ([0.0, 1.0], [nan, 0.5])
    """
    confidences, correct = _top_label(*check_predictions(probabilities, references))
    inner = _equal_width_edges(num_bins)
    images, confidence_sums, correct_sums = _bin_sums(confidences, correct, inner)
    filled = np.where(images > 0, images, np.nan)
    return ReliabilityBins(
        edges=np.concatenate([[0.0], inner, [1.0]]),
        shares=images / len(correct),
        confidences=confidence_sums / filled,
        accuracies=correct_sums / filled,
    )


def misclassification_auroc(
    probabilities: ArrayLike, references: ArrayLike, uncertainties: ArrayLike | None = None
) -> float:
    r"""Area under the ROC curve of misclassification detection: does uncertainty tell wrong predictions from right?

    .. math:: \text{AUROC} = P(u_\text{wrong} > u_\text{right}) + \tfrac{1}{2} P(u_\text{wrong} = u_\text{right})

    for one wrong and one right prediction drawn at random.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        uncertainties: [images] in any unit, larger for less certain predictions. Default: one minus the largest
            probability.

    Returns:
        A number from 0 to 1; 0.5 for chance. NaN if all predictions are right or all are wrong.

    Raises:
        ValueError: As `accuracy`, or the uncertainties are NaN or not one per image.

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks, ICLR 2017.

    Example:
        >>> from hf_simplex.evaluation.metrics import misclassification_auroc
        >>> misclassification_auroc([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 1, 1])
        1.0
    """
    probabilities, references = check_predictions(probabilities, references)
    confidences, correct = _top_label(probabilities, references)
    # The negative confidence has the order of one minus the confidence, without its rounding.
    scores = -confidences if uncertainties is None else check_scores(uncertainties, "uncertainties")
    if len(scores) != len(references):
        raise ValueError(f"{len(scores)} uncertainties for {len(references)} references: give one per image.")
    if correct.all() or not correct.any():
        return float("nan")
    return _auroc(scores[correct], scores[~correct])


def ood_auroc(in_distribution_scores: ArrayLike, out_of_distribution_scores: ArrayLike) -> float:
    r"""Area under the ROC curve of out-of-distribution detection.

    .. math:: \text{AUROC} = P(s_\text{out} > s_\text{in}) + \tfrac{1}{2} P(s_\text{out} = s_\text{in})

    for one image drawn at random from each data set.

    Args:
        in_distribution_scores: [test images] uncertainties in any unit, larger for less certain predictions: one minus
            the largest probability, or the predictive entropy.
        out_of_distribution_scores: [images of another data set], the same score.

    Returns:
        A number from 0 to 1; 0.5 for chance. A value far below 0.5 usually means that confidences were given in place
        of uncertainties.

    Raises:
        ValueError: Either set is empty, not one-dimensional or holds a NaN.

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks, ICLR 2017.

    Example:
        >>> from hf_simplex.evaluation.metrics import ood_auroc
        >>> ood_auroc([0.1, 0.4], [0.4, 0.9])
        0.875
    """
    inside = check_scores(in_distribution_scores, "in-distribution scores")
    outside = check_scores(out_of_distribution_scores, "out-of-distribution scores")
    return _auroc(inside, outside)


def classification_metrics(probabilities: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """The four metrics of every result in this library.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001. Label ids are refused.
        references: [images] integer label ids.

    Returns:
        `accuracy` (0 to 1), `nll` (nats), `ece` (15 bins, 0 to 1) and `brier` (0 to 2): see `accuracy`,
        `negative_log_likelihood`, `expected_calibration_error` and `brier_score`.

    Raises:
        ValueError: As `accuracy`.

    Example:
        >>> from hf_simplex.evaluation.metrics import classification_metrics
        >>> classification_metrics([[1.0, 0.0], [0.5, 0.5]], [0, 0])
        {'accuracy': 1.0, 'nll': 0.34657359027997264, 'ece': 0.25, 'brier': 0.25}
    """
    table, labels = check_predictions(probabilities, references)
    return {
        "accuracy": accuracy(table, labels),
        "nll": negative_log_likelihood(table, labels),
        "ece": expected_calibration_error(table, labels, num_bins=15),
        "brier": brier_score(table, labels),
    }


def _top_label(probabilities: FloatArray, references: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.bool_]]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == references


# scikit-learn's calibration_curve and scipy's binned_statistic have other edges: their bins are closed below, or their
# edges are multiples of a rounded width. Those put a confidence of 0.6 into the wrong one of 15 bins.
def _bin_sums(
    confidences: FloatArray, correct: NDArray[np.bool_], edges: FloatArray
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Number of images, sum of confidences and number of correct predictions per bin; `edges` are the inner edges."""
    bins = np.searchsorted(edges, confidences, side="left")
    number = len(edges) + 1
    return (
        np.bincount(bins, minlength=number),
        np.bincount(bins, weights=confidences, minlength=number),
        np.bincount(bins, weights=correct, minlength=number),
    )


def _calibration_error(confidences: FloatArray, correct: NDArray[np.bool_], edges: FloatArray) -> float:
    # |B|/n |accuracy - confidence| is the difference of two sums, divided by n. An empty bin needs no division.
    _, confidence_sums, correct_sums = _bin_sums(confidences, correct, edges)
    return float(np.sum(np.abs(confidence_sums - correct_sums)) / len(confidences))


def _equal_width_edges(num_bins: int) -> FloatArray:
    # Division gives the float nearest to b / num_bins. Multiples of the width can be off in the last place.
    return np.arange(1, check_num_bins(num_bins)) / num_bins


def _equal_mass_edges(confidences: FloatArray, num_bins: int) -> FloatArray:
    bins = np.arange(1, check_num_bins(num_bins))
    ranks = -(-bins * len(confidences) // num_bins)
    return np.sort(confidences)[ranks - 1]


def _auroc(negatives: FloatArray, positives: FloatArray) -> float:
    """The Mann-Whitney U statistic divided by its maximum, exact with ties."""
    # "asymptotic" affects only the p-value, which is not used.
    result = mannwhitneyu(positives, negatives, method="asymptotic")
    return float(result.statistic / (len(positives) * len(negatives)))
