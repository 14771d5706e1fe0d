"""Modules of `evaluate` give what their functions give, keep nothing on disk and combine."""

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
import torch
from PIL import Image
from predictions import FOUR_IMAGES, FOUR_LABELS, random_predictions
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_simplex.evaluation.evaluate_modules import (
    Accuracy,
    AdaptiveCalibrationError,
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MisclassificationAUROC,
    NegativeLogLikelihood,
    OutOfDistributionAUROC,
)
from hf_simplex.evaluation.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    misclassification_auroc,
    negative_log_likelihood,
    ood_auroc,
)

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


def module_inputs(module: type[evaluate.Metric]) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = random_predictions(num_images=60)
    if module is OutOfDistributionAUROC:
        return probabilities[:, 0], labels % 2
    return probabilities, labels


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
        with pytest.raises(ValueError, match=r"sums to 1\.8|is 2|batches of another kind"):
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
    Accuracy().compute(predictions=FOUR_IMAGES, references=FOUR_LABELS)
    assert np.random.random() == expected


@pytest.mark.parametrize("labels", [[0, 1, 0, 2], [1, 0, 1, 0]], ids=["all right", "all wrong"])
@pytest.mark.filterwarnings("error")
def test_a_combined_module_is_quietly_nan_if_there_is_nothing_to_tell_apart(labels: list[int]) -> None:
    result = evaluate.combine([MisclassificationAUROC()]).compute(predictions=FOUR_IMAGES, references=labels)
    assert math.isnan(result["misclassification_auroc"])


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
