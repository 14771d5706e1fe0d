"""An ensemble that is small enough to explore in seconds, its images, and a server of its app."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from tiny import LABELS, SIZE, batches, complete

from hf_simplex import SimplexForImageClassification
from hf_simplex.explorer.exploration import Exploration
from hf_simplex.explorer.precompute import explore
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

NAMES = ("ant", "<b>bee</b>", "cat & dog")
"""One label holds HTML, another a character that HTML escapes."""


def pictures(number: int = 24) -> Dataset:
    """Random images whose mean tells their label."""
    generator = torch.Generator().manual_seed(5)
    labels = [index % LABELS for index in range(number)]
    pixels = torch.randint(100, (number, SIZE, SIZE, 3), generator=generator)
    shown = [
        PillowImage.fromarray((pixels[index] + 70 * label).clamp(max=255).byte().numpy())
        for index, label in enumerate(labels)
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=list(NAMES))})
    return Dataset.from_dict({"image": shown, "label": labels}, features=features)


def decided() -> Decisions:
    """Decisions with everything that the app shows."""
    return Decisions(
        temperature=1.5,
        abstention=Abstention(0.05, 0.95, threshold=0.5, coverage=0.5, error=0.01),
        prediction_sets=PredictionSets("lac", 0.9, quantile=0.8),
        uncertainty_quantiles={"mutual_information": [index / 1000 for index in range(101)]},
        fitted_on={"data_set": "pets", "images": 200},
    )


def named(kind: str = "resnet", simplexes: list[list[int]] | None = None) -> SimplexForImageClassification:
    """An ensemble with names, decisions and, on request, another structure."""
    model = complete(kind)
    if simplexes is not None:
        model._set_structure(type(model.config.complex)(3, simplexes))
        model.set_members([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], batches=batches())
    model.config.roles = ["mode", "mode", "connector"]
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: label for label, name in enumerate(NAMES)}
    model.decisions = decided()
    return model


def explored(model: SimplexForImageClassification, **options: Any) -> Exploration:
    """What is computed of it on 24 images."""
    settings: Mapping[str, Any] = {"resolution": 4, "gallery": 6, "data_set": "<i>pets</i>", **options}
    return explore(model, pictures(), range(LABELS), batch_norm_batches=batches(), **settings)


def written(directory: Path, image: PillowImage.Image, name: str = "image.png") -> Path:
    """Save an image losslessly."""
    image.save(directory / name)
    return directory / name
