"""Low-rank adapters as vertices: exports as plain models and as adapters of peft, and the two ways to mix."""

import builtins
import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from test_vertex_parameters import grown
from tiny import backbone, folder, images
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.decisions import Decisions
from hf_simplex.model.low_rank_adapters import merged

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "fc1"]}


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForImageClassification.from_pretrained(directory)(images()).logits


def test_merging_gives_the_weights_w_plus_s_b_a() -> None:
    model = grown(LORA)
    at_vertex = model.backbone_at([0.0, 1.0, 0.0])
    name = "vit.layers.0.attention.q_proj"
    layer, tensors = at_vertex.get_submodule(name), model.weights[1]
    product = tensors[f"{name}.lora_B.default.weight"] @ tensors[f"{name}.lora_A.default.weight"]
    expected = layer.base_layer.weight + 5 / 2**0.5 * product
    assert torch.allclose(merged(at_vertex).get_submodule(name).weight, expected, atol=1e-6)
    assert model.backbone.get_submodule(name) is layer and not layer.merged


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_exported_points_are_plain_models(kind: str, tmp_path: Path) -> None:
    model = grown("lora", kind)
    points = {
        "vertex": lambda: model.backbone_at([0.0, 1.0, 0.0]),
        "member": lambda: model.member_backbone(2),
        "centroid": model.write_centroid,
    }
    model.export_vertex(1, tmp_path / "vertex")
    model.export_member(2, tmp_path / "member")
    model.export_centroid(tmp_path / "centroid")
    for name, at in points.items():
        assert torch.allclose(logits(tmp_path / name), at()(images()).logits, atol=1e-5), name
        names = AutoModelForImageClassification.from_pretrained(tmp_path / name).state_dict()
        assert names.keys() == backbone(kind).state_dict().keys()


def test_the_mean_of_merged_weights_is_the_mean_of_the_exported_vertices(tmp_path: Path) -> None:
    model = grown(LORA)
    for vertex in range(3):
        model.export_vertex(vertex, tmp_path / f"{vertex}")
    model.export_centroid(tmp_path / "centroid", mix="merged_weights")
    plain = [AutoModelForImageClassification.from_pretrained(tmp_path / f"{v}").state_dict() for v in range(3)]
    found = AutoModelForImageClassification.from_pretrained(tmp_path / "centroid").state_dict()
    for name, tensor in found.items():
        assert torch.allclose(tensor, sum(state[name] for state in plain) / 3, atol=1e-6), name
    model.export_centroid(tmp_path / "parameters")
    assert not torch.allclose(logits(tmp_path / "parameters"), logits(tmp_path / "centroid"), atol=1e-3)


@pytest.mark.parametrize("choice", ["all", "head"])
def test_without_adapters_both_mixes_are_one_point(choice: str, tmp_path: Path) -> None:
    model = grown(choice)
    model.export_centroid(tmp_path / "one")
    model.export_centroid(tmp_path / "other", mix="merged_weights")
    assert torch.equal(logits(tmp_path / "one"), logits(tmp_path / "other"))


@pytest.mark.parametrize("what", ["vertex", "member", "centroid"])
def test_an_exported_adapter_loads_with_peft(what: str, tmp_path: Path) -> None:
    base = folder("vit", tmp_path / "base")
    model = SimplexForImageClassification.from_backbone(base, vertex_parameters=LORA)
    model.add_vertex()
    with torch.no_grad():
        for vertex in model.vertices:
            for parameter in vertex.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.draw_members(2)
    calls: dict[str, Any] = {
        "vertex": (
            lambda place: model.export_vertex(1, place, as_adapter=True),
            lambda: model.backbone_at([0.0, 1.0]),
        ),
        "member": (lambda place: model.export_member(1, place, as_adapter=True), lambda: model.member_backbone(1)),
        "centroid": (lambda place: model.export_centroid(place, as_adapter=True), model.write_centroid),
    }
    export, at = calls[what]
    export(tmp_path / "adapter")
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    plain = AutoModelForImageClassification.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(adapted(pixel_values=images()).logits, at()(images()).logits, atol=1e-6)


@pytest.mark.parametrize("as_adapter", [False, True])
def test_the_exported_centroid_is_calibrated(as_adapter: bool, tmp_path: Path) -> None:
    model = grown(LORA)
    model.image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model.decisions = Decisions(temperature=2.0, centroid_temperatures=[2.0])
    model.export_centroid(tmp_path / "centroid", as_adapter=as_adapter)
    if as_adapter:
        adapted = peft.PeftModel.from_pretrained(backbone("vit"), tmp_path / "centroid").eval()
        with torch.no_grad():
            found = adapted(pixel_values=images()).logits
    else:
        found = logits(tmp_path / "centroid")
    assert torch.allclose(2 * found, model.write_centroid()(images()).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [("head", "vit", "no low-rank adapters"), ("lora", "timm", "no place for the BatchNorm statistics")],
)
def test_what_is_no_adapter_is_not_exported_as_one(choice: str, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        grown(choice, kind).export_vertex(0, tmp_path / "adapter", as_adapter=True)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_is_not_written_beside_a_model(tmp_path: Path) -> None:
    model = grown(LORA)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model"):
        model.export_vertex(0, tmp_path, as_adapter=True)
    with pytest.raises(ValueError, match=r"mix is 'products': choose from parameters, merged_weights"):
        model.export_centroid(tmp_path / "centroid", mix="products")
    with pytest.raises(ValueError, match="leave out as_adapter"):
        model.export_centroid(tmp_path / "centroid", mix="merged_weights", as_adapter=True)


def test_without_peft_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(LORA).save_pretrained(tmp_path / "adapters")
    grown("head").save_pretrained(tmp_path / "head")
    real = builtins.__import__

    def without_peft(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(ImportError, match=r"need peft: pip install 'hf-simplex\[lora\]'"):
        SimplexForImageClassification.from_pretrained(tmp_path / "adapters")
    assert SimplexForImageClassification.from_pretrained(tmp_path / "head").config.vertex_parameters == ["classifier"]


def test_an_adapter_configuration_may_be_an_object_a_dictionary_or_a_regular_expression() -> None:
    given = peft.LoraConfig(r=2, target_modules=r".*\.1\..*(q|v)_proj")
    expected = [f"vit.layers.1.attention.{name}_proj" for name in "qv"]
    for choice in (given, {"peft_type": "LORA", **given.to_dict()}, copy.deepcopy(given)):
        model = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=choice)
        stored: Any = model.config.vertex_parameters
        assert stored == {
            "peft_type": "LORA", "r": 2, "target_modules": expected, "modules_to_save": ["classifier"]
        }  # fmt: skip


def test_the_head_stays_shared_on_request() -> None:
    choice = {**LORA, "modules_to_save": []}
    model = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=choice)
    assert all("lora_" in name for name in model.vertex_parameter_names)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "lora_only"}, {"lora_bias": True}])
def test_variants_of_peft_merge_to_their_own_logits(settings: dict[str, Any], tmp_path: Path) -> None:
    model = grown({**LORA, **settings})
    model.export_vertex(1, tmp_path / "vertex")
    assert torch.allclose(logits(tmp_path / "vertex"), model.backbone_at([0.0, 1.0, 0.0])(images()).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "ensemble")
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
    assert torch.equal(loaded(images()).logits, model(images()).logits)
