"""Risk-coverage curves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.inputs import check_predictions
from ..evaluation.label_kinds import label_kind
from ..evaluation.selective import area_under_risk_coverage, risk_coverage_curve
from .style import LINES, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_risk_coverage"]

FEWEST_ANSWERS = 20
"""Answers from which a curve is drawn, if there are more images."""


def plot_risk_coverage(
    predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], *, target_error: float | None = None
) -> "Figure":
    """Draws the error among the most confident images against the share of images that are answered.

    The legend gives the area under each curve (AURC).

    Args:
        predictions: probabilities [images, labels] and integer label ids [images], by the names of the legend; 1 to 5
            pairs.
        target_error: draws a line at this error, 0 to 1.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no predictions or more than 5, or as `metrics.accuracy`; or an image has several labels,
            so that there is no one answer to keep back.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017, figure 1.

    Example:
        >>> from hf_simplex.plots.risk_coverage import plot_risk_coverage
        >>> figure = plot_risk_coverage({"ensemble": ([[0.9, 0.1], [0.6, 0.4]], [0, 1])})
        >>> figure.legends[0].get_texts()[0].get_text()
        'ensemble (AURC 0.250)'
    """
    if not 1 <= len(predictions) <= len(LINES):
        raise ValueError(
            f"A risk-coverage plot shows 1 to {len(LINES)} predictions, got {len(predictions)}: {list(predictions)}."
        )
    if several := [name for name, (_, references) in predictions.items() if label_kind(references).several]:
        raise ValueError(
            f"A risk-coverage curve is of one answer an image, but {several[0]!r} has several labels an image "
            "(problem_type 'multi_label_classification'): draw plot_reliability."
        )
    figure = new_figure(4.4, 3.6)
    axes = figure.subplots()
    highest = 0.0
    for (name, given), (colour, style) in zip(predictions.items(), LINES, strict=False):
        probabilities, labels = check_predictions(*given)
        confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        curve = risk_coverage_curve(confidences, correct)
        area = area_under_risk_coverage(confidences, correct)
        # The error of a handful of images jumps: the curve starts where it means something. A coverage is a quotient,
        # and rounds.
        answered = np.rint(curve.coverages * len(labels))
        enough = answered >= (FEWEST_ANSWERS if len(labels) > FEWEST_ANSWERS else 1)
        coverages, errors = curve.coverages[enough], curve.errors[enough]
        axes.plot(
            100 * coverages,
            100 * errors,
            color=colour,
            linestyle=style,
            linewidth=1.4,
            label=f"{name} (AURC {area:.3f})",
        )
        highest = max(highest, float(np.max(errors)))
    if target_error is not None:
        axes.axhline(100 * target_error, color="#999999", linewidth=1.0, zorder=1)
        axes.annotate(
            f"target {100 * target_error:g} %",
            (0, 100 * target_error),
            xytext=(2, 2),
            textcoords="offset points",
            fontsize=8,
            color="#666666",
        )
        highest = max(highest, target_error)
    axes.set(
        xlim=(0, 100), ylim=(0, max(110 * highest, 1)), xlabel="images answered (%)", ylabel="error of the answers (%)"
    )
    hide_frame(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure
