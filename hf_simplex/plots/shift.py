"""Accuracy, likelihood and calibration under dataset shift."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from .style import FILLS, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_shift"]


def plot_shift(results: Sequence[Mapping[str, Any]], *, calibrated: bool = False) -> "Figure":
    """Draws accuracy, negative log-likelihood and calibration error against the severity of corruptions.

    For several labels an image, micro F1 takes the place of accuracy.

    A box for each method and severity summarizes the corruptions: median, quartiles, and whiskers to the best and the
    worst corruption.

    Args:
        results: rows from `shift.evaluate_under_shift`. Severity 0 stands for images without corruption.
        calibrated: draw likelihood and calibration error after temperature scaling.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no rows or more than eight methods, or a row lacks a metric.

    Source: Benton et al. 2021, figure 11.

    Example:
        >>> from hf_simplex.plots.shift import plot_shift
        >>> row = {"method": "ensemble", "corruption": "fog", "severity": 1, "accuracy": 0.9, "nll": 0.3, "ece": 0.02}
        >>> [axes.get_ylabel() for axes in plot_shift([row]).axes]
        ['accuracy (%)', 'negative log-likelihood (nats)', 'expected calibration error']
    """
    methods = list(dict.fromkeys(row["method"] for row in results))
    if not 0 < len(methods) <= len(FILLS):
        raise ValueError(f"There are {len(methods)} methods to draw: give 1 to {len(FILLS)}.")
    prefix = "calibrated_" if calibrated else ""
    quantities = (
        ("micro_f1", "micro F1 (%)", 100) if "micro_f1" in results[0] else ("accuracy", "accuracy (%)", 100),
        (f"{prefix}nll", "negative log-likelihood (nats)", 1),
        (f"{prefix}ece", "expected calibration error", 1),
    )
    for row, (key, _, _) in product(results, quantities):
        if key not in row:
            raise ValueError(f"The row of {row['method']!r}, {row['corruption']} {row['severity']} has no {key!r}.")
    severities = sorted({row["severity"] for row in results})
    figure = new_figure(9.6, 3.0 + 0.25 * ((len(methods) - 1) // 3))
    width = 0.8 / len(methods)
    for axes, (key, title, scale) in zip(figure.subplots(1, 3), quantities, strict=True):
        for place, (method, fill) in enumerate(zip(methods, FILLS, strict=False)):
            values = [
                [scale * row[key] for row in results if row["method"] == method and row["severity"] == severity]
                for severity in severities
            ]
            axes.boxplot(
                values,
                positions=[x + (place + 0.5) * width - 0.4 for x in range(len(severities))],
                widths=0.85 * width,
                whis=(0, 100),
                patch_artist=True,
                manage_ticks=False,
                label=method,
                boxprops={"facecolor": fill, "linewidth": 0.6},
                medianprops={"color": "black", "linewidth": 1.4},
                whiskerprops={"linewidth": 0.6},
                capprops={"linewidth": 0.6},
            )
        axes.set_xticks(range(len(severities)), ["none" if level == 0 else str(level) for level in severities])
        axes.set_xlabel("severity of the corruption")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        hide_frame(axes)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    return figure
