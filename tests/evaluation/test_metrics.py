"""Metrics equal values worked by hand and those of scikit-learn and torchmetrics."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as torchmetrics_functional
from predictions import (
    CALIBRATION_FUNCTIONS,
    FOUR_IMAGES,
    FOUR_LABELS,
    FUNCTIONS,
    calibrated_predictions,
    random_predictions,
)
from scipy.special import softmax

from hf_simplex.evaluation.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classification_metrics,
    classwise_calibration_error,
    expected_calibration_error,
    misclassification_auroc,
    negative_log_likelihood,
    ood_auroc,
    reliability_bins,
)

# --- values worked by hand


def test_accuracy_is_the_share_of_top_labels_that_are_right() -> None:
    assert accuracy(FOUR_IMAGES, FOUR_LABELS) == 0.5
    assert accuracy([0, 1, 0, 2], FOUR_LABELS) == 0.5


def test_negative_log_likelihood_is_in_nats_and_looks_at_the_reference_only() -> None:
    expected = -(math.log(0.7) + math.log(0.1) + math.log(0.35) + math.log(0.9)) / 4
    assert negative_log_likelihood(FOUR_IMAGES, FOUR_LABELS) == pytest.approx(expected, rel=1e-14)


def test_brier_score_sums_over_labels() -> None:
    expected = (0.14 + 1.46 + 0.645 + 0.015) / 4
    assert brier_score(FOUR_IMAGES, FOUR_LABELS) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("function", "num_bins", "expected"),
    [
        (expected_calibration_error, 1, abs(2.8 - 2) / 4),
        (expected_calibration_error, 2, (abs(0.4 - 0) + abs(2.4 - 2)) / 4),
        # 0.4 ends the second bin and 0.8 the fourth: bins hold their upper ends.
        (expected_calibration_error, 5, (abs(0.4 - 0) + abs(1.5 - 1) + abs(0.9 - 1)) / 4),
        (adaptive_calibration_error, 1, abs(2.8 - 2) / 4),
        (adaptive_calibration_error, 2, (abs(0.4 + 0.7 - 1) + abs(0.8 + 0.9 - 1)) / 4),
        # Ranks 2, 3 and 4 of 4 end the three bins.
        (adaptive_calibration_error, 3, (abs(0.4 + 0.7 - 1) + abs(0.8 - 0) + abs(0.9 - 1)) / 4),
        (adaptive_calibration_error, 4, (0.4 + 0.3 + 0.8 + 0.1) / 4),
        (adaptive_calibration_error, 15, (0.4 + 0.3 + 0.8 + 0.1) / 4),
        (
            classwise_calibration_error,
            2,
            (
                (abs(0.1 + 0.4 + 0.05 - 0) + abs(0.7 - 1))
                + (abs(0.2 + 0.35 + 0.05 - 1) + abs(0.8 - 0))
                + (abs(0.1 + 0.1 + 0.25 - 1) + abs(0.9 - 1))
            )
            / (4 * 3),
        ),
    ],
)
def test_calibration_errors_by_hand(function: Callable[..., float], num_bins: int, expected: float) -> None:
    assert function(FOUR_IMAGES, FOUR_LABELS, num_bins) == pytest.approx(expected, rel=1e-12)


def test_misclassification_auroc_counts_pairs_of_a_wrong_and_a_right_image() -> None:
    # Wrong at 0.8 and 0.4, right at 0.7 and 0.9: only (0.8, 0.7) is in the wrong order.
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS) == 3 / 4
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[0, 5, 5, 0]) == 1.0
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[1, 1, 1, 1]) == 0.5


@pytest.mark.filterwarnings("error")
def test_ood_auroc_counts_a_tie_as_half() -> None:
    assert ood_auroc([1, 2, 3], [2, 4]) == (1.5 + 3) / 6
    assert ood_auroc([2, 4], [1, 2, 3]) == 1 - 4.5 / 6
    assert ood_auroc([-math.inf, 0], [math.inf]) == 1.0
    assert ood_auroc([1], [1]) == 0.5


# --- values of other libraries


def test_accuracy_nll_and_brier_agree_with_scikit_learn() -> None:
    probabilities, labels = random_predictions()
    assert accuracy(probabilities, labels) == sklearn.metrics.accuracy_score(labels, probabilities.argmax(axis=1))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities), rel=1e-12
    )
    each_label = [sklearn.metrics.brier_score_loss(labels == label, probabilities[:, label]) for label in range(5)]
    assert brier_score(probabilities, labels) == pytest.approx(sum(each_label), rel=1e-12)


@pytest.mark.parametrize("decimals", [1, 12], ids=["ties", "no ties"])
def test_aurocs_agree_with_scikit_learn(decimals: int) -> None:
    probabilities, labels = random_predictions()
    wrong = probabilities.argmax(axis=1) != labels
    uncertainties = np.round(1 - probabilities.max(axis=1), decimals)
    expected = pytest.approx(sklearn.metrics.roc_auc_score(wrong, uncertainties), rel=1e-12)
    assert misclassification_auroc(probabilities, labels, uncertainties) == expected
    assert ood_auroc(uncertainties[~wrong], uncertainties[wrong]) == expected


@pytest.mark.parametrize("num_bins", [10, 15])
def test_calibration_errors_agree_with_torchmetrics(num_bins: int) -> None:
    probabilities, labels = random_predictions()
    expected = torchmetrics_functional.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=5, n_bins=num_bins, norm="l1"
    )
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected.item(), rel=1e-6)
    each = [
        torchmetrics_functional.binary_calibration_error(
            torch.tensor(probabilities[:, label]), torch.tensor(labels == label), n_bins=num_bins, norm="l1"
        ).item()
        for label in range(5)
    ]
    assert classwise_calibration_error(probabilities, labels, num_bins) == pytest.approx(np.mean(each), rel=1e-6)


def test_adaptive_calibration_error_splits_sorted_images_into_equal_parts() -> None:
    probabilities, labels = random_predictions(num_images=600)
    order = probabilities.max(axis=1).argsort()
    confidences = probabilities.max(axis=1)[order].reshape(15, 40)
    correct = (probabilities.argmax(axis=1) == labels)[order].reshape(15, 40)
    expected = np.abs(confidences.mean(axis=1) - correct.mean(axis=1)).mean()
    assert adaptive_calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-12)


# --- properties


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_reliability_bins_sum_to_the_calibration_error(num_bins: int) -> None:
    generator = np.random.default_rng(3)
    probabilities, labels = generator.dirichlet([0.3] * 5, size=300), generator.integers(0, 5, size=300)
    bins = reliability_bins(probabilities, labels, num_bins)
    assert bins.edges.tolist() == [b / num_bins for b in range(num_bins + 1)] and bins.shares.sum() == 1
    filled = bins.shares > 0
    assert np.isnan(bins.accuracies[~filled]).all() and np.isnan(bins.confidences[~filled]).all()
    gaps = bins.shares * np.abs(bins.accuracies - bins.confidences)
    error = expected_calibration_error(probabilities, labels, num_bins)
    assert gaps[filled].sum() == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("function", CALIBRATION_FUNCTIONS)
def test_calibration_errors_vanish_for_labels_drawn_from_the_probabilities(function: Callable[..., float]) -> None:
    probabilities, labels = calibrated_predictions(100_000)
    assert function(probabilities, labels) < 0.01
    assert function(probabilities[:1000], labels[:1000]) > function(probabilities, labels)
    assert function(softmax(3 * np.log(probabilities), axis=1), labels) > 0.05


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_order_of_images_does_not_matter_even_among_ties(function: Callable[..., float]) -> None:
    probabilities, labels = random_predictions(num_images=200, num_labels=2)
    first = np.round(probabilities[:, 0], 1)
    probabilities = np.stack([first, 1 - first], axis=1)
    order = np.random.default_rng(3).permutation(200)
    assert function(probabilities[order], labels[order]) == pytest.approx(function(probabilities, labels), rel=1e-12)


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_the_worst() -> None:
    certain = np.eye(3)
    right, wrong = [0, 1, 2], [1, 2, 0]
    assert classification_metrics(certain, right) == {"accuracy": 1.0, "nll": 0.0, "ece": 0.0, "brier": 0.0}
    worst = classification_metrics(certain, wrong)
    assert worst == {"accuracy": 0.0, "nll": pytest.approx(708.396, abs=1e-3), "ece": 1.0, "brier": 2.0}
    assert adaptive_calibration_error(certain, wrong) == 1.0
    assert classwise_calibration_error(certain, wrong) == pytest.approx(2 / 3)
    assert classwise_calibration_error(certain, right) == 0.0


def test_small_probabilities_are_not_clipped_before_they_underflow() -> None:
    assert negative_log_likelihood([[1.0, 1e-300]], [1]) == pytest.approx(300 * math.log(10))


def test_a_row_within_the_tolerance_never_earns_a_negative_loss() -> None:
    assert negative_log_likelihood([[1.0005, 0.0]], [0]) == 0.0
    assert expected_calibration_error([[1.0005, 0.0]], [0]) == pytest.approx(0.0005)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # 0.6 is 9/15, so it shares no bin with 0.65. Their gaps, of opposite sign, do not cancel.
    apart = [[0.6, 0.4], [0.65, 0.35]]
    assert expected_calibration_error(apart, [0, 1]) == pytest.approx((0.4 + 0.65) / 2)
    together = [[0.6, 0.4], [0.55, 0.45]]
    assert expected_calibration_error(together, [0, 1]) == pytest.approx(abs(0.6 + 0.55 - 1) / 2)


def test_a_probability_of_zero_belongs_to_the_first_bin() -> None:
    # For the second label 0 (missed) and 0.05 (right) share a bin, for the first 1 (wrong) and 0.95 (right).
    probabilities = [[1.0, 0.0], [0.95, 0.05]]
    expected = (abs(0 + 0.05 - 1) + abs(1 + 0.95 - 1)) / 2 / 2
    assert classwise_calibration_error(probabilities, [1, 0], num_bins=2) == pytest.approx(expected)


def test_equal_confidences_share_an_adaptive_bin() -> None:
    # Four times 0.75, three of them right: calibrated for any order and any number of bins.
    assert adaptive_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1], num_bins=4) == 0.0


@pytest.mark.parametrize("labels", [[0, 1, 0, 2], [1, 0, 1, 0]], ids=["all right", "all wrong"])
@pytest.mark.filterwarnings("error")
def test_misclassification_auroc_is_quietly_nan_if_there_is_nothing_to_tell_apart(labels: list[int]) -> None:
    assert math.isnan(misclassification_auroc(FOUR_IMAGES, labels))


def test_classification_metrics_are_the_four_numbers_of_a_result() -> None:
    probabilities, labels = random_predictions()
    found = classification_metrics(probabilities, labels)
    assert found == {
        "accuracy": accuracy(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels, num_bins=15),
        "brier": brier_score(probabilities, labels),
    }
    assert all(type(value) is float for value in found.values())
