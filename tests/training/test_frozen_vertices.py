"""Frozen vertices on the CPU or in bfloat16 give the right points, and nothing stored changes."""

import pytest
import torch
from test_spro import TRIANGLE, network, weights
from test_weight_space import convolution
from torch import nn

from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.training import placement
from hf_simplex.training.frozen_vertices import FetchedMix
from hf_simplex.training.spro import GrowingVertex

POINTS = [[0.2, 0.3, 0.5], [0.5, 0.25, 0.25], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0], [0.6, 0.4, 0.0]]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for an accelerator, which fetches vertices from the CPU."""
    monkeypatch.setattr(placement, "are_fetched", lambda device: True)


def steps(vertices: list[dict[str, torch.Tensor]], frozen_vertices: str, announced: bool) -> list[torch.Tensor]:
    """One step at several points: the points, the gradients, the log volume and the vertex afterwards."""
    module = network(2)
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, volume_weight=0.3, frozen_vertices=frozen_vertices)
    inputs, found = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), []
    for point, following in zip(POINTS, [*POINTS[1:], POINTS[0]], strict=True):
        with growing.at(point) as coordinate:
            if announced:
                growing.prefetch(following)
            found += [p.detach().clone() for p in module.parameters()]
            (coordinate * module(inputs).square().mean()).backward()
    term = growing.add_volume_gradient()
    parameters = list(module.parameters())
    return [*found, *(p.grad for p in parameters), torch.tensor(term.log_volume), *(p.detach() for p in parameters)]


@pytest.mark.parametrize("announced", [False, True])
def test_fetched_vertices_give_the_same_steps(fetched: None, announced: bool) -> None:
    vertices = [weights(seed) for seed in range(3)]
    found, expected = (steps(vertices, where, announced) for where in ("cpu", "device"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    for seed in (0, 1):
        assert all(torch.equal(vertices[seed][name], tensor) for name, tensor in weights(seed).items())


def test_a_prefetched_point_does_not_decide_which_point_is_written(fetched: None) -> None:
    module = network(2)
    growing = GrowingVertex(module, [weights(seed) for seed in range(3)], TRIANGLE, 2, frozen_vertices="cpu")
    growing.prefetch([0.1, 0.1, 0.8])
    with growing.at([0.2, 0.3, 0.5]):
        for name, parameter in module.named_parameters():
            expected = 0.2 * weights(0)[name] + 0.3 * weights(1)[name] + 0.5 * weights(2)[name]
            assert torch.allclose(parameter, expected, atol=1e-6)
    with pytest.raises(ValueError, match="as many coordinates"):
        growing.prefetch([0.5, 0.5])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_mix_has_the_shapes_and_memory_formats_of_the_module(channels_last: bool, dtype: torch.dtype) -> None:
    module = convolution(9, channels_last).to(dtype)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    networks = [convolution(seed, not channels_last).to(dtype) for seed in range(3)]
    vertices = [{name: p.detach() for name, p in network.named_parameters()} for network in networks]
    fetched = FetchedMix(vertices, 1, parameters)
    found, share = fetched.take([0.1, 0.7, 0.2])
    assert share == pytest.approx(0.3)
    for name, tensor in found.items():
        assert tensor.stride() == parameters[name].stride()
        assert tensor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected = (vertices[0][name].double() + 2 * vertices[2][name].double()) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    assert not fetched.vertices[1]


def test_training_sees_the_rounded_vertices() -> None:
    vertices = [weights(seed) for seed in range(3)]
    rounded = [{name: tensor.bfloat16().float() for name, tensor in vertex.items()} for vertex in vertices[:2]]
    found = steps(vertices, "bfloat16", False)
    expected = steps([*rounded, weights(2)], "device", False)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    for seed in (0, 1):
        assert all(torch.equal(vertices[seed][name], tensor) for name, tensor in weights(seed).items())


def test_a_point_of_rounded_vertices_is_off_by_no_more_than_their_rounding() -> None:
    module, vertices = network(2), [weights(seed) for seed in range(3)]
    growing = GrowingVertex(module, vertices, TRIANGLE, 2, frozen_vertices="bfloat16")
    with growing.at([0.2, 0.3, 0.5]):
        for name, parameter in module.named_parameters():
            exact = sum(c * v[name].double() for c, v in zip([0.2, 0.3, 0.5], vertices, strict=True))
            bound = 2**-8 * (0.2 * vertices[0][name].abs() + 0.3 * vertices[1][name].abs())
            assert ((parameter.double() - exact).abs() <= bound + 1e-7).all()
            assert not torch.equal(parameter.double(), exact)


def test_rounding_changes_the_volume_little_where_the_height_is_longer_than_it() -> None:
    vertices = [weights(seed) for seed in range(3)]
    volumes = [
        GrowingVertex(network(2), vertices, TRIANGLE, 2, frozen_vertices=where).volume_term().log_volume
        for where in ("device", "bfloat16")
    ]
    # Edges are about as long as the weights here, which are rounded by at most 2**-8 of themselves.
    assert abs(volumes[1] - volumes[0]) < 2**-6


def test_a_vertex_starts_at_the_mean_of_the_vertices_before_rounding() -> None:
    module = network(9)
    growing = GrowingVertex(module, [weights(seed) for seed in range(3)], TRIANGLE, 2, frozen_vertices="bfloat16")
    growing.start_at_mean()
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter, (weights(0)[name] + weights(1)[name]) / 2, atol=1e-7)


def test_unknown_placements_are_refused() -> None:
    with pytest.raises(ValueError, match="frozen_vertices is 'disk'"):
        GrowingVertex(
            nn.Linear(1, 1, bias=False),
            [{"weight": torch.zeros(1, 1)}] * 2,
            SimplicialComplex(2, [[0, 1]]),
            1,
            frozen_vertices="disk",
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_an_accelerator_fetched_steps_have_the_same_bits_and_frozen_vertices_take_no_memory() -> None:
    def grow(frozen_vertices: str) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        module = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4))).cuda()
        where = "cuda" if frozen_vertices == "device" else "cpu"
        vertices = [
            {name: (p.detach() + 0.1 * torch.randn(p.shape).cuda()).to(where) for name, p in module.named_parameters()}
            for _ in range(5)
        ]
        before = torch.cuda.memory_allocated()
        if where == "cuda":
            before -= sum(t.numel() * t.element_size() for vertex in vertices for t in vertex.values())
        structure = SimplicialComplex(5, [[0, 1, 2, 3, 4]])
        growing = GrowingVertex(module, vertices, structure, 4, volume_weight=0.1, frozen_vertices=frozen_vertices)
        taken = torch.cuda.memory_allocated() - before
        inputs, generator = torch.randn(64, 1024, device="cuda"), torch.Generator().manual_seed(0)
        points, optimizer = growing.draw(6, generator), torch.optim.SGD(module.parameters(), lr=0.1)
        for number, point in enumerate(points):
            with growing.at(point) as coordinate:
                growing.prefetch(points[(number + 1) % len(points)])
                (coordinate * module(inputs).square().mean()).backward()
            growing.add_volume_gradient()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach().cpu() for p in module.parameters()], taken

    expected, whole = grow("device")
    size = whole / 5
    for where, vertices in (("cpu", 2), ("bfloat16", 1 + 4 / 2)):
        found, taken = grow(where)
        assert taken < 1.02 * vertices * size
        if where == "cpu":
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
