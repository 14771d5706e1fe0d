"""Reliability diagrams."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.label_kinds import label_kind
from ..evaluation.metrics import reliability_bins
from .style import LINES, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_reliability"]

# The accuracy of fewer images says little: at nine, its standard error is up to 17 points.
_FEW_IMAGES = 10
_FADED = 0.2


def plot_reliability(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], *, num_bins: int = 15) -> "Figure":
    """Draws a reliability diagram: accuracy against confidence per bin, above the share of images per bin.

    Calibrated predictions are on the diagonal, overconfident ones below it. The size of a dot is the share of images
    in its bin. Bins of fewer than ten images are faded, and so are the lines to them. The legend gives the expected
    calibration error.

    Args:
        predictions: probabilities [images, labels] and integer label ids [images], by name in the legend; 1 to 5
            entries. For several labels an image, references [images, labels] of 0 and 1: then each decision between
            yes and no for a label is drawn, in place of images.
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
    several = any(label_kind(references).several for _, references in predictions.values())
    predictions = {name: label_kind(given[1]).drawn(*given) for name, given in predictions.items()}
    found = {name: reliability_bins(*given, num_bins) for name, given in predictions.items()}
    few = {
        name: (bins.shares > 0) & (np.rint(bins.shares * len(given[1])) < _FEW_IMAGES)  # type: ignore[arg-type]
        for (name, bins), given in zip(found.items(), predictions.values(), strict=True)
    }
    figure = new_figure(4.4, 4.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1.0, zorder=1)
    for (name, bins), (colour, style) in zip(found.items(), LINES, strict=False):
        filled, faded = bins.shares > 0, few[name][bins.shares > 0]
        shares, confidences, accuracies = bins.shares[filled], bins.confidences[filled], bins.accuracies[filled]
        error = float(np.sum(shares * np.abs(accuracies - confidences)))
        line = {"color": colour, "linestyle": style, "linewidth": 1.3}
        above.plot(confidences, accuracies, alpha=_FADED, **line)
        # A NaN interrupts the line.
        above.plot(confidences, np.where(faded, np.nan, accuracies), label=f"{name} (ECE {error:.3f})", **line)
        above.scatter(
            confidences,
            accuracies,
            s=8 + 120 * shares,
            color=colour,
            alpha=np.where(faded, _FADED, 0.75),
            edgecolor="white",
            linewidth=0.6,
            zorder=3,
            clip_on=False,
        )
        below.stairs(100 * bins.shares, bins.edges, **line)
    what = "decisions" if several else "images"
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.set(xlabel="confidence", ylabel=f"{what} (%)", yscale="symlog", ylim=(0, 100))
    below.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    for axes in (above, below):
        hide_frame(axes)
    if any(bins.any() for bins in few.values()):
        label = f"faded: fewer than {_FEW_IMAGES} {what}"
        above.scatter([], [], s=20, color="#666666", alpha=_FADED, edgecolor="white", label=label)
    # Outside the axes, because curves of few images can cover any part of them.
    legend = figure.legend(
        *above.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        # A name may hold dollar signs.
        text.set_parse_math(False)
    return figure
