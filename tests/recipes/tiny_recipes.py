"""Arguments of recipe runs that take seconds, for several test modules."""

import json
from pathlib import Path
from typing import Any

import torch
import train_espro
from tiny import SIZE

from hf_simplex import SimplexForImageClassification

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = RECIPES / "train_espro.py"

DIGITS: dict[str, Any] = {
    "data_set": "digits",
    "max_train_examples": 40,
    "max_test_examples": 60,
    "horizontal_flip": 0.0,
}
"""Data of train_espro."""

TINY: dict[str, Any] = {
    "train_modes": 3,
    "width": 4,
    "connectors": 2,
    "data_set": "digits",
    "max_train_examples": 40,
    "max_test_examples": 30,
    "image_size": 16,
    "augment": "none",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 20,
    "per_device_eval_batch_size": 20,
    "learning_rate": "1e-2",
    "path_points": 3,
    "sampled_points": 4,
    "batch_norm_images": 20,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}
"""Arguments of connect_modes."""

KEYS = ["backbone", "deep_ensemble", "centroid", "simplex", "espro"]
"""Names of the results of train_espro."""


def write_config(path: Path, settings: dict[str, Any]) -> Path:
    """Write `path/config.yaml`. A setting of None is left out."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / "config.yaml"
    file.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items() if value is not None))
    return file


def config(path: Path, **settings: Any) -> Path:
    """Write a configuration of train_espro with two components of three vertices."""
    defaults = {
        "image_size": SIZE,
        "num_components": 2,
        "num_vertices": 3,
        "num_members": 5,
        "num_train_epochs": 2,
        "connector_epochs": 1,
        "per_device_train_batch_size": 20,
        "per_device_eval_batch_size": 30,
        "learning_rate": "1e-2",
        "batch_norm_images": 20,
        "surface_resolution": 0,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "output_dir": str(path / "output"),
    }
    return write_config(path, {**defaults, **settings})


def run(path: Path, *flags: str, **settings: Any) -> dict[str, Any]:
    """Run train_espro with the configuration that `config` writes."""
    return train_espro.main([str(config(path, **settings)), *flags])


def weights(path: Path, vertex: int) -> dict[str, torch.Tensor]:
    return SimplexForImageClassification.from_pretrained(path).weights[vertex]
