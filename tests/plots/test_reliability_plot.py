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


def sure(*numbers: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images of label 0 with a confidence of 0.6, 0.7, 0.8 and 0.9, as many of each as asked for."""
    confidences = np.repeat(0.6 + 0.1 * np.arange(len(numbers)), numbers)
    return np.stack([confidences, 1 - confidences], axis=1), np.zeros(sum(numbers), np.int64)


def test_a_reliability_diagram_shows_accuracy_confidence_and_share_of_each_bin() -> None:
    # Twenty sure images, half of them wrong, and twenty at 0.6, all right.
    table = np.repeat([[1.0, 0.0], [0.6, 0.4]], 20, axis=0)
    figure = plot_reliability({"sure": (table, [0, 1] * 10 + [0] * 20), "random": predictions()}, num_bins=5)
    above, below = figure.axes
    _, _, first, _, second = above.lines
    assert first.get_xydata() == pytest.approx(np.array([[0.6, 1.0], [1.0, 0.5]]))
    assert len(second.get_xydata()) == 4, "the largest of four probabilities is never in the first of five bins"
    assert below.patches[0].get_data().values == pytest.approx([0, 0, 50, 0, 50])
    error = expected_calibration_error(*predictions(), num_bins=5)
    assert legend(figure) == ["sure (ECE 0.450)", f"random (ECE {error:.3f})"]
    assert renders(figure)


@pytest.mark.parametrize(("images", "is_faded"), [(9, True), (10, False)])
def test_a_bin_of_fewer_than_ten_images_is_faded_and_the_legend_says_so(images: int, is_faded: bool) -> None:
    table, labels = sure(30, 0, 0, images)
    figure = plot_reliability({"sure": (table, labels)}, num_bins=5)
    above = figure.axes[0]
    _, faint, full = above.lines
    assert len(faint.get_xydata()) == 2 and faint.get_alpha() < 0.3, "faded, not hidden"
    assert np.isnan(full.get_ydata()).tolist() == [False, is_faded]
    opaque, other = above.collections[0].get_alpha()
    assert opaque > 0.7 and (other < 0.3) == is_faded
    assert legend(figure)[1:] == ["faded: fewer than 10 images"] * is_faded
    assert renders(figure)


def test_a_name_in_the_legend_is_no_formula() -> None:
    figure = plot_reliability({r"costs $\frac$": predictions()})
    assert legend(figure)[0].startswith(r"costs $\frac$ (ECE") and renders(figure)


def test_bad_predictions_are_named() -> None:
    with pytest.raises(ValueError, match="shows 1 to 5 predictions, got 0"):
        plot_reliability({})
    with pytest.raises(ValueError, match="sums to 2"):
        plot_reliability({"logits": ([[1.0, 1.0]], [0])})
