"""Pictures of loss surfaces: planes, triangular faces, and complexes in 3-D.

Each function returns a matplotlib `Figure` without a window: `figure.savefig("plane.pdf")`. The colour map is cividis,
which also works in grey. Dark means good, for losses and for accuracies.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evaluation.surface_points import COMPLEX, FACE, PLANE
from ..evaluation.surfaces import Surface
from .style import few_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["lattice_triangles", "plot_complex", "plot_face", "plot_plane"]

_LEVELS = 24
# Share of the points that the default clipping level leaves unclipped.
_UNCLIPPED = 0.75


def plot_plane(
    surface: Surface, *, quantity: str = "loss", clip: float | None = None, labels: Sequence[str] | None = None
) -> "Figure":
    """Draws filled contours over the plane through three vertices.

    Edges of the complex are solid, other edges dashed. Axes are distances in weight space, to scale.

    Args:
        surface: a surface at `plane_points`.
        quantity: `"loss"` or `"accuracy"`.
        clip: clips values worse than this level, in nats, or 0 to 1 for accuracy. The colour bar states the level.
            Default: the worst quarter of the points is clipped. `inf` for losses and 0 for accuracies clip nothing.
        labels: names of the vertices. Default: their indices.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The surface is of another kind, the quantity is unknown, no value is finite, everything is clipped,
            or there is not one label per vertex.

    Source: Benton et al. 2021, figure 3.

    Example::

        plot_plane(surface, labels=["$w_0$", "$w_1$", "$w_2$"]).savefig("plane.pdf")
    """
    _check_kind(surface, PLANE)
    names = _labels(surface, labels)
    values, low, high, title = _values(surface, quantity, clip)
    figure = new_figure(4.6, 3.7)
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
    figure.colorbar(filled, ax=axes, label=title, ticks=few_ticks(6))
    return figure


def plot_face(
    surface: Surface, *, quantity: str = "loss", clip: float | None = None, labels: Sequence[str] | None = None
) -> "Figure":
    """Draws filled contours over a triangular face, in barycentric coordinates.

    The triangle is equilateral, whatever the shape of the face.

    Args:
        surface: a surface at `face_points` with three vertices.
        quantity: `"loss"` or `"accuracy"`.
        clip: as for `plot_plane`. Default: nothing is clipped, since differences within a face are small.
        labels: names of the vertices. Default: their indices.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: As `plot_plane`, or the face is not a triangle.

    Example::

        plot_face(surface, quantity="accuracy").savefig("face.pdf")
    """
    _check_kind(surface, FACE)
    if len(surface.points.vertices) != 3:
        raise ValueError(f"A triangular plot shows a face of three vertices, got {surface.points.vertices.tolist()}.")
    names = _labels(surface, labels)
    if clip is None:
        clip = float("inf") if quantity == "loss" else 0.0
    values, low, high, title = _values(surface, quantity, clip)
    figure = new_figure(4.6, 3.7)
    from matplotlib.tri import Triangulation

    axes = figure.add_subplot()
    local = surface.points.coordinates[:, surface.points.vertices]
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    places = local @ corners
    filled = axes.tricontourf(
        Triangulation(places[:, 0].numpy(), places[:, 1].numpy(), lattice_triangles(local)),
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
    figure.colorbar(filled, ax=axes, label=title, ticks=few_ticks(6))
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
    """Draws a complex on three principal axes of its vertices, in 3-D.

    Triangles are translucent. The points of the surface, if any, are coloured by loss.

    Args:
        surface: a surface at `complex_points`.
        clip: level above which losses are clipped, in nats. Default: nothing is clipped.
        labels: names of the vertices. Default: their indices.
        connectors: indices of the vertices drawn as diamonds; modes are drawn as discs.
        elevation: angle of the viewer above the plane of the first two axes, in degrees.
        azimuth: angle of the viewer around the third axis, in degrees.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: As `plot_plane`.

    Source: Benton et al. 2021, figure 4, right.

    Example::

        plot_complex(surface, connectors=[2, 3]).savefig("complex.pdf")
    """
    _check_kind(surface, COMPLEX)
    names = _labels(surface, labels)
    figure = new_figure(5.2, 4.2)
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
            vmin=low,
            vmax=high,
            s=14,
            depthshade=False,
        )
        figure.colorbar(shown, ax=axes, label=title, shrink=0.7, pad=0.12, ticks=few_ticks(6))
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


def _colours(quantity: str) -> str:
    return "cividis" if quantity == "loss" else "cividis_r"


def _check_kind(surface: Surface, kind: str) -> None:
    if surface.points.kind != kind:
        raise ValueError(f"Expected a surface of kind {kind!r}, got one of kind {surface.points.kind!r}.")


def _labels(surface: Surface, labels: Sequence[str] | None) -> list[str]:
    numbers = surface.points.vertices.tolist()
    if labels is not None and len(labels) != len(numbers):
        raise ValueError(f"Expected a label for each of the vertices {numbers}, got {len(labels)}: {list(labels)}.")
    return [str(number) for number in numbers] if labels is None else list(labels)


def _values(surface: Surface, quantity: str, clip: float | None) -> tuple[Tensor, float, float, str]:
    """The clipped values, their lower and upper limits (never equal), and a label that states the clipping."""
    if quantity not in ("loss", "accuracy"):
        raise ValueError(f"The quantity must be 'loss' or 'accuracy', got {quantity!r}.")
    # The negative accuracy is a cost, like a loss: smaller is better, and large values are clipped.
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
    # An infinite loss is always clipped, if nothing else then at the largest finite loss.
    if bool((costs > end).any()):
        title = f"{quantity} ({unit}, clipped {'above' if sign > 0 else 'below'} {sign * end:.3g})"
    low, high = sorted((sign * best, sign * end))
    if low == high:
        high = low + max(1e-6, 1e-6 * abs(low))
    return sign * costs.clamp(max=end), low, high, title


def _close_seams(filled: Any) -> None:
    """Gives the edge of each band its colour. Otherwise PDF viewers show the background between bands."""
    filled.set_edgecolor("face")
    filled.set_linewidth(0.2)


def _outline(axes: Any, x: Sequence[float], y: Sequence[float], style: Any) -> None:
    """Draws a line that is visible on dark and on bright colours."""
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


def lattice_triangles(local: Tensor) -> Any:
    """Triangulates a triangular lattice.

    Args:
        local: [points, 3] barycentric coordinates from `face_coordinates`, float64.

    Returns:
        [triangles, 3] int64 numpy array: the points of each small triangle.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.coordinates import face_coordinates
        >>> from hf_simplex.plots.surfaces import lattice_triangles
        >>> lattice_triangles(face_coordinates(SimplicialComplex(3, [[0, 1, 2]]), (0, 1, 2), 2)).shape
        (4, 3)
    """
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
    """Draws ticks at the edges: on each edge the share of the vertex where it ends, counter-clockwise."""
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
        # All axes have the same length, so that a regular simplex looks regular.
        getattr(axes, f"set_{name}lim")(centre - half, centre + half)
        getattr(axes, f"set_{name}label")(f"{100 * float(shares[axis]):.0f}% of the variance")
        getattr(axes, f"{name}axis").set_major_locator(few_ticks(4))
    axes.set_box_aspect((1, 1, 1), zoom=0.88)
