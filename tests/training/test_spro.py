"""The SPRO objective: values worked out by hand, gradients compared with autograd through the mixed weights."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from hf_simplex.model import weight_space
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.volumes import simplex_log_volumes
from hf_simplex.training.spro import GrowingVertex
from hf_simplex.training.volume_term import scaled_volume_weight


def point(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([values], dtype=torch.float32)}


def plane(*values: float) -> nn.Linear:
    module = nn.Linear(len(values), 1, bias=False)
    module.load_state_dict(point(*values))
    return module


TRIANGLE = SimplicialComplex(3, [[0, 1, 2]])
SHARED = SimplicialComplex(4, [[0, 1, 3], [1, 2, 3]])


def test_the_objective_equals_the_value_worked_out_by_hand() -> None:
    # Vertices (0, 0), (2, 0) and the growing (1, 3): base 2, height 3, so V = 3. The loss is the square of the output.
    module = plane(1, 3)
    growing = GrowingVertex(module, [point(0, 0), point(2, 0), point(1, 3)], TRIANGLE, 2, volume_weight=0.5)
    inputs, points = torch.tensor([[1.0, 2.0]]), [[0.5, 0.0, 0.5], [0.25, 0.5, 0.25]]
    # Points (0.5, 1.5) and (1.25, 0.75): outputs 3.5 and 2.75, squares 12.25 and 7.5625, mean 9.90625.
    loss = 0.0
    for coordinates in points:
        with growing.at(coordinates) as coordinate:
            at_point = module(inputs).square().sum()
            (coordinate * at_point / 2).backward()
            loss += at_point.item() / 2
    # dL/dphi = 2 output x: (7, 14) and (5.5, 11); times 0.5 and 0.25, halved: (1.75, 3.5) + (0.6875, 1.375).
    assert loss == pytest.approx(9.90625)
    assert module.weight.grad.tolist() == [[2.4375, 4.875]]
    term = growing.add_volume_gradient()
    # d/dtheta of -0.5 log V is -0.5 * (0, 1/height): the perpendicular is (0, 3) and its square 9.
    assert term.log_volume == pytest.approx(math.log(3), rel=1e-6)
    assert term.regularizer == pytest.approx(-0.5 * math.log(3), rel=1e-6)
    assert module.weight.grad[0].tolist() == pytest.approx([2.4375, 4.875 - 0.5 / 3])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network(seed).named_parameters()}


@pytest.mark.parametrize("structure", [TRIANGLE, SHARED, SimplicialComplex(4, [[0, 1, 3], [2, 3]])], ids=str)
def test_the_gradient_is_that_of_autograd_through_the_mixed_weights(structure: SimplicialComplex) -> None:
    vertex, weight = structure.num_vertices - 1, 0.3
    module, vertices = network(vertex), [weights(seed) for seed in range(structure.num_vertices)]
    growing = GrowingVertex(module, vertices, structure, vertex, volume_weight=weight)
    inputs, labels = torch.randn(8, 4), torch.arange(8) % 3
    points = growing.draw(4, torch.Generator().manual_seed(0))
    for coordinates in points:
        with growing.at(coordinates) as coordinate:
            (coordinate * nn.functional.cross_entropy(module(inputs), labels) / len(points)).backward()
    growing.add_volume_gradient()

    theta = {name: tensor.double().requires_grad_() for name, tensor in weights(vertex).items()}
    frozen = [{name: tensor.double() for name, tensor in weights(seed).items()} for seed in range(vertex)]
    everything = [*frozen, theta]
    objective = torch.zeros((), dtype=torch.float64)
    for coordinates in points:
        mixed = {name: sum(c * v[name] for c, v in zip(coordinates, everything, strict=True)) for name in theta}
        outputs = torch.func.functional_call(network(0).double(), mixed, (inputs.double(),))
        objective = objective + nn.functional.cross_entropy(outputs, labels) / len(points)
    volumes = []
    for simplex in structure.simplexes:
        flat = torch.stack([torch.cat([everything[index][name].flatten() for name in theta]) for index in simplex])
        edges = flat[:-1] - flat[-1]
        volumes.append(0.5 * torch.logdet(edges @ edges.T) - math.lgamma(len(simplex)))
    (objective - weight * torch.stack(volumes).logsumexp(0)).backward()
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter.grad.double(), theta[name].grad, rtol=1e-5, atol=1e-6)
    for index in range(vertex):
        assert all(torch.equal(vertices[index][name], weights(index)[name]) for name in theta)
        assert all(tensor.grad is None for tensor in vertices[index].values())


def test_a_new_vertex_starts_at_the_mean_with_finite_loss_and_gradient() -> None:
    module, vertices = network(9), [weights(seed) for seed in range(3)]
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=1.0)
    growing.start_at_mean()
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter, (weights(0)[name] + weights(1)[name]) / 2, atol=1e-7)
        parameter.grad = torch.zeros_like(parameter)
    term = growing.add_volume_gradient()
    assert math.isfinite(term.log_volume) and math.isfinite(term.regularizer)
    # Rounding alone has no say in the direction: the pull stays far below the floor's bound of 1 / (2 floor).
    pull = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert pull < 0.01 / (2 * growing.star_volume.height_floor)


def test_the_gradient_is_never_longer_than_half_the_inverse_floor() -> None:
    norms = []
    for part in (0.0, 1e-3, 0.3, 1.0, 3.0, 1e4):
        module = plane(1, 5).double()
        growing = GrowingVertex(module, [point(0, 5), point(2, 5), point(1, 5)], TRIANGLE, 2, volume_weight=1.0)
        floor = growing.star_volume.height_floor
        module.weight.data[0, 1] += part * floor
        growing.add_volume_gradient()
        norms.append(float(module.weight.grad.norm()))
        assert norms[-1] == pytest.approx(part / (part**2 + 1) / floor, rel=1e-5)
    assert max(norms) <= 0.5 / floor * (1 + 1e-6)


def test_jitter_moves_the_start_in_proportion_to_each_tensor() -> None:
    module, vertices = network(9), [weights(seed) for seed in range(3)]
    growing = GrowingVertex(module, vertices, TRIANGLE, 2)
    growing.start_at_mean(jitter=0.1, generator=torch.Generator().manual_seed(0))
    mean = (weights(0)["0.weight"] + weights(1)["0.weight"]) / 2
    moved = (module[0].weight - mean).square().mean().sqrt() / mean.square().mean().sqrt()
    assert 0.06 < moved < 0.14
    assert torch.equal(vertices[2]["0.weight"], module[0].weight)


def test_the_jitter_is_its_generators() -> None:
    moved = []
    for seed in (0, 0, 1):
        module = network(9)
        growing = GrowingVertex(module, [weights(seed) for seed in range(3)], TRIANGLE, 2)
        growing.start_at_mean(jitter=0.1, generator=torch.Generator().manual_seed(seed))
        moved.append(module[0].weight.detach().clone())
    assert torch.equal(moved[0], moved[1]) and not torch.equal(moved[0], moved[2])


@pytest.mark.parametrize(("sampling", "share"), [("equal", 0.5), ("volume", 0.8)])
def test_points_are_uniform_on_the_star_of_a_shared_vertex(sampling: str, share: float) -> None:
    # Two triangles with the edge from (0, 0) to the growing vertex (4, 1) in common; their areas are 4 and 1.
    vertices = [point(0, 0), point(0, 2), point(-1, 0.25), point(4, 1)]
    structure = SimplicialComplex(4, [[0, 1, 3], [0, 2, 3]])
    growing = GrowingVertex(plane(4, 1), vertices, structure, 3, sampling=sampling)
    drawn = torch.tensor(growing.draw(4000, torch.Generator().manual_seed(0)))
    first = drawn[:, 1] > 0
    assert float(first.double().mean()) == pytest.approx(share, abs=0.03)
    assert drawn[first].mean(0).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.03)
    # A flat Dirichlet coordinate of three has the second moment 2 / (3 * 4); the mean alone would not tell it apart.
    assert float(drawn[first, 3].square().mean()) == pytest.approx(1 / 6, abs=0.02)


def test_volumes_follow_the_vertex_as_it_moves() -> None:
    vertices = [point(0, 0), point(0, 2), point(1, 0), point(1, 1)]
    module = plane(1, 1)
    structure = SimplicialComplex(4, [[0, 1, 3], [0, 2, 3]])
    growing = GrowingVertex(module, vertices, structure, 3, volume_weight=1.0, sampling="volume")
    shares = []
    for place in ([1.0, 1.0], [9.0, 1.0]):
        # Areas 1 and 1/2, later 9 and 1/2.
        module.weight.data.copy_(torch.tensor([place]))
        growing.add_volume_gradient()
        drawn = torch.tensor(growing.draw(4000, torch.Generator().manual_seed(0)))
        shares.append(float((drawn[:, 1] > 0).double().mean()))
    assert shares == pytest.approx([2 / 3, 18 / 19], abs=0.03)


def test_points_come_from_the_simplexes_that_hold_the_vertex() -> None:
    structure = SimplicialComplex(5, [[0, 1], [1, 2, 4], [2, 3, 4]])
    growing = GrowingVertex(network(4), [weights(seed) for seed in range(5)], structure, 4, sampling="volume")
    coordinates = torch.tensor(growing.draw(200, torch.Generator().manual_seed(0)))
    assert coordinates.shape == (200, 5)
    assert (coordinates[:, 0] == 0).all() and (coordinates[:, 4] > 0).all()
    assert ((coordinates[:, 1] > 0) ^ (coordinates[:, 3] > 0)).all()
    # The two simplexes have similar volumes: both are drawn often.
    assert 40 < (coordinates[:, 1] > 0).sum() < 160


def full_log_volume(vertices: list[dict[str, torch.Tensor]], structure: SimplicialComplex) -> float:
    """By QR decompositions of all edges, which share nothing with heights over faces."""
    flat = torch.stack([torch.cat([tensor.double().flatten() for tensor in vertex.values()]) for vertex in vertices])
    return float(simplex_log_volumes(structure, flat).logsumexp(0))


@pytest.mark.parametrize("structure", [TRIANGLE, SHARED], ids=str)
def test_the_volume_and_its_gradient_are_those_of_a_qr_decomposition(structure: SimplicialComplex) -> None:
    grown = structure.num_vertices - 1
    module, vertices = network(grown), [weights(seed) for seed in range(grown + 1)]
    growing = GrowingVertex(module, vertices, structure, grown, volume_weight=1.0)
    term = growing.add_volume_gradient()
    assert term.log_volume == pytest.approx(full_log_volume(vertices, structure), rel=1e-6)
    assert growing.volume_term() == term and term.regularizer == -term.log_volume
    torch.manual_seed(7)
    direction = {name: torch.randn(tensor.shape, dtype=torch.float64) for name, tensor in vertices[grown].items()}
    step = 1e-4
    ends = [
        full_log_volume(
            [
                *vertices[:-1],
                {name: t.double() + sign * step * direction[name] for name, t in vertices[grown].items()},
            ],
            structure,
        )
        for sign in (-1, 1)
    ]
    slope = -sum(float((p.grad.double() * direction[name]).sum()) for name, p in module.named_parameters())
    assert slope == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-5)


def convolution(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(8, 40, 3), nn.BatchNorm2d(40), nn.Conv2d(40, 30, 3), nn.Flatten(), nn.Linear(9, 4)
    )
    return module.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("distance", [1e-3, 1e-1, 1.0])
def test_the_volume_of_large_vertices_in_float32_chunks_is_that_in_float64(
    monkeypatch: pytest.MonkeyPatch, distance: float
) -> None:
    """Near the face, where float32 products of the weights themselves would be all rounding, and far from it."""
    monkeypatch.setattr(weight_space, "CHUNK_ON_CPU", 512)
    structure = SimplicialComplex(4, [[0, 1, 2, 3]])
    vertices = [{name: p.detach().clone() for name, p in convolution(seed).named_parameters()} for seed in range(4)]
    for name, grown in vertices[3].items():
        mean = torch.stack([vertex[name].double() for vertex in vertices[:3]]).mean(0)
        grown.copy_(mean + distance * torch.randn(grown.shape) * grown.abs().mean())
    module = convolution(0)
    module.load_state_dict(module.state_dict() | vertices[3])
    growing = GrowingVertex(module, vertices, structure, 3, volume_weight=1.0)
    growing.star_volume.height_floor = 0.0
    assert growing.add_volume_gradient().log_volume == pytest.approx(full_log_volume(vertices, structure), rel=1e-6)

    flat = torch.stack([torch.cat([t.double().flatten() for t in vertex.values()]) for vertex in vertices])
    edges, offset = flat[1:3] - flat[0], flat[3] - flat[0]
    perpendicular = offset - torch.linalg.lstsq(edges.T, offset[:, None]).solution[:, 0] @ edges
    expected = -perpendicular / perpendicular.square().sum()
    found = torch.cat([p.grad.double().flatten() for p in module.parameters()])
    # What is left near the face comes from the float32 differences that the foot of the perpendicular is found by.
    assert float((found - expected).norm() / expected.norm()) < max(1e-6, 1e-8 / distance)


def test_a_scaled_gradient_is_added_to_what_is_there_and_nothing_without_a_weight() -> None:
    # Height 3 over the base: -log V pulls with 1/3 along the perpendicular (0, 1).
    vertices = [point(0, 0), point(2, 0), point(1, 3)]
    module = plane(1, 3)
    module.weight.grad = torch.tensor([[5.0, 5.0]])
    GrowingVertex(module, vertices, TRIANGLE, 2).add_volume_gradient()
    assert module.weight.grad.tolist() == [[5.0, 5.0]]
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=1.0)
    term = growing.add_volume_gradient(scale=6.0)
    assert module.weight.grad[0].tolist() == pytest.approx([5.0, 3.0], rel=1e-6)
    assert term.regularizer == pytest.approx(-math.log(3), rel=1e-6)


def test_equal_frozen_vertices_leave_volume_and_gradient_finite() -> None:
    module, vertices = network(2), [weights(0), weights(0), weights(2)]
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=1.0)
    term = growing.add_volume_gradient()
    assert math.isfinite(term.log_volume)
    # The height is the distance of the one place where the others are: the gradient of its log is 1 / distance long.
    distance = torch.cat([(vertices[2][name] - vertices[0][name]).flatten() for name in weights(0)]).norm()
    pull = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert float(pull) == pytest.approx(1 / float(distance), rel=1e-5)


def test_the_volume_term_works_in_float32_on_weights_of_low_precision() -> None:
    narrow = [{name: tensor.bfloat16() for name, tensor in weights(seed).items()} for seed in range(3)]
    for name, tensor in narrow[2].items():
        # Near the mean of the others, where a perpendicular in bfloat16 would be made of rounding errors.
        tensor.copy_((narrow[0][name] + narrow[1][name]) / 2 + 0.02 * torch.randn(tensor.shape))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        vertices = [{name: tensor.to(dtype) for name, tensor in vertex.items()} for vertex in narrow]
        module = network(0).to(dtype)
        module.load_state_dict(vertices[2])
        GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=1.0).add_volume_gradient()
        found.append(torch.cat([p.grad.flatten().float() for p in module.parameters()]))
    assert (found[0] - found[1]).norm() < 0.01 * found[1].norm()


def test_no_graph_is_built_through_vertices_that_were_loaded_as_trainable() -> None:
    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"a tensor of shape {tuple(tensor.shape)} was kept for a backward pass")

    module = network(2)
    vertices = [{name: nn.Parameter(t) for name, t in weights(seed).items()} for seed in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda tensor: tensor):
        growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=1.0, sampling="volume")
        growing.start_at_mean(jitter=0.1, generator=torch.Generator().manual_seed(0))
        (coordinates,) = growing.draw(1, torch.Generator().manual_seed(0))
        with growing.at(coordinates):
            pass
        growing.add_volume_gradient()
    assert all(p.grad is not None for p in module.parameters())
    assert all(tensor.grad is None for vertex in vertices for tensor in vertex.values())


def test_a_lone_vertex_cannot_grow() -> None:
    with pytest.raises(ValueError, match="only vertex of a simplex"):
        GrowingVertex(plane(1, 3), [point(1, 3)], SimplicialComplex(1, [[0]]), 0)


def test_the_papers_weight_is_lambda_over_the_log_volume_of_a_random_complex() -> None:
    # A regular triangle of edge 100 has area sqrt(3)/4 * 10^4.
    expected = 1e-3 / math.log(math.sqrt(3) / 4 * 1e4)
    assert scaled_volume_weight(1e-3, TRIANGLE, 2, random_edge=100.0) == pytest.approx(expected)
    # A vertex that two triangles share makes twice the volume; the simplex without it does not count.
    structure = SimplicialComplex(5, [[0, 1], [1, 2, 4], [2, 3, 4]])
    expected = 1e-3 / math.log(2 * math.sqrt(3) / 4 * 1e4)
    assert scaled_volume_weight(1e-3, structure, 4, random_edge=100.0) == pytest.approx(expected)
    with pytest.raises(ValueError, match="plain weight"):
        scaled_volume_weight(1e-3, TRIANGLE, 2, random_edge=0.5)


# ---- other measures, and a target ------------------------------------------------------------------------------


def slope(growing: GrowingVertex, direction: dict[str, torch.Tensor], step: float) -> float:
    """The regularizer's derivative along a direction by central differences, in float64."""
    values = []
    for sign in (-1, 1):
        with torch.no_grad():
            for name, parameter in growing.module.named_parameters():
                parameter.add_(direction[name], alpha=sign * step)
        values.append(growing.volume_term().regularizer)
        with torch.no_grad():
            for name, parameter in growing.module.named_parameters():
                parameter.sub_(direction[name], alpha=sign * step)
    return (values[1] - values[0]) / (2 * step)


@pytest.mark.parametrize("structure", [TRIANGLE, SHARED], ids=str)
@pytest.mark.parametrize("measure", ["weights", "normalized"])
@pytest.mark.parametrize("target", [None, 0.1, 10.0])
def test_the_gradient_is_the_slope_of_the_regularizer(
    structure: SimplicialComplex, measure: str, target: float | None
) -> None:
    grown = structure.num_vertices - 1
    wide = [{name: t.double() for name, t in weights(seed).items()} for seed in range(grown + 1)]
    growing = GrowingVertex(
        network(grown).double(),
        wide,
        structure,
        grown,
        volume_weight=0.7,
        volume_measure=measure,
        volume_target=target,
    )
    growing.add_volume_gradient()
    torch.manual_seed(7)
    direction = {name: torch.randn_like(t) for name, t in wide[grown].items()}
    found = sum(float((p.grad * direction[name]).sum()) for name, p in growing.module.named_parameters())
    assert found == pytest.approx(slope(growing, direction, 1e-4), rel=1e-5)


def test_normalized_volume_is_that_of_scaled_weights_in_the_scale_of_the_weights() -> None:
    vertices = [weights(seed) for seed in range(3)]
    growing = GrowingVertex(network(2), vertices, TRIANGLE, 2, volume_measure="normalized")
    norms = {name: tensor.double().norm() for name, tensor in vertices[0].items()}
    total = torch.stack(list(norms.values())).square().sum().sqrt()
    common = total / math.sqrt(len(norms))
    scaled = [{name: common * t.double() / norms[name] for name, t in vertex.items()} for vertex in vertices]
    assert growing.volume_term().log_volume == pytest.approx(full_log_volume(scaled, TRIANGLE), rel=1e-6)
    assert sum(t.square().sum() for t in scaled[0].values()) == pytest.approx(float(total**2))


def test_the_scale_of_a_layer_does_not_change_the_normalized_volume() -> None:
    volumes: dict[str, list[float]] = {"weights": [], "normalized": []}
    for measure, found in volumes.items():
        for factor in (1.0, 10.0):
            vertices = [weights(seed) for seed in range(3)]
            for vertex in vertices:
                vertex["0.weight"] *= factor
            module = network(2)
            module.load_state_dict(vertices[2])
            growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_measure=measure)
            # In units of the weights' norm, which both measures share.
            norm = sum(float(t.square().sum()) for t in vertices[0].values()) ** 0.5
            found.append(growing.volume_term().log_volume - 2 * math.log(norm))
    assert volumes["normalized"][1] == pytest.approx(volumes["normalized"][0], abs=1e-5)
    assert abs(volumes["weights"][1] - volumes["weights"][0]) > 0.01


def test_tensors_that_are_zero_do_not_count_for_more_than_others() -> None:
    vertices = [weights(seed) for seed in range(3)]
    vertices[0]["0.bias"].zero_()
    growing = GrowingVertex(network(2), vertices, TRIANGLE, 2, volume_weight=1.0, volume_measure="normalized")
    assert math.isfinite(growing.add_volume_gradient().log_volume)
    zero = [{name: torch.zeros_like(t) for name, t in vertices[0].items()}, *vertices[1:]]
    with pytest.raises(ValueError, match="All weights of the first vertex are 0"):
        GrowingVertex(network(2), zero, TRIANGLE, 2, volume_measure="normalized")


def test_the_target_is_the_volume_of_a_regular_simplex_of_its_radius() -> None:
    # The mode is (0, 5), so a radius of 0.4 is 2: a regular triangle of edge 2 sqrt(3) and area 3 sqrt(3).
    vertices = [point(0, 5), point(2, 5), point(1, 8)]
    module = plane(1, 8)
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=0.5, volume_target=0.4)
    expected = math.log(3 * math.sqrt(3))
    assert growing.log_volume_target == pytest.approx(expected)
    term = growing.add_volume_gradient()
    assert term.regularizer == pytest.approx(0.25 * (math.log(3) - expected) ** 2, rel=1e-5)
    # It pulls the vertex away from its face while the volume is too small, and back when it is too large.
    assert module.weight.grad[0].tolist() == pytest.approx([0, -0.5 * (expected - math.log(3)) / 3], rel=1e-5)
    module.weight.grad = None
    module.weight.data.copy_(torch.tensor([[1.0, 50.0]]))
    growing.add_volume_gradient()
    assert float(module.weight.grad[0, 1]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"volume_measure": "surface"}, "volume_measure is 'surface'"), ({"volume_target": 0.0}, "volume_target is 0.0")],
)
def test_measures_and_targets_that_do_not_exist_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrowingVertex(plane(1, 3), [point(0, 0), point(2, 0), point(1, 3)], TRIANGLE, 2, **settings)
