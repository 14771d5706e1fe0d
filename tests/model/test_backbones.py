"""Any image classifier of transformers or timm is a backbone; what cannot be one is refused."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from loopback_hub import LoopbackHub
from tiny import KINDS, LABELS, SIZE, Trap, backbone, batches, ensemble, folder, images, same_tensors
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ImageGPTConfig,
    ImageGPTForImageClassification,
    PvtConfig,
    PvtForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.backbones import set_labels


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
def test_id2label_alone_sets_the_head_and_label2id(kind: str, tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match="num_labels=5 is another size than that of the weights"):
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


@pytest.mark.parametrize("name", ["a/b/c", "runs\\best", "backbone/", ".hidden", "~/no-backbone"])
def test_a_mistyped_folder_is_no_such_folder(name: str) -> None:
    for load, what in (
        (SimplexForImageClassification.from_backbone, "backbone"),
        (SimplexForImageClassification.from_pretrained, "ensemble"),
    ):
        with pytest.raises(FileNotFoundError, match=f"The {what} .* could not be loaded: there is no such folder"):
            load(name)
        with pytest.raises(FileNotFoundError, match=f"The name of the {what} is empty"):
            load("")


def test_unusable_backbones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype is 'half_float': expected a name such as 'float32'"):
        SimplexForImageClassification.from_backbone(folder("vit", tmp_path / "whole"), dtype="half_float")
    for name in ("no/such", "timm/no_such.model", tmp_path / "no" / "such"):
        with pytest.raises(OSError, match=r"The backbone '.*such.*' could not be loaded"):
            SimplexForImageClassification.from_backbone(name)
    with pytest.raises(OSError, match=r"The recipes alone know 'efficientnet_lite0'.*write_efficientnet_lite writes"):
        SimplexForImageClassification.from_backbone("efficientnet_lite0")
    with pytest.raises(TypeError, match="is a ResNet; expected a Hub id"):
        SimplexForImageClassification.from_backbone(timm.create_model("test_resnet"))
    with pytest.raises(ValueError, match="ViTModel takes no labels"):
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
def test_contradictory_label_counts_are_refused(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path)
    with pytest.raises(ValueError, match="has 3 labels, not 4"):
        SimplexForImageClassification.from_backbone(backbone(kind), num_labels=4)
    with pytest.raises(ValueError, match="num_labels=4 contradicts the 2 labels"):
        SimplexForImageClassification.from_backbone(path, num_labels=4, id2label={0: "ant", 1: "bee"})
    with pytest.raises(ValueError, match="num_labels=0: expected at least 2"):
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


def named(kind: str, directory: Path, *names: str) -> Path:
    """A folder of a classifier with these labels."""
    module = backbone(kind, labels=len(names))
    set_labels(module.config, dict(enumerate(names)), {name: index for index, name in enumerate(names)})
    module.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_for_other_labels_does_not_pass_for_trained(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    path = named(kind, tmp_path / kind, "ant", "bee", "cat")
    own = SimplexForImageClassification.from_backbone(path).weights[0]
    for names in (("plane", "ship", "train"), ("bee", "ant", "cat")):
        caplog.clear()
        model = SimplexForImageClassification.from_backbone(path, id2label=dict(enumerate(names)))
        assert model.config.roles == ["pretrained"]
        changed = {name for name, tensor in model.weights[0].items() if not torch.equal(tensor, own[name])}
        assert model.new_weights >= changed and {len(own[name]) for name in model.new_weights} == {LABELS}
        assert any(name.endswith("weight") for name in changed)
        assert "'ant', 'bee', 'cat'" in caplog.text and "head is newly initialized" in caplog.text
        kept = SimplexForImageClassification.from_backbone(path, id2label=dict(enumerate(names)), fine_tuned=True)
        assert kept.config.roles == ["mode"] and not kept.new_weights
        assert all(torch.equal(tensor, own[name]) for name, tensor in kept.weights[0].items())
        assert kept.config.id2label == dict(enumerate(names))
    same = SimplexForImageClassification.from_backbone(path, id2label={0: "ant", 1: "bee", 2: "cat"})
    assert same.config.roles == ["mode"]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_becomes_float32_unless_it_is_asked_for(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    half = backbone(kind).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    for source in (tmp_path, half):
        caplog.clear()
        model = SimplexForImageClassification.from_backbone(source)
        assert {p.dtype for p in (*model.parameters(), *model.backbone.parameters())} == {torch.float32}
        assert model.config.dtype == torch.float32 and "are bfloat16. They are converted to float32" in caplog.text
        caplog.clear()
        kept = SimplexForImageClassification.from_backbone(source, dtype="bfloat16")
        assert {p.dtype for p in (*kept.parameters(), *kept.backbone.parameters())} == {torch.bfloat16}
        assert "converted" not in caplog.text
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["model", "folder"])
def test_models_for_another_task_are_refused_by_name(source: str, tmp_path: Path) -> None:
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    gray = {"input_size": [1, 16, 16], "mean": [0.5], "std": [0.5], "num_classes": 3}
    timm_config = TimmWrapperConfig.from_dict(
        {"architecture": "test_resnet", "num_classes": 3, "model_args": {"in_chans": 1}, "pretrained_cfg": gray}
    )
    cases = {
        "problem_type .* is 'regression'": ViTForImageClassification(ViTConfig(problem_type="regression", **small)),
        "images of 1 channels": ViTForImageClassification(ViTConfig(num_channels=1, **small)),
        r"images of 1 channels .*in_chans": TimmWrapperForImageClassification(timm_config),
        "has 1 label": ViTForImageClassification(ViTConfig(num_labels=1, **small)),
        "DeiTForImageClassificationWithTeacher takes no labels": DeiTForImageClassificationWithTeacher(
            DeiTConfig(**small)
        ),
        "ImageGPTForImageClassification takes input_ids": ImageGPTForImageClassification(
            ImageGPTConfig(vocab_size=8, n_positions=16, n_embd=8, n_layer=1, n_head=1)
        ),
        "Siglip2ForImageClassification takes spatial_shapes": Siglip2ForImageClassification(
            Siglip2Config(vision_config={"hidden_size": 12, "intermediate_size": 12, "num_hidden_layers": 1})
        ),
    }
    for number, (message, module) in enumerate(cases.items()):
        given: Any = module
        if source == "folder":
            module.save_pretrained(given := tmp_path / str(number))
        with pytest.raises(ValueError, match=message):
            SimplexForImageClassification.from_backbone(given)
    with pytest.raises(ValueError, match="regression"):
        SimplexForImageClassification.from_backbone(folder("vit", tmp_path / "vit"), problem_type="regression")


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("vit", 13, "could not be loaded: image_size=13 is another size than that of the weights. The report"),
        ("vit", "x", "image_size='x' does not fit it.*Validation error for field 'image_size'"),
        ("vit", -8, "image_size=-8"),
        ("resnet", 13, "image_size=13 does not fit it.*unexpected keyword argument 'image_size'"),
        ("timm", 13, "image_size=13 does not fit it.*unexpected keyword argument 'image_size'"),
    ],
)
def test_an_image_size_that_does_not_fit_is_refused_by_name(
    kind: str, size: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexForImageClassification.from_backbone(folder(kind, tmp_path), image_size=size, token="secret")


def test_other_weights_are_new_where_that_is_asked_for(tmp_path: Path) -> None:
    path = folder("vit", tmp_path)
    model = SimplexForImageClassification.from_backbone(path, image_size=2 * SIZE, ignore_mismatched_sizes=True)
    assert model.new_weights == {"vit.embeddings.position_embeddings"} and model.config.roles == ["pretrained"]
    assert model(torch.zeros(1, 3, 2 * SIZE, 2 * SIZE)).logits.shape == (1, LABELS)


def test_a_model_that_was_never_saved_is_the_class_that_it_is(tmp_path: Path) -> None:
    """DeiT has two image classifiers, and only `architectures` tells them apart."""
    config = DeiTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=SIZE, patch_size=4
    )
    module = DeiTForImageClassification(config).eval()
    assert module.config.architectures is None
    model = SimplexForImageClassification.from_backbone(module)
    assert module.config.architectures is None, "the given model is copied"
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    pixel_values = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = module(pixel_values).logits.log_softmax(-1)
    for each in (model, loaded):
        assert type(each.backbone) is DeiTForImageClassification
        assert torch.equal(each(pixel_values).logits, expected)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    vit, resnet = backbone("vit"), backbone("resnet")
    with torch.no_grad():
        vit.classifier.weight[0, 0] = value
        next(buffer for name, buffer in resnet.named_buffers() if name.endswith("running_var"))[1] = value
    with pytest.raises(ValueError, match=r"classifier\.weight of the given ViTForImageClassification is not finite"):
        SimplexForImageClassification.from_backbone(vit)
    with pytest.raises(ValueError, match=r"running_var of the given ResNetForImageClassification is not finite"):
        SimplexForImageClassification.from_backbone(resnet)
    vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier\.weight of the given"):
        SimplexForImageClassification.from_backbone(tmp_path)
    # The spoilt head is left behind.
    assert SimplexForImageClassification.from_backbone(tmp_path, num_labels=5).config.num_labels == 5


def test_a_class_is_a_backbone_that_its_configuration_does_not_name(tmp_path: Path) -> None:
    """The configuration of DeiT goes with two classes; a model that was loaded as one may name the other."""
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    for architectures in (None, ["DeiTForImageClassificationWithTeacher"]):
        module = DeiTForImageClassification(DeiTConfig(**small, num_labels=LABELS)).eval()
        module.config.architectures = architectures
        SimplexForImageClassification.from_backbone(module).save_pretrained(tmp_path)
        loaded = SimplexForImageClassification.from_pretrained(tmp_path)
        assert type(loaded.backbone) is DeiTForImageClassification
        assert torch.equal(loaded(images()).logits, module(images()).logits.log_softmax(-1))
        assert module.config.architectures == architectures


def test_labels_without_names_get_the_default_ones(tmp_path: Path) -> None:
    """The configuration of PVT counts its labels and names none."""
    config = PvtConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, image_size=32, num_labels=5)
    assert config.id2label is None
    model = SimplexForImageClassification.from_backbone(PvtForImageClassification(config))
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == {label: f"LABEL_{label}" for label in range(5)}
    assert loaded(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)
