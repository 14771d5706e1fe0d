"""Corrupted images depend on what they should and on nothing else, and metrics under shift are those of direct use."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from test_comparison import arguments
from tiny import LABELS, SIZE, ensemble
from transformers import ViTImageProcessor

from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import build_transforms
from hf_simplex.evaluation.calibration import scale_temperature
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.shift import CORRUPTION_GROUPS, CORRUPTIONS, corrupt, corrupt_dataset, evaluate_under_shift
from hf_simplex.model.decisions import Decisions

RANDOM = set(CORRUPTIONS) - {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


def picture(width: int = 40, height: int = 36, mode: str = "RGB") -> PIL.Image.Image:
    """Smooth shapes and some texture, neither of them symmetric."""
    y, x = np.mgrid[:height, :width] / 10
    channels = [127 + 60 * np.sin(x * (i + 1)) * np.cos(y) + 40 * ((x + i * y) % 1 > 0.5) for i in range(3)]
    return PIL.Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).convert(mode)


def pixels(image: PIL.Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image).astype(int)


def test_there_are_the_fifteen_corruptions_of_the_paper_in_its_four_groups() -> None:
    assert {name: len(group) for name, group in CORRUPTION_GROUPS.items()} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
    }
    assert len(set(CORRUPTIONS)) == 15
    import imagecorruptions

    assert list(CORRUPTIONS) == imagecorruptions.get_corruption_names("common")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_an_image_depends_on_seed_corruption_severity_and_index_only(corruption: str) -> None:
    """Not on what was corrupted before, nor on numpy's random state, which stays as it was."""
    first = pixels(corrupt(picture(), corruption, 3, seed=1, index=4))
    np.random.seed(0)
    corrupt(picture(mode="L"), corruption, 5)
    before = np.random.get_state()[1].copy()
    again = pixels(corrupt(picture(), corruption, 3, seed=1, index=4))
    assert (np.random.get_state()[1] == before).all()
    assert (first == again).all()
    for other in ({"seed": 2, "index": 4}, {"seed": 1, "index": 5}):
        assert (pixels(corrupt(picture(), corruption, 3, **other)) != first).any() == (corruption in RANDOM)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_severity_changes_an_image_and_the_last_more_than_the_first(corruption: str) -> None:
    changes = [
        np.mean([
            np.abs(pixels(corrupt(picture(), corruption, severity, index=index)) - pixels(picture())).mean()
            for index in range(4)
        ])
        for severity in (1, 3, 5)
    ]  # fmt: skip
    assert min(changes) > 0.5
    # Frost adds one of six photographs of ice, some brighter than others, whatever the severity.
    assert changes[2] > changes[0] or corruption == "frost"


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize(("size", "mode"), [((28, 28), "L"), ((8, 8), "L"), ((20, 50), "RGBA"), ((45, 33), "P")])
def test_small_grey_and_other_images_are_enlarged_and_become_rgb(
    corruption: str, size: tuple[int, int], mode: str
) -> None:
    corrupted = corrupt(picture(*size, mode), corruption, 5)
    assert corrupted.mode == "RGB"
    expected = {(28, 28): (32, 32), (8, 8): (32, 32), (20, 50): (32, 80), (45, 33): (45, 33)}
    assert corrupted.size == expected[size]


def test_images_are_resized_before_they_are_corrupted() -> None:
    resized = picture().resize((64, 64), PIL.Image.Resampling.BICUBIC)
    for corruption in ("gaussian_noise", "motion_blur", "snow", "pixelate"):
        found = corrupt(picture(), corruption, 2, seed=3, image_size=64)
        assert (pixels(found) == pixels(corrupt(resized, corruption, 2, seed=3))).all()


def test_gaussian_noise_has_the_strength_of_the_paper() -> None:
    grey = PIL.Image.new("RGB", (64, 64), (128, 128, 128))
    for severity, deviation in ((1, 0.08), (2, 0.12)):
        noise = pixels(corrupt(grey, "gaussian_noise", severity)) / 255 - 128 / 255
        assert noise.std() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_data_set_is_corrupted_image_by_image_at_its_position(processes: int) -> None:
    data = load_image_data("digits", max_test_examples=10).test
    corrupted = corrupt_dataset(data, "glass_blur", 2, seed=5, image_size=32, num_proc=processes)
    assert corrupted["label"] == data["label"]
    for index in range(10):
        expected = corrupt(data[index]["image"], "glass_blur", 2, seed=5, index=index, image_size=32)
        assert (pixels(corrupted[index]["image"]) == pixels(expected)).all()
    half = corrupt_dataset(data.select(range(5)), "glass_blur", 2, seed=5, image_size=32)
    assert (pixels(half[4]["image"]) == pixels(corrupted[4]["image"])).all()


def few_images() -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(num_classes=LABELS)})
    images = [picture(40 + index, 40) for index in range(6)]
    return Dataset.from_dict({"image": images, "label": [0, 1, 2, 0, 1, 2]}, features=features)


def test_metrics_under_shift_are_those_of_the_corrupted_images(tmp_path: Path) -> None:
    data, model = few_images(), ensemble("vit")
    _, transform = build_transforms(ViTImageProcessor(size={"height": SIZE, "width": SIZE}), augment="none")

    def third(dataset: Any) -> np.ndarray[Any, Any]:
        return np.full((len(dataset), LABELS), 1 / LABELS)

    results = evaluate_under_shift(
        {"ensemble": model, "a third each": third},
        data,
        transform,
        arguments(tmp_path),
        corruptions=["impulse_noise", "fog"],
        severities=[2, 5],
        temperatures={"ensemble": 2.0},
        seed=7,
        image_size=48,
    )
    assert json.loads(json.dumps(results)) == results
    cells = [("none", 0), ("impulse_noise", 2), ("impulse_noise", 5), ("fog", 2), ("fog", 5)]
    assert [(row["corruption"], row["severity"]) for row in results[::2]] == cells
    assert [row["method"] for row in results] == ["ensemble", "a third each"] * 5
    for (corruption, severity), row, constant in zip(cells, results[::2], results[1::2], strict=True):
        images = [
            corrupt(image, corruption, severity, seed=7, index=index, image_size=48) if severity else image
            for index, image in enumerate(data["image"])
        ]
        with torch.no_grad():
            probabilities = model(torch.stack([transform(image) for image in images])).logits.softmax(-1).double()
        expected = classification_metrics(probabilities / probabilities.sum(-1, keepdim=True), data["label"])
        assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1e-5)  # type: ignore[literal-required]
        cooled = classification_metrics(scale_temperature(probabilities, 2.0), data["label"])
        assert row["calibrated_nll"] == pytest.approx(cooled["nll"], abs=1e-5)
        assert constant["nll"] == pytest.approx(np.log(LABELS)) and "calibrated_nll" not in constant
    model.decisions = Decisions(temperature=2.0)
    (row,) = evaluate_under_shift({"ensemble": model}, data, transform, arguments(tmp_path), corruptions=[])
    assert {key: row[key] for key in row if key in results[0]} == pytest.approx(results[0]), "at its own temperature"


@pytest.mark.parametrize(("corruption", "severity"), [("rain", 1), ("fog", 0), ("fog", 6), ("fog", 2.5), ("none", 1)])
def test_an_unknown_corruption_or_severity_is_refused_with_the_choices(corruption: str, severity: int) -> None:
    message = "choose from gaussian_noise, .*jpeg_compression" if corruption != "fog" else "choose from 1, 2, 3, 4, 5"
    data = few_images()
    with pytest.raises(ValueError, match=message):
        corrupt(picture(), corruption, severity)
    with pytest.raises(ValueError, match=message):
        corrupt_dataset(data, corruption, severity)
    with pytest.raises(ValueError, match=message):
        evaluate_under_shift({}, data, None, None, corruptions=["fog", corruption], severities=[severity])  # type: ignore[arg-type]


def test_other_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image_size is 31: the corruptions need at least 32"):
        corrupt(picture(), "fog", 1, image_size=31)
    with pytest.raises(ValueError, match="needs a column 'image'"):
        corrupt_dataset(Dataset.from_dict({"x": [1]}, features=Features({"x": Value("int64")})), "fog", 1)
    with pytest.raises(ValueError, match=r"names unknown methods, \['swag'\]: choose from \['one'\]"):
        evaluate_under_shift({"one": lambda data: data}, few_images(), None, None, temperatures={"swag": 1.0})  # type: ignore[arg-type]


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"hf-simplex\[shift\]"):
        corrupt(picture(), "fog", 1)
    with pytest.raises(ImportError, match=r"hf-simplex\[shift\]"):
        corrupt_dataset(few_images(), "fog", 1)
