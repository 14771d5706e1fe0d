"""What differs between vertices: all parameters, the head, names, or adapters; the rest is held and stored once."""

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from tiny import backbone, batches, folder, images
from torch import nn

from hf_simplex import SimplexConfig, SimplexForImageClassification
from hf_simplex.model.vertex_parameters import matching_parameters
from hf_simplex.model.vertex_selection import resolve_vertex_parameters
from hf_simplex.model.weight_space import write_point

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]}
CHOICES: list[Any] = ["head", ["*layers.1", "head"], LORA]
NAMES = [
    "vit.layers.0.norm.weight",
    "vit.layers.1.norm.weight",
    "vit.layers.10.norm.weight",
    "head.weight",
    "head.bias",
]


def grown(choice: Any, kind: str = "vit", vertices: int = 3) -> SimplexForImageClassification:
    """A simplex of random vertices that differ in the chosen parameters."""
    model = SimplexForImageClassification.from_backbone(backbone(kind), vertex_parameters=choice)
    generator = torch.Generator().manual_seed(1)
    for _ in range(vertices - 1):
        model.add_vertex()
    with torch.no_grad():
        for vertex in model.vertices:
            for parameter in vertex.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.draw_members(4, batches=batches())
    return model


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["head"], ["head.weight", "head.bias"]),
        (["vit.layers.1"], ["vit.layers.1.norm.weight"]),
        (["*.1"], ["vit.layers.1.norm.weight"]),
        (["vit.layers.1*"], ["vit.layers.1.norm.weight", "vit.layers.10.norm.weight"]),
        (["*norm*", "head.bias"], [*NAMES[:3], "head.bias"]),
        (["vit.layers.?"], NAMES[:2]),
    ],
)
def test_a_pattern_names_parameters_or_whole_modules(patterns: list[str], expected: list[str]) -> None:
    assert matching_parameters(NAMES, patterns) == expected


@pytest.mark.parametrize(
    ("pattern", "near"), [("hed", "'hed', which matches nothing. Similar names: head"), ("layers.1", "'*layers.1*'")]
)
def test_a_pattern_that_matches_nothing_is_refused_with_near_misses(pattern: str, near: str) -> None:
    with pytest.raises(ValueError) as error:
        matching_parameters(NAMES, ["head", pattern])
    assert near in str(error.value)


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_the_head_is_found_by_its_shape_and_stored_by_name(kind: str) -> None:
    head = {"vit": ["classifier"], "resnet": ["classifier.1"], "timm": ["timm_model.fc"]}[kind]
    assert resolve_vertex_parameters("head", backbone(kind)) == head


@pytest.mark.parametrize("choice", CHOICES)
def test_shared_weights_are_held_once(choice: Any) -> None:
    model = grown(choice)
    shared = dict(model.shared.named_parameters())
    assert shared and not set(shared) & set(model.vertex_parameter_names)
    assert all(list(dict(vertex.named_parameters())) == model.vertex_parameter_names for vertex in model.vertices)
    model.materialize()
    for module in (model.backbone, *(model.member_backbone(member) for member in range(4))):
        own = {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
        assert own.keys() == shared.keys()
        assert all(own[name] is parameter for name, parameter in shared.items())


@pytest.mark.parametrize("choice", CHOICES)
def test_moving_and_casting_keeps_shared_weights_shared(choice: Any) -> None:
    model = grown(choice)
    model.materialize()
    expected = model(images()).logits
    model.double()
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float64}
    assert torch.allclose(model(images().double()).logits, expected, atol=1e-6)
    shared = dict(model.shared.named_parameters())
    modules = (model.backbone, model.member_backbone(0))
    assert all(dict(module.named_parameters())[name] is shared[name] for module in modules for name in shared)
    copied = copy.deepcopy(model)
    assert all(dict(copied.backbone.named_parameters())[name] is p for name, p in copied.shared.named_parameters())
    assert next(copied.shared.parameters()) is not next(model.shared.parameters())


@pytest.mark.parametrize("kind", ["vit", "timm"])
@pytest.mark.parametrize("choice", ["head", "lora"])
def test_members_are_the_plain_models_at_their_coordinates(choice: Any, kind: str) -> None:
    """Each member against a model whose whole weights are mixed by hand."""
    model = grown(choice, kind)
    probabilities = model(images(), output_member_probabilities=True).member_probabilities
    plain = copy.deepcopy(model.backbone)
    for member, coordinates in enumerate(model.config.members):
        mixed = {
            name: sum(c * vertex[name] for c, vertex in zip(coordinates, model.weights, strict=True))
            for name in model.vertex_parameter_names
        }
        statistics = {} if not len(model.members) else dict(model.members[member].named_buffers())
        plain.load_state_dict({**plain.state_dict(), **mixed, **statistics})
        with torch.no_grad():
            expected = plain(images()).logits.softmax(-1)
        assert torch.allclose(probabilities[:, member], expected, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_volumes_are_those_of_what_differs(choice: Any) -> None:
    model = grown(choice, vertices=2)
    first, second = (torch.cat([p.flatten() for p in vertex.parameters()]).double() for vertex in model.vertices)
    assert model.log_volumes().item() == pytest.approx((first - second).norm().log().item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["vit", "timm"])
@pytest.mark.parametrize("choice", ["head", "lora"])
def test_files_hold_shared_weights_once_and_load_bit_for_bit(choice: Any, kind: str, tmp_path: Path) -> None:
    model = grown(choice, kind)
    model.save_pretrained(tmp_path)
    files = {file.name for file in tmp_path.glob("*.safetensors")}
    assert files - {"members.safetensors"} == {
        "shared.safetensors",
        *(f"vertex-{i:05d}.safetensors" for i in range(3)),
    }
    with safe_open(tmp_path / "vertex-00001.safetensors", "pt") as opened:
        stored = {name.split(".", 2)[2] for name in opened.keys()}  # noqa: SIM118
    assert stored == set(model.weights[1])
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.vertex_parameters == model.config.vertex_parameters
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    loaded.save_pretrained(tmp_path / "again")
    for file in files:
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_all_parameters_write_the_files_of_before(tmp_path: Path) -> None:
    grown("all").save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.glob("*.safetensors")} == {f"vertex-{i:05d}.safetensors" for i in range(3)}
    assert json.loads((tmp_path / "config.json").read_text())["vertex_parameters"] == "all"


@pytest.mark.parametrize("choice", CHOICES)
def test_a_part_loads_with_the_shared_weights(choice: Any, tmp_path: Path) -> None:
    model = grown(choice)
    united = SimplexForImageClassification.disjoint_union([model, model])
    united.save_pretrained(tmp_path)
    part = SimplexForImageClassification.from_pretrained(tmp_path, simplex=1)
    assert torch.equal(part(images()).logits, model(images()).logits)
    first = SimplexForImageClassification.from_pretrained(tmp_path, num_members=1)
    expected = model(images(), output_member_probabilities=True).member_probabilities[:, 0]
    assert torch.allclose(first(images()).logits.softmax(-1), expected, atol=1e-6)


def test_a_shared_file_of_another_ensemble_is_refused(tmp_path: Path) -> None:
    grown("head").save_pretrained(tmp_path / "one")
    other = SimplexForImageClassification.from_backbone(backbone("vit", seed=5), vertex_parameters="head")
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "one" / "shared.safetensors").write_bytes((tmp_path / "other" / "shared.safetensors").read_bytes())
    with pytest.raises(OSError, match=r"shared\.safetensors is of another save"):
        SimplexForImageClassification.from_pretrained(tmp_path / "one")


def test_models_that_share_other_weights_are_not_combined() -> None:
    one = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters="head")
    other = SimplexForImageClassification.from_backbone(backbone("vit", seed=5), vertex_parameters="head")
    with pytest.raises(ValueError, match=r"Component 2 shares another vit\.\S+ among its vertices"):
        SimplexForImageClassification.disjoint_union([one, other])
    adapted = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=LORA)
    with pytest.raises(
        ValueError, match=r"component 2 differ in other parameters.*LoRA of rank 2 and classifier, not"
    ):
        SimplexForImageClassification.simplex_of_modes([one, adapted])


def test_what_requires_gradients_differs_by_default() -> None:
    given = backbone("vit")
    given.vit.requires_grad_(False)
    model = SimplexForImageClassification.from_backbone(given)
    assert model.vertex_parameter_names == ["classifier.weight", "classifier.bias"]
    whole = SimplexForImageClassification.from_backbone(given, vertex_parameters="all")
    assert whole.config.vertex_parameters == "all" and not whole.shared.tensors()
    with pytest.raises(ValueError, match="nothing to train"):
        SimplexForImageClassification.from_backbone(given.requires_grad_(False))


def test_a_new_head_cannot_be_left_out(tmp_path: Path) -> None:
    path = folder("vit", tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"leaves out classifier\.bias, which is newly initialized.*'head'"):
        SimplexForImageClassification.from_backbone(path, num_labels=7, vertex_parameters="*layers.1")
    model = SimplexForImageClassification.from_backbone(path, num_labels=7, vertex_parameters=["*layers.1", "head"])
    assert model.config.roles == ["pretrained"]


def test_adapters_of_all_models_start_from_the_same_values(tmp_path: Path) -> None:
    path = folder("vit", tmp_path / "backbone")
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(SimplexForImageClassification.from_backbone(path, num_labels=7, vertex_parameters="lora"))
    one, other = (model.weights[0] for model in models)
    same = {name for name in one if torch.equal(one[name], other[name])}
    assert same - {"classifier.bias"} == {name for name in one if "lora_" in name}  # a new bias is 0
    assert any(bool(one[name].any()) for name in same)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ("attention", ValueError, r"Similar names: vit\.layers\.0\.attention.*'\*attention\*'"),
        ([], ValueError, "vertex_parameters is empty"),
        (3, TypeError, "vertex_parameters is 3; expected 'all', 'head', 'lora'"),
        ({"peft_type": "IA3"}, ValueError, "'IA3'; only 'LORA'"),
        ({"peft_type": "LORA", "rank": 4}, ValueError, "'rank', which is no setting"),
        ({"peft_type": "LORA", "r": 0}, ValueError, "peft cannot insert"),
        ({"peft_type": "LORA", "target_modules": ["query"]}, ValueError, "'query'.*Similar names: q_proj"),
        ({"peft_type": "LORA", "modules_to_save": ["clasifier"]}, ValueError, "'clasifier'.*classifier"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, ValueError, "changes the shared weights"),
        ({"peft_type": "LORA", "layer_replication": [[0, 2], [1, 2]]}, ValueError, "vertices do not support"),
        (peft.IA3Config(target_modules=["q_proj"]), TypeError, "IA3Config; expected a LoraConfig"),
    ],
)
def test_bad_vertex_parameters_are_refused_by_name(choice: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=choice)


def test_a_backbone_with_adapters_is_refused() -> None:
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), backbone("vit"))
    with pytest.raises(ValueError, match="has adapters already"):
        SimplexForImageClassification.from_backbone(adapted)


def test_a_quantized_backbone_is_refused() -> None:
    given = backbone("vit")
    given.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="is quantized"):
        SimplexForImageClassification.from_backbone(given, vertex_parameters="lora")


@pytest.mark.parametrize(
    "value",
    [
        "head", [], [1], {"r": 3}, 5, {"peft_type": "IA3"}, {"peft_type": "LORA"},
        {"peft_type": "LORA", "target_modules": float("nan"), "modules_to_save": []},
        {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": "classifier"},
    ],
)  # fmt: skip
def test_a_configuration_with_other_vertex_parameters_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="vertex_parameters"):
        SimplexConfig(vertex_parameters=value)


def test_a_module_without_trainable_parameters_has_no_weight_space() -> None:
    layer = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="No parameter of the Linear requires gradients"):
        write_point(layer, [{"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}], [1.0])
