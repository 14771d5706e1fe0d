"""Files of an ensemble: saved, loaded, published and exported."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from tiny import KINDS, LABELS, PICTURE, SIZE, backbone, batches, ensemble, folder, images, same_tensors
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    pipeline,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_statistics


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.save_pretrained(tmp_path / "one")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "one")
    assert type(loaded) is SimplexForImageClassification and not loaded.training
    assert same_tensors(model, loaded)
    assert loaded.config.members == model.config.members
    assert torch.equal(model(images()).logits, loaded(images()).logits)
    loaded.save_pretrained(tmp_path / "two")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "two").iterdir())
    assert ("members.safetensors" in names) == (kind != "vit")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_vertices_are_saved_without_members(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.add_vertex()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "members.safetensors").exists()
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert same_tensors(model, loaded)
    assert loaded.config.members == []


def test_a_second_push_sends_only_what_grew(hub: LoopbackHub) -> None:
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
def test_an_ensemble_is_loaded_and_saved_in_bfloat16(kind: str, tmp_path: Path) -> None:
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


def test_the_memory_format_does_not_change_the_files(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path / "one")
    model.to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_loading_takes_a_subfolder_and_label_names_and_returns_loading_info(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path / "run" / "ensemble")
    names = {0: "ant", 1: "bee", 2: "cat"}
    loaded, info = SimplexForImageClassification.from_pretrained(
        tmp_path / "run", subfolder="ensemble", id2label=names, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.id2label == names
    assert torch.equal(loaded(images()).logits, model(images()).logits)


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


@pytest.mark.parametrize("kind", KINDS)
def test_exports_are_ordinary_checkpoints(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "ant", 1: "bee", 2: "cat"}
    path = folder(kind, tmp_path / "backbone")
    model = SimplexForImageClassification.from_backbone(path, id2label=names, fine_tuned=True)
    vertex = model.add_vertex()
    model.backbone.load_state_dict(backbone(kind, 7).state_dict())
    model.store_vertex(vertex)
    model.draw_members(2, batches=batches())
    model.save_pretrained(tmp_path / "ensemble")
    model = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
    assert model.image_processor is not None
    processed = model.image_processor(PICTURE, return_tensors="pt")["pixel_values"]
    model.export_vertex(1, tmp_path / "vertex")
    model.export_centroid(tmp_path / "centroid")
    expected = {"vertex": backbone(kind, 7), "centroid": copy.deepcopy(model.write_centroid())}
    logits = {
        "vertex": expected["vertex"](images()).logits,
        "centroid": model.backbone_at([0.5, 0.5], batches())(images()).logits,
    }

    # An import of the package fails from here on.
    monkeypatch.setitem(sys.modules, "hf_simplex", None)
    for name in ("vertex", "centroid"):
        files = {file.name for file in (tmp_path / name).iterdir()}
        # timm's image processor is part of its configuration.
        assert files - {"preprocessor_config.json"} == {"config.json", "model.safetensors"}
        assert ("preprocessor_config.json" in files) == (kind != "timm")
        assert "auto_map" not in json.loads((tmp_path / name / "config.json").read_text())
        exported = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert type(exported) is type(backbone(kind)) and not exported.training
        assert same_tensors(exported, expected[name])
        # The last bit of a convolution depends on where in memory the weights lie.
        assert (exported(images()).logits - logits[name]).abs().max() < 1e-5 * logits[name].abs().max(), name
        assert exported.config.id2label == names
        pixels = AutoImageProcessor.from_pretrained(tmp_path / name)(PICTURE, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, processed)


def test_an_export_from_a_union_is_a_backbone_again(tmp_path: Path) -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble("resnet"), ensemble("resnet", seed=5)])
    model.export_vertex(4, tmp_path / "vertex")
    model.export_centroid(tmp_path / "centroid", simplex=1)
    model.export_centroid(tmp_path / "centroid", simplex=1)
    vertex = SimplexForImageClassification.from_backbone(tmp_path / "vertex")
    assert vertex.config.roles == ["mode"]
    assert same_tensors(vertex.backbone, backbone("resnet", 6))
    centroid = AutoModelForImageClassification.from_pretrained(tmp_path / "centroid")
    assert same_tensors(centroid, model.write_centroid(1))
    for name, tensor in batch_norm_statistics(centroid).items():
        assert torch.equal(tensor, model.centroids[1].tensors()[name])


def test_exports_of_missing_vertices_and_centroids_are_refused(tmp_path: Path) -> None:
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
