"""The recipe trains on images from idx files, folders and saved data sets."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from tiny import folder
from tiny_recipes import KEYS, run

from hf_simplex import SimplexForImageClassification


def write_fashion_mnist(directory: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    directory.mkdir()
    for part, number in (("train", 40), ("t10k", 20)):
        pixels = random.integers(0, 256, (number, 28, 28), np.uint8)
        header = struct.pack(">IIII", 2051, number, 28, 28)
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        labels = (np.arange(number) % 10).astype(np.uint8)
        header = struct.pack(">II", 2049, number)
        (directory / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return {"data_set": "fashion_mnist", "fashion_mnist_dir": str(directory)}


def write_folder(directory: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        for label, shade in (("dark", 40), ("light", 220)):
            (directory / split / label).mkdir(parents=True)
            for index in range(6):
                picture = PILImage.new("RGB", (20, 18), (shade, index, shade))
                picture.save(directory / split / label / f"{index}.png")
    return {"data_set": str(directory)}


def write_data_set(directory: Path) -> dict[str, Any]:
    features = Features({"img": Image(), "kind": ClassLabel(names=["dark", "light"])})
    pictures = [PILImage.new("L", (20, 18), 40 + 180 * (index % 2)) for index in range(12)]
    dataset = Dataset.from_dict({"img": pictures, "kind": [index % 2 for index in range(12)]}, features=features)
    DatasetDict(train=dataset, test=dataset).save_to_disk(directory)
    return {"data_set": str(directory)}


@pytest.mark.parametrize("write", [write_fashion_mnist, write_folder, write_data_set])
def test_data_come_from_idx_files_folders_and_saved_data_sets(write: Any, tmp_path: Path) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 2, "num_members": 1, "num_train_epochs": 1, "augment": "none"}
    results = run(tmp_path, backbone=backbone, **settings, **write(tmp_path / "data"))
    assert all(0 <= results[name]["accuracy"] <= 1 for name in KEYS)
    labels = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble").config.id2label
    assert len(labels) in (2, 10) and not any(label.startswith("LABEL") for label in labels.values())


def test_a_validation_split_of_another_name_is_used(tmp_path: Path) -> None:
    for part, number in (("train", 20), ("calibration", 60), ("test", 10)):
        for label in range(2):
            for index in range(number // 2):
                file = tmp_path / "data" / part / f"class-{label}" / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                PILImage.new("RGB", (20, 18), (200 * label, index, 0)).save(file)
    settings = {"num_components": 1, "num_vertices": 1, "num_members": None, "num_train_epochs": 1, "augment": "none"}
    backbone = str(folder("vit", tmp_path / "backbone"))
    run(tmp_path, "--validation_split", "calibration", backbone=backbone, data_set=str(tmp_path / "data"), **settings)
    told = json.loads((tmp_path / "output/run.json").read_text())["images"]
    splits = {role: (told[role]["source"], told[role]["images"]) for role in ("train", "validation", "test")}
    assert splits == {"train": ("train", 20), "validation": ("calibration", 60), "test": ("test", 10)}
