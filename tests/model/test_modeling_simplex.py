"""The ensemble is a transformers model: built from any backbone, predicting with the mean of its members."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from loopback_hub import LoopbackHub
from tiny import KINDS, LABELS, PICTURE, SIZE, Trap, backbone, batches, ensemble, folder, images, same_tensors
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTModel,
    pipeline,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_statistics, recompute_statistics
from hf_simplex.model.members import symmetric_members
from hf_simplex.model.volumes import simplex_log_volume

# ---- from_backbone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_and_the_ensemble_of_it_alone_agree(kind: str, tmp_path: Path) -> None:
    module = backbone(kind)
    for source in (module, folder(kind, tmp_path / kind)):
        model = SimplexForImageClassification.from_backbone(source)
        assert model.config.roles == ["mode"]
        expected = module(images()).logits.log_softmax(-1)
        assert torch.equal(model(pixel_values=images()).logits, expected)


def test_a_given_model_is_copied() -> None:
    module = backbone("resnet")
    before = copy.deepcopy(module.state_dict())
    model = SimplexForImageClassification.from_backbone(module)
    model.add_vertex()
    model.draw_members(2, batches=batches())
    model(images())
    model.config.id2label[0] = model.config.backbone_config.id2label[0] = "renamed"
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.config.id2label[0] == "LABEL_0"


@pytest.mark.parametrize("kind", KINDS)
def test_the_role_of_the_first_vertex_can_be_given(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    for source in (path, str(path), backbone(kind)):
        for fine_tuned, role in ((None, "mode"), (True, "mode"), (False, "pretrained")):
            model = SimplexForImageClassification.from_backbone(source, fine_tuned=fine_tuned)
            assert model.config.roles == [role]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_gets_a_new_head(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    labels = {index: f"class {index}" for index in range(5)}
    for arguments in ({"num_labels": 5}, {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}):
        model = SimplexForImageClassification.from_backbone(path, **arguments)
        assert model.config.roles == ["pretrained"]
        assert model(images()).logits.shape == (6, 5)
        assert model.config.num_labels == model.config.backbone_config.num_labels == 5
    assert model.config.id2label == labels
    assert model.config.label2id == {name: index for index, name in labels.items()}
    assert SimplexForImageClassification.from_backbone(path, num_labels=5, fine_tuned=True).config.roles == ["mode"]
    old = {name: p for name, p in backbone(kind).named_parameters() if p.shape[0] != LABELS}
    assert all(torch.equal(model.weights[0][name], tensor) for name, tensor in old.items())


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_labels_alone_make_the_head_and_both_directions(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path / "backbone")
    for names in (["ant", "bee", "cat"], ["ant", "bee", "cat", "dog"]):
        model = SimplexForImageClassification.from_backbone(path, id2label=dict(enumerate(names)))
        assert model.config.roles == ["mode" if len(names) == LABELS else "pretrained"]
        model.save_pretrained(tmp_path / "ensemble")
        loaded = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
        for config in (model.config, loaded.config, model.backbone.config, loaded.backbone.config):
            assert config.id2label == dict(enumerate(names))
        assert loaded.config.label2id == {name: index for index, name in enumerate(names)}
        assert loaded(images()).logits.shape == (6, len(names))


@pytest.mark.parametrize("kind", KINDS)
def test_loading_arguments_reach_the_backbone(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    for dtype in (torch.bfloat16, "bfloat16"):
        model = SimplexForImageClassification.from_backbone(path, dtype=dtype)
        assert {p.dtype for p in (*model.parameters(), *model.backbone.parameters())} == {torch.bfloat16}
    with pytest.raises(RuntimeError, match=r"mismatch|size"):
        SimplexForImageClassification.from_backbone(path, num_labels=5, ignore_mismatched_sizes=False)


def test_revisions_on_the_hub_can_be_chosen(hub: LoopbackHub) -> None:
    backbone("vit", seed=1).push_to_hub("alice/backbone")
    huggingface_hub.create_tag("alice/backbone", tag="v1")
    backbone("vit", seed=2).push_to_hub("alice/backbone")
    for revision, seed in (("v1", 1), ("main", 2)):
        model = SimplexForImageClassification.from_backbone("alice/backbone", revision=revision)
        assert same_tensors(model.backbone, backbone("vit", seed))
        assert model.config.provenance["backbone"] == "alice/backbone"
        model.push_to_hub("alice/ensemble")
        huggingface_hub.create_tag("alice/ensemble", tag=f"of-{revision}")
    for revision, seed in (("of-v1", 1), ("of-main", 2)):
        for loader in (SimplexForImageClassification, AutoModelForImageClassification):
            loaded = loader.from_pretrained("alice/ensemble", revision=revision)
            assert torch.equal(loaded(images()).logits, backbone("vit", seed)(images()).logits.log_softmax(-1))


def test_backbones_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    for name in ("no/such", "timm/no_such.model", tmp_path / "no" / "such"):
        with pytest.raises(OSError, match=r"The backbone '.*such.*' could not be loaded"):
            SimplexForImageClassification.from_backbone(name)
    with pytest.raises(TypeError, match="is a ResNet; expected a Hub id"):
        SimplexForImageClassification.from_backbone(timm.create_model("test_resnet"))
    with pytest.raises(ValueError, match="ViTModel has other weights"):
        SimplexForImageClassification.from_backbone(ViTModel(backbone("vit").config))
    with pytest.raises(ValueError, match="only read from safetensors"):
        SimplexForImageClassification.from_backbone(tmp_path, use_safetensors=False)
    ensemble("vit").save_pretrained(tmp_path / "ensemble")
    with pytest.raises(ValueError, match="ensemble already"):
        SimplexForImageClassification.from_backbone(tmp_path / "ensemble")
    with pytest.raises(ValueError, match="ensemble already"):
        SimplexForImageClassification.from_backbone(ensemble("vit"))
    path = folder("vit", tmp_path / "cut")
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"cut.*not whole"):
        SimplexForImageClassification.from_backbone(path)


@pytest.mark.parametrize("kind", KINDS)
def test_label_counts_that_contradict_each_other_are_refused(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    with pytest.raises(ValueError, match="has 3 labels, not 4"):
        SimplexForImageClassification.from_backbone(backbone(kind), num_labels=4)
    with pytest.raises(ValueError, match="num_labels=4 contradicts the 2 labels"):
        SimplexForImageClassification.from_backbone(path, num_labels=4, id2label={0: "ant", 1: "bee"})
    with pytest.raises(ValueError, match="num_labels=0: expected at least 1"):
        SimplexForImageClassification.from_backbone(path, num_labels=0)
    with pytest.raises(ValueError, match="id2label has no label 1"):
        SimplexForImageClassification.from_backbone(path, id2label={0: "ant", 2: "bee"})
    with pytest.raises(ValueError, match="label2id gives 'ant' the label 1"):
        SimplexForImageClassification.from_backbone(path, id2label={0: "ant", 1: "bee"}, label2id={"ant": 1, "bee": 0})
    with pytest.raises(ValueError, match=r"id2label.* are for loading a backbone by name"):
        SimplexForImageClassification.from_backbone(backbone(kind), id2label={0: "ant", 1: "bee", 2: "cat"})


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_pickled_weights_are_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle was opened")

    config = backbone("vit").config
    if name == "adapter_model.bin":
        config.transformers_weights = name
    config.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    monkeypatch.setattr(torch, "load", opened)
    with pytest.raises((OSError, ValueError), match="safetensors"):
        SimplexForImageClassification.from_backbone(tmp_path)
    assert not (tmp_path / "opened").exists()


# ---- prediction ------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_repeat_themselves(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    first = model(images()).logits
    model.backbone_at([0.0, 1.0, 0.0])
    assert torch.equal(model(images()).logits, first)
    model.save_pretrained(tmp_path)
    for _ in range(2):
        assert torch.equal(SimplexForImageClassification.from_pretrained(tmp_path)(images()).logits, first)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images()).logits, first)


def test_outputs_come_as_asked_for() -> None:
    model, labels = ensemble("resnet"), torch.arange(6) % LABELS
    output = model(images())
    assert list(output) == ["logits"] and not output.logits.requires_grad
    assert list(model(images(), labels)) == ["loss", "logits"]
    (logits,) = model(images(), return_dict=False)
    assert torch.equal(logits, output.logits)
    loss, logits, probabilities = model(images(), labels, True, False)
    assert loss.shape == () and logits.shape == (6, LABELS) and probabilities.shape == (6, 3, LABELS)
    assert {tensor.dtype for tensor in (loss, logits, probabilities)} == {torch.float32}
    model.config.output_member_probabilities = True
    assert torch.equal(model(images()).member_probabilities, probabilities)
    assert model(images(), output_member_probabilities=False).member_probabilities is None


def test_labels_that_are_to_be_ignored_are() -> None:
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


def test_what_cannot_predict_says_so() -> None:
    model = ensemble("vit")
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        model.train()(images())
    model.eval().add_vertex()
    with pytest.raises(RuntimeError, match="no members"):
        model(images())
    model.growing = 3
    with pytest.raises(RuntimeError, match="being trained"):
        model.backbone_at([0.0, 0.0, 0.0, 1.0])


def test_points_outside_the_complex_or_without_statistics_are_refused() -> None:
    model = ensemble("resnet")
    for point, message in (([0.5, 0.6, 0.0], "sum to 1"), ([-0.5, 1.5, 0.0], "negative"), ([1.0], "3 coordinates")):
        with pytest.raises(ValueError, match=message):
            model.backbone_at(point)
    with pytest.raises(ValueError, match="batches of training images"):
        model.draw_members(2)


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


def test_members_by_the_rule_are_placed_with_their_statistics() -> None:
    model = ensemble("resnet")
    model.draw_members("auto", batches=batches())
    assert model.config.members == symmetric_members(model.config.complex) and len(model.members) == 3
    with pytest.raises(ValueError, match="num_members is 'all'"):
        model.draw_members("all", batches=batches())
    two = SimplexForImageClassification.disjoint_union([model, model])
    with pytest.raises(ValueError, match="sampling is 'volume'"):
        two.draw_members("auto", batches=batches(), sampling="volume")


@pytest.mark.parametrize("kind", KINDS)
def test_materialized_members_predict_the_same_bits_as_streamed_ones(kind: str) -> None:
    model = ensemble(kind)
    keys, streamed = model.state_dict().keys(), model(images(), output_member_probabilities=True)
    one = sum(tensor.numel() * tensor.element_size() for tensor in model.backbone.state_dict().values())
    for max_bytes, ready in ((None, 3), (2 * one + one // 2, 2), (0, 0)):
        assert model.materialize(max_bytes) == ready
        # The working backbone is free for other points meanwhile.
        model.backbone_at([0.0, 1.0, 0.0])
        found = model(images(), output_member_probabilities=True)
        assert torch.equal(found.logits, streamed.logits)
        assert torch.equal(found.member_probabilities, streamed.member_probabilities)
        assert model.state_dict().keys() == keys
    model.materialize()
    twin = copy.deepcopy(model).double()
    assert torch.allclose(twin(images().double()).logits, streamed.logits, atol=1e-5)
    assert torch.equal(model(images()).logits, streamed.logits)
    model.dematerialize()
    assert torch.equal(model(images()).logits, streamed.logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.draw_members(3, seed=5, batches=batches()),
        lambda model: model.replace_with(ensemble("resnet", seed=6)),
        lambda model: model.load_state_dict(ensemble("resnet", seed=6).state_dict()),
        lambda model: (model.backbone_at([0.0, 1.0, 0.0]), model.store_vertex(0)),
    ],
    ids=["members", "replace_with", "load_state_dict", "store_vertex"],
)
def test_materialized_members_never_outlive_what_they_were_made_of(change: Any) -> None:
    model, other = ensemble("resnet"), ensemble("resnet")
    model.materialize()
    for either in (model, other):
        change(either)
    assert torch.equal(model(images()).logits, other(images()).logits)


def test_other_members_over_the_same_vertices_are_not_those_that_were_materialized() -> None:
    model = ensemble("vit")
    model.materialize()
    other = model.with_members([[0.0, 1.0, 0.0]], [])
    assert torch.allclose(other(images()).logits, backbone("vit", 1)(images()).logits.log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_materialized_member_is_exported_with_the_weights_of_a_streamed_one(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    for member in range(3):
        model.export_member(member, tmp_path / f"streamed-{member}")
    model.materialize()
    model.backbone_at([0.0, 1.0, 0.0])
    for member in range(3):
        model.export_member(member, tmp_path / f"materialized-{member}")
        streamed, materialized = (
            AutoModelForImageClassification.from_pretrained(tmp_path / f"{how}-{member}")
            for how in ("streamed", "materialized")
        )
        assert same_tensors(materialized, streamed)
        assert same_tensors(materialized, model.member_backbone(member))


def test_materialized_members_do_not_answer_for_an_ensemble_in_training(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.materialize()
    model.growing = 2
    for ask in (lambda: model(images()), lambda: model.export_member(0, tmp_path / "member")):
        with pytest.raises(RuntimeError, match="Vertex 2 is being trained"):
            ask()
    assert not (tmp_path / "member").exists()


def test_what_cannot_be_materialized_says_so() -> None:
    with pytest.raises(ValueError, match="max_bytes is -1"):
        ensemble("vit").materialize(-1)
    model = ensemble("vit")
    model.add_vertex()
    with pytest.raises(RuntimeError, match="has no members"):
        model.materialize()


@pytest.mark.parametrize("kind", KINDS)
def test_members_follow_from_the_seed_and_are_kept_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    model, again, other = ensemble(kind), ensemble(kind), ensemble(kind)
    other.draw_members(3, seed=1, batches=batches())
    assert again.config.members == model.config.members != other.config.members
    assert torch.equal(again(images()).logits, model(images()).logits)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["members"] == model.config.members
    assert SimplexForImageClassification.from_pretrained(tmp_path).config.members == model.config.members


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
    model = ensemble("resnet")
    with pytest.raises(ValueError, match="batches of training images"):
        model.set_members([[0.5, 0.5, 0.0]])
    one = SimplexForImageClassification.from_backbone(backbone("resnet"))
    one.draw_members(2)
    for name, tensor in batch_norm_statistics(backbone("resnet")).items():
        assert torch.equal(one.members[1].tensors()[name], tensor)


def test_the_log_volume_is_that_of_the_vertices() -> None:
    model = ensemble("vit")
    names = [name for name, _ in backbone("vit").named_parameters()]
    flat = torch.stack([torch.cat([weights[name].flatten() for name in names]) for weights in model.weights])
    assert float(model.log_volumes()) == pytest.approx(float(simplex_log_volume(flat)), rel=1e-12)


# ---- structure -------------------------------------------------------------------------------------------------


def test_a_new_vertex_is_the_mean_of_the_simplex_that_it_joins() -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    assert model.add_vertex([1]) == 6
    assert model.config.simplexes == [[0, 1, 2], [3, 4, 5, 6]]
    for name, tensor in model.vertices[6].named_parameters():
        mean = torch.stack([model.weights[index][name] for index in (3, 4, 5)]).mean(0)
        assert torch.allclose(tensor, mean, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_predicts_with_the_members_of_all_components(kind: str) -> None:
    parts = [ensemble(kind), ensemble(kind, members=1, seed=5)]
    parts[1].config.provenance["stages"] = [{"vertex": 2, "epochs": 1.0}]
    united = SimplexForImageClassification.disjoint_union(parts)
    probabilities = [part(images(), output_member_probabilities=True).member_probabilities for part in parts]
    together = united(images(), output_member_probabilities=True).member_probabilities
    assert torch.equal(together, torch.cat(probabilities, dim=1))
    assert united.config.provenance["stages"] == [{"vertex": 5, "epochs": 1.0}]
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


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_an_ensemble_can_become_another(kind: str) -> None:
    model, other = SimplexForImageClassification.from_backbone(backbone(kind, 9)), ensemble(kind)
    other.config.provenance["stages"] = [{"vertex": 2}]
    expected = other(images()).logits
    model.replace_with(other)
    assert torch.equal(model(images()).logits, expected)
    assert model.config.to_dict() == {**other.config.to_dict(), "architectures": model.config.architectures}
    with pytest.raises(ValueError, match="architecture"):
        model.replace_with(ensemble("timm"))


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


def test_a_vertex_has_a_known_role() -> None:
    model = ensemble("vit")
    before = model.config.num_vertices
    with pytest.raises(ValueError, match="role is 'modes': choose from pretrained, mode, connector"):
        model.add_vertex(role="modes")
    assert model.config.num_vertices == before == len(model.vertices)


def test_only_modes_of_a_kind_are_joined() -> None:
    with pytest.raises(ValueError, match="nothing to unite"):
        SimplexForImageClassification.simplex_of_modes([])
    with pytest.raises(ValueError, match="another backbone architecture"):
        SimplexForImageClassification.simplex_of_modes([ensemble("vit"), ensemble("resnet")])


def test_a_vertex_may_be_added_for_one_more_mode() -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    model.add_vertex([0], role="pretrained")
    model.add_vertex([0], role="pretrained")
    assert model.config.roles == ["pretrained"] * 3
    assert all(same_tensors(vertex, model.vertices[0]) for vertex in model.vertices)


def test_only_components_of_a_kind_unite() -> None:
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


def test_copies_are_independent_and_casts_reach_the_working_backbone() -> None:
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
def test_casts_before_the_first_prediction_count_too(kind: str, tmp_path: Path) -> None:
    ensemble(kind).save_pretrained(tmp_path)
    for model in (
        SimplexForImageClassification.from_pretrained(tmp_path).half(),
        ensemble(kind).half(),
        SimplexForImageClassification.from_pretrained(tmp_path).to(torch.float16),
        SimplexForImageClassification.from_pretrained(tmp_path, dtype=torch.float16),
    ):
        tensors = [*model.parameters(), *model.backbone.parameters()]
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        logits = model(images().half()).logits
        assert torch.allclose(logits, ensemble(kind)(images()).logits, atol=0.02)


# ---- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.save_pretrained(tmp_path / "one")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "one")
    assert type(loaded) is SimplexForImageClassification and not loaded.training
    assert same_tensors(model, loaded)
    assert torch.equal(model(images()).logits, loaded(images()).logits)
    loaded.save_pretrained(tmp_path / "two")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "two").iterdir())
    assert ("members.safetensors" in names) == (kind != "vit")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_growing_leaves_the_files_of_old_vertices_alone(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("vertex-*")}
    model.add_vertex()
    model.draw_members(2, batches=batches())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "vertex-00003.safetensors").exists()
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_without_members_the_vertices_travel_alone(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.add_vertex()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "members.safetensors").exists()
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert same_tensors(model, loaded)
    assert loaded.config.members == []


def test_only_what_grew_is_sent_to_the_hub(hub: LoopbackHub) -> None:
    model = ensemble("resnet")
    model.push_to_hub("alice/ensemble")
    model.add_vertex()
    model.draw_members(2, batches=batches())
    mark = hub.mark()
    model.push_to_hub("alice/ensemble")
    sent = {upload.path for upload in hub.uploads(mark) if upload.path.endswith(".safetensors")}
    assert sent == {"vertex-00003.safetensors", "members.safetensors"}
    loaded = AutoModelForImageClassification.from_pretrained("alice/ensemble")
    assert same_tensors(model, loaded)
    assert torch.equal(loaded(images()).logits, model(images()).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_precision_is_a_loading_argument(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.save_pretrained(tmp_path / "wide")
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "wide", dtype=torch.bfloat16)
    assert {loaded.dtype, loaded.backbone.dtype} == {torch.bfloat16}
    logits = loaded(images().bfloat16()).logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, model(images()).logits, atol=0.1)
    loaded.save_pretrained(tmp_path / "narrow")
    again = SimplexForImageClassification.from_pretrained(tmp_path / "narrow")
    assert again.dtype == torch.bfloat16 and same_tensors(loaded, again)
    assert torch.equal(again(images().bfloat16()).logits, logits)


def test_the_layout_in_memory_leaves_no_trace_in_the_files(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path / "one")
    model.to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_loading_takes_a_subfolder_new_label_names_and_asks_back(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path / "run" / "ensemble")
    names = {0: "ant", 1: "bee", 2: "cat"}
    loaded, info = SimplexForImageClassification.from_pretrained(
        tmp_path / "run", subfolder="ensemble", id2label=names, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.id2label == names
    assert torch.equal(loaded(images()).logits, model(images()).logits)


def test_a_given_image_processor_is_the_one_that_is_saved(tmp_path: Path) -> None:
    given = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1] * 3)
    model = SimplexForImageClassification.from_backbone(folder("vit", tmp_path / "vit"), image_processor=given)
    model.save_pretrained(tmp_path / "ensemble")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "ensemble")
    assert dict(loaded.size) == {"height": 8, "width": 8} and list(loaded.image_mean) == [0.1] * 3

    settings = {"input_size": [3, 24, 24], "mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 0.9}
    timms = TimmWrapperImageProcessor(pretrained_cfg=settings, architecture="test_resnet")
    model = SimplexForImageClassification.from_backbone(folder("timm", tmp_path / "timm"), image_processor=timms)
    model.save_pretrained(tmp_path / "timm-ensemble")
    model.export_vertex(0, tmp_path / "timm-vertex")
    for path in ("timm-ensemble", "timm-vertex"):
        pixels = AutoImageProcessor.from_pretrained(tmp_path / path)(PICTURE, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, timms(PICTURE, return_tensors="pt")["pixel_values"]), path

    for kind, other in (("timm", given), ("vit", timms)):
        with pytest.raises(ValueError, match=f"{type(other).__name__} does not go with this backbone"):
            SimplexForImageClassification.from_backbone(backbone(kind), image_processor=other)
    assert SimplexForImageClassification.from_backbone(backbone("vit")).image_processor is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_returns_the_probabilities_of_the_ensemble(kind: str, tmp_path: Path) -> None:
    names = {0: "ant", 1: "bee", 2: "cat"}
    model = SimplexForImageClassification.from_backbone(folder(kind, tmp_path / "backbone"), id2label=names)
    vertex = model.add_vertex()
    model.backbone.load_state_dict(backbone(kind, 7).state_dict())
    model.store_vertex(vertex)
    model.draw_members(2, batches=batches())
    model.save_pretrained(tmp_path / "ensemble")
    assert AutoConfig.from_pretrained(tmp_path / "ensemble").model_type == "simplex"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ensemble")
    pixels = processor(PICTURE, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIZE, SIZE)
    results = pipeline("image-classification", model=str(tmp_path / "ensemble"))(PICTURE, top_k=LABELS)
    expected = dict(zip(names.values(), model(pixels).logits.softmax(-1)[0].tolist(), strict=True))
    assert {result["label"]: pytest.approx(result["score"], abs=1e-6) for result in results} == expected


LOAD_WITHOUT_HF_SIMPLEX = """
import sys
sys.modules["hf_simplex"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
pixels = torch.load(sys.argv[1] + "/pixels", weights_only=True)
picture = Image.open(sys.argv[1] + "/picture.png")
for path in sys.argv[2:]:
    processed = AutoImageProcessor.from_pretrained(path)(picture, return_tensors="pt")["pixel_values"]
    model = AutoModelForImageClassification.from_pretrained(path)
    assert "hf_simplex" not in type(model).__module__ and not model.training
    torch.save((model(pixels).logits.detach(), dict(model.config.id2label), processed), path + "/found")
"""


def test_exports_are_ordinary_checkpoints(tmp_path: Path) -> None:
    names = {0: "ant", 1: "bee", 2: "cat"}
    expected, paths = [], []
    for kind in KINDS:
        path = folder(kind, tmp_path / f"{kind}-backbone")
        model = SimplexForImageClassification.from_backbone(path, id2label=names, fine_tuned=True)
        vertex = model.add_vertex()
        model.backbone.load_state_dict(backbone(kind, 7).state_dict())
        model.store_vertex(vertex)
        model.draw_members(2, batches=batches())
        model.save_pretrained(tmp_path / f"{kind}-ensemble")
        model = SimplexForImageClassification.from_pretrained(tmp_path / f"{kind}-ensemble")
        assert model.image_processor is not None
        processed = model.image_processor(PICTURE, return_tensors="pt")["pixel_values"]
        for name in ("vertex", "centroid"):
            path = tmp_path / f"{kind}-{name}"
            if name == "vertex":
                model.export_vertex(1, path)
                assert same_tensors(AutoModelForImageClassification.from_pretrained(path), backbone(kind, 7))
                logits = backbone(kind, 7)(images()).logits
            else:
                model.export_centroid(path)
                exported = AutoModelForImageClassification.from_pretrained(path)
                assert same_tensors(exported, model.write_centroid())
                logits = model.backbone_at([0.5, 0.5], batches())(images()).logits
            expected.append((logits, processed))
            paths.append(str(path))
            files = {file.name for file in path.iterdir()}
            # timm's image processor is part of its configuration.
            assert files - {"preprocessor_config.json"} == {"config.json", "model.safetensors"}
            assert ("preprocessor_config.json" in files) == (kind != "timm")
    torch.save(images(), tmp_path / "pixels")
    PICTURE.save(tmp_path / "picture.png")
    command = [sys.executable, "-c", LOAD_WITHOUT_HF_SIMPLEX, str(tmp_path), *paths]
    subprocess.run(command, check=True, timeout=300)
    for path, (logits, processed) in zip(paths, expected, strict=True):
        found, labels, pixels = torch.load(Path(path) / "found", weights_only=True)
        # The last bit of a convolution depends on where in memory the weights lie.
        assert (found - logits).abs().max() < 1e-5 * logits.abs().max(), path
        assert labels == names
        assert torch.equal(pixels, processed)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_point_is_a_backbone_again(kind: str, tmp_path: Path) -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble(kind), ensemble(kind, seed=5)])
    model.export_vertex(4, tmp_path / "vertex")
    model.export_centroid(tmp_path / "centroid", simplex=1)
    model.export_centroid(tmp_path / "centroid", simplex=1)
    vertex = SimplexForImageClassification.from_backbone(tmp_path / "vertex")
    assert vertex.config.roles == ["mode"]
    assert same_tensors(vertex.backbone, backbone(kind, 6))
    centroid = AutoModelForImageClassification.from_pretrained(tmp_path / "centroid")
    assert same_tensors(centroid, model.write_centroid(1))
    for name, tensor in batch_norm_statistics(centroid).items():
        assert torch.equal(tensor, model.centroids[1].tensors()[name])


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    model = ensemble("resnet")
    with pytest.raises(IndexError, match="no vertex 3"):
        model.export_vertex(3, tmp_path / "vertex")
    with pytest.raises(IndexError, match="no vertex -1"):
        model.export_vertex(-1, tmp_path / "vertex")
    with pytest.raises(IndexError, match="no simplex 1"):
        model.export_centroid(tmp_path / "centroid", simplex=1)
    model.add_vertex()
    with pytest.raises(RuntimeError, match="draw those first"):
        model.export_centroid(tmp_path / "centroid")
    assert not (tmp_path / "vertex").exists() and not (tmp_path / "centroid").exists()


def test_it_is_initialized_without_a_checkpoint_too() -> None:
    model = SimplexForImageClassification(ensemble("resnet").config).eval()
    assert model(images()).logits.isfinite().all()


def test_a_simplex_has_no_more_dimensions_than_the_backbone_has_weights() -> None:
    smallest = ResNetConfig(
        embedding_size=1, hidden_sizes=[1], depths=[1], layer_type="basic", num_channels=1, num_labels=2
    )
    model = SimplexForImageClassification.from_backbone(ResNetForImageClassification(smallest))
    weights = sum(parameter.numel() for parameter in model.vertices[0].parameters())
    for _ in range(weights):
        model.add_vertex()
    with pytest.raises(ValueError, match=f"{weights + 1} dimensions has no volume among {weights} weights"):
        model.add_vertex()
    assert model.config.num_vertices == weights + 1
