"""Pictures of surfaces: what is drawn where, and what the colour bar says of it."""

import sys
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from rendering import renders

from hf_simplex.evaluation.surface_points import SurfacePoints, complex_points, face_points, plane_points
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.plots.surfaces import lattice_triangles, plot_complex, plot_face, plot_plane

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


def whole(points: int = 5) -> Surface:
    coordinates = torch.eye(4, dtype=torch.float64)[torch.arange(points) % 4]
    return surface(complex_points(VOLUME, WEIGHTS, ["w"], coordinates))


def colour_bar(figure: Figure) -> str:
    return figure.axes[-1].get_ylabel()


def test_a_plane_shows_contours_vertices_and_which_edges_the_complex_holds() -> None:
    figure = plot_plane(plane(), labels=["a", "b", "c"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    styles = {
        tuple(map(tuple, line.get_xydata().round(6).tolist())): line.get_linestyle()
        for line in axes.lines
        if len(line.get_xydata()) == 2
    }
    assert styles == {((0, 0), (4, 0)): "--", ((0, 0), (1, 3)): "-", ((4, 0), (1, 3)): "-"}
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    assert markers[0].get_xydata().round(6).tolist() == [[0, 0], [4, 0], [1, 3]]
    assert axes.get_aspect() == 1 and axes.collections[0].get_cmap().name == "cividis"
    assert renders(figure)


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
    assert renders(figure)


def test_a_constant_surface_is_drawn() -> None:
    flat = plane()
    flat.loss.fill_(0.7)
    assert renders(plot_plane(flat))


def test_a_face_is_an_equilateral_triangle_with_coordinates_at_its_edges() -> None:
    figure = plot_face(face())
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.5", "0.75"] * 3 + ["0", "2", "3"]
    corners = torch.tensor(next(line for line in axes.lines if line.get_marker() == "o").get_xydata())
    assert torch.pdist(corners).tolist() == pytest.approx([1, 1, 1])
    assert colour_bar(figure) == "loss (nats, not clipped)"
    assert renders(figure)


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
    assert renders(figure)
    assert len(plot_complex(whole(0)).axes) == 1


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
    triangles = torch.from_numpy(lattice_triangles(local))
    assert triangles.shape == (16, 3)
    # In barycentric coordinates the determinant is the share of the whole area.
    assert torch.allclose(torch.linalg.det(local[triangles]).abs(), torch.full((16,), 1 / 16, dtype=torch.float64))
    assert len({tuple(sorted(triangle)) for triangle in triangles.tolist()}) == 16
