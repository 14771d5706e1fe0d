"""The ensemble is a transformers model: built from any backbone, predicting with the mean of its members."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import KINDS, LABELS, SIZE, backbone, batches, folder, images
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_simplex import SimplexForImageClassification
from hf_simplex.geometry import simplex_log_volume


def ensemble(kind: str, members: int = 3, seed: int = 0) -> SimplexForImageClassification:
    """A triangle whose other vertices are other random backbones."""
    model = SimplexForImageClassification.from_backbone(backbone(kind, seed))
    for other in (1, 2):
        vertex = model.add_vertex()
        model.backbone.load_state_dict(backbone(kind, seed + other).state_dict())
        model.store_vertex(vertex)
    model.draw_members(members, seed=seed, batches=batches())
    return model


def same_tensors(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_gets_a_new_head(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    labels = {index: f"class {index}" for index in range(5)}
    for arguments in ({"num_labels": 5}, {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}):
        model = SimplexForImageClassification.from_backbone(path, **arguments)
        assert model.config.roles == ["pretrained"]
        assert model(images()).logits.shape == (6, 5)
        assert model.config.num_labels == 5
    assert model.config.id2label == labels
    assert SimplexForImageClassification.from_backbone(path, num_labels=5, fine_tuned=True).config.roles == ["mode"]
    old = {name: p for name, p in backbone(kind).named_parameters() if p.shape[0] != LABELS}
    assert all(torch.equal(model.weights[0][name], tensor) for name, tensor in old.items())


def test_loading_arguments_reach_the_backbone(tmp_path: Path) -> None:
    path = folder("vit", tmp_path)
    assert SimplexForImageClassification.from_backbone(path, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match=r"mismatch|size"):
        SimplexForImageClassification.from_backbone(path, num_labels=5, ignore_mismatched_sizes=False)


def test_backbones_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no/such"):
        SimplexForImageClassification.from_backbone("no/such")
    with pytest.raises(ValueError, match="has 3 labels, not 4"):
        SimplexForImageClassification.from_backbone(backbone("vit"), num_labels=4)
    with pytest.raises(ValueError, match="only read from safetensors"):
        SimplexForImageClassification.from_backbone(tmp_path, use_safetensors=False)
    ensemble("vit").save_pretrained(tmp_path / "ensemble")
    with pytest.raises(ValueError, match="ensemble already"):
        SimplexForImageClassification.from_backbone(tmp_path / "ensemble")


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    backbone("vit").config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 3'\ntR.")
    with pytest.raises(OSError, match="safetensors"):
        SimplexForImageClassification.from_backbone(tmp_path)


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
    equal = SimplexForImageClassification.from_backbone(backbone(kind))
    equal.add_vertex()
    equal.add_vertex()
    for name, parameter in equal.backbone_at([0.3, 0.5, 0.2], batches()).named_parameters():
        assert torch.equal(parameter, equal.weights[0][name])


def test_outputs_can_be_a_tuple_and_repeat_themselves() -> None:
    model = ensemble("resnet")
    (logits,) = model(images(), return_dict=False)
    assert torch.equal(logits, model(images()).logits)
    assert not logits.requires_grad


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


def test_the_log_volume_is_that_of_the_vertices() -> None:
    model = ensemble("vit")
    names = [name for name, _ in backbone("vit").named_parameters()]
    flat = torch.stack([torch.cat([weights[name].flatten() for name in names]) for weights in model.weights])
    assert float(model.log_volumes()) == pytest.approx(float(simplex_log_volume(flat)), rel=1e-12)


# ---- structure -------------------------------------------------------------------------------------------------


def test_a_new_vertex_is_the_mean_of_the_simplex_that_it_joins() -> None:
    model = SimplexForImageClassification.unite([ensemble("vit"), ensemble("vit", seed=5)])
    assert model.add_vertex([1]) == 6
    assert model.config.simplexes == [[0, 1, 2], [3, 4, 5, 6]]
    for name, tensor in model.vertices[6].named_parameters():
        mean = torch.stack([model.weights[index][name] for index in (3, 4, 5)]).mean(0)
        assert torch.allclose(tensor, mean, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_predicts_with_the_members_of_all_components(kind: str) -> None:
    parts = [ensemble(kind), ensemble(kind, members=1, seed=5)]
    parts[1].config.provenance["stages"] = [{"vertex": 2, "epochs": 1.0}]
    united = SimplexForImageClassification.unite(parts)
    probabilities = [part(images(), output_member_probabilities=True).member_probabilities for part in parts]
    together = united(images(), output_member_probabilities=True).member_probabilities
    assert torch.equal(together, torch.cat(probabilities, dim=1))
    assert united.config.provenance["stages"] == [{"vertex": 5, "epochs": 1.0}]
    united.vertices[0].to(torch.float64)
    assert parts[0].dtype == torch.float32


def test_only_components_of_a_kind_unite() -> None:
    with pytest.raises(ValueError, match="architecture"):
        SimplexForImageClassification.unite([ensemble("vit"), ensemble("resnet")])
    other = ensemble("vit")
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="labels"):
        SimplexForImageClassification.unite([ensemble("vit"), other])
    with pytest.raises(ValueError, match="at least one"):
        SimplexForImageClassification.unite([])


def test_copies_are_independent_and_casts_reach_the_working_backbone() -> None:
    model = ensemble("resnet")
    expected = model(images()).logits
    other = copy.deepcopy(model).to(torch.bfloat16)
    assert other.backbone.dtype == torch.bfloat16
    assert torch.allclose(other(images().bfloat16()).logits, expected, atol=0.1)
    assert torch.equal(model(images()).logits, expected)
    model.to(memory_format=torch.channels_last)
    assert torch.allclose(model(images()).logits, expected, atol=1e-5)


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


def test_reduced_precision_is_a_loading_argument(tmp_path: Path) -> None:
    ensemble("resnet").save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {loaded.dtype, loaded.backbone.dtype} == {torch.bfloat16}
    assert loaded(images().bfloat16()).logits.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_returns_the_probabilities_of_the_ensemble(kind: str, tmp_path: Path) -> None:
    from PIL import Image

    model = SimplexForImageClassification.from_backbone(folder(kind, tmp_path / "backbone"))
    model.add_vertex()
    model.draw_members(2, batches=batches())
    model.save_pretrained(tmp_path / "ensemble")
    assert AutoConfig.from_pretrained(tmp_path / "ensemble").model_type == "simplex"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ensemble")
    picture = Image.new("RGB", (20, 30), (200, 30, 90))
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIZE, SIZE)
    results = pipeline("image-classification", model=str(tmp_path / "ensemble"))(picture, top_k=LABELS)
    expected = dict(zip(model.config.id2label.values(), model(pixels).logits.softmax(-1)[0].tolist(), strict=True))
    assert {result["label"]: pytest.approx(result["score"], abs=1e-6) for result in results} == expected


LOAD_WITHOUT_HF_SIMPLEX = """
import sys
sys.modules["hf_simplex"] = None
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
pixels = torch.load(sys.argv[1], weights_only=True)
for path in sys.argv[2:]:
    AutoImageProcessor.from_pretrained(path)
    model = AutoModelForImageClassification.from_pretrained(path)
    assert "hf_simplex" not in type(model).__module__ and not model.training
    torch.save((model(pixels).logits.detach(), dict(model.config.id2label)), path + "/logits")
"""


def test_exports_are_ordinary_checkpoints(tmp_path: Path) -> None:
    expected, paths = [], []
    for kind in KINDS:
        names = {0: "ant", 1: "bee", 2: "cat"}
        path = folder(kind, tmp_path / f"{kind}-backbone")
        model = SimplexForImageClassification.from_backbone(path, id2label=names, fine_tuned=True)
        vertex = model.add_vertex()
        model.backbone.load_state_dict(backbone(kind, 7).state_dict())
        model.store_vertex(vertex)
        model.draw_members(2, batches=batches())
        model.export_vertex(1, tmp_path / f"{kind}-vertex")
        expected.append(backbone(kind, 7)(images()).logits)
        model.export_centroid(tmp_path / f"{kind}-centroid")
        expected.append(model.backbone_at([0.5, 0.5], batches())(images()).logits)
        paths += [str(tmp_path / f"{kind}-vertex"), str(tmp_path / f"{kind}-centroid")]
    torch.save(images(), tmp_path / "pixels")
    command = [sys.executable, "-c", LOAD_WITHOUT_HF_SIMPLEX, str(tmp_path / "pixels"), *paths]
    subprocess.run(command, check=True, timeout=300)
    for path, logits in zip(paths, expected, strict=True):
        found, labels = torch.load(Path(path) / "logits", weights_only=True)
        assert torch.allclose(found, logits, atol=1e-6), path
        assert labels == names


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    model = ensemble("resnet")
    with pytest.raises(IndexError, match="no vertex 3"):
        model.export_vertex(3, tmp_path / "vertex")
    with pytest.raises(IndexError, match="no simplex 1"):
        model.export_centroid(tmp_path / "centroid", simplex=1)
    model.add_vertex()
    with pytest.raises(RuntimeError, match="draw those first"):
        model.export_centroid(tmp_path / "centroid")
    assert not (tmp_path / "vertex").exists() and not (tmp_path / "centroid").exists()


def test_it_is_initialized_without_a_checkpoint_too() -> None:
    model = SimplexForImageClassification(ensemble("resnet").config).eval()
    assert model(images()).logits.isfinite().all()
