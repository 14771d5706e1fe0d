"""What the snippets of the documents find: backbones, data sets and ensembles under the names that they type.

The backbones are tiny stand-ins on the loopback Hub. The text of a snippet runs as a reader would type it.
"""

from functools import cache
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from loopback_hub.server import Account
from PIL import Image as Picture
from several_labels import write_folder
from tiny import SIZE, backbone, batches
from transformers import ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

LABELS = 10
PRETRAINED_LABELS = 12
BACKBONES = {
    "timm/resnet50.a1_in1k": ("timm", PRETRAINED_LABELS),
    "google/vit-base-patch16-224": ("vit", PRETRAINED_LABELS),
    "me/first-mode": ("resnet", LABELS),
    "me/second-mode": ("resnet", LABELS),
}
DATA_SETS = ("zalando-datasets/fashion_mnist", "me/pets")
SPLITS = {"train": 30, "validation": 120, "test": 20}
"""The validation split stands for the tenth of the training images that `with_validation` holds out, which would have
to be 500 for that."""
ENSEMBLES = ("me/resnet50-simplex",)
FOLDERS = ("output/quickstart/ensemble", "job-1/ensemble", "job-2/ensemble", "ensemble")


def furnish(hub: LoopbackHub, directory: Path) -> None:
    """Publish the backbones, data sets and ensembles, and write the pictures and folders of the documents."""
    names = [*BACKBONES, *DATA_SETS, *ENSEMBLES]
    hub.accounts[hub.token] = Account(hub.user, tuple({name.split("/")[0] for name in names}))
    api = HfApi()
    for number, (name, (kind, labels)) in enumerate(BACKBONES.items()):
        folder = directory / ".published" / name
        backbone(kind, seed=number, labels=labels).save_pretrained(folder)
        if kind != "timm":
            ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
        api.create_repo(name)
        api.upload_folder(repo_id=name, folder_path=folder)
    for name in DATA_SETS:
        folder = directory / ".published" / name
        folder.mkdir(parents=True)
        for split, examples in SPLITS.items():
            _pictures(examples).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        api.create_repo(name, repo_type="dataset")
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset")
    for name in ENSEMBLES:
        _ensemble().push_to_hub(name)
    for seed, folder in enumerate(FOLDERS):
        _ensemble(seed).save_pretrained(directory / folder)
    for label in ("cat", "dog"):
        (directory / "pets" / "train" / label).mkdir(parents=True)
        for number in range(3):
            _picture(number).save(directory / "pets" / "train" / label / f"{number}.png")
    write_folder(directory / "scenes", 320)
    write_folder(directory / "new-scenes", 60, seed=1)
    for name in ("cat.png", "dog.png"):
        _picture(7).save(directory / name)


def _picture(label: int) -> Picture.Image:
    pixels = np.random.default_rng(label).integers(0, 25 * (label + 1), (20, 20, 3), dtype=np.uint8)
    return Picture.fromarray(pixels)


def _pictures(number: int) -> Dataset:
    labels = [index % LABELS for index in range(number)]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=LABELS)})
    return Dataset.from_dict({"image": [_picture(label) for label in labels], "label": labels}, features=features)


@cache
def _ensemble(seed: int = 0) -> SimplexForImageClassification:
    """Two simplexes of three vertices each, with decisions."""
    components = []
    for component in (0, 3):
        model = SimplexForImageClassification.from_backbone(backbone("resnet", seed + component, LABELS))
        for other in (1, 2):
            vertex = model.add_vertex()
            model.backbone.load_state_dict(backbone("resnet", seed + component + other, LABELS).state_dict())
            model.store_vertex(vertex)
        model.draw_members("auto", batches=batches())
        components.append(model)
    united = SimplexForImageClassification.disjoint_union(components)
    united.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    united.decisions = Decisions(
        temperature=1.5,
        centroid_temperatures=[1.5, 1.5],
        abstention=Abstention(target_error=0.05, confidence_level=0.95, threshold=0.8, coverage=0.5, error=0.02),
        prediction_sets=PredictionSets("lac", coverage=0.9, quantile=0.9),
        uncertainty_quantiles={name: np.linspace(-5, 5, 101).tolist() for name in ("mutual_information", "energy")},
        fitted_on={"data_set": "me/pets", "images": SPLITS["validation"]},
    )
    return united
