"""Loss surfaces: where the points lie, what is measured there, and what a file of it keeps."""

import math
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.surfaces import (
    Surface,
    SurfacePoints,
    complex_points,
    evaluate_points,
    face_points,
    line_coordinates,
    model_surface,
    path_points,
    plane_points,
)
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.sampling import sample_complex
from hf_simplex.model.weight_space import trainable_names

TRIANGLE = SimplicialComplex(3, [[0, 1, 2]])
# Two modes, 0 and 1, and two connectors.
VOLUME = SimplicialComplex(4, [[0, 2, 3], [1, 2, 3]])
INPUTS = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(20) % 3
# Batches of unequal size: a mean of means would be another number.
BATCHES = [(INPUTS[:13], TARGETS[:13]), (INPUTS[13:], TARGETS[13:])]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def weights(number: int) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in network(seed).named_parameters()} for seed in range(number)]


def flat(vertices: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([torch.cat([tensor.double().flatten() for tensor in vertex.values()]) for vertex in vertices])


def measure(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    outputs = module(batch[0])
    return nn.functional.cross_entropy(outputs, batch[1], reduction="none"), outputs.argmax(dim=1) == batch[1]


NAMES = trainable_names(network())


def test_distances_in_the_plane_are_distances_in_weight_space() -> None:
    vertices = weights(4)
    points = plane_points(VOLUME, vertices, NAMES, vertices=(3, 0, 1), resolution=7)
    assert points.coordinates.shape == (49, 4) and bool((points.coordinates[:, 2] == 0).all())
    where, corners = points.coordinates @ flat(vertices), flat(vertices)[[3, 0, 1]]
    expected = torch.cdist(torch.cat([corners, where]), torch.cat([corners, where]))
    drawn = torch.cat([points.vertex_positions, points.positions])
    assert torch.allclose(torch.cdist(drawn, drawn), expected, rtol=1e-9, atol=1e-6)
    assert points.vertex_positions[0].tolist() == [0, 0] and points.vertex_positions[1, 1] == 0
    assert points.vertex_positions[2, 1] > 0


def test_the_grid_is_regular_and_reaches_beyond_the_triangle_by_the_margin() -> None:
    points = plane_points(TRIANGLE, weights(3), NAMES, resolution=5, margin=0.25)
    low, high = points.vertex_positions.amin(0), points.vertex_positions.amax(0)
    border = 0.25 * (high - low).max()
    assert torch.allclose(points.positions.amin(0), low - border)
    assert torch.allclose(points.positions.amax(0), high + border)
    for axis in (0, 1):
        steps = points.positions[:, axis].unique().diff()
        assert len(steps) == 4 and torch.allclose(steps, steps[0])
    assert points.coordinates.min() < 0
    assert torch.allclose(points.coordinates.sum(1), torch.ones(25, dtype=torch.float64))


def test_without_a_margin_the_first_two_vertices_are_points_of_the_grid() -> None:
    vertices = [{"w": torch.tensor(corner)} for corner in ([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])]
    points = plane_points(TRIANGLE, vertices, ["w"], resolution=5, margin=0.0)
    assert points.positions[0].tolist() == [0, 0] and points.coordinates[0].tolist() == [1, 0, 0]
    assert points.positions[4].tolist() == [4, 0] and points.coordinates[4].tolist() == [0, 1, 0]
    assert points.coordinates[21] == pytest.approx([0, 0, 1])


def test_values_are_those_of_the_point_evaluated_directly() -> None:
    vertices = weights(3)
    points = plane_points(TRIANGLE, vertices, NAMES, resolution=4, margin=0.5)
    loss, accuracy = evaluate_points(network(), vertices, points.coordinates, BATCHES, measure)
    assert loss.shape == accuracy.shape == (16,)
    for index, row in enumerate(points.coordinates):
        mixed = {name: sum(c * v[name].double() for c, v in zip(row, vertices, strict=True)) for name in NAMES}
        outputs = torch.func.functional_call(network().double(), mixed, (INPUTS.double(),))
        assert float(loss[index]) == pytest.approx(float(nn.functional.cross_entropy(outputs, TARGETS)), rel=1e-4)
        assert float(accuracy[index]) == pytest.approx(float((outputs.argmax(1) == TARGETS).double().mean()))


@pytest.mark.parametrize("row", [[1.0, -1.0, 1.0], [-2.0, 2.0, 1.0], [-1.0, 1.0 + 1e-9, 1.0 - 1e-9], [5.0, -4.0, 0.0]])
def test_coordinates_whose_partial_sums_are_zero_are_mixed_right(row: list[float]) -> None:
    module, vertices, seen = network(), weights(3), []

    def spy(module: nn.Module, batch: Tensor) -> tuple[Tensor, None]:
        seen.append(torch.cat([p.double().flatten() for p in module.parameters()]))
        return torch.zeros(1), None

    evaluate_points(module, vertices, torch.tensor([row]), [INPUTS], spy)
    assert torch.allclose(seen[0], torch.tensor(row, dtype=torch.float64) @ flat(vertices), atol=1e-5)


def test_the_module_is_afterwards_what_it_was_also_after_an_error() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    vertices = [{name: torch.randn_like(p) for name, p in module.named_parameters()} for _ in range(2)]

    def fails(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert not module.training
        raise RuntimeError("no measure")

    evaluate_points(module, vertices, torch.tensor([[0.5, 0.5]]), BATCHES, measure, batch_norm_batches=[INPUTS])
    with pytest.raises(RuntimeError, match="no measure"):
        evaluate_points(module, vertices, torch.tensor([[0.5, 0.5]]), BATCHES, fails, batch_norm_batches=[INPUTS])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(child.training for child in module.modules())


def test_any_loss_will_do_and_accuracy_is_optional() -> None:
    def squares(module: nn.Module, batch: Tensor) -> tuple[Tensor, None]:
        return module(batch).square().sum(dim=1), None

    loss, accuracy = evaluate_points(network(), weights(2), torch.tensor([[1.0, 0.0]]), [INPUTS], squares)
    assert float(loss) == pytest.approx(float(network(0)(INPUTS).detach().square().sum(1).mean()), rel=1e-6)
    assert math.isnan(float(accuracy))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_models_surface_is_that_of_its_backbone_with_statistics_of_its_own(kind: str) -> None:
    model = SimplexForImageClassification.disjoint_union(
        [SimplexForImageClassification.from_backbone(tiny.backbone(kind, seed)) for seed in range(3)]
    )
    data = [{"pixel_values": tiny.images(7, seed=3), "labels": torch.arange(7) % tiny.LABELS}]
    names = trainable_names(model.vertices[0])
    points = plane_points(model.config.complex, model.weights, names, resolution=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    surface = model_surface(model, points, data, batch_norm_batches=tiny.batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    direct = tiny.backbone(kind)
    for index, row in enumerate(points.coordinates):
        for name, parameter in direct.named_parameters():
            parameter.data.copy_(sum(c * v[name].double() for c, v in zip(row, model.weights, strict=True)))
        recompute_statistics(direct, tiny.batches())
        with torch.no_grad():
            logits = direct(pixel_values=data[0]["pixel_values"]).logits
        expected = float(nn.functional.cross_entropy(logits, data[0]["labels"]))
        assert float(surface.loss[index]) == pytest.approx(expected, rel=1e-3)
        assert float(surface.accuracy[index]) == pytest.approx(
            float((logits.argmax(1) == data[0]["labels"]).double().mean())
        )


def test_a_face_holds_its_lattice_and_lies_flat_without_distortion() -> None:
    vertices = weights(4)
    points = face_points(VOLUME, vertices, NAMES, vertices=(3, 1, 2), resolution=4)
    assert len(points.coordinates) == 15 and points.coordinates.min() == 0
    where = points.coordinates @ flat(vertices)
    assert torch.allclose(torch.cdist(points.positions, points.positions), torch.cdist(where, where), atol=1e-6)


def test_a_flat_face_is_a_face_all_the_same() -> None:
    first, second = weights(2)
    vertices = [first, second, {name: (first[name] + second[name]) / 2 for name in NAMES}]
    points = face_points(TRIANGLE, vertices, NAMES, vertices=(0, 1, 2), resolution=3)
    assert bool(points.positions.isfinite().all())
    assert float(points.positions[:, 1].abs().max()) < 1e-5 * float(points.positions[:, 0].max())


def test_a_path_is_measured_by_the_distance_travelled() -> None:
    vertices = weights(4)
    coordinates = line_coordinates(VOLUME, [0, 2, 1], 4)
    assert coordinates.shape == (7, 4)
    assert coordinates[1].tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])
    points = path_points(VOLUME, vertices, NAMES, coordinates)
    first, second, end = flat(vertices)[[0, 2, 1]]
    legs = [float((first - second).norm()), float((second - end).norm())]
    assert points.vertices.tolist() == [0, 2, 1]
    assert points.vertex_positions[:, 0].tolist() == pytest.approx([0, legs[0], sum(legs)])
    assert points.positions[:, 0].diff().tolist() == pytest.approx([legs[0] / 3] * 3 + [legs[1] / 3] * 3)


def test_up_to_four_vertices_keep_all_their_distances_on_principal_axes() -> None:
    vertices = weights(4)
    coordinates = sample_complex(VOLUME, 10, sampling="equal", generator=torch.Generator().manual_seed(0))
    points = complex_points(VOLUME, vertices, NAMES, coordinates)
    corners = flat(vertices)
    assert torch.allclose(torch.cdist(points.vertex_positions, points.vertex_positions), torch.cdist(corners, corners))
    assert torch.allclose(points.vertex_positions.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert float(points.axis_shares.sum()) == pytest.approx(1)
    variances = points.vertex_positions.square().sum(0)
    assert torch.allclose(variances / variances.sum(), points.axis_shares)
    assert bool((points.axis_shares.diff() <= 0).all())
    assert torch.allclose(points.positions, coordinates @ points.vertex_positions)


def test_more_vertices_are_projected_and_the_shares_say_what_is_lost() -> None:
    structure = SimplicialComplex(6, [[0, 1, 2, 3, 4, 5]])
    points = complex_points(structure, weights(6), NAMES)
    centred = flat(weights(6)) - flat(weights(6)).mean(0)
    singular = torch.linalg.svdvals(centred).square()
    assert torch.allclose(points.axis_shares, singular[:3] / singular.sum())
    assert points.axis_shares.sum() < 0.99 and points.positions.shape == (0, 3)


def test_other_principal_axes_show_what_the_leading_ones_hide() -> None:
    structure = SimplicialComplex(6, [[0, 1, 2, 3, 4, 5]])
    leading, others = (complex_points(structure, weights(6), NAMES, axes=axes) for axes in ((0, 1, 2), (2, 0, 4)))
    assert torch.equal(others.vertex_positions[:, :2], leading.vertex_positions[:, [2, 0]])
    centred = flat(weights(6)) - flat(weights(6)).mean(0)
    singular = torch.linalg.svdvals(centred).square()
    assert torch.allclose(others.axis_shares, singular[[2, 0, 4]] / singular.sum())
    beyond = complex_points(structure, weights(6), NAMES, axes=(0, 1, 7))
    assert not beyond.vertex_positions[:, 2].any() and beyond.axis_shares[2] == 0
    for axes in ((0, 1, 1), (0, 1, -1)):
        with pytest.raises(ValueError, match="three different principal axes"):
            complex_points(structure, weights(6), NAMES, axes=axes)


def surface() -> Surface:
    points = plane_points(VOLUME, weights(4), NAMES, vertices=(0, 1, 3), resolution=3)
    return Surface(points, *evaluate_points(network(), weights(4), points.coordinates, BATCHES, measure))


def test_a_saved_surface_comes_back_bit_for_bit_and_leaves_nothing_else(tmp_path: Path) -> None:
    saved = surface()
    saved.save(tmp_path / "plane.safetensors")
    saved.save(tmp_path / "plane.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["plane.safetensors"]
    loaded = Surface.load(tmp_path / "plane.safetensors")
    assert torch.equal(loaded.loss, saved.loss) and torch.equal(loaded.accuracy, saved.accuracy)
    assert loaded.points.kind == "plane" and loaded.points.structure == VOLUME
    for name in ("vertices", "vertex_positions", "coordinates", "positions", "axis_shares"):
        assert torch.equal(getattr(loaded.points, name), getattr(saved.points, name))


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plane.safetensors"
    surface().save(file)
    before = file.read_bytes()

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_simplex.evaluation.surfaces.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        surface().save(file)
    assert file.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == [file.name]


def test_bad_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "plane.safetensors"
    with pytest.raises(FileNotFoundError, match=r"plane\.safetensors"):
        Surface.load(file)
    surface().save(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"plane\.safetensors.*not a whole file"):
        Surface.load(file)
    save_file({"loss": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"plane\.safetensors.*holds \['loss'\]"):
        Surface.load(file)
    with pytest.raises(ValueError, match=r"named \*\.safetensors"):
        surface().save(tmp_path / "plane.pt")


@pytest.mark.parametrize(
    ("vertices", "message"),
    [((0, 1), "three vertices, got 2"), ((0, 1, 1), "Vertex 1 is repeated"), ((0, 1, 9), "no vertex 9")],
)
def test_a_plane_needs_three_different_vertices(vertices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plane_points(TRIANGLE, weights(3), NAMES, vertices=vertices)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, -1.7])
def test_vertices_on_one_line_span_no_plane(share: float) -> None:
    first, second = weights(2)
    # In float32, whose rounding makes the line not quite straight.
    third = {name: first[name] + share * (second[name] - first[name]) for name in NAMES}
    with pytest.raises(ValueError, match="lie on one line"):
        plane_points(TRIANGLE, [first, second, third], NAMES)
    with pytest.raises(ValueError, match="lie on one line"):
        plane_points(TRIANGLE, [third, second, first], NAMES)


def test_a_mode_given_twice_spans_no_plane() -> None:
    first, second = weights(2)
    for vertices in ([first, first, second], [first, second, first], [second, first, first], [first] * 3):
        with pytest.raises(ValueError, match="two of them are the same"):
            plane_points(TRIANGLE, vertices, NAMES)
    with pytest.raises(ValueError, match="length 0"):
        path_points(TRIANGLE, [first, first, second], NAMES, line_coordinates(TRIANGLE, [0, 1], 3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    vertices = weights(3)
    vertices[1]["0.bias"][2] = value
    with pytest.raises(ValueError, match=r"Vertex 1 has weights that are not finite, in '0\.bias'"):
        plane_points(TRIANGLE, vertices, NAMES)
    with pytest.raises(ValueError, match="Vertex 1 has weights that are not finite"):
        evaluate_points(network(), vertices, torch.tensor([[0.5, 0.5, 0.0]]), BATCHES, measure)


def test_bad_arguments_are_named() -> None:
    vertices, centre = weights(3), torch.full((1, 3), 1 / 3)
    for arguments, message in (({"resolution": 1}, "at least 2, got 1"), ({"margin": -0.1}, "finite, got -0.1")):
        with pytest.raises(ValueError, match=message):
            plane_points(TRIANGLE, vertices, NAMES, **arguments)
    with pytest.raises(ValueError, match=r"point 0 must be finite and sum to 1, got 0\.5"):
        evaluate_points(network(), vertices, torch.tensor([[0.5, 0.0, 0.0]]), BATCHES, measure)
    with pytest.raises(ValueError, match="not an iterator"):
        evaluate_points(network(), vertices, centre, iter(BATCHES), measure)
    with pytest.raises(ValueError, match="batches are empty"):
        evaluate_points(network(), vertices, centre, [], measure)
    with pytest.raises(ValueError, match="reduction='none'"):
        evaluate_points(network(), vertices, centre, BATCHES, lambda module, batch: (torch.zeros(()), None))
    with pytest.raises(ValueError, match="The module has BatchNorm"):
        evaluate_points(nn.BatchNorm1d(4), [dict(nn.BatchNorm1d(4).named_parameters())], torch.ones(1, 1), BATCHES)
    with pytest.raises(ValueError, match="twice in a row"):
        line_coordinates(TRIANGLE, [0, 1, 1], 3)
    with pytest.raises(ValueError, match="do not fit"):
        points = surface().points
        SurfacePoints(
            "plane",
            TRIANGLE,
            points.vertices,
            points.vertex_positions,
            points.coordinates,
            points.positions,
            points.axis_shares,
        )
