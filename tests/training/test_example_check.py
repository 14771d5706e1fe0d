"""A data set that a trainer cannot use is named with its keys where the trainer is made."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import LABELS, PICTURE, SIZE, Images, backbone
from torchvision.transforms.functional import to_tensor

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments


def trainer(path: Path, train: Any, **kwargs: Any) -> SimplexTrainer:
    args = SimplexTrainingArguments(
        str(path), num_vertices=1, num_train_epochs=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    return SimplexTrainer(model, args, train_dataset=train, **kwargs)


def pictures(number: int = 6) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=LABELS)})
    columns = {"image": [PICTURE] * number, "label": [index % LABELS for index in range(number)]}
    return datasets.Dataset.from_dict(columns, features=features)


PIXELS = torch.zeros(3, SIZE, SIZE)
MISTAKES: list[tuple[str, Any, type[Exception], str]] = [
    ("images", pictures(), ValueError, "have the keys 'image', 'label', but not pixel_values"),
    ("torchvision", [(PICTURE, 1)], TypeError, "is a tuple of Image, int"),
    ("no labels", [{"pixel_values": PIXELS}], ValueError, "have the keys 'pixel_values', but not labels"),
    ("nothing", [{}], ValueError, "have no keys, but not pixel_values and labels"),
    ("tensor", [PIXELS], TypeError, "is a Tensor"),
    ("PIL", [{"pixel_values": PICTURE, "labels": 0}], ValueError, "are of the type Image"),
    ("bytes", [{"pixel_values": PIXELS.byte(), "labels": 0}], ValueError, r"\[3, 16, 16\] and dtype torch.uint8"),
    ("grey", [{"pixel_values": np.zeros((SIZE, SIZE)), "labels": 0}], ValueError, r"the shape \[16, 16\]"),
    ("text", [{"pixel_values": PIXELS, "labels": "cat"}], ValueError, "labels of train_dataset is 'cat'"),
]


@pytest.mark.parametrize(("train", "error", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_wrong_training_set_is_named(train: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as raised:
        trainer(tmp_path, train)
    assert "pixel_values (float tensor [channels, height, width]) and labels (int)" in str(raised.value)


def test_other_data_sets_need_no_labels_but_pixel_values(tmp_path: Path) -> None:
    plain = [{"pixel_values": PIXELS}]
    trainer(tmp_path, Images(), eval_dataset=plain, batch_norm_dataset=plain)
    with pytest.raises(ValueError, match=r"eval_dataset\['shifted'\] have the keys 'image'"):
        trainer(tmp_path, Images(), eval_dataset={"plain": plain, "shifted": [{"image": PICTURE}]})


def test_a_collator_may_take_any_examples(tmp_path: Path) -> None:
    def stack(examples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        images, labels = zip(*examples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    own = trainer(tmp_path, [(PIXELS, index % LABELS) for index in range(4)], data_collator=stack)
    assert own.grow()[0]["steps"] == 1


def test_reading_the_first_example_leaves_random_numbers_as_they_are(tmp_path: Path) -> None:
    class Noisy(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"pixel_values": torch.rand(3, SIZE, SIZE), "labels": index % LABELS}

    drawn = []
    for train in (Images(), Noisy()):
        torch.manual_seed(0)
        trainer(tmp_path, train)
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_a_transform_may_read_columns_that_the_model_does_not_take(tmp_path: Path) -> None:
    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        small = [picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST) for picture in batch["image"]]
        return {"pixel_values": [to_tensor(picture) for picture in small], "labels": batch["label"], **batch}

    images = pictures().with_transform(transform)
    run = trainer(tmp_path, images, eval_dataset=images)
    assert run.grow()[0]["steps"] == 1
    batch = next(iter(run.get_eval_dataloader()))
    assert batch.keys() == {"pixel_values", "labels"}
    expected = to_tensor(PICTURE.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST))
    assert torch.equal(batch["pixel_values"][0].cpu(), expected)
    assert np.isfinite(run.evaluate()["eval_loss"])
