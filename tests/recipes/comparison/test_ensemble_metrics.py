"""Metrics of an ensemble, from the probabilities of its members."""

import numpy as np
import pytest
from comparison.metrics import disagreement, ensemble_results, paired_differences


def test_metrics_are_those_of_the_mean_of_the_first_members() -> None:
    labels = {"test": np.array([0, 1, 1, 0]), "validation": np.array([0, 1, 0, 1])}
    first = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    second = np.array([[0.6, 0.4], [0.1, 0.9], [0.1, 0.9], [0.8, 0.2]])
    arrays = {
        "test": np.stack([first, second]),
        "validation": np.full((2, 4, 2), 0.5) + np.array([0.2, -0.2]),
        "training_epochs": np.array([1.0, 2.0]),
    }
    one, two = (ensemble_results(arrays, labels, members) for members in (1, 2))
    assert (one["accuracy"], two["accuracy"]) == (0.75, 1.0)
    mean = (first + second) / 2
    assert two["nll"] == pytest.approx(-np.mean(np.log(mean[np.arange(4), labels["test"]])))
    assert two["disagreement"] == pytest.approx(0.25) == disagreement(arrays["test"])
    assert (one["training_epochs"], two["training_epochs"]) == (1.0, 2.0)
    # The validation images are right half of the time at a probability of 0.7: too sure.
    assert two["temperature"] > 1 and two["calibrated_nll"] > two["nll"]


def test_paired_differences_are_those_of_the_losses_of_the_same_images() -> None:
    labels = {"test": np.array([0, 1, 1, 0]), "validation": np.array([0, 1])}
    right, wrong = np.array([[[0.8, 0.2], [0.2, 0.8], [0.2, 0.8], [0.8, 0.2]]]), np.full((1, 4, 2), [0.6, 0.4])
    first = {"test": right, "validation": right[:, :2], "training_epochs": np.ones(1)}
    second = {"test": wrong, "validation": right[:, :2], "training_epochs": np.ones(1)}
    found = paired_differences(first, second, labels)
    differences = np.array([0.0, -100.0, -100.0, 0.0])
    assert found["error"] == pytest.approx((differences.mean(), differences.std(ddof=1) / 2))
    nll = -np.log(0.8) + np.log([0.6, 0.4, 0.4, 0.6])
    assert found["nll"] == pytest.approx((nll.mean(), nll.std(ddof=1) / 2))
    assert paired_differences(first, first, labels)["calibrated_nll"] == (0.0, 0.0)
