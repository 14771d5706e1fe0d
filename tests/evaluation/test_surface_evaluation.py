"""Values at points of weight space are those of direct evaluation, and the module is restored."""

import math

import pytest
import tiny
import torch
from networks import BATCHES, INPUTS, NAMES, TARGETS, TRIANGLE, flat, measure, network, weights
from torch import Tensor, nn

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.surface_evaluation import evaluate_points, model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.model.batch_norm import recompute_statistics


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
    names = model.vertex_parameter_names
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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    vertices = weights(3)
    vertices[1]["0.bias"][2] = value
    with pytest.raises(ValueError, match="Vertex 1 has weights that are not finite"):
        evaluate_points(network(), vertices, torch.tensor([[0.5, 0.5, 0.0]]), BATCHES, measure)


def test_bad_arguments_are_named() -> None:
    vertices, centre = weights(3), torch.full((1, 3), 1 / 3)
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
