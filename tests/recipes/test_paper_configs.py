"""The paper's settings run, on stand-ins of CIFAR and of the backbones, and its architectures fit 32 pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import train_espro
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from tiny import SIZE, folder
from tiny_recipes import RECIPES
from transformers import AutoModelForImageClassification

from hf_simplex import SimplexForImageClassification
from hf_simplex.training.recipe.backbones_from_scratch import random_mode
from hf_simplex.training.recipe.components import component_arguments
from hf_simplex.training.recipe.parsing import parse_arguments

CONFIGS = sorted((RECIPES / "configs/paper").glob("*.yaml"))
KINDS = (
    train_espro.BackboneArguments,
    train_espro.DataArguments,
    train_espro.CalibrationArguments,
    train_espro.EsproArguments,
)
SHORT: dict[str, Any] = {
    "num_components": 2,
    "num_vertices": 2,
    "num_members": 2,
    "num_train_epochs": 1,
    "connector_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "batch_norm_images": 4,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "image_size": SIZE,
}


def cifar(path: Path, labels: int) -> Path:
    """A few images with the columns of uoft-cs/cifar10 or, with its coarse labels too, of uoft-cs/cifar100."""
    columns = ["label"] if labels == 10 else ["fine_label", "coarse_label"]
    kinds = {"label": 10, "fine_label": 100, "coarse_label": 20}
    features = Features({"img": Image()} | {name: ClassLabel(num_classes=kinds[name]) for name in columns})
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    rows = {"img": [PILImage.fromarray(image) for image in noise], **{name: [0, 1, 2, 3] for name in columns}}
    split = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": split, "test": split}).save_to_disk(path)
    return path


def test_there_is_a_setting_for_each_architecture_and_data_set() -> None:
    assert [file.stem for file in CONFIGS] == [
        f"{architecture}_{data}"
        for architecture in ("preresnet110", "vgg16", "vit_b16")
        for data in ("cifar10", "cifar100")
    ]


def test_every_setting_is_made_of_arguments_of_the_recipe() -> None:
    for file in CONFIGS:
        backbone_args, data_args, calibration, args = parse_arguments(KINDS, [str(file), "--use_cpu"])
        train_espro.check(backbone_args, args)
        assert calibration.validation_fraction == 0
        assert data_args.label_column == ("fine_label" if file.stem.endswith("cifar100") else None)
        assert (args.optim, args.optim_args) == ("sgd", "momentum=0.9")


FROM_SCRATCH = {
    "num_train_epochs": 300,
    "learning_rate": 0.05,
    "connector_learning_rate": 0.01,
    "weight_decay": 5e-4,
    "per_device_train_batch_size": 128,
    "num_components": 8,
    "num_vertices": 4,
    "num_members": 25,
    "points_per_step": 5,
    "volume_weight": 1e-6,
    "volume_weight_scaling": "random_complex",
}
VIT = {
    "connector_epochs": 10,
    "connector_learning_rate": 0.01,
    "weight_decay": 0.0,
    "per_device_train_batch_size": 128,
    "num_vertices": 6,
    "num_members": 25,
    "points_per_step": 1,
    "volume_weight": 1e-4,
    "volume_weight_scaling": "none",
}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_settings_have_the_values_of_the_papers_code(file: Path) -> None:
    """docs/paper.md has the source of each value."""
    parsed = parse_arguments(KINDS, [str(file), "--use_cpu"])
    values = {name: value for args in parsed for name, value in vars(args).items()}
    expected = VIT if "vit" in file.stem else FROM_SCRATCH
    if "vit" not in file.stem:
        expected = expected | {
            "connector_epochs": 20 if file.stem.endswith("cifar100") else 10,
            "point_batches": "full",
        }
    assert {name: values[name] for name in expected} == expected
    assert values["lr_scheduler_type"] == "cosine"


def test_the_random_members_of_the_settings_are_25_in_all() -> None:
    for file in CONFIGS:
        backbone_args, *_, args = parse_arguments(KINDS, [str(file), "--use_cpu"])
        components = backbone_args.num_components
        counts = [component_arguments(args, index, components).num_members for index in range(components)]
        assert sum(counts) == 25 and min(counts) >= 1


def test_the_settings_say_where_they_differ_from_the_papers_code() -> None:
    for file in CONFIGS:
        text = file.read_text("utf-8")
        if "vit" in file.stem:
            assert "fixes no vertex" in text and "not\n# SPRO as written" in text
        else:
            assert "at least 1e-8" in text and "1e-10" in text


# One from scratch and one fine-tuned, one of each data set: the others differ in values only.
@pytest.mark.parametrize("name", ["vgg16_cifar10", "vit_b16_cifar100"])
def test_a_setting_of_the_paper_runs(name: str, tmp_path: Path) -> None:
    file = CONFIGS[0].with_stem(name)
    settings = yaml.safe_load(file.read_text("utf-8"))
    labels = 100 if file.stem.endswith("cifar100") else 10
    assert settings["data_set"] == f"uoft-cs/cifar{labels}" and settings["output_dir"] == f"output/paper/{file.stem}"
    # A tiny network from scratch, or a tiny pretrained one, in place of the paper's.
    backbone = "test_resnet" if settings.get("from_scratch") else str(folder("vit", tmp_path / "backbone"))
    changes = {"data_set": cifar(tmp_path / "cifar", labels), "output_dir": tmp_path / "output", "backbone": backbone}
    results = train_espro.main([str(file), *(f"--{name}={value}" for name, value in (changes | SHORT).items())])
    assert results["espro"]["training_epochs"] == 4 and np.isfinite(results["espro"]["nll"])
    model = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert model.config.num_labels == labels and len(model.config.simplexes) == 2
    assert model(torch.zeros(1, 3, SIZE, SIZE)).logits.shape == (1, labels)
    assert model.image_processor is not None


def test_backbones_of_the_settings_fit_the_data_and_their_image_processor(tmp_path: Path) -> None:
    for file in CONFIGS:
        settings = yaml.safe_load(file.read_text("utf-8"))
        labels = 100 if file.stem.endswith("cifar100") else 10
        if "vit" in file.stem:
            assert settings["backbone"] == "google/vit-base-patch16-224-in21k"
        elif labels == 100:
            model = random_mode(settings["backbone"], {index: str(index) for index in range(labels)})
            assert model.image_processor is not None
            pixels = model.image_processor(PILImage.new("RGB", (32, 32)), return_tensors="pt")["pixel_values"]
            assert pixels.shape == (1, 3, 32, 32)
            assert pixels[0, :, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
            assert model(pixels).logits.shape == (1, labels)


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [("vgg16_cifar", 15.2), ("narrow_vgg16_cifar", 0.24), ("preresnet110_cifar", 1.15), ("preresnet164_cifar", 1.7)],
)
def test_the_architectures_of_the_paper_have_its_size_and_no_more_than_they_need(
    architecture: str, millions: float
) -> None:
    model = timm.create_model(architecture, num_classes=10).train()
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    logits = model(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (8, 10)
    logits.square().mean().backward()
    # Neither vanishing nor exploding: the weights are drawn as these networks need it.
    for parameter in model.parameters():
        assert parameter.grad is not None and 1e-9 < parameter.grad.abs().max() < 1e3


def test_random_weights_come_from_the_seed_and_are_those_of_timm(tmp_path: Path) -> None:
    names = {0: "a", 1: "b", 2: "c"}

    def weights(architecture: str, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        return dict(random_mode(architecture, names).weights[0])

    first, again, other = (weights("test_resnet", seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    convolutions = [name for name, tensor in first.items() if tensor.dim() == 4]
    assert convolutions and not any(torch.equal(first[name], other[name]) for name in convolutions)
    drawn = timm.create_model("test_resnet", num_classes=3)
    for name, tensor in drawn.named_parameters():
        if "conv" in name:
            assert first[f"timm_model.{name}"].std().item() == pytest.approx(tensor.std().item(), rel=0.3)


def test_an_architecture_may_be_a_folder_of_which_the_weights_are_not_read(tmp_path: Path) -> None:
    source = folder("vit", tmp_path / "vit")
    model = random_mode(str(source), {0: "a", 1: "b"})
    assert model.config.num_labels == 2 and model.config.id2label == {0: "a", 1: "b"}
    assert model.config.roles == ["pretrained"]
    assert model.image_processor is not None and model.image_processor.size["height"] == SIZE
    kept = dict(AutoModelForImageClassification.from_pretrained(source).named_parameters())
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    name = name if name in kept else next(name for name in kept if "query" in name or "q_proj" in name)
    assert not torch.equal(model.weights[0][name], kept[name])


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"'vgg17' is no architecture: give 'small_resnet', .* a timm model name"):
        random_mode("vgg17", {0: "a"})
