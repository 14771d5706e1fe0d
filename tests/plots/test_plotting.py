"""Pictures: what is drawn where, and what the colour bar says of it."""

import io
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from hf_simplex.evaluation.metrics import expected_calibration_error
from hf_simplex.evaluation.surfaces import (
    Surface,
    SurfacePoints,
    complex_points,
    face_points,
    line_coordinates,
    path_points,
    plane_points,
)
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.plots.plotting import (
    _lattice_triangles,
    plot_complex,
    plot_face,
    plot_paths,
    plot_plane,
    plot_reliability,
    plot_shift,
)

# Vertices 0 and 1 share no simplex.
VOLUME = SimplicialComplex(4, [[0, 2, 3], [1, 2, 3]])
CORNERS = [[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [1.0, 1.0, 2.0]]
WEIGHTS = [{"w": torch.tensor(corner)} for corner in CORNERS]


def surface(points: SurfacePoints) -> Surface:
    """Losses 0, 1, 2, ... and accuracies that fall from 1 to 0."""
    number = len(points.coordinates)
    loss = torch.arange(number, dtype=torch.float64)
    return Surface(points, loss, 1 - loss / max(number - 1, 1))


def plane(resolution: int = 3) -> Surface:
    return surface(plane_points(VOLUME, WEIGHTS, ["w"], vertices=(0, 1, 2), resolution=resolution))


def face() -> Surface:
    return surface(face_points(VOLUME, WEIGHTS, ["w"], vertices=(0, 2, 3), resolution=4))


def path(*vertices: int) -> Surface:
    return surface(path_points(VOLUME, WEIGHTS, ["w"], line_coordinates(VOLUME, vertices, 5)))


def whole(points: int = 5) -> Surface:
    coordinates = torch.eye(4, dtype=torch.float64)[torch.arange(points) % 4]
    return surface(complex_points(VOLUME, WEIGHTS, ["w"], coordinates))


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def colour_bar(figure: Figure) -> str:
    return figure.axes[-1].get_ylabel()


def rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def test_a_plane_shows_contours_vertices_and_which_edges_the_complex_holds() -> None:
    figure = plot_plane(plane(), labels=["a", "b", "c"])
    axes = figure.axes[0]
    assert texts(axes) == ["a", "b", "c"]
    styles = {
        tuple(map(tuple, line.get_xydata().round(6).tolist())): line.get_linestyle()
        for line in axes.lines
        if len(line.get_xydata()) == 2
    }
    assert styles == {((0, 0), (4, 0)): "--", ((0, 0), (1, 3)): "-", ((4, 0), (1, 3)): "-"}
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    assert markers[0].get_xydata().round(6).tolist() == [[0, 0], [4, 0], [1, 3]]
    assert axes.get_aspect() == 1 and axes.collections[0].get_cmap().name == "cividis"
    assert rendered(figure).startswith(b"\x89PNG")


def test_the_colour_bar_states_where_losses_are_clipped() -> None:
    assert colour_bar(plot_plane(plane(), clip=5.0)) == "loss (nats, clipped above 5)"
    # Losses 0 to 8: three quarters are at most 6.
    assert colour_bar(plot_plane(plane())) == "loss (nats, clipped above 6)"
    assert colour_bar(plot_plane(plane(), clip=float("inf"))) == "loss (nats, not clipped)"
    assert colour_bar(plot_plane(plane(), clip=9.0)) == "loss (nats, not clipped)"
    assert colour_bar(plot_plane(plane(), quantity="accuracy", clip=0.5)) == "accuracy (%, clipped below 50)"
    filled = plot_plane(plane(), clip=5.0).axes[0].collections[0]
    assert filled.get_clim()[0] >= 0 and filled.get_clim()[1] <= 5


def test_losses_that_overflowed_are_clipped_and_do_not_set_the_scale() -> None:
    overflowed = plane()
    overflowed.loss[-1] = float("inf")
    overflowed.loss[-2] = float("nan")
    figure = plot_plane(overflowed, clip=float("inf"))
    assert colour_bar(figure) == "loss (nats, clipped above 6)"
    assert rendered(figure).startswith(b"\x89PNG")


def test_a_constant_surface_is_drawn() -> None:
    flat = plane()
    flat.loss.fill_(0.7)
    assert rendered(plot_plane(flat)).startswith(b"\x89PNG")


def test_a_face_is_an_equilateral_triangle_with_coordinates_at_its_edges() -> None:
    figure = plot_face(face())
    axes = figure.axes[0]
    assert texts(axes) == ["0.25", "0.5", "0.75"] * 3 + ["0", "2", "3"]
    corners = torch.tensor(next(line for line in axes.lines if line.get_marker() == "o").get_xydata())
    assert torch.pdist(corners).tolist() == pytest.approx([1, 1, 1])
    assert colour_bar(figure) == "loss (nats, not clipped)"
    assert rendered(figure).startswith(b"\x89PNG")


def test_paths_show_loss_and_accuracy_with_a_dot_at_each_vertex() -> None:
    figure = plot_paths({"straight": path(0, 1), "by way of 2": path(0, 2, 1)})
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss (nats)", "accuracy (%)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["straight", "by way of 2"]
    straight, ends, _, visited = loss.lines
    assert straight.get_xdata().tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert ends.get_xdata().tolist() == [0, 1] and len(visited.get_xdata()) == 3
    without = path(0, 1)
    without.accuracy.fill_(float("nan"))
    assert len(plot_paths({"straight": without}).axes) == 1


def test_a_complex_shows_its_triangles_edges_vertices_and_points() -> None:
    figure = plot_complex(whole(), connectors=[2, 3], clip=2.0)
    axes: Any = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2", "3"]
    triangles = [found for found in axes.collections if isinstance(found, Poly3DCollection)]
    assert len(triangles) == 1 and len(triangles[0].get_facecolor()) >= 1
    assert len(axes.lines) == len(VOLUME.edges()) == 5
    assert axes.get_xlabel().endswith("% of the variance")
    assert colour_bar(figure) == "loss (nats, clipped above 2)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mode", "connector"]
    assert rendered(figure).startswith(b"\x89PNG")
    assert len(plot_complex(whole(0)).axes) == 1


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
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["sure (ECE 0.450)", f"random (ECE {error:.3f})"]
    assert rendered(figure).startswith(b"\x89PNG")


def shift_row(method: str, severity: int, corruption: int, value: float) -> dict[str, Any]:
    metrics = {"accuracy": value / 100, "nll": value, "ece": value, "calibrated_nll": -1, "calibrated_ece": -2}
    return {"method": method, "corruption": str(corruption), "severity": severity, **metrics}


def test_shift_shows_a_box_over_the_corruptions_for_each_method_at_each_severity() -> None:
    rows = [shift_row(method, 0, 0, 50.0) for method in ("one", "two")]
    rows += [
        shift_row(method, severity, corruption, start + severity * corruption)
        for method, start in (("one", 10.0), ("two", 20.0))
        for severity in (1, 5)
        for corruption in range(5)
    ]
    figure = plot_shift(rows)
    labels = ["accuracy (%)", "negative log-likelihood (nats)", "expected calibration error"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    for axes in figure.axes:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "1", "5"]
        # Each box is a patch; its lines are two whiskers, two caps and the median, here the third of five values.
        assert len(axes.patches) == 6
        medians = [line.get_ydata().tolist() for line in axes.lines if line.get_linewidth() == 1.4]
        assert medians == [[50, 50], [12, 12], [20, 20], [50, 50], [22, 22], [30, 30]]
        assert len({patch.get_facecolor() for patch in axes.patches}) == 2
        assert axes.get_ylim()[1] > 40
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert rendered(figure).startswith(b"\x89PNG")
    scaled = [line for line in plot_shift(rows, calibrated=True).axes[1].lines if line.get_linewidth() == 1.4]
    assert scaled[0].get_ydata().tolist() == [-1, -1]


def test_the_legend_of_many_long_names_fits_the_picture() -> None:
    figure = plot_shift([shift_row(f"an ensemble of the {n}th kind", 1, 0, 1.0) for n in range(8)])
    rendered(figure)
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width and legend.y1 <= figure.bbox.height


def test_shift_without_methods_or_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="There are 0 methods"):
        plot_shift([])
    with pytest.raises(ValueError, match="There are 9 methods to draw: give 1 to 8"):
        plot_shift([shift_row(str(index), 0, 0, 1.0) for index in range(9)])
    row = shift_row("one", 0, 0, 1.0)
    del row["calibrated_nll"]
    with pytest.raises(ValueError, match="'one', 0 0 has no 'calibrated_nll'"):
        plot_shift([row], calibrated=True)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kind 'plane', got one of kind 'face'"):
        plot_plane(face())
    with pytest.raises(ValueError, match="must be 'loss' or 'accuracy', got 'error'"):
        plot_plane(plane(), quantity="error")
    with pytest.raises(ValueError, match="a label for each"):
        plot_plane(plane(), labels=["a"])
    with pytest.raises(ValueError, match="leaves nothing to see: the best loss is 0 nats"):
        plot_plane(plane(), clip=0.0)
    with pytest.raises(ValueError, match="three vertices, got"):
        plot_face(surface(face_points(VOLUME, WEIGHTS, ["w"], vertices=(0, 2), resolution=4)))
    with pytest.raises(ValueError, match="no path"):
        plot_paths({})
    with pytest.raises(ValueError, match="shows 1 to 5 predictions, got 0"):
        plot_reliability({})
    with pytest.raises(ValueError, match="sums to 2"):
        plot_reliability({"logits": ([[1.0, 1.0]], [0])})
    overflowed = plane()
    overflowed.loss.fill_(float("nan"))
    with pytest.raises(ValueError, match="no finite loss"):
        plot_plane(overflowed)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"hf-simplex\[plots\]"):
        plot_plane(plane())


def test_the_small_triangles_tile_the_face() -> None:
    local = face().points.coordinates[:, [0, 2, 3]]
    triangles = torch.from_numpy(_lattice_triangles(local))
    assert triangles.shape == (16, 3)
    # In barycentric coordinates the determinant is the share of the whole area.
    assert torch.allclose(torch.linalg.det(local[triangles]).abs(), torch.full((16,), 1 / 16, dtype=torch.float64))
    assert len({tuple(sorted(triangle)) for triangle in triangles.tolist()}) == 16
