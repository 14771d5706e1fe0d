"""Predictions whose metrics are worked by hand, random ones, and the metrics of both."""

import numpy as np
from scipy.special import softmax

from hf_simplex.evaluation.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    misclassification_auroc,
    negative_log_likelihood,
)

CALIBRATION_FUNCTIONS = [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error]
FUNCTIONS = [
    accuracy,
    negative_log_likelihood,
    brier_score,
    *CALIBRATION_FUNCTIONS,
    misclassification_auroc,
]

# Right, wrong, wrong, right; the confidences are 0.7, 0.8, 0.4 and 0.9.
FOUR_IMAGES = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]]
FOUR_LABELS = [0, 2, 1, 2]


def random_predictions(num_images: int = 500, num_labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that carry some, but not all, information about the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_labels, num_images)
    logits = 2 * generator.normal(size=(num_images, num_labels)) + 2 * np.eye(num_labels)[labels]
    return softmax(logits, axis=1), labels


def calibrated_predictions(num_images: int, num_labels: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(2 * generator.normal(size=(num_images, num_labels)), axis=1)
    thresholds = generator.random((num_images, 1))
    return probabilities, np.count_nonzero(probabilities.cumsum(axis=1)[:, :-1] < thresholds, axis=1)
