"""Points are mixed exactly where they can be, and the vertex comes back bit for bit."""

import pytest
import torch
from tiny import KINDS, backbone, images
from torch import nn

from hf_simplex.model import weight_space
from hf_simplex.model.weight_space import (
    chunks,
    copy_weights,
    stacked_parameters,
    swap_in_point,
    trainable_names,
    write_point,
)


def weights(kind: str, seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone(kind, seed).named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_of_a_vertex_give_exactly_its_output(kind: str) -> None:
    vertices = [weights(kind, seed) for seed in range(3)]
    for index in range(3):
        module = backbone(kind, seed=9)
        write_point(module, vertices, [float(index == other) for other in range(3)])
        assert torch.equal(module(images()).logits, backbone(kind, index)(images()).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vertices_give_exactly_the_backbone(kind: str) -> None:
    module = backbone(kind, seed=9)
    write_point(module, [weights(kind, 0)] * 4, [0.1, 0.2, 0.3, 0.4])
    assert torch.equal(module(images()).logits, backbone(kind, 0)(images()).logits)


def test_a_point_is_the_sum_of_coordinates_times_vertices() -> None:
    vertices = [weights("vit", seed) for seed in range(5)]
    coordinates = [0.15, 0.3, 0.05, 0.4, 0.1]
    module = backbone("vit", 9)
    write_point(module, vertices, coordinates)
    for name, parameter in module.named_parameters():
        terms = torch.stack([c * v[name].double() for c, v in zip(coordinates, vertices, strict=True)])
        scale = terms.abs().sum(0).clamp(min=1e-30)
        assert ((parameter.double() - terms.sum(0)).abs() / scale).max() < 1e-6


def test_low_precision_vertices_are_mixed_in_float32() -> None:
    vertices = [{name: t.bfloat16() for name, t in weights("vit", seed).items()} for seed in range(3)]
    module = backbone("vit", 9).bfloat16()
    write_point(module, vertices, [0.2, 0.3, 0.5])
    wide = backbone("vit", 9)
    write_point(wide, [{name: t.float() for name, t in v.items()} for v in vertices], [0.2, 0.3, 0.5])
    for narrow, precise in zip(module.parameters(), wide.parameters(), strict=True):
        assert torch.equal(narrow, precise.bfloat16())


def test_the_vertex_comes_back_bit_for_bit_even_after_an_error() -> None:
    module, vertices = backbone("resnet", 1), [weights("resnet", 0), weights("resnet", 9)]
    before = weights("resnet", 1)
    with pytest.raises(KeyError), swap_in_point(module, vertices, [0.25, 0.75], vertex=1):
        assert not torch.equal(next(module.parameters()), next(iter(before.values())))
        raise KeyError("in the middle of a step")
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert all(torch.equal(vertices[1][name], before[name]) for name in before)


def test_a_point_that_cannot_be_written_leaves_the_vertex_whole() -> None:
    module, before = backbone("resnet", 1), weights("resnet", 1)
    last = list(before)[-1]
    incomplete = {name: tensor for name, tensor in weights("resnet", 0).items() if name != last}
    vertices = [weights("resnet", 2), incomplete, weights("resnet", 9)]
    with pytest.raises(KeyError, match=last), swap_in_point(module, vertices, [0.5, 0.25, 0.25], vertex=2):
        raise AssertionError("there is no such point")
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_vertices_of_coordinate_zero_are_not_read() -> None:
    module = backbone("vit", 9)
    write_point(module, [{}, weights("vit", 1), {}], [0.0, 1.0, 0.0])
    assert torch.equal(module(images()).logits, backbone("vit", 1)(images()).logits)


def test_frozen_vertices_are_only_read() -> None:
    vertices = [weights("resnet", seed) for seed in range(3)]
    before = [{name: tensor.clone() for name, tensor in vertex.items()} for vertex in vertices]
    module = backbone("resnet", 2)
    with swap_in_point(module, vertices, [0.25, 0.25, 0.5], vertex=2):
        module(images()).logits.sum().backward()
    for vertex, unchanged in zip(vertices, before, strict=True):
        assert all(torch.equal(vertex[name], unchanged[name]) for name in unchanged)
        assert all(tensor.grad is None for tensor in vertex.values())


def test_the_gradient_at_a_point_is_that_of_a_module_built_there() -> None:
    vertices, coordinates = [weights("vit", 0), weights("vit", 1)], [0.25, 0.75]
    module, built = backbone("vit", 1), backbone("vit", 9)
    write_point(built, vertices, coordinates)
    with swap_in_point(module, vertices, coordinates, vertex=1):
        module(images()).logits.square().sum().backward()
    built(images()).logits.square().sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(module.parameters(), built.parameters(), strict=True))


def test_blocks_stack_the_vertices_one_parameter_at_a_time() -> None:
    vertices = [weights("resnet", seed) for seed in range(2)]
    names = trainable_names(backbone("resnet"))
    for name, block in zip(names, stacked_parameters(vertices, names), strict=True):
        assert block.shape == (2, vertices[0][name].numel())
        assert torch.equal(block[1], vertices[1][name].flatten())


def test_copying_weights_keeps_every_bit() -> None:
    module, into = backbone("vit", 3), weights("vit", 0)
    copy_weights(module, into)
    assert all(torch.equal(into[name], p) for name, p in module.named_parameters())


@pytest.mark.parametrize(("coordinates", "message"), [([1.0], "as many coordinates"), ([0.0, 0.0], "All coordinates")])
def test_coordinates_that_make_no_point_are_refused(coordinates: list[float], message: str) -> None:
    module = backbone("vit")
    with pytest.raises(ValueError, match=message):
        write_point(module, [weights("vit", 0), weights("vit", 1)], coordinates)


def convolution(seed: int, channels_last: bool) -> nn.Module:
    """Tensors below, at and above the size of a small chunk, in either memory format."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.Conv2d(20, 7, 1), nn.Linear(20, 30))
    return module.to(memory_format=torch.channels_last) if channels_last else module


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(weight_space, "CHUNK_ON_CPU", 64)
    return 64


@pytest.mark.parametrize("orders", [(False, False), (True, True), (True, False)], ids=str)
def test_a_point_mixed_chunk_by_chunk_is_the_plain_sum(small_chunks: int, orders: tuple[bool, bool]) -> None:
    module = convolution(9, orders[0])
    networks = [convolution(seed, orders[1]) for seed in range(4)]
    vertices = [{name: p.detach().clone() for name, p in network.named_parameters()} for network in networks]
    coordinates = [0.15, 0.3, 0.05, 0.5]
    with swap_in_point(module, vertices, coordinates, vertex=3):
        # The vertex is what the module held on entry, not what was stored for it.
        held = convolution(9, False).state_dict()
        for name, parameter in module.named_parameters():
            terms = [c * v[name].double() for c, v in zip(coordinates, [*vertices[:3], held], strict=True)]
            scale = torch.stack(terms).abs().sum(0).clamp(min=1e-30)
            assert ((parameter.double() - torch.stack(terms).sum(0)).abs() / scale).max() < 1e-6
    assert all(torch.equal(p, held[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize("other", range(4))
def test_the_vertex_comes_back_if_one_vertex_has_another_memory_format(small_chunks: int, other: int) -> None:
    module = convolution(9, True)
    networks = [convolution(seed, seed != other) for seed in range(4)]
    vertices = [{name: p.detach().clone() for name, p in network.named_parameters()} for network in networks]
    with swap_in_point(module, vertices, [0.15, 0.3, 0.05, 0.5], vertex=3):
        pass
    held = convolution(9, True).state_dict()
    assert all(torch.equal(p, held[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize("orders", [(False, False), (True, True), (True, False)], ids=str)
def test_chunks_hold_every_element_once_and_the_same_in_all_sets(small_chunks: int, orders: tuple[bool, bool]) -> None:
    one, other = ([p.detach() for p in convolution(seed, order).parameters()] for seed, order in enumerate(orders))
    for left, right in zip(one, other, strict=True):
        right.copy_(torch.arange(right.numel()).view_as(right))
        left.copy_(right)
    found = list(chunks(one, other))
    assert all(torch.equal(a, b) for left, right in found for a, b in zip(left, right, strict=True))
    assert sum(tensor.numel() for left, _ in found for tensor in left) == sum(tensor.numel() for tensor in one)
    if orders[0] == orders[1]:
        assert all(sum(tensor.numel() for tensor in left) < 2 * small_chunks for left, _ in found)
    for left, _ in found:
        for tensor in left:
            tensor.zero_()
    assert not any(tensor.any() for tensor in one) and all(tensor.any() for tensor in other if tensor.numel() > 1)
