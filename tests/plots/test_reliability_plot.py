"""Reliability diagrams: accuracy, confidence and share of images of each bin."""

from typing import Any

import numpy as np
import pytest
from rendering import legend, renders

from hf_simplex.evaluation.metrics import expected_calibration_error
from hf_simplex.plots.reliability import plot_reliability


def predictions(images: int = 200) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return generator.dirichlet([0.5] * 4, size=images), generator.integers(0, 4, size=images)


def test_a_reliability_diagram_shows_accuracy_confidence_and_share_of_each_bin() -> None:
    # Two sure images, one of them wrong, and two at 0.6, both right.
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4], [0.6, 0.4]])
    figure = plot_reliability({"sure": (sure, [0, 1, 0, 0]), "random": predictions()}, num_bins=5)
    above, below = figure.axes
    _, first, second = above.lines
    assert first.get_xydata() == pytest.approx(np.array([[0.6, 1.0], [1.0, 0.5]]))
    assert len(second.get_xydata()) == 4, "the largest of four probabilities is never in the first of five bins"
    assert below.patches[0].get_data().values == pytest.approx([0, 0, 50, 0, 50])
    error = expected_calibration_error(*predictions(), num_bins=5)
    assert legend(figure) == ["sure (ECE 0.450)", f"random (ECE {error:.3f})"]
    assert renders(figure)


def test_bad_predictions_are_named() -> None:
    with pytest.raises(ValueError, match="shows 1 to 5 predictions, got 0"):
        plot_reliability({})
    with pytest.raises(ValueError, match="sums to 2"):
        plot_reliability({"logits": ([[1.0, 1.0]], [0])})
