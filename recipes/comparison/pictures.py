"""Pictures of a comparison, over all its seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from comparison.registry import STYLES
from comparison.store import RELIABILITY
from comparison.tables import mean_and_error, rows_of, value
from hf_simplex.plots.shift import plot_shift

__all__ = ["PICTURES", "draw"]

# Methods of the reliability diagram, with all their members.
RELIABILITY_METHODS = ("single", "deep_ensemble", "espro_centroids", "espro_members", "espro_vertices")

Results = Mapping[str, Any]


def draw(seeds: Sequence[Results], against: str) -> Figure:
    """Error, NLL and ECE of every method (Benton et al. 2021, figures 8 and 9).

    Args:
        seeds: results of every seed, as `store.read_results` returns them.
        against: training_epochs or forward_passes.
    """
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for axes, (metric, label) in zip(
        figure.subplots(1, 3), (("error", "test error (%)"), ("nll", "NLL (nats)"), ("ece", "ECE")), strict=True
    ):
        methods = [method for method in STYLES if all(method in seed["methods"] for seed in seeds)]
        means: list[list[float]] = []
        for number, method in enumerate(methods):
            members = range(1, len(seeds[0]["methods"][method]) + 1)
            rows = [found for found in (rows_of(seeds, method, count) for count in members) if found]
            if against == "training_epochs":
                # The most members at the same epochs.
                rows = list({found[0][against]: found for found in rows}.values())
            points = [mean_and_error([value(row, metric) for row in found]) for found in rows]
            means.append([mean for mean, _ in points])
            axes.errorbar(
                [found[0][against] for found in rows],
                means[-1],
                [0 if math.isnan(error) else error for _, error in points],
                label=STYLES[method].label,
                color=STYLES[method].color,
                marker="os^vD*PX<"[number % 9],
                markersize=5,
                linewidth=1.5 if method.startswith(("espro", "deep")) else 0.9,
                capsize=2,
            )
        axes.set(xlabel=against.replace("_", " "), ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        _leave_out_far_points(axes, [mean for drawn in means for mean in drawn])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _leave_out_far_points(axes: Axes, means: Sequence[float]) -> None:
    """Limit the axis to the others where one method fails, such as a soup of modes from scratch, and say so."""
    far = 3 * float(np.median(means))
    shown = [mean for mean in means if mean <= far]
    if len(shown) < len(means):
        margin = 0.08 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + 2 * margin)
        axes.annotate(
            f"up to {max(means):.3g} off the scale", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top"
        )


def reliability(seeds: Sequence[Results]) -> Figure | None:
    """Accuracy against confidence, the test images of all seeds pooled; None where no seed has its bins.

    Below the diagonal predictions are overconfident. A dot's area is the share of the images in its bin.
    """
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for method in RELIABILITY_METHODS:
        found = [bins[method] for seed in seeds if method in (bins := seed.get(RELIABILITY, {}))]
        if not found:
            continue
        images = np.array([bins["images"] for bins in found])
        total = images.sum(axis=0)
        filled = total > 0
        confidence, accuracy = (
            (images * np.array([bins[quantity] for bins in found])).sum(axis=0)[filled] / total[filled]
            for quantity in ("confidence", "accuracy")
        )
        style, shares = STYLES[method], total[filled] / total.sum()
        error = float((shares * np.abs(accuracy - confidence)).sum())
        axes.plot(confidence, accuracy, color=style.color, label=f"{style.label} (ECE {error:.3f})")
        axes.scatter(confidence, accuracy, s=8 + 120 * shares, color=style.color, alpha=0.75)
    if len(axes.lines) == 1:
        return None
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def shift(seeds: Sequence[Results]) -> Figure | None:
    """Accuracy, NLL and ECE against severity; None where no images were corrupted."""
    rows = _shift_rows(seeds)
    return plot_shift(rows) if rows else None


def _shift_rows(seeds: Sequence[Results]) -> list[dict[str, Any]]:
    """Means over seeds under each corruption, as `plot_shift` takes them."""
    rows = []
    counts = {method: len(found) for method, found in seeds[0]["methods"].items()}
    of_all = ["deep_ensemble", *(f"espro_{choice}" for choice in ("members", "vertices", "centroids_and_vertices"))]
    # The centroid of a single component has a row already.
    of_all += ["espro_centroids"] if counts.get("espro_centroids", 0) > 1 else []
    for name, method, members in (
        ("single model", "single", 1),
        ("one centroid", "espro_centroids", 1),
        *((STYLES[method].label, method, counts.get(method, 0)) for method in of_all),
    ):
        found = rows_of(seeds, method, members) if members else []
        for key in found[0].get("corrupted", {}) if found else ():
            corruption, severity = key.split("/")
            metrics = found[0]["corrupted"][key]
            average = {m: float(np.mean([row["corrupted"][key][m] for row in found])) for m in metrics}
            rows.append({"method": name, "corruption": corruption, "severity": int(severity), **average})
    return rows


# What draws each picture, by the name of its file.
PICTURES: dict[str, Callable[[Sequence[Results]], Figure | None]] = {
    "budget": lambda seeds: draw(seeds, "training_epochs"),
    "forward_passes": lambda seeds: draw(seeds, "forward_passes"),
    "reliability": reliability,
    "shift": shift,
}
