"""Reliability diagrams."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.metrics import reliability_bins
from .style import LINES, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_reliability"]


def plot_reliability(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], *, num_bins: int = 15) -> "Figure":
    """Draws a reliability diagram: accuracy against confidence per bin, above the share of images per bin.

    Calibrated predictions are on the diagonal, overconfident ones below it. The size of a dot is the share of images
    in its bin. The legend gives the expected calibration error.

    Args:
        predictions: probabilities [images, labels] and integer label ids [images], by name in the legend; 1 to 5
            entries.
        num_bins: number of bins of equal width.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: As `metrics.reliability_bins`, or there are no predictions or more than 5.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1.

    Example:
        >>> from hf_simplex.plots.reliability import plot_reliability
        >>> figure = plot_reliability({"ensemble": ([[0.9, 0.1], [0.2, 0.8]], [0, 0])})
        >>> figure.legends[0].get_texts()[0].get_text()
        'ensemble (ECE 0.450)'
    """
    if not 1 <= len(predictions) <= len(LINES):
        raise ValueError(
            f"A reliability diagram shows 1 to {len(LINES)} predictions, got {len(predictions)}: {list(predictions)}."
        )
    found = {name: reliability_bins(*given, num_bins) for name, given in predictions.items()}
    figure = new_figure(4.4, 4.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1.0, zorder=1)
    for (name, bins), (colour, style) in zip(found.items(), LINES, strict=False):
        filled = bins.shares > 0
        shares, confidences, accuracies = bins.shares[filled], bins.confidences[filled], bins.accuracies[filled]
        error = float(np.sum(shares * np.abs(accuracies - confidences)))
        above.plot(
            confidences, accuracies, color=colour, linestyle=style, linewidth=1.3, label=f"{name} (ECE {error:.3f})"
        )
        above.scatter(
            confidences,
            accuracies,
            s=8 + 120 * shares,
            color=colour,
            alpha=0.75,
            edgecolor="white",
            linewidth=0.6,
            zorder=3,
            clip_on=False,
        )
        below.stairs(100 * bins.shares, bins.edges, color=colour, linestyle=style, linewidth=1.3)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.set(xlabel="confidence", ylabel="images (%)", yscale="symlog", ylim=(0, 100))
    below.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    for axes in (above, below):
        hide_frame(axes)
    # Outside the axes, because curves of few images can cover any part of them.
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure
