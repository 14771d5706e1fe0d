"""Claims about validation splits and their record: apart from what is trained on, reproducible, and recognisable."""

import json
import logging
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from transformers import ViTImageProcessor

from hf_simplex.data.image_data import MIN_VALIDATION_IMAGES, ImageData, load_image_data, with_validation
from hf_simplex.data.pixel_hashes import count_shared, pixel_hashes
from hf_simplex.data.split_records import DataRecord
from hf_simplex.training.recipe.arguments import DataArguments
from hf_simplex.training.recipe.images import load_data, load_data_with_validation, transformed_validation


def noise(size: int, seed: int, mode: str = "L") -> list[PIL.Image.Image]:
    values = np.random.default_rng(seed).integers(0, 256, (size, 4, 4), dtype=np.uint8)
    return [PIL.Image.fromarray(image).convert(mode) for image in values]


def dataset_of(images: list[PIL.Image.Image]) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    return Dataset.from_dict({"image": images, "label": [n % 2 for n in range(len(images))]}, features=features)


def saved(folder: Path, **splits: int) -> Path:
    DatasetDict(
        {name: dataset_of(noise(size, seed)) for seed, (name, size) in enumerate(splits.items())}
    ).save_to_disk(folder)
    return folder


def pixels(dataset: Dataset | None) -> list[bytes]:
    assert dataset is not None
    return [image.tobytes() for image in dataset["image"]]


# ---- validation splits ----------------------------------------------------------------------------------------------


def test_the_data_sets_own_validation_split_is_used_as_it_is(tmp_path: Path) -> None:
    data = load_image_data(saved(tmp_path, train=30, val=10, test=10))
    assert with_validation(data) is data
    assert data.record.validation is not None
    assert (data.record.validation.source, data.record.validation.images) == ("val", 10)
    assert data.record.validation.fraction is None and data.record.validation.seed is None


def test_a_share_of_the_training_images_is_split_off_by_class(caplog: pytest.LogCaptureFixture) -> None:
    before = load_image_data("digits")
    with caplog.at_level(logging.WARNING):
        data = with_validation(before, 0.25, seed=3)
    assert Counter(pixels(data.train) + pixels(data.validation)) == Counter(pixels(before.train))
    assert pixels(data.test) == pixels(before.test)
    assert data.validation is not None
    shares = np.bincount(data.validation["label"]) / np.bincount(before.train["label"])
    assert np.abs(shares - 0.25).max() < 0.02
    note = "split off 250 of 1000 images of 'train' (0.25, seed 3) as the validation split"
    assert data.record.notes == (note,)
    assert [record.getMessage() for record in caplog.records] == [f"digits: {note}."]
    record = data.record.validation
    assert record is not None and (record.source, record.images, record.of) == ("train", 250, 1000)
    assert (record.fraction, record.seed) == (0.25, 3)
    assert (data.record.train.images, data.record.train.of, data.record.train.seed) == (750, 1000, 3)


def test_the_seed_decides_on_the_share() -> None:
    data = load_image_data("digits")
    first, again, other = (with_validation(data, 0.25, seed=seed) for seed in (0, 0, 1))
    assert pixels(first.validation) == pixels(again.validation) and first.record == again.record
    assert pixels(first.validation) != pixels(other.validation)
    assert first.record.validation != other.record.validation


@pytest.mark.parametrize(("fraction", "size"), [(0.01, None), (0.049, None), (0.05, 50)])
def test_a_share_below_50_images_is_not_split_off_and_said_so(
    fraction: float, size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_image_data("digits")
    with caplog.at_level(logging.WARNING):
        data = with_validation(before, fraction)
    assert (None if data.validation is None else len(data.validation)) == size
    (message,) = [record.getMessage() for record in caplog.records]
    assert ("calibration is not fitted" in message) == (size is None)
    assert data.record.notes == (message.removeprefix("digits: ").removesuffix("."),)
    if size is None:
        assert pixels(data.train) == pixels(before.train) and data.record.train == before.record.train


@pytest.mark.parametrize(("images", "named"), [(1000, "0.05"), (184, "0.28"), (100, "0.5"), (99, None)])
def test_a_share_that_is_too_small_comes_with_one_that_is_large_enough(
    images: int, named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_image_data("digits", max_train_examples=images)
    with caplog.at_level(logging.WARNING):
        assert with_validation(data, 0.01).validation is None
    offered = re.search(r"\(validation_fraction (\S+) would hold out enough\)", caplog.text)
    assert (offered and offered[1]) == named
    if offered:
        validation = with_validation(data, float(offered[1])).validation
        assert validation is not None and len(validation) >= MIN_VALIDATION_IMAGES


def test_a_validation_split_that_serves_as_the_test_split_is_not_calibrated_on(tmp_path: Path) -> None:
    data = with_validation(load_image_data(saved(tmp_path, train=40, validation=10)), min_images=4)
    assert data.record.test.source == "validation"
    assert data.record.validation is not None and data.record.validation.source == "train"
    assert not set(pixels(data.validation)) & set(pixels(data.test))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_fraction_out_of_range_is_an_error(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"validation_fraction is {fraction}; expected a number between 0 and 1"):
        with_validation(load_image_data("digits"), fraction)


def test_a_recipe_that_asks_for_no_validation_images_trains_on_all_as_before() -> None:
    args = DataArguments("digits", data_split_seed=5)
    plain, split = load_data(args), load_data_with_validation(args, validation_fraction=0.2)
    assert plain.validation is None and plain.record.notes == ()
    assert pixels(plain.train) == pixels(load_image_data("digits", seed=5).train)
    assert split.validation is not None and split.record.validation is not None
    assert (len(split.validation), split.record.validation.seed) == (200, 5)


def test_a_recipe_calibrates_on_images_without_augmentation() -> None:
    data = load_image_data("digits", max_train_examples=40)
    component: Any = SimpleNamespace(image_processor=ViTImageProcessor(size={"height": 8, "width": 8}))
    assert transformed_validation(data, component) is None
    data = with_validation(data, 0.25, min_images=10)
    lazy, kept = (transformed_validation(data, component, materialize=kept) for kept in (False, True))
    assert data.validation is not None and lazy is not None and kept is not None and len(lazy) == 10
    for image, label, example, other in zip(
        data.validation["image"], data.validation["label"], lazy, kept, strict=True
    ):
        expected = np.asarray(image, dtype=np.float32) / 127.5 - 1
        assert np.allclose(example["pixel_values"].numpy(), expected, atol=1e-6) and example["labels"] == label
        assert torch.equal(example["pixel_values"], other["pixel_values"])


# ---- records --------------------------------------------------------------------------------------------------------


def test_a_record_survives_json(tmp_path: Path) -> None:
    for data in (load_image_data("digits"), load_image_data(saved(tmp_path, train=30, val=10, test=10))):
        record = data.record
        assert DataRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        assert str(tmp_path) not in json.dumps(record.to_dict())


def test_what_is_no_record_is_refused() -> None:
    values = load_image_data("digits").record.to_dict()
    for wrong in ({}, {**values, "train": {"images": 3}}, {**values, "test": {**values["test"], "more": 1}}):
        with pytest.raises(ValueError, match="is no record of a data set"):
            DataRecord.from_dict(wrong)


def test_subsets_are_recorded_with_what_they_were_chosen_from() -> None:
    record = load_image_data("digits", max_train_examples=100, max_test_examples=50, seed=2).record
    assert (record.train.images, record.train.of, record.train.seed) == (100, 1000, 2)
    assert (record.test.images, record.test.of, record.test.seed) == (50, 797, 2)


def test_an_unused_validation_split_is_noted(tmp_path: Path) -> None:
    record = load_image_data(saved(tmp_path, train=40, val=10, test=10), validation_fraction=0.25).record
    assert record.notes[0] == "left out 'val', since validation_fraction is 0.25"
    assert record.validation is not None and (record.validation.source, record.validation.images) == ("train", 10)


def test_a_fingerprint_is_that_of_the_images_and_labels_in_whatever_files(tmp_path: Path) -> None:
    def stored(ending: str, seed: int = 0, label: str = "cat") -> ImageData:
        folder = tmp_path / f"{ending}-{seed}-{label}"
        for split, name in (("train", "cat"), ("train", "dog"), ("test", label)):
            (folder / split / name).mkdir(parents=True)
            for number, image in enumerate(noise(20, seed, "L" if ending == "png" else "RGB")):
                image.save(folder / split / name / f"{number:02d}.{ending}")
        return load_image_data(folder)

    png, bmp = stored("png"), stored("bmp")
    assert (png.record.train, png.record.test) == (bmp.record.train, bmp.record.test)
    assert stored("png", seed=1).record.test.fingerprint != png.record.test.fingerprint
    assert stored("png", label="dog").record.test.fingerprint != png.record.test.fingerprint


# ---- images that two data sets share --------------------------------------------------------------------------------


def test_shared_images_are_counted_in_whatever_format_and_order() -> None:
    grey, rgb = noise(50, seed=0), noise(50, seed=0, mode="RGB")
    some = dataset_of([*noise(30, seed=1), *reversed(rgb[10:25])])
    hashes, others = pixel_hashes(some), pixel_hashes(dataset_of(grey))
    assert hashes.dtype == np.uint64 and len(hashes) == 45
    assert (count_shared(hashes, others), count_shared(others, hashes)) == (15, 15)
    assert count_shared(pixel_hashes(dataset_of([grey[0]] * 3)), others) == 3


def test_one_pixel_or_another_shape_makes_another_image() -> None:
    image = PIL.Image.new("L", (4, 2), 9)
    changed = image.copy()
    changed.putpixel((3, 1), 10)
    images = [image, changed, PIL.Image.new("L", (2, 4), 9), PIL.Image.new("L", (8, 1), 9)]
    assert len(set(pixel_hashes(dataset_of(images)).tolist())) == 4


def test_hashes_are_the_same_in_every_process_and_run() -> None:
    dataset = dataset_of(noise(6, seed=0))
    assert np.array_equal(pixel_hashes(dataset), pixel_hashes(dataset, num_proc=2))
    # BLAKE2b of "1x1" and three zeros. Files of hashes stay readable only while this does not change.
    (black,) = pixel_hashes(dataset_of([PIL.Image.new("L", (1, 1), 0)]))
    assert int(black).to_bytes(8, "little").hex() == "4927b1bdd065e1df"


def test_the_hashes_of_50000_images_fit_into_half_a_megabyte(tmp_path: Path) -> None:
    np.save(tmp_path / "hashes.npy", np.resize(pixel_hashes(dataset_of(noise(50, seed=0))), 50_000))
    assert (tmp_path / "hashes.npy").stat().st_size < 500_000


def test_validation_images_are_recognised_as_trained_on_by_their_hashes() -> None:
    data = with_validation(load_image_data("digits"), 0.25)
    assert data.validation is not None
    trained, before = pixel_hashes(data.train), pixel_hashes(load_image_data("digits").train)
    assert count_shared(pixel_hashes(data.validation), trained) == 0
    assert count_shared(pixel_hashes(data.validation), before) == 250


def test_a_data_set_without_images_has_no_hashes() -> None:
    with pytest.raises(ValueError, match="needs an 'image' column of images"):
        pixel_hashes(Dataset.from_dict({"label": [1]}))
