"""Claims about the metrics: worked by hand, against scikit-learn and torchmetrics, and as `evaluate` modules."""

import math
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import datasets
import evaluate
import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as torchmetrics_functional
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_simplex.evaluation.metrics import (
    Accuracy,
    AdaptiveCalibrationError,
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MisclassificationAUROC,
    NegativeLogLikelihood,
    OutOfDistributionAUROC,
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

# Right, wrong, wrong, right; the confidences are 0.7, 0.8, 0.4 and 0.9.
FOUR_IMAGES = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]]
FOUR_LABELS = [0, 2, 1, 2]

CLASSIFICATION_FUNCTIONS = [
    accuracy,
    negative_log_likelihood,
    brier_score,
    expected_calibration_error,
    adaptive_calibration_error,
    classwise_calibration_error,
    misclassification_auroc,
]
CALIBRATION_FUNCTIONS = [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error]
CLASSIFICATION_MODULES = [
    (Accuracy, "accuracy", accuracy),
    (NegativeLogLikelihood, "nll", negative_log_likelihood),
    (BrierScore, "brier", brier_score),
    (ExpectedCalibrationError, "ece", expected_calibration_error),
    (AdaptiveCalibrationError, "adaptive_ece", adaptive_calibration_error),
    (ClasswiseCalibrationError, "classwise_ece", classwise_calibration_error),
    (MisclassificationAUROC, "misclassification_auroc", misclassification_auroc),
]
MODULES = [module for module, _, _ in CLASSIFICATION_MODULES] + [OutOfDistributionAUROC]


def random_predictions(num_images: int = 500, num_labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that carry some, but not all, information about the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_labels, num_images)
    logits = 2 * generator.normal(size=(num_images, num_labels)) + 2 * np.eye(num_labels)[labels]
    return softmax(logits), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(dim=1).numpy()


def sample_labels(probabilities: np.ndarray, seed: int) -> np.ndarray:
    thresholds = np.random.default_rng(seed).random((len(probabilities), 1))
    labels: np.ndarray = np.count_nonzero(probabilities.cumsum(axis=1)[:, :-1] < thresholds, axis=1)
    return labels


def module_inputs(module: type[evaluate.Metric]) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = random_predictions(num_images=60)
    if module is OutOfDistributionAUROC:
        return probabilities[:, 0], labels % 2
    return probabilities, labels


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
    ("num_bins", "expected"),
    [
        (1, abs(2.8 - 2) / 4),
        (2, (abs(0.4 - 0) + abs(2.4 - 2)) / 4),
        # 0.4 ends the second bin and 0.8 the fourth: bins hold their upper ends.
        (5, (abs(0.4 - 0) + abs(1.5 - 1) + abs(0.9 - 1)) / 4),
    ],
)
def test_expected_calibration_error_by_hand(num_bins: int, expected: float) -> None:
    assert expected_calibration_error(FOUR_IMAGES, FOUR_LABELS, num_bins) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("num_bins", "expected"),
    [
        (1, abs(2.8 - 2) / 4),
        (2, (abs(0.4 + 0.7 - 1) + abs(0.8 + 0.9 - 1)) / 4),
        # Ranks 2, 3 and 4 of 4 end the three bins.
        (3, (abs(0.4 + 0.7 - 1) + abs(0.8 - 0) + abs(0.9 - 1)) / 4),
        (4, (0.4 + 0.3 + 0.8 + 0.1) / 4),
        (15, (0.4 + 0.3 + 0.8 + 0.1) / 4),
    ],
)
def test_adaptive_calibration_error_by_hand(num_bins: int, expected: float) -> None:
    assert adaptive_calibration_error(FOUR_IMAGES, FOUR_LABELS, num_bins) == pytest.approx(expected, rel=1e-12)


def test_classwise_calibration_error_by_hand() -> None:
    first = abs(0.1 + 0.4 + 0.05 - 0) + abs(0.7 - 1)
    second = abs(0.2 + 0.35 + 0.05 - 1) + abs(0.8 - 0)
    third = abs(0.1 + 0.1 + 0.25 - 1) + abs(0.9 - 1)
    expected = (first + second + third) / 4 / 3
    assert classwise_calibration_error(FOUR_IMAGES, FOUR_LABELS, num_bins=2) == pytest.approx(expected, rel=1e-12)


def test_misclassification_auroc_counts_pairs_of_a_wrong_and_a_right_image() -> None:
    # Wrong at 0.8 and 0.4, right at 0.7 and 0.9: only (0.8, 0.7) is in the wrong order.
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS) == 3 / 4
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[0, 5, 5, 0]) == 1.0
    assert misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[1, 1, 1, 1]) == 0.5


def test_ood_auroc_counts_a_tie_as_half() -> None:
    assert ood_auroc([1, 2, 3], [2, 4]) == (1.5 + 3) / 6
    assert ood_auroc([-math.inf, 0], [math.inf]) == 1.0
    assert ood_auroc([2, 4], [1, 2, 3]) == 1 - 4.5 / 6


# --- values of other libraries


def test_accuracy_nll_and_brier_agree_with_scikit_learn() -> None:
    probabilities, labels = random_predictions()
    assert accuracy(probabilities, labels) == sklearn.metrics.accuracy_score(labels, probabilities.argmax(axis=1))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities), rel=1e-12
    )
    each_label = [sklearn.metrics.brier_score_loss(labels == label, probabilities[:, label]) for label in range(5)]
    assert brier_score(probabilities, labels) == pytest.approx(sum(each_label), rel=1e-12)


@pytest.mark.parametrize("decimals", [1, 12])
def test_aurocs_agree_with_scikit_learn_with_and_without_ties(decimals: int) -> None:
    probabilities, labels = random_predictions()
    wrong = probabilities.argmax(axis=1) != labels
    uncertainties = np.round(1 - probabilities.max(axis=1), decimals)
    assert misclassification_auroc(probabilities, labels, uncertainties) == pytest.approx(
        sklearn.metrics.roc_auc_score(wrong, uncertainties), rel=1e-12
    )
    assert ood_auroc(uncertainties[~wrong], uncertainties[wrong]) == pytest.approx(
        sklearn.metrics.roc_auc_score(wrong, uncertainties), rel=1e-12
    )


def test_misclassification_auroc_uses_one_minus_the_largest_probability() -> None:
    probabilities, labels = random_predictions()
    expected = sklearn.metrics.roc_auc_score(probabilities.argmax(axis=1) != labels, 1 - probabilities.max(axis=1))
    assert misclassification_auroc(probabilities, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_bins_of_a_reliability_diagram_give_the_calibration_error(num_bins: int) -> None:
    generator = np.random.default_rng(3)
    probabilities, labels = generator.dirichlet([0.3] * 5, size=300), generator.integers(0, 5, size=300)
    bins = reliability_bins(probabilities, labels, num_bins)
    assert bins.edges.tolist() == [b / num_bins for b in range(num_bins + 1)] and bins.shares.sum() == 1
    filled = bins.shares > 0
    assert np.isnan(bins.accuracies[~filled]).all() and np.isnan(bins.confidences[~filled]).all()
    gaps = bins.shares * np.abs(bins.accuracies - bins.confidences)
    error = expected_calibration_error(probabilities, labels, num_bins)
    assert gaps[filled].sum() == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("num_bins", [10, 15])
def test_expected_calibration_error_agrees_with_torchmetrics(num_bins: int) -> None:
    probabilities, labels = random_predictions()
    expected = torchmetrics_functional.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=5, n_bins=num_bins, norm="l1"
    )
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected.item(), rel=1e-6)


def test_classwise_calibration_error_agrees_with_torchmetrics_on_each_label() -> None:
    probabilities, labels = random_predictions()
    each = [
        torchmetrics_functional.binary_calibration_error(
            torch.tensor(probabilities[:, label]), torch.tensor(labels == label), n_bins=15, norm="l1"
        ).item()
        for label in range(5)
    ]
    assert classwise_calibration_error(probabilities, labels) == pytest.approx(np.mean(each), rel=1e-6)


def test_adaptive_calibration_error_splits_sorted_images_into_equal_parts() -> None:
    probabilities, labels = random_predictions(num_images=600)
    order = probabilities.max(axis=1).argsort()
    confidences = probabilities.max(axis=1)[order].reshape(15, 40)
    correct = (probabilities.argmax(axis=1) == labels)[order].reshape(15, 40)
    expected = np.abs(confidences.mean(axis=1) - correct.mean(axis=1)).mean()
    assert adaptive_calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-12)


# --- properties


@pytest.mark.parametrize("function", CALIBRATION_FUNCTIONS)
def test_calibration_errors_vanish_for_labels_drawn_from_the_probabilities(function: Callable[..., float]) -> None:
    logits = 2 * np.random.default_rng(1).normal(size=(100_000, 4))
    probabilities = softmax(logits)
    labels = sample_labels(probabilities, seed=2)
    assert function(probabilities, labels) < 0.01
    assert function(probabilities[:1000], labels[:1000]) > function(probabilities, labels)
    assert function(softmax(3 * logits), labels) > 0.05


@pytest.mark.parametrize("num_labels", [2, 10, 1000])
def test_uniform_probabilities_cost_the_log_of_the_number_of_labels(num_labels: int) -> None:
    uniform = np.full((7, num_labels), 1 / num_labels)
    assert negative_log_likelihood(uniform, np.arange(7) % num_labels) == pytest.approx(math.log(num_labels))


@pytest.mark.parametrize("function", CLASSIFICATION_FUNCTIONS)
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
    # 0.6 is 9/15, so it shares no bin with 0.65; their gaps, of opposite sign, do not cancel.
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
    # Four times 0.75, three of them right: calibrated, whichever order they come in and however many bins there are.
    probabilities = [[0.75, 0.25]] * 4
    assert adaptive_calibration_error(probabilities, [0, 0, 0, 1], num_bins=4) == 0.0


@pytest.mark.parametrize("labels", [[0, 1, 0, 2], [1, 0, 1, 0]], ids=["all right", "all wrong"])
@pytest.mark.filterwarnings("error")
def test_misclassification_auroc_is_quietly_nan_where_there_is_nothing_to_tell_apart(labels: list[int]) -> None:
    assert math.isnan(misclassification_auroc(FOUR_IMAGES, labels))
    result = evaluate.combine([MisclassificationAUROC()]).compute(predictions=FOUR_IMAGES, references=labels)
    assert math.isnan(result["misclassification_auroc"])


# --- bad input

BAD_INPUTS = [
    pytest.param([], [], "empty", id="empty"),
    pytest.param(np.zeros((3, 0)), [0, 0, 0], "empty", id="no labels"),
    pytest.param([[0.5, 0.5], [0.9, 0.3]], [0, 1], r"Row 1 of the probabilities sums to 1\.2", id="large sum"),
    pytest.param([[0.5, 0.5], [0.5, 0.3]], [0, 1], r"Row 1 of the probabilities sums to 0\.8", id="small sum"),
    pytest.param([[0.5, 0.5], [1.2, -0.2]], [0, 1], r"Row 1 .* has -0\.2 for label 1", id="negative"),
    pytest.param([[0.5, 0.5], [math.nan, 1.0]], [0, 1], "Row 1 .* has nan for label 0", id="nan"),
    pytest.param([[math.inf, 0.5], [0.5, 0.5]], [0, 1], "Row 0 .* has inf for label 0", id="infinite"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [0, 2], "Row 1 of the references is 2.* 0 to 1", id="label too large"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [0, -1], "Row 1 of the references is -1", id="label negative"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [0, 0.5], r"Row 0 of the references is 0\.0.* integer", id="label float"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [0, None], "Row 1 of the references is None", id="label missing"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [0, 1, 0], "2 predictions but 3 references", id="lengths"),
    pytest.param([[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0, 1]], r"references .* shape \[2, 2\]", id="one-hot"),
    pytest.param([[0.5, 0.5], [1.0]], [0, 1], "equally many in each row", id="ragged"),
    pytest.param([["a", "b"]], [0], "must be numbers", id="strings"),
    pytest.param([[0.5, 0.5]], None, "got None", id="no references"),
    pytest.param([[[0.5, 0.5]]], [0], r"shape \[images, labels\], got the shape \[1, 1, 2\]", id="three axes"),
]


@pytest.mark.parametrize(("probabilities", "references", "message"), BAD_INPUTS)
def test_bad_input_is_refused_by_every_function(probabilities: Any, references: Any, message: str) -> None:
    for function in [*CLASSIFICATION_FUNCTIONS, classification_metrics]:
        with pytest.raises(ValueError, match=message):
            function(probabilities, references)


def test_logits_are_told_to_go_through_softmax() -> None:
    with pytest.raises(ValueError, match="softmax"):
        classification_metrics([[3.0, 1.0]], [0])
    with pytest.raises(ValueError, match="softmax"):
        classification_metrics([[3.0, -2.0]], [0])


def test_label_ids_are_predictions_for_accuracy_only() -> None:
    with pytest.raises(ValueError, match=r"shape \[images, labels\], got the shape \[2\]"):
        classification_metrics([0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"Row 0 of the predictions is 0\.9"):
        accuracy([0.9, 0.1], [0, 1])
    with pytest.raises(ValueError, match="2 predictions but 1 references"):
        accuracy([0, 1], [0])


@pytest.mark.parametrize("function", CALIBRATION_FUNCTIONS)
def test_there_must_be_a_bin(function: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="num_bins is 0"):
        function(FOUR_IMAGES, FOUR_LABELS, num_bins=0)
    with pytest.raises(ValueError, match="num_bins is 0"):
        ExpectedCalibrationError(num_bins=0)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="Row 1 of the in-distribution scores is nan"):
        ood_auroc([0.0, math.nan], [1.0])
    with pytest.raises(ValueError, match="out-of-distribution scores are empty"):
        ood_auroc([0.0], [])
    with pytest.raises(ValueError, match=r"one number an image, got the shape \[1, 2\]"):
        ood_auroc([[0.5, 0.5]], [1.0])
    with pytest.raises(ValueError, match="3 uncertainties for 4 references"):
        misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[1, 2, 3])
    with pytest.raises(ValueError, match="Row 2 of the references is 7"):
        OutOfDistributionAUROC().compute(predictions=[0.1, 0.2, 0.3], references=[0, 1, 7])
    with pytest.raises(ValueError, match="out-of-distribution scores are empty"):
        OutOfDistributionAUROC().compute(predictions=[0.1, 0.2], references=[0, 0])


# --- evaluate modules


@pytest.mark.parametrize(("module", "key", "function"), CLASSIFICATION_MODULES)
def test_a_module_gives_exactly_what_its_function_gives(
    module: type[evaluate.Metric], key: str, function: Callable[..., float]
) -> None:
    probabilities, labels = random_predictions()
    assert module().compute(predictions=probabilities, references=labels) == {key: function(probabilities, labels)}


def test_the_out_of_distribution_module_takes_both_data_sets_as_one() -> None:
    generator = np.random.default_rng(4)
    inside, outside = generator.normal(0, 1, 30), generator.normal(1, 1, 20)
    result = OutOfDistributionAUROC().compute(
        predictions=np.concatenate([inside, outside]), references=[0] * 30 + [1] * 20
    )
    assert result == {"ood_auroc": ood_auroc(inside, outside)}


@pytest.mark.parametrize("module", MODULES)
def test_batches_and_single_images_add_up_to_computing_at_once(module: type[evaluate.Metric]) -> None:
    predictions, labels = module_inputs(module)
    metric = module()
    at_once = metric.compute(predictions=predictions, references=labels)
    for batch in (slice(0, 1), slice(1, 33), slice(33, 60)):
        metric.add_batch(predictions=predictions[batch], references=labels[batch])
    assert len(metric) == 60
    assert metric.compute() == at_once
    for prediction, label in zip(predictions, labels, strict=True):
        metric.add(prediction=prediction, reference=label)
    assert metric.compute() == at_once
    assert len(metric) == 0


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_sent_and_nothing_is_written(
    module: type[evaluate.Metric], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a metric tried to reach the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # No folder can be made below a file, so any attempt to write to evaluate's cache fails.
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "file" / "metrics")

    predictions, labels = module_inputs(module)
    metric = module()
    metric.add_batch(predictions=predictions, references=labels)
    assert len(metric.compute()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_evaluations_that_run_at_the_same_time_do_not_mix() -> None:
    first, second = BrierScore(), BrierScore()
    first.add_batch(predictions=[[1.0, 0.0]], references=[0])
    second.add_batch(predictions=[[1.0, 0.0]], references=[1])
    first.add_batch(predictions=[[1.0, 0.0]], references=[0])
    assert (second.compute(), first.compute()) == ({"brier": 2.0}, {"brier": 0.0})


def test_the_files_of_evaluate_serve_where_several_processes_gather(tmp_path: Path) -> None:
    assert BrierScore(num_process=2, cache_dir=str(tmp_path)).keep_in_memory is False
    metric = BrierScore(keep_in_memory=False, cache_dir=str(tmp_path))
    metric.add_batch(predictions=FOUR_IMAGES[:1], references=FOUR_LABELS[:1])
    metric.add_batch(predictions=FOUR_IMAGES[1:], references=FOUR_LABELS[1:])
    assert metric.compute() == {"brier": brier_score(FOUR_IMAGES, FOUR_LABELS)}
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_bad_batch_is_dropped_and_those_before_it_stay() -> None:
    metric = Accuracy()
    metric.add_batch(predictions=[[0.9, 0.1]], references=[0])
    for predictions, references in [([[0.9, 0.9]], [0]), ([[0.9, 0.1]], [2]), ([[0.2, 0.2, 0.6]], [2]), ([1], [1])]:
        with pytest.raises(ValueError, match=r"sums to 1\.8|is 2|they must be alike"):
            metric.add_batch(predictions=predictions, references=references)
    metric.add_batch(predictions=[[0.9, 0.1]], references=[1])
    assert metric.compute() == {"accuracy": 0.5}


@pytest.mark.parametrize("module", MODULES)
def test_computing_without_anything_added_says_so(module: type[evaluate.Metric]) -> None:
    with pytest.raises(ValueError, match="nothing to compute"):
        module().compute()


def test_computing_leaves_the_random_state_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    classification_metrics(FOUR_IMAGES, FOUR_LABELS)
    assert np.random.random() == expected


def test_classification_metrics_reports_the_four_numbers_of_a_result() -> None:
    probabilities, labels = random_predictions()
    assert classification_metrics(probabilities, labels) == {
        "accuracy": accuracy(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels, num_bins=15),
        "brier": brier_score(probabilities, labels),
    }
    assert all(type(value) is float for value in classification_metrics(probabilities, labels).values())


def test_lists_tensors_and_dataset_columns_are_as_good_as_arrays() -> None:
    probabilities, labels = random_predictions(num_images=20)
    expected = classification_metrics(probabilities, labels)
    assert classification_metrics(probabilities.tolist(), labels.tolist()) == expected
    tensor = torch.from_numpy(probabilities).requires_grad_()
    assert classification_metrics(tensor, torch.from_numpy(labels)) == expected
    assert classification_metrics(list(tensor), list(torch.from_numpy(labels))) == expected
    data = datasets.Dataset.from_dict({"probabilities": probabilities.tolist(), "label": labels.tolist()})
    assert classification_metrics(data["probabilities"], data["label"]) == expected
    halves = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.bfloat16)
    assert classification_metrics(halves, [0, 0])["brier"] == (0.5 + 1.125) / 2


def test_modules_combine_in_every_way_that_evaluate_offers() -> None:
    probabilities, labels = random_predictions(num_images=40)
    combined = evaluate.combine([module() for module, _, _ in CLASSIFICATION_MODULES])
    expected = {key: function(probabilities, labels) for _, key, function in CLASSIFICATION_MODULES}
    assert combined.compute(predictions=probabilities, references=labels) == expected
    combined.add_batch(predictions=probabilities[:25], references=labels[:25])
    for prediction, label in zip(probabilities[25:], labels[25:], strict=True):
        combined.add(prediction, label)
    assert combined.compute() == expected


def test_calibration_errors_with_different_bins_combine_under_names() -> None:
    probabilities, labels = random_predictions()
    modules = {"fine": ExpectedCalibrationError(num_bins=30), "coarse": ExpectedCalibrationError(num_bins=3)}
    assert evaluate.combine(modules).compute(predictions=probabilities, references=labels) == {
        "fine_ece": expected_calibration_error(probabilities, labels, 30),
        "coarse_ece": expected_calibration_error(probabilities, labels, 3),
    }


def test_uncertainties_are_an_option_of_compute() -> None:
    metric = MisclassificationAUROC()
    metric.add_batch(predictions=FOUR_IMAGES, references=FOUR_LABELS)
    assert metric.compute(uncertainties=[0, 5, 5, 0]) == {"misclassification_auroc": 1.0}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_states_its_formula_and_its_source(module: type[evaluate.Metric]) -> None:
    metric = module()
    assert " = " in metric.description
    assert re.search(r"\b(19|20)\d\d\b", metric.citation)
    assert "predictions: " in metric.compute.__doc__


def test_accuracy_serves_the_image_classification_evaluator() -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    config.num_labels = 3
    model = ResNetForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(6)]
    with torch.no_grad():
        predicted = model(**processor(images, return_tensors="pt")).logits.argmax(dim=1).tolist()
    references = [predicted[0], predicted[1], *((label + 1) % 3 for label in predicted[2:])]
    result = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=model,
        feature_extractor=processor,
        data=datasets.Dataset.from_dict({"image": images, "label": references}),
        metric=Accuracy(),
        label_mapping=config.label2id,
    )
    assert result["accuracy"] == 2 / 6
