"""Claims about `load_recorded`: the images that a run used are found again, or the difference is said."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image

from hf_simplex.data.image_data import ImageData, load_image_data, with_validation
from hf_simplex.data.pixel_hashes import pixel_hashes
from hf_simplex.data.recorded_splits import find_recorded, load_recorded, load_recorded_split
from hf_simplex.data.split_records import DataRecord


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def tree(root: Path, *folders: str, size: int = 10) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(size):
            PIL.Image.new("RGB", (3, 2), (number, index, 0)).save(root / folder / f"{index}.png")
    return root


def roles(data: ImageData) -> list[list[int] | None]:
    splits = (data.train, data.validation, data.test)
    return [None if split is None else pixel_hashes(split).tolist() for split in splits]


@pytest.mark.parametrize(
    ("folders", "arguments", "share"),
    [
        (["cat", "dog"], {}, None),
        (["cat", "dog"], {"seed": 3, "max_train_examples": 8, "max_test_examples": 2}, None),
        (["cat", "dog"], {"validation_fraction": 0.25, "seed": 1}, None),
        (["cat", "dog"], {"seed": 2, "max_train_examples": 12}, 0.25),
        (["train/cat", "train/dog", "val/cat"], {}, None),
        (["train/cat", "train/dog", "val/cat"], {"max_train_examples": 10, "seed": 5}, 0.2),
        (["Train/cat", "Train/dog", "Test/cat", "dev/dog"], {"max_test_examples": 4, "seed": 5}, None),
        (["seg_a/cat", "seg_a/dog", "seg_b/cat"], {"train_split": "seg_a", "test_split": "seg_b"}, None),
    ],
)
def test_the_images_of_every_role_are_found_again(
    folders: list[str], arguments: dict[str, Any], share: float | None, tmp_path: Path
) -> None:
    root = tree(tmp_path / "pets", *folders)
    data = load_image_data(root, **arguments)
    if share is not None:
        data = with_validation(data, share, seed=arguments["seed"], min_images=1)
    again = load_recorded(root, DataRecord.from_dict(data.record.to_dict()))
    assert roles(again) == roles(data)
    for role in ("test", "validation"):
        if getattr(data, role) is not None:
            found = load_recorded_split(root, data.record, role)
            assert pixel_hashes(found.images).tolist() == pixel_hashes(getattr(data, role)).tolist()
            assert found.of == len(getattr(data, role))
        else:
            with pytest.raises(ValueError, match="had no validation images"):
                load_recorded_split(root, data.record, role)
    rows = find_recorded(data.train, root, data.record)
    assert rows is not None and len(rows) == len(data.train)
    rows = find_recorded(data.test, root, data.record)
    assert rows is not None and len(rows) == 0


def test_the_same_images_in_another_format_are_the_same(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "cat", "dog")
    data = load_image_data(root, validation_fraction=0.2)
    both = load_image_data(root, test_fraction=0.5)
    features = Features({"image": Image(), "label": both.test.features["label"]})
    every = {
        tuple(image.getpixel((0, 0))): (image, label)
        for split in (both.train, both.test)
        for image, label in zip(split["image"], split["label"], strict=True)
    }
    rows = [every[key] for key in sorted(every)]
    Dataset.from_dict(
        {"image": [image for image, _ in rows], "label": [label for _, label in rows]}, features=features
    ).save_to_disk(tmp_path / "saved")
    assert roles(load_recorded(tmp_path / "saved", data.record)) == roles(data)


def test_other_images_are_refused_with_the_difference(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "cat", "dog")
    record = load_image_data(root).record
    kept = (root / "cat" / "0.png").read_bytes()
    PIL.Image.new("RGB", (3, 2), (9, 9, 9)).save(root / "cat" / "0.png")
    changed = load_image_data(root)
    assert changed.record != record
    with pytest.raises(ValueError, match=r"(train|test) images of the run cannot be found in .*have changed"):
        load_recorded(root, record)
    assert find_recorded(changed.train, root, record) is None
    (root / "cat" / "0.png").write_bytes(kept)
    assert load_recorded(root, record).record == record
    shutil.rmtree(root / "dog")
    with pytest.raises(ValueError, match=r"images of the run cannot be found in .*expected 1 to 8"):
        load_recorded(root, record)


def test_a_part_of_the_recorded_images_is_stratified(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "cat", "dog", size=20)
    record = load_image_data(root, test_fraction=0.5).record
    found = load_recorded_split(root, record, "test", max_examples=4)
    assert (sorted(found.images["label"]), found.of) == ([0, 0, 1, 1], 20)
    whole = load_recorded_split(root, record, "test").images
    assert np.isin(pixel_hashes(found.images), pixel_hashes(whole)).all()
