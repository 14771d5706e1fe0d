"""Pictures of loss surfaces, calibration and dataset shift, for a paper. Need matplotlib: `hf-simplex[plots]`.

Every function returns a matplotlib `Figure`, which belongs to no window: `figure.savefig("plane.pdf")`. The colours of
surfaces (`surfaces.Surface`) are cividis, which reads the same with every common colour blindness and in grey; dark is
good, for losses and for accuracies.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..evaluation.metrics import reliability_bins
from ..evaluation.surfaces import COMPLEX, FACE, PATH, PLANE, Surface

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_LEVELS = 24
# The share of points whose loss the default clipping level does not change.
_UNCLIPPED = 0.75
# Okabe & Ito's colours, the lighter ones first, so that neighbours differ in brightness too.
_FILLS = ("#56B4E9", "#D55E00", "#F0E442", "#009E73", "#E69F00", "#0072B2", "#CC79A7", "#999999")
# Okabe & Ito's colours, which are told apart with every common colour blindness; also by line style.
_LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#000000", (0, (5, 1, 1, 1))))


def plot_plane(
    surface: Surface, *, quantity: str = "loss", clip: float | None = None, labels: Sequence[str] | None = None
) -> "Figure":
    """Filled contours over the plane through three vertices (Benton et al. 2021, figure 3).

    Edges that belong to the complex are solid, the others dashed. Axes are distances in weight space, drawn to scale.

    Args:
        surface: of `plane_points`.
        quantity: `"loss"` or `"accuracy"`.
        clip: worse values are drawn as this one, which the label of the colour bar states; in nats, or 0 to 1.
            Default: a quarter of the points is clipped; `inf` for losses or 0 for accuracies clips nothing.
        labels: one a vertex; default: their numbers.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a surface of another kind, an unknown quantity, no finite values, a clipping level beyond which
            everything lies, or another number of labels than vertices.
    """
    _check_kind(surface, PLANE)
    names = _labels(surface, labels)
    values, low, high, title = _values(surface, quantity, clip)
    figure = _figure(4.6, 3.7)
    axes = figure.add_subplot()
    x, y = (surface.points.positions[:, axis].unique() for axis in (0, 1))
    filled = axes.contourf(
        x.numpy(),
        y.numpy(),
        values.reshape(len(y), len(x)).numpy(),
        levels=torch.linspace(low, high, _LEVELS + 1, dtype=torch.float64).numpy(),
        cmap=_colours(quantity),
    )
    _close_seams(filled)
    corners = surface.points.vertex_positions
    numbers = surface.points.vertices.tolist()
    for first, second in combinations(range(3), 2):
        joined = surface.points.structure.holds([numbers[first], numbers[second]])
        ends = corners[[first, second]]
        _outline(axes, ends[:, 0].tolist(), ends[:, 1].tolist(), "solid" if joined else (0, (4, 2.5)))
    _mark_vertices(axes, corners, names)
    axes.set_aspect("equal")
    axes.set_xlabel("distance in weight space")
    axes.set_ylabel("distance in weight space")
    figure.colorbar(filled, ax=axes, label=title, ticks=_few_ticks(6))
    return figure


def plot_face(
    surface: Surface, *, quantity: str = "loss", clip: float | None = None, labels: Sequence[str] | None = None
) -> "Figure":
    """Filled contours over a triangular face in barycentric coordinates: an equilateral triangle, whatever its shape.

    Args:
        surface: of `face_points` with three vertices.
        quantity: `"loss"` or `"accuracy"`.
        clip: as for `plot_plane`, but nothing is clipped by default: on a face the small differences count.
        labels: one a vertex; default: their numbers.

    Raises:
        ImportError, ValueError: as `plot_plane`; ValueError also for a face that is no triangle.
    """
    _check_kind(surface, FACE)
    if len(surface.points.vertices) != 3:
        raise ValueError(f"A triangular plot shows a face of three vertices, got {surface.points.vertices.tolist()}.")
    names = _labels(surface, labels)
    if clip is None:
        clip = float("inf") if quantity == "loss" else 0.0
    values, low, high, title = _values(surface, quantity, clip)
    figure = _figure(4.6, 3.7)
    from matplotlib.tri import Triangulation

    axes = figure.add_subplot()
    local = surface.points.coordinates[:, surface.points.vertices]
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    places = local @ corners
    filled = axes.tricontourf(
        Triangulation(places[:, 0].numpy(), places[:, 1].numpy(), _lattice_triangles(local)),
        values.numpy(),
        levels=torch.linspace(low, high, _LEVELS + 1, dtype=torch.float64).numpy(),
        cmap=_colours(quantity),
    )
    _close_seams(filled)
    for first, second in combinations(range(3), 2):
        ends = corners[[first, second]]
        _outline(axes, ends[:, 0].tolist(), ends[:, 1].tolist(), "solid")
    _barycentric_ticks(axes, corners)
    _mark_vertices(axes, corners, names)
    axes.set_aspect("equal")
    axes.set_axis_off()
    figure.colorbar(filled, ax=axes, label=title, ticks=_few_ticks(6))
    return figure


def plot_paths(surfaces: Mapping[str, Surface]) -> "Figure":
    """Loss, and accuracy where there is one, along paths: the barrier between modes and the way around it.

    Args:
        surfaces: of `path_points`, by the names of the legend. Paths of different length are drawn to their fraction,
            and the dots are the vertices that they visit.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no surface, or one of another kind.
    """
    if not surfaces:
        raise ValueError("There is no path to draw: give at least one.")
    for surface in surfaces.values():
        _check_kind(surface, PATH)
    quantities = ["loss"]
    if any(surface.accuracy.isfinite().any() for surface in surfaces.values()):
        quantities.append("accuracy")
    figure = _figure(3.4 * len(quantities), 2.6)
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        for index, (name, surface) in enumerate(surfaces.items()):
            colour, style = _LINES[index % len(_LINES)]
            distance = surface.points.positions[:, 0]
            value = getattr(surface, quantity) * (100 if quantity == "accuracy" else 1)
            share = distance / distance[-1]
            axes.plot(share.numpy(), value.numpy(), color=colour, linestyle=style, label=name)
            at = torch.isin(distance, surface.points.vertex_positions[:, 0])
            axes.plot(share[at].numpy(), value[at].numpy(), "o", color=colour, markersize=4)
        axes.set_xlabel("fraction of the path")
        axes.set_ylabel("loss (nats)" if quantity == "loss" else "accuracy (%)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_complex(
    surface: Surface,
    *,
    clip: float | None = None,
    labels: Sequence[str] | None = None,
    connectors: Sequence[int] = (),
    elevation: float = 18.0,
    azimuth: float = -60.0,
) -> "Figure":
    """A complex on the principal axes of its vertices, in 3-D (Benton et al. 2021, figure 4, right).

    Triangles are translucent, and the points of the surface, if it has any, are coloured by their loss.

    Args:
        surface: of `complex_points`.
        clip: the loss in nats that larger ones are drawn as; default: nothing is clipped.
        labels: one a vertex; default: their numbers.
        connectors: the vertices drawn as diamonds; the others are modes, drawn as discs.
        elevation: of the eye over the plane of the first two axes, degrees.
        azimuth: of the eye around the third axis, degrees.

    Raises:
        ImportError, ValueError: as `plot_plane`.
    """
    _check_kind(surface, COMPLEX)
    names = _labels(surface, labels)
    figure = _figure(5.2, 4.2)
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    axes: Any = figure.add_subplot(projection="3d")
    points = surface.points
    corners = points.vertex_positions
    triangles = points.structure.faces(2)
    if triangles:
        axes.add_collection3d(
            Poly3DCollection([corners[list(face)].numpy() for face in triangles], facecolor="#56B4E9", alpha=0.12)
        )
    for edge in points.structure.edges():
        axes.plot(*corners[list(edge)].T.numpy(), color="#333333", linewidth=1.0)
    if len(surface.loss):
        values, low, high, title = _values(surface, "loss", float("inf") if clip is None else clip)
        seen = values.isfinite()
        shown = axes.scatter(
            *points.positions[seen].T.numpy(),
            c=values[seen].numpy(),
            cmap=_colours("loss"),
            norm=_norm(low, high),
            s=14,
            depthshade=False,
        )
        figure.colorbar(shown, ax=axes, label=title, shrink=0.7, pad=0.12, ticks=_few_ticks(6))
    for chosen, marker, colour, name in (
        ([v for v in range(len(corners)) if v not in connectors], "o", "#D55E00", "mode"),
        (sorted(connectors), "D", "#0072B2", "connector"),
    ):
        if chosen:
            axes.scatter(
                *corners[chosen].T.numpy(),
                s=46,
                marker=marker,
                color=colour,
                edgecolor="white",
                label=name,
                depthshade=False,
                zorder=5,
            )
    span = float((corners.amax(0) - corners.amin(0)).max()) or 1.0
    for corner, name in zip(corners, names, strict=True):
        outward = corner / (float(corner.norm()) or 1.0)
        axes.text(*(corner + 0.07 * span * outward).tolist(), name, ha="center", va="center", zorder=6)
    _label_axes(axes, points.axis_shares, corners)
    axes.view_init(elev=elevation, azim=azimuth)
    if connectors:
        axes.legend(frameon=False, loc="upper left")
    return figure


def plot_reliability(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], *, num_bins: int = 15) -> "Figure":
    """A reliability diagram: accuracy against confidence, bin by bin, above the share of images in each bin.

    On the diagonal predictions are calibrated, below it they are overconfident. The larger a dot, the more images are
    in its bin. The legend gives the expected calibration error.

    Args:
        predictions: probabilities [images, labels] and references [images] (label ids), by the names of the legend; at
            most 5 of them.
        num_bins: how many bins of equal width.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no predictions or more than 5, or what `metrics.reliability_bins` raises.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1.
    """
    if not 1 <= len(predictions) <= len(_LINES):
        raise ValueError(
            f"A reliability diagram shows 1 to {len(_LINES)} predictions, got {len(predictions)}: {list(predictions)}."
        )
    found = {name: reliability_bins(*given, num_bins) for name, given in predictions.items()}
    figure = _figure(4.4, 4.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1.0, zorder=1)
    for (name, bins), (colour, style) in zip(found.items(), _LINES, strict=False):
        filled = bins.shares > 0
        gaps = np.abs(bins.accuracies - bins.confidences)[filled]
        error = float(np.sum(bins.shares[filled] * gaps))
        confidences, accuracies = bins.confidences[filled], bins.accuracies[filled]
        above.plot(
            confidences, accuracies, color=colour, linestyle=style, linewidth=1.3, label=f"{name} (ECE {error:.3f})"
        )
        above.scatter(
            confidences,
            accuracies,
            s=8 + 120 * bins.shares[filled],
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
        axes.spines[["top", "right"]].set_visible(False)
    # Beside the axes: curves of few images may be anywhere within.
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_shift(results: Sequence[Mapping[str, Any]], *, calibrated: bool = False) -> "Figure":
    """Accuracy, negative log-likelihood and calibration error against severity (Benton et al. 2021, figure 11).

    At each severity each method has a box over the corruptions: the median, the quartiles, and whiskers to the best
    and the worst corruption.

    Args:
        results: the rows of `shift.evaluate_under_shift`; those of severity 0 are images without corruption.
        calibrated: draw the likelihood and the calibration error after temperature scaling.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no rows, more than eight methods, or a row without what is drawn.
    """
    methods = list(dict.fromkeys(row["method"] for row in results))
    if not 0 < len(methods) <= len(_FILLS):
        raise ValueError(f"There are {len(methods)} methods to draw: give 1 to {len(_FILLS)}.")
    prefix = "calibrated_" if calibrated else ""
    quantities = (
        ("accuracy", "accuracy (%)", 100),
        (f"{prefix}nll", "negative log-likelihood (nats)", 1),
        (f"{prefix}ece", "expected calibration error", 1),
    )
    for row, (key, _, _) in product(results, quantities):
        if key not in row:
            raise ValueError(f"The row of {row['method']!r}, {row['corruption']} {row['severity']} has no {key!r}.")
    severities = sorted({row["severity"] for row in results})
    figure = _figure(9.6, 3.0 + 0.25 * ((len(methods) - 1) // 3))
    width = 0.8 / len(methods)
    for axes, (key, title, scale) in zip(figure.subplots(1, 3), quantities, strict=True):
        for place, (method, fill) in enumerate(zip(methods, _FILLS, strict=False)):
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
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of that size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "hf-simplex[plots]".') from error
    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def _norm(low: float, high: float) -> "Normalize":
    from matplotlib.colors import Normalize

    return Normalize(low, high)


def _colours(quantity: str) -> str:
    return "cividis" if quantity == "loss" else "cividis_r"


def _check_kind(surface: Surface, kind: str) -> None:
    if surface.points.kind != kind:
        raise ValueError(f"This picture is of a surface of kind {kind!r}, got one of kind {surface.points.kind!r}.")


def _labels(surface: Surface, labels: Sequence[str] | None) -> list[str]:
    numbers = surface.points.vertices.tolist()
    if labels is not None and len(labels) != len(numbers):
        raise ValueError(f"Expected a label for each of the vertices {numbers}, got {len(labels)}: {list(labels)}.")
    return [str(number) for number in numbers] if labels is None else list(labels)


def _values(surface: Surface, quantity: str, clip: float | None) -> tuple[Tensor, float, float, str]:
    """The clipped values, their lower and upper end (never equal) and the label that states the clipping."""
    if quantity not in ("loss", "accuracy"):
        raise ValueError(f"The quantity must be 'loss' or 'accuracy', got {quantity!r}.")
    # With the sign turned, an accuracy is a cost like a loss: the smaller the better, clipped above.
    sign, scale, unit = (1, 1, "nats") if quantity == "loss" else (-1, 100, "%")
    costs = sign * scale * (surface.loss if quantity == "loss" else surface.accuracy)
    finite = costs[costs.isfinite()]
    if not len(finite):
        raise ValueError(f"The surface has no finite {quantity} to draw.")
    best, worst = float(finite.min()), float(finite.max())
    level = float(finite.quantile(_UNCLIPPED)) if clip is None else sign * scale * clip
    if clip is None and level == best:
        level = worst
    if level <= best < worst:
        raise ValueError(
            f"The clipping level {clip} leaves nothing to see: the best {quantity} is {sign * best:.3g} {unit}."
        )
    end = min(level, worst)
    title = f"{quantity} ({unit}, not clipped)"
    # A loss that overflowed to infinity is clipped like any large one, at the largest finite one if need be.
    if bool((costs > end).any()):
        title = f"{quantity} ({unit}, clipped {'above' if sign > 0 else 'below'} {sign * end:.3g})"
    low, high = sorted((sign * best, sign * end))
    if low == high:
        high = low + max(1e-6, 1e-6 * abs(low))
    return sign * costs.clamp(max=end), low, high, title


def _close_seams(filled: Any) -> None:
    """Let each band's edge have its own colour, or PDF viewers show the background between bands."""
    filled.set_edgecolor("face")
    filled.set_linewidth(0.2)


def _outline(axes: Any, x: Sequence[float], y: Sequence[float], style: Any) -> None:
    """A line that is seen on dark and on bright colours."""
    axes.plot(x, y, color="black", linewidth=2.2, linestyle=style, solid_capstyle="round")
    axes.plot(x, y, color="white", linewidth=1.2, linestyle=style, solid_capstyle="round")


def _mark_vertices(axes: Any, corners: Tensor, names: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    axes.plot(
        corners[:, 0].numpy(),
        corners[:, 1].numpy(),
        "o",
        color="white",
        markeredgecolor="black",
        markersize=6,
        clip_on=False,
        zorder=4,
    )
    middle = corners[:, 1].mean()
    for corner, name in zip(corners.tolist(), names, strict=True):
        axes.annotate(
            name,
            corner,
            xytext=(0, 11 if corner[1] > middle else -11),
            textcoords="offset points",
            ha="center",
            va="center",
            color="black",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )


def _lattice_triangles(local: Tensor) -> Any:
    """The small triangles [triangles, 3] of a triangular lattice of barycentric coordinates [points, 3]."""
    resolution = round(float((8 * len(local) + 1) ** 0.5 - 3) / 2)
    row_of = {tuple(shares): row for row, shares in enumerate((local * resolution).round().long().tolist())}
    triangles = []
    for i, j, k in row_of:
        if i:
            triangles.append([row_of[i, j, k], row_of[i - 1, j + 1, k], row_of[i - 1, j, k + 1]])
            if k:
                triangles.append([row_of[i, j, k], row_of[i - 1, j + 1, k], row_of[i, j + 1, k - 1]])
    return torch.tensor(triangles).numpy()


def _barycentric_ticks(axes: Any, corners: Tensor) -> None:
    """Coordinates at the edges: on each edge the share of the vertex where the edge ends, counter-clockwise."""
    middle = corners.mean(0)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        away = (corners[start] + corners[end]) / 2 - middle
        away = away / away.norm()
        for share in (0.25, 0.5, 0.75):
            at = (1 - share) * corners[start] + share * corners[end]
            tip = at + 0.02 * away
            axes.plot(*torch.stack([at, tip]).T.numpy(), color="black", linewidth=0.8)
            axes.annotate(
                f"{share:g}",
                at.tolist(),
                xytext=(14 * float(away[0]), 11 * float(away[1])),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7,
            )


def _label_axes(axes: Any, shares: Tensor, corners: Tensor) -> None:
    low, high = corners.amin(0), corners.amax(0)
    half = 0.55 * (float((high - low).max()) or 1.0)
    for axis, name in enumerate("xyz"):
        centre = float(low[axis] + high[axis]) / 2
        # The same length on every axis: what is regular in weight space looks regular.
        getattr(axes, f"set_{name}lim")(centre - half, centre + half)
        getattr(axes, f"set_{name}label")(f"{100 * float(shares[axis]):.0f}% of the variance")
        getattr(axes, f"{name}axis").set_major_locator(_few_ticks(4))
    axes.set_box_aspect((1, 1, 1), zoom=0.88)


def _few_ticks(number: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(number)
