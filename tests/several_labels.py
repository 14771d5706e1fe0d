"""Ensembles and data sets with several labels an image."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny import SIZE, backbone, batches, images
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, ViTImageProcessor

from hf_simplex import SimplexForImageClassification

MULTI = "multi_label_classification"
NAMES = ("cat", "dog", "tree")


def several_backbone(kind: str, seed: int = 0) -> PreTrainedModel:
    module = backbone(kind, seed)
    module.config.problem_type = MULTI
    return module


@cache
def _shared(kind: str) -> SimplexForImageClassification:
    model = SimplexForImageClassification.from_backbone(several_backbone(kind))
    for other in (1, 2):
        vertex = model.add_vertex()
        model.backbone.load_state_dict(backbone(kind, other).state_dict())
        model.store_vertex(vertex)
    model.set_members([[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5]], batches())
    return model


def several_ensemble(kind: str = "vit") -> SimplexForImageClassification:
    """A triangle of three random backbones, with an image processor."""
    model = copy.deepcopy(_shared(kind))
    if kind != "timm":
        model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return model


class SeveralImages(Dataset):
    """Random images whose channels tell their labels: label k is where channel k is bright."""

    def __init__(self, number: int = 24, seed: int = 1) -> None:
        draws = torch.rand(number, 3, generator=torch.Generator().manual_seed(seed))
        self.labels: Tensor = (draws < 0.4).float()
        self.pixel_values = 0.3 * images(number, seed=seed) + 2 * self.labels[:, :, None, None] - 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


def write_folder(directory: Path, number: int = 60, seed: int = 0) -> list[list[str]]:
    """An imagefolder with lists of label names in metadata.jsonl. Returns the lists."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    lists, lines = [], []
    for index in range(number):
        own = [name for name in NAMES if generator.random() < 0.4]
        pixels = generator.integers(0, 60, (SIZE, SIZE, 3))
        for channel, name in enumerate(NAMES):
            pixels[:, :, channel] += 150 * (name in own)
        Image.fromarray(pixels.astype("uint8")).save(directory / f"{index:03d}.png")
        lines.append(json.dumps({"file_name": f"{index:03d}.png", "labels": own}))
        lists.append(own)
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return lists
