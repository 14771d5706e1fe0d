"""Vertices, points between them, and the working backbone."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import KINDS, backbone, batches, ensemble, images, same_tensors
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.volumes import simplex_log_volume


@pytest.mark.parametrize("kind", KINDS)
def test_vertices_are_exact_and_equal_vertices_are_the_backbone(kind: str) -> None:
    model = ensemble(kind)
    for index in range(3):
        one_hot = [float(index == other) for other in range(3)]
        assert torch.equal(model.backbone_at(one_hot)(images()).logits, backbone(kind, index)(images()).logits)
        model.set_members([one_hot], batches())
        assert torch.equal(model(images()).logits, backbone(kind, index)(images()).logits.log_softmax(-1))
    equal = SimplexForImageClassification.from_backbone(backbone(kind))
    equal.add_vertex()
    equal.add_vertex()
    equal.draw_members(4, batches=batches())
    # The statistics that a point between vertices gets, equal though they are.
    module = backbone(kind)
    recompute_statistics(module, batches())
    expected = module(images()).logits.log_softmax(-1).exp()
    for probabilities in equal(images(), output_member_probabilities=True).member_probabilities.unbind(1):
        assert torch.equal(probabilities, expected)
    for name, parameter in equal.backbone_at([0.3, 0.5, 0.2], batches()).named_parameters():
        assert torch.equal(parameter, equal.weights[0][name])


def test_points_outside_the_complex_or_without_statistics_are_refused() -> None:
    model = ensemble("resnet")
    for point, message in (([0.5, 0.6, 0.0], "sum to 1"), ([-0.5, 1.5, 0.0], "negative"), ([1.0], "3 coordinates")):
        with pytest.raises(ValueError, match=message):
            model.backbone_at(point)
    with pytest.raises(ValueError, match="batches of training images"):
        model.draw_members(2)
    with pytest.raises(ValueError, match="batches of training images"):
        model.set_members([[0.5, 0.5, 0.0]])


def test_the_log_volume_is_that_of_the_vertices() -> None:
    model = ensemble("vit")
    names = [name for name, _ in backbone("vit").named_parameters()]
    flat = torch.stack([torch.cat([weights[name].flatten() for name in names]) for weights in model.weights])
    assert float(model.log_volumes()) == pytest.approx(float(simplex_log_volume(flat)), rel=1e-12)


def test_a_new_vertex_is_the_mean_of_the_simplex_that_it_joins() -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    assert model.add_vertex([1]) == 6
    assert model.config.simplexes == [[0, 1, 2], [3, 4, 5, 6]]
    for name, tensor in model.vertices[6].named_parameters():
        mean = torch.stack([model.weights[index][name] for index in (3, 4, 5)]).mean(0)
        assert torch.allclose(tensor, mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_replace_with_takes_weights_members_and_configuration(kind: str) -> None:
    model, other = SimplexForImageClassification.from_backbone(backbone(kind, 9)), ensemble(kind)
    other.config.provenance["stages"] = [{"vertex": 2}]
    expected = other(images()).logits
    model.replace_with(other)
    assert torch.equal(model(images()).logits, expected)
    assert model.config.to_dict() == {**other.config.to_dict(), "architectures": model.config.architectures}
    with pytest.raises(ValueError, match="architecture"):
        model.replace_with(ensemble("timm"))


def test_an_unknown_role_is_refused() -> None:
    model = ensemble("vit")
    before = model.config.num_vertices
    with pytest.raises(ValueError, match="role is 'modes': choose from pretrained, mode, connector"):
        model.add_vertex(role="modes")
    assert model.config.num_vertices == before == len(model.vertices)


def test_a_pretrained_vertex_can_be_added() -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    model.add_vertex([0], role="pretrained")
    model.add_vertex([0], role="pretrained")
    assert model.config.roles == ["pretrained"] * 3
    assert all(same_tensors(vertex, model.vertices[0]) for vertex in model.vertices)


def test_a_cast_copy_leaves_the_original_alone() -> None:
    model = ensemble("resnet")
    expected = model(images()).logits
    other = copy.deepcopy(model).to(torch.bfloat16)
    assert other.backbone.dtype == torch.bfloat16
    assert torch.allclose(other(images().bfloat16()).logits, expected, atol=0.1)
    assert torch.equal(model(images()).logits, expected)
    with torch.no_grad():
        next(other.vertices[0].parameters()).zero_()
        next(other.members[0].buffers()).zero_()
    other.config.members[0][0] = 9.0
    assert torch.equal(model(images()).logits, expected)
    model.to(memory_format=torch.channels_last)
    assert torch.allclose(model(images()).logits, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_before_the_first_prediction_reaches_the_working_backbone(kind: str, tmp_path: Path) -> None:
    expected = ensemble(kind)(images()).logits
    ensemble(kind).save_pretrained(tmp_path)
    for model in (
        SimplexForImageClassification.from_pretrained(tmp_path).half(),
        ensemble(kind).half(),
        SimplexForImageClassification.from_pretrained(tmp_path).to(torch.float16),
    ):
        tensors = [*model.parameters(), *model.backbone.parameters()]
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        logits = model(images().half()).logits
        assert torch.allclose(logits, expected, atol=0.02)


def test_an_ensemble_is_initialized_from_a_configuration_alone() -> None:
    model = SimplexForImageClassification(ensemble("resnet").config).eval()
    assert model(images()).logits.isfinite().all()


def test_a_simplex_has_no_more_dimensions_than_the_backbone_has_weights() -> None:
    smallest = ResNetConfig(embedding_size=1, hidden_sizes=[1], depths=[1], layer_type="basic", num_labels=2)
    model = SimplexForImageClassification.from_backbone(ResNetForImageClassification(smallest))
    weights = sum(parameter.numel() for parameter in model.vertices[0].parameters())
    for _ in range(weights):
        model.add_vertex()
    with pytest.raises(ValueError, match=f"{weights + 1} dimensions has no volume among {weights} weights"):
        model.add_vertex()
    assert model.config.num_vertices == weights + 1
