"""Broken files give a documented error that names file and field, at once."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import backbone, complete, ensemble, folder
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.hub.stored_ensemble import read_ensemble

MANY = ["mode"] * 100_000
LOADERS = (SimplexForImageClassification, AutoModelForImageClassification)


def change(path: Path, name: str = "config.json", **fields: Any) -> None:
    content = json.loads((path / name).read_text())
    content.update(fields)
    (path / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    found = {}
    for kind in ("vit", "timm"):
        path = tmp_path_factory.mktemp(kind)
        (complete(kind) if kind == "vit" else ensemble(kind)).save_pretrained(path)
        found[kind] = {file.name: file.read_bytes() for file in path.iterdir()}
    return found


def restore(files: dict[str, bytes], path: Path) -> Path:
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": ["simplex"]}, "model_type"),
        ({"id2label": [1]}, "config.json"),
        ({"roles": 5}, "roles 5"),
        ({"members": [[10**400, 0, 0]]}, "members"),
        ({"simplexes": [["a"]]}, "simplex 0"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        (
            {"roles": ["mode"] * 100_000, "simplexes": [[vertex] for vertex in range(100_000)]},
            "missing keys, vertices.3",
        ),
        ({"roles": ["mode"] * 100_000, "simplexes": [list(range(100_000))]}, "missing keys, vertices.3"),
    ],
    ids=["type", "labels", "roles", "huge", "vertex", "many labels", "many vertices", "large simplex"],
)
def test_a_field_of_the_wrong_kind_is_named_at_once(
    fields: dict[str, Any], message: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    change(path, **{**fields, **({} if "members" in fields or "roles" not in fields else {"members": []})})
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        SimplexForImageClassification.from_pretrained(path)
    with pytest.raises(ValueError, match=message):
        read_ensemble(path)
    assert time.process_time() - began < 1.5, "a second, and a slow machine"
    if "model_type" not in fields:
        with pytest.raises(ValueError, match=message):
            AutoModelForImageClassification.from_pretrained(path)


@pytest.mark.parametrize("kind", ["vit", "batch norm"])
def test_more_members_than_an_ensemble_can_have_are_refused_at_once(
    kind: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    if kind == "vit":
        path, message = restore(saved["vit"], tmp_path), "200000 points were given; expected at most 10000"
    else:
        complete("resnet").save_pretrained(path := tmp_path)
        message = r"missing keys, members\.\d.*config.json has 200000 members"
    change(path, members=[[1 / 3] * 3] * 200_000)
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        SimplexForImageClassification.from_pretrained(path)
    assert time.process_time() - began < 1.5, "a second, and a slow machine"
    # transformers reads the file twice before it asks.
    began = time.process_time()
    with pytest.raises(ValueError, match="200000 points were given"):
        AutoModelForImageClassification.from_pretrained(path)
    assert time.process_time() - began < 3
    change(path, members=["a"] * 200_000)
    with pytest.raises(ValueError, match="200000"):
        SimplexForImageClassification.from_pretrained(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000"),
        ({"hidden_act": "no such"}, "no such"),
        ({"num_attention_heads": 0}, "backbone_config"),
        ({"intermediate_size": 48}, "mismatched keys"),
    ],
)
def test_a_broken_backbone_is_named_at_once(
    fields: dict[str, Any], message: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    config = json.loads((path / "config.json").read_text())
    change(path, backbone_config={**config["backbone_config"], **fields})
    for loader in LOADERS:
        began = time.process_time()
        with pytest.raises(ValueError, match=message):
            loader.from_pretrained(path)
        assert time.process_time() - began < 1.5


def test_an_architecture_that_timm_does_not_know_is_named(saved: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    path = restore(saved["timm"], tmp_path)
    config = json.loads((path / "config.json").read_text())
    change(path, backbone_config={**config["backbone_config"], "architecture": "no_such_net"})
    with pytest.raises(ValueError, match="no_such_net"):
        SimplexForImageClassification.from_pretrained(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_nested_without_end_is_refused(
    name: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    (path / name).write_text("[" * 100_000)
    for read in (SimplexForImageClassification.from_pretrained, read_ensemble):
        with pytest.raises(ValueError, match=name):
            read(path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_mean": "x"}, "image_mean is 'x'; expected a number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .0.5, 0.5."),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std is .*; expected a number above 0"),
        ({"rescale_factor": "x"}, "rescale_factor is 'x'"),
        ({"size": {"height": "x", "width": 16}}, "height of size is 'x'; expected a number of pixels"),
        ({"size": {"height": 16, "width": 0}}, "width of size is 0"),
        ({"crop_size": {"height": -1, "width": 16}}, "height of crop_size is -1"),
    ],
)
def test_a_setting_of_the_image_processor_that_cannot_be_is_named_with_its_file(
    setting: dict[str, Any], message: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    model = SimplexForImageClassification.from_pretrained(path)
    assert model.image_processor is not None
    change(path, "preprocessor_config.json", **setting)
    model = SimplexForImageClassification.from_pretrained(path)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"preprocessor_config\.json cannot be read\. ValueError: {message}"):
            _ = model.image_processor
    with pytest.raises(ValueError, match=message):
        model.image_processor = AutoImageProcessor.from_pretrained(path)
    with pytest.raises(ValueError, match=message):
        pipeline("simplex-image-classification", model=str(path))


@pytest.mark.parametrize(
    "setting", [{"image_mean": None, "image_std": None}, {"image_mean": 0.5, "image_std": [1]}, {"size": 16}]
)
def test_every_form_of_a_setting_is_taken(
    setting: dict[str, Any], saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **setting})
    )
    assert SimplexForImageClassification.from_pretrained(path).image_processor is not None


@pytest.mark.parametrize("content", ["{", "[]", '{"image_processor_type": "NoSuchProcessor"}'])
def test_a_broken_image_processor_is_an_error_and_a_missing_one_is_none(
    content: str, saved: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    path = restore(saved["vit"], tmp_path)
    (path / "preprocessor_config.json").write_text(content)
    model = SimplexForImageClassification.from_pretrained(path)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        _ = model.image_processor
    (path / "preprocessor_config.json").unlink()
    assert SimplexForImageClassification.from_pretrained(path).image_processor is None


def test_local_paths_stay_on_this_machine(tmp_path: Path, hub: Any) -> None:
    model = SimplexForImageClassification.from_backbone(folder("vit", tmp_path / "private" / "digits-vit"))
    model.config.provenance["backbone"] = str(tmp_path / "private" / "digits-vit")
    model.save_pretrained(tmp_path / "ensemble")
    text = (tmp_path / "ensemble" / "config.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["provenance"]["backbone"] == "digits-vit"
    # As version 0.1.0 wrote it.
    change(tmp_path / "ensemble", provenance={"backbone": str(tmp_path / "private" / "digits-vit")})
    publish_folder(tmp_path / "ensemble", "alice/ensemble")
    assert not [name for name, text in hub.files("alice/ensemble").items() if str(tmp_path).encode() in text]
    hub_id = SimplexForImageClassification.from_backbone(backbone("vit"))
    hub_id.config.provenance["backbone"] = "alice/vit"
    assert hub_id.config.to_dict()["provenance"]["backbone"] == "alice/vit"


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ensemble("vit")
    (tmp_path / "mine").mkdir()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(model.backbone.config), "save_pretrained", full)
    for name in ("new/deep/centroid", "mine"):
        with pytest.raises(OSError, match="No space left"):
            model.export_centroid(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_tied_weights_are_exported(tmp_path: Path) -> None:
    """timm's coat uses the same position encodings in several blocks."""
    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "num_classes": 3}
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": "coat_tiny",
            "num_classes": 3,
            "pretrained_cfg": settings,
            "model_args": {"img_size": 32, "serial_depths": [1] * 4, "parallel_depth": 1, "embed_dims": [16] * 4},
        }
    )
    tied = TimmWrapperForImageClassification(config).eval()
    assert len(dict(tied.named_parameters())) < len(tied.state_dict())
    model = SimplexForImageClassification.from_backbone(tied)
    vertex = model.add_vertex()
    with torch.no_grad():
        for parameter in model.vertices[vertex].parameters():
            parameter.add_(0.01)
    model.draw_members(2)
    model.save_pretrained(tmp_path / "ensemble")
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
    pixel_values = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    loaded.export_centroid(tmp_path / "centroid")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "centroid")
    expected = model.backbone_at([0.5, 0.5])
    assert torch.allclose(plain(pixel_values).logits, expected(pixel_values).logits, atol=1e-6)
