"""Risk-coverage plots draw the curve that is computed, and the target."""

from typing import Any

import numpy as np
import pytest
from rendering import legend, renders

from hf_simplex.evaluation.selective import area_under_risk_coverage, risk_coverage_curve
from hf_simplex.plots.risk_coverage import plot_risk_coverage


def predictions(images: int = 200, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet([0.5] * 4, size=images), generator.integers(0, 4, size=images)


def answers(found: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    return found[0].max(axis=1), found[0].argmax(axis=1) == found[1]


@pytest.mark.parametrize("images", [49, 103, 200])
def test_the_curves_are_drawn_from_twenty_answers_on(images: int) -> None:
    given = {"one": predictions(images), "other": predictions(images, seed=1)}
    figure = plot_risk_coverage(given)
    (axes,) = figure.axes
    assert len(axes.lines) == 2
    for line, found in zip(axes.lines, given.values(), strict=True):
        curve = risk_coverage_curve(*answers(found))
        assert len(curve.errors) == images, "no two confidences are equal"
        drawn = 100 * np.stack([curve.coverages, curve.errors], axis=1)[19:]
        assert line.get_xydata() == pytest.approx(drawn)
    areas = [area_under_risk_coverage(*answers(found)) for found in given.values()]
    assert legend(figure) == [f"{name} (AURC {area:.3f})" for name, area in zip(given, areas, strict=True)]
    assert renders(figure)


def test_the_curve_of_a_few_images_is_drawn_as_a_whole() -> None:
    few = (np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), np.array([0, 1, 0]))
    (line,) = plot_risk_coverage({"few": few}).axes[0].lines
    assert line.get_xydata() == pytest.approx(np.array([[100 / 3, 0.0], [200 / 3, 50.0], [100.0, 100 / 3]]))


def test_the_target_is_a_line_within_the_picture() -> None:
    figure = plot_risk_coverage({"right": (np.eye(2)[[0, 1] * 20], np.array([0, 1] * 20))}, target_error=0.05)
    (axes,) = figure.axes
    target = axes.lines[-1]
    assert target.get_ydata() == pytest.approx([5.0, 5.0]) and axes.get_ylim()[1] > 5
    assert [text.get_text() for text in axes.texts] == ["target 5 %"]
    assert legend(figure) == ["right (AURC 0.000)"], "the target is labelled in the picture"
    without = plot_risk_coverage({"one": predictions()})
    assert len(without.axes[0].lines) == 1 and not without.axes[0].texts


def test_bad_predictions_are_named() -> None:
    with pytest.raises(ValueError, match="shows 1 to 5 predictions, got 0"):
        plot_risk_coverage({})
    with pytest.raises(ValueError, match="shows 1 to 5 predictions, got 6"):
        plot_risk_coverage({str(number): predictions() for number in range(6)})
    with pytest.raises(ValueError, match="sums to 2"):
        plot_risk_coverage({"logits": ([[1.0, 1.0]], [0])})
