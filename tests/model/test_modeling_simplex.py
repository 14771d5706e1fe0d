"""An ensemble predicts with the mean of its members, and unites with others."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import KINDS, LABELS, backbone, batches, ensemble, images, same_tensors

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_statistics, recompute_statistics
from hf_simplex.model.members import place_members, symmetric_members


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_is_the_mean_of_the_members_softmax(kind: str) -> None:
    model = ensemble(kind)
    output = model(pixel_values=images(), labels=torch.arange(6) % LABELS, output_member_probabilities=True)
    expected = []
    for index, member in enumerate(model.config.members):
        module = backbone(kind, 9)
        tensors = [vertex.tensors() for vertex in model.vertices]
        state = {
            name: sum(c * t[name].double() for c, t in zip(member, tensors, strict=True)).float()
            for name, _ in module.named_parameters()
        }
        state |= model.members[index].tensors() if len(model.members) else {}
        module.load_state_dict({**module.state_dict(), **state})
        expected.append(module(images()).logits.softmax(-1))
    members = torch.stack(expected, dim=1)
    assert output.member_probabilities.shape == (6, 3, LABELS)
    assert torch.allclose(output.member_probabilities, members, atol=1e-5)
    assert torch.allclose(output.logits.softmax(-1), members.mean(1), atol=1e-5)
    assert torch.allclose(output.logits.exp(), output.logits.softmax(-1), atol=1e-6)
    nll = -members.mean(1)[torch.arange(6), torch.arange(6) % LABELS].log().mean()
    assert torch.allclose(output.loss, nll, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_repeat_after_other_points_and_pickling(kind: str) -> None:
    model = ensemble(kind)
    first = model(images()).logits
    model.backbone_at([0.0, 1.0, 0.0])
    assert torch.equal(model(images()).logits, first)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images()).logits, first)


def test_arguments_choose_the_outputs() -> None:
    model, labels = ensemble("resnet"), torch.arange(6) % LABELS
    output = model(images())
    assert list(output) == ["logits"] and not output.logits.requires_grad
    assert list(model(images(), labels)) == ["loss", "logits"]
    (logits,) = model(images(), return_dict=False)
    assert torch.equal(logits, output.logits)
    loss, logits, probabilities, energies = model(images(), labels, True, False)
    assert loss.shape == () and logits.shape == (6, LABELS)
    assert probabilities.shape == (6, 3, LABELS) and energies.shape == (6, 3)
    assert {tensor.dtype for tensor in (loss, logits, probabilities, energies)} == {torch.float32}
    model.config.output_member_probabilities = True
    assert torch.equal(model(images()).member_probabilities, probabilities)
    assert model(images(), output_member_probabilities=False).member_probabilities is None


def test_the_loss_ignores_labels_of_minus_100() -> None:
    model, labels = ensemble("vit"), torch.tensor([0, 1, 2, 0, -100, -100])
    assert torch.equal(model(images(), labels).loss, model(images()[:4], labels[:4]).loss)


def test_arguments_of_the_backbone_are_passed_on() -> None:
    model = ensemble("vit")
    large = torch.nn.functional.interpolate(images(), scale_factor=2)
    with pytest.raises(ValueError, match="image size"):
        model(large)
    assert model(large, interpolate_pos_encoding=True).logits.isfinite().all()


def test_confident_members_do_not_overflow() -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"))
    with torch.no_grad():
        model.weights[0]["classifier.bias"].copy_(torch.tensor([0.0, 2000.0, -2000.0]))
    output = model(images(), torch.full((6,), 2))
    assert output.logits.isfinite().all()
    assert float(output.loss) == pytest.approx(4000, rel=1e-2)


def test_an_ensemble_in_training_or_without_members_does_not_predict() -> None:
    model = ensemble("vit")
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        model.train()(images())
    model.eval().add_vertex()
    with pytest.raises(RuntimeError, match="no members"):
        model(images())
    model.growing = 3
    with pytest.raises(RuntimeError, match="being trained"):
        model.backbone_at([0.0, 0.0, 0.0, 1.0])


def test_a_draw_that_fails_changes_nothing() -> None:
    model = ensemble("resnet")
    logits, members = model(images()).logits, copy.deepcopy(model.config.members)
    failing: list[dict[str, Any]] = [
        {"num_members": 4},
        {"num_members": 4, "batches": []},
        {"num_members": 0, "batches": batches()},
        {"num_members": 4, "batches": batches(), "sampling": "some"},
    ]
    for arguments in failing:
        with pytest.raises(ValueError, match=r"batch|member|sampling"):
            model.draw_members(**arguments)
    for points, message in (([], "at least one member"), ([[0.5, 0.4, 0.0]], "sum to 1"), ([[0.5, 0.5]], "3 coord")):
        with pytest.raises(ValueError, match=message):
            model.set_members(points, batches())
    assert model.config.members == members
    assert model.config.sampling == "equal"
    assert torch.equal(model(images()).logits, logits)


def test_a_rule_places_the_members() -> None:
    model = ensemble("resnet")
    model.draw_members("symmetric", batches=batches())
    assert model.config.members == symmetric_members(model.config.complex) and len(model.members) == 3
    model.draw_members("auto", batches=batches())
    assert model.config.members == place_members(model.config.complex) and len(model.members) == 4
    # At a vertex, the statistics are the vertex's own.
    for name, tensor in model.members[1].tensors().items():
        assert torch.equal(tensor, model.vertex_statistics(1)[name])
    with pytest.raises(ValueError, match="The rule of the members is 'all': choose from vertices_and_centroid"):
        model.draw_members("all", batches=batches())
    two = SimplexForImageClassification.disjoint_union([model, model])
    with pytest.raises(ValueError, match="sampling is 'volume'"):
        two.draw_members("auto", batches=batches(), sampling="volume")


@pytest.mark.parametrize("kind", KINDS)
def test_members_follow_from_the_seed(kind: str) -> None:
    model, again, other = ensemble(kind), ensemble(kind), ensemble(kind)
    other.draw_members(3, seed=1, batches=batches())
    assert again.config.members == model.config.members != other.config.members
    assert torch.equal(again(images()).logits, model(images()).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_members_and_centroids_carry_the_statistics_of_their_own_point(kind: str, tmp_path: Path) -> None:
    model = SimplexForImageClassification.disjoint_union(
        [ensemble(kind, members=2), ensemble(kind, members=1, seed=5)]
    )
    model.save_pretrained(tmp_path)
    model = SimplexForImageClassification.from_pretrained(tmp_path)
    third = 1 / 3
    points = [*model.config.members, [third, third, third, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, third, third, third]]
    trees = [*model.members, *model.centroids]
    assert len(trees) == (0 if kind == "vit" else len(points))
    for point, tree in zip(points, trees, strict=False):
        module = backbone(kind, seed=9)
        for name, parameter in module.named_parameters():
            parameter.data = sum(c * vertex[name] for c, vertex in zip(point, model.weights, strict=True))
        recompute_statistics(module, batches())
        assert tree.tensors().keys() == batch_norm_statistics(module).keys()
        for name, tensor in batch_norm_statistics(module).items():
            assert torch.allclose(tree.tensors()[name], tensor, rtol=1e-4, atol=1e-5), name


def test_members_at_vertices_need_no_batches() -> None:
    one = SimplexForImageClassification.from_backbone(backbone("resnet"))
    one.draw_members(2)
    for name, tensor in batch_norm_statistics(backbone("resnet")).items():
        assert torch.equal(one.members[1].tensors()[name], tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_predicts_with_the_members_of_all_components(kind: str) -> None:
    parts = [ensemble(kind), ensemble(kind, members=1, seed=5)]
    parts[1].config.provenance["stages"] = [{"vertex": 2, "epochs": 1.0, "start": 0}]
    united = SimplexForImageClassification.disjoint_union(parts)
    probabilities = [part(images(), output_member_probabilities=True).member_probabilities for part in parts]
    together = united(images(), output_member_probabilities=True).member_probabilities
    assert torch.equal(together, torch.cat(probabilities, dim=1))
    assert united.config.provenance["stages"] == [{"vertex": 5, "epochs": 1.0, "start": 3}]
    assert united.config.roles == ["mode", "connector", "connector"] * 2
    assert united.config.simplexes == [[0, 1, 2], [3, 4, 5]]
    for simplex in (0, 1):
        expected = parts[simplex].write_centroid()(images()).logits
        assert torch.equal(united.write_centroid(simplex)(images()).logits, expected)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_components_do_not_follow_their_union(kind: str) -> None:
    parts = [ensemble(kind), ensemble(kind, seed=5)]
    for part in parts:
        part.config.provenance["stages"] = [{"vertex": 2, "epochs": 1.0}]
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    configs = [part.config.to_dict() for part in parts]
    logits = [part(images()).logits for part in parts]

    united = SimplexForImageClassification.disjoint_union(parts)
    united.config.roles[0] = "pretrained"
    united.config.provenance["stages"][0]["epochs"] = 7.0
    united.config.simplexes[0].reverse()
    united.config.members[0].reverse()
    united.config.backbone_config.id2label[0] = "renamed"
    with torch.no_grad():
        for tensor in united.state_dict().values():
            tensor.zero_()
    united.to(torch.float64)
    united(images().double())

    for part, state, config, expected in zip(parts, states, configs, logits, strict=True):
        assert part.config.to_dict() == config
        assert all(torch.equal(state[name], tensor) for name, tensor in part.state_dict().items())
        assert torch.equal(part(images()).logits, expected)


def test_a_union_has_members_only_where_every_component_has() -> None:
    grown = ensemble("resnet")
    grown.add_vertex()
    united = SimplexForImageClassification.disjoint_union([ensemble("resnet"), grown])
    assert united.config.members == [] and not len(united.members) and not len(united.centroids)
    united.draw_members(2, batches=batches())
    assert united(images()).logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_joined_modes_are_the_vertices_of_one_simplex(kind: str, tmp_path: Path) -> None:
    parts = [SimplexForImageClassification.from_backbone(backbone(kind, seed)) for seed in range(3)]
    for number, part in enumerate(parts):
        part.config.provenance["stages"] = [{"vertex": 0, "epochs": number}]
    joined = SimplexForImageClassification.simplex_of_modes(parts)
    assert joined.config.simplexes == [[0, 1, 2]] and joined.config.roles == ["mode"] * 3
    assert joined.config.members == [] and len(joined.members) == len(joined.centroids) == 0
    assert [(stage["vertex"], stage["epochs"]) for stage in joined.config.provenance["stages"]] == [
        (0, 0), (1, 1), (2, 2)
    ]  # fmt: skip
    for part, vertex in zip(parts, joined.vertices, strict=True):
        assert same_tensors(part.vertices[0], vertex) and part.config.members == [[1.0]]
    joined.draw_members("auto", batches=batches())
    assert torch.allclose(
        joined.backbone_at([1 / 3] * 3, batches()).state_dict()[name := next(iter(joined.weights[0]))],
        sum(part.weights[0][name] for part in parts) / 3,
        atol=1e-6,
    )
    joined.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()).logits, joined(images()).logits)


def test_the_working_backbone_of_joined_modes_lies_in_memory_as_they_do() -> None:
    parts = [backbone("resnet", seed).to(memory_format=torch.channels_last) for seed in range(2)]
    joined = SimplexForImageClassification.simplex_of_modes(
        [SimplexForImageClassification.from_backbone(part) for part in parts]
    )
    strides = {name: parameter.stride() for name, parameter in joined.backbone.named_parameters()}
    assert strides == {name: joined.weights[1][name].stride() for name in strides}
    assert any(stride[1] == 1 and len(stride) == 4 and stride[3] > 1 for stride in strides.values())


def test_only_ensembles_of_one_architecture_and_one_label_set_unite() -> None:
    with pytest.raises(ValueError, match="nothing to unite"):
        SimplexForImageClassification.simplex_of_modes([])
    with pytest.raises(ValueError, match="another backbone architecture"):
        SimplexForImageClassification.simplex_of_modes([ensemble("vit"), ensemble("resnet")])
    with pytest.raises(ValueError, match="architecture"):
        SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("resnet")])
    other = ensemble("vit")
    other.config.backbone_config.hidden_act = "relu"
    with pytest.raises(ValueError, match="hidden_act is 'relu', not 'gelu'"):
        SimplexForImageClassification.disjoint_union([ensemble("vit"), other])
    other = ensemble("vit")
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="labels"):
        SimplexForImageClassification.disjoint_union([ensemble("vit"), other])
    with pytest.raises(ValueError, match="at least one"):
        SimplexForImageClassification.disjoint_union([])
