"""Bad input is refused with the first bad row and its value; arrays, tensors and lists are the same input."""

import math
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from predictions import CALIBRATION_FUNCTIONS, FOUR_IMAGES, FOUR_LABELS, FUNCTIONS, random_predictions

from hf_simplex.evaluation.evaluate_modules import ExpectedCalibrationError, OutOfDistributionAUROC
from hf_simplex.evaluation.metrics import (
    accuracy,
    classification_metrics,
    misclassification_auroc,
    ood_auroc,
    reliability_bins,
)

HALVES = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("probabilities", "references", "message"),
    [
        pytest.param([], [], "empty", id="empty"),
        pytest.param(np.zeros((3, 0)), [0, 0, 0], "empty", id="no labels"),
        pytest.param([[0.5, 0.5], [0.9, 0.3]], [0, 1], r"Row 1 of the probabilities sums to 1\.2", id="large sum"),
        pytest.param([[0.5, 0.5], [0.5, 0.3]], [0, 1], r"Row 1 of the probabilities sums to 0\.8", id="small sum"),
        pytest.param([[0.5, 0.5], [1.2, -0.2]], [0, 1], r"Row 1 .* has -0\.2 for label 1", id="negative"),
        pytest.param([[0.5, 0.5], [math.nan, 1.0]], [0, 1], "Row 1 .* has nan for label 0", id="nan"),
        pytest.param([[math.inf, 0.5], [0.5, 0.5]], [0, 1], "Row 0 .* has inf for label 0", id="infinite"),
        pytest.param([[3.0, 1.0]], [0], "sums to 4.* softmax", id="logits"),
        pytest.param([[3.0, -2.0]], [0], "has -2.* softmax", id="negative logits"),
        pytest.param(HALVES, [0, 2], "Row 1 of the references is 2.* 0 to 1", id="label too large"),
        pytest.param(HALVES, [0, -1], "Row 1 of the references is -1", id="label negative"),
        pytest.param(HALVES, [0, 0.5], r"Row 0 of the references is 0\.0.* integer", id="label float"),
        pytest.param(HALVES, [0, None], "Row 1 of the references is None", id="label missing"),
        pytest.param(HALVES, [2**70, 1], "Row 0 of the references is 1180591620717411303424", id="label of 70 bits"),
        pytest.param(HALVES, [0, 1, 0], "2 predictions but 3 references", id="lengths"),
        pytest.param(HALVES, [[1, 0], [0, 1]], r"references .* shape \[2, 2\]", id="one-hot"),
        pytest.param([[0.5, 0.5], [1.0]], [0, 1], "in rows of equal length", id="ragged"),
        pytest.param([["a", "b"]], [0], "must be numbers", id="strings"),
        pytest.param([[0.5, 0.5]], None, "got None", id="no references"),
        pytest.param([[[0.5, 0.5]]], [0], r"shape \[images, labels\], got the shape \[1, 1, 2\]", id="three axes"),
    ],
)
def test_bad_input_is_refused_by_every_function(probabilities: Any, references: Any, message: str) -> None:
    for function in [*FUNCTIONS, reliability_bins, classification_metrics]:
        with pytest.raises(ValueError, match=message):
            function(probabilities, references)


def test_label_ids_are_predictions_for_accuracy_only() -> None:
    with pytest.raises(ValueError, match=r"shape \[images, labels\], got the shape \[2\]"):
        classification_metrics([0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"Row 0 of the predictions is 0\.9"):
        accuracy([0.9, 0.1], [0, 1])
    with pytest.raises(ValueError, match="2 predictions but 1 references"):
        accuracy([0, 1], [0])


def test_there_must_be_a_bin() -> None:
    for function in [*CALIBRATION_FUNCTIONS, reliability_bins]:
        with pytest.raises(ValueError, match="num_bins is 0"):
            function(FOUR_IMAGES, FOUR_LABELS, num_bins=0)
    with pytest.raises(ValueError, match="num_bins is 0"):
        ExpectedCalibrationError(num_bins=0)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="Row 1 of the in-distribution scores is nan"):
        ood_auroc([0.0, math.nan], [1.0])
    with pytest.raises(ValueError, match="out-of-distribution scores are empty"):
        ood_auroc([0.0], [])
    with pytest.raises(ValueError, match=r"one number per image, got the shape \[1, 2\]"):
        ood_auroc([[0.5, 0.5]], [1.0])
    with pytest.raises(ValueError, match="3 uncertainties for 4 references"):
        misclassification_auroc(FOUR_IMAGES, FOUR_LABELS, uncertainties=[1, 2, 3])
    with pytest.raises(ValueError, match="Row 2 of the references is 7"):
        OutOfDistributionAUROC().compute(predictions=[0.1, 0.2, 0.3], references=[0, 1, 7])
    with pytest.raises(ValueError, match="out-of-distribution scores are empty"):
        OutOfDistributionAUROC().compute(predictions=[0.1, 0.2], references=[0, 0])


def test_arrays_tensors_lists_and_dataset_columns_give_the_same_numbers() -> None:
    probabilities, labels = random_predictions(num_images=20)
    expected = classification_metrics(probabilities, labels)
    tensor = torch.from_numpy(probabilities).requires_grad_()
    data = datasets.Dataset.from_dict({"probabilities": probabilities.tolist(), "label": labels.tolist()})
    for predictions, references in [
        (probabilities.tolist(), labels.tolist()),
        (tensor, torch.from_numpy(labels)),
        (list(tensor), list(torch.from_numpy(labels))),
        (data["probabilities"], data["label"]),
    ]:
        assert classification_metrics(predictions, references) == expected
        metric = ExpectedCalibrationError()
        metric.add_batch(predictions=predictions, references=references)
        assert metric.compute() == {"ece": expected["ece"]}
    halves = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.bfloat16)
    assert classification_metrics(halves, [0, 0])["brier"] == (0.5 + 1.125) / 2
