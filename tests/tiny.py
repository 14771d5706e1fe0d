"""Backbones, images and ensembles small enough that a stage takes a second, and ways to compare them."""

import copy
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_simplex import SimplexForImageClassification

LABELS = 3
SIZE = 16
KINDS = ("resnet", "vit", "timm")


def backbone(kind: str, seed: int = 0, labels: int = LABELS) -> PreTrainedModel:
    """A randomly initialized classifier: transformers with BatchNorm, transformers with LayerNorm, or timm."""
    torch.manual_seed(seed)
    if kind == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=labels
        )
        return ResNetForImageClassification(config).eval()
    if kind == "vit":
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=SIZE,
            patch_size=8,
            num_labels=labels,
            hidden_dropout_prob=0.0,
        )
        return ViTForImageClassification(config).eval()
    pretrained = {"input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    config = TimmWrapperConfig.from_dict(
        {"architecture": "test_resnet", "num_classes": labels, "pretrained_cfg": {**pretrained, "num_classes": labels}}
    )
    return TimmWrapperForImageClassification(config).eval()


def folder(kind: str, directory: Path, labels: int = LABELS, seed: int = 0) -> Path:
    """The same as a folder of a Hub repository, image processor included."""
    backbone(kind, seed, labels).save_pretrained(directory)
    if kind != "timm":
        ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(directory)
    return directory


def images(number: int = 6, seed: int = 0) -> Tensor:
    """[number, 3, SIZE, SIZE] random pixel values."""
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


class Images(Dataset):
    """Random images whose mean tells their label."""

    def __init__(self, number: int = 24) -> None:
        self.labels = torch.arange(number) % LABELS
        self.pixel_values = images(number, seed=1) + self.labels[:, None, None, None] - 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


def batches(number: int = 2) -> list[dict[str, Tensor]]:
    """Inputs for BatchNorm statistics."""
    return [{"pixel_values": images(8, seed=10 + index)} for index in range(number)]


PICTURE = Image.fromarray(torch.randint(256, (30, 20, 3), generator=torch.manual_seed(0)).byte().numpy())


@cache
def _shared_ensemble(kind: str, members: int, seed: int) -> SimplexForImageClassification:
    model = SimplexForImageClassification.from_backbone(backbone(kind, seed))
    for other in (1, 2):
        vertex = model.add_vertex()
        model.backbone.load_state_dict(backbone(kind, seed + other).state_dict())
        model.store_vertex(vertex)
    model.draw_members(members, seed=seed, batches=batches())
    return model


def ensemble(kind: str, members: int = 3, seed: int = 0) -> SimplexForImageClassification:
    """A copy of a triangle whose other vertices are other random backbones. The global seed becomes `seed`."""
    model = copy.deepcopy(_shared_ensemble(kind, members, seed))
    # Random numbers of a test may not depend on whether another test made the ensemble.
    torch.manual_seed(seed)
    return model


def complete(kind: str = "vit", seed: int = 0) -> SimplexForImageClassification:
    """An ensemble with an image processor."""
    model = ensemble(kind, seed=seed)
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return model


def same_tensors(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    return same(left.state_dict(), right.state_dict())


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def contents(directory: Path) -> dict[str, bytes]:
    """Bytes of all files in a folder, by relative path."""
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def forget_digests(directory: Path) -> None:
    """Remove the digests from an index: version 0.1.0 had none."""
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    del index["metadata"]["sha256"]
    file.write_text(json.dumps(index))


class Trap:
    """An object whose unpickling leaves a file, so that nobody can open it unseen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
