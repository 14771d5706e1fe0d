"""A mistake in the recipe's arguments or files is one line, before anything is touched."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import train_espro
from PIL import Image
from tiny import LABELS, contents, folder
from tiny_recipes import DIGITS, config
from transformers import AutoModelForImageClassification

from hf_simplex import SimplexForImageClassification, SimplexTrainer


def refuse_twice(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output/ensemble").mkdir(parents=True)
    (path / "output/ensemble/config.json").write_text("{}")
    return {}, "holds an ensemble already"


def unfinished_run(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output/components/00").mkdir(parents=True)
    return {}, "an unfinished run left (components)"


def other_labels(path: Path) -> tuple[dict[str, Any], str]:
    return {
        "backbone": None,
        "modes": [str(folder("resnet", path / "mode"))],
    }, f"has {LABELS} labels and digits has 10"


def corrupt_mode(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("resnet", path / "mode", labels=10)
    (mode / "model.safetensors").write_bytes(b"")
    return {"backbone": None, "modes": [str(mode)]}, "mode"


def no_image_processor(path: Path) -> tuple[dict[str, Any], str]:
    bare = folder("resnet", path / "bare")
    (bare / "preprocessor_config.json").unlink()
    return {"backbone": str(bare)}, "no image processor"


def modes_of_two_kinds(path: Path) -> tuple[dict[str, Any], str]:
    modes = [str(folder(kind, path / kind, labels=10)) for kind in ("resnet", "vit")]
    return {"backbone": None, "modes": modes}, "another backbone architecture"


def headless_mode(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("vit", path / "mode", labels=10)
    AutoModelForImageClassification.from_pretrained(mode).vit.save_pretrained(mode)
    settings = json.loads((mode / "config.json").read_text())
    settings["id2label"] = {str(index): str(index) for index in range(10)}
    (mode / "config.json").write_text(json.dumps(settings))
    return {"backbone": None, "modes": [str(mode)]}, "lacks weights"


def mixed_up_labels(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("resnet", path / "mode", labels=10)
    settings = json.loads((mode / "config.json").read_text())
    settings["id2label"] = {str(index): str((index + 1) % 10) for index in range(10)}
    (mode / "config.json").write_text(json.dumps(settings))
    return {"backbone": None, "modes": [str(mode)]}, "in another order"


def an_ensemble_as_backbone(path: Path) -> tuple[dict[str, Any], str]:
    backbone = SimplexForImageClassification.from_backbone(folder("resnet", path / "plain", labels=10))
    backbone.save_pretrained(path / "grown")
    return {"backbone": str(path / "grown")}, "is an ensemble already"


def output_is_an_ensemble(path: Path) -> tuple[dict[str, Any], str]:
    SimplexForImageClassification.from_backbone(folder("resnet", path / "plain")).save_pretrained(path / "output")
    return {}, "holds an ensemble already"


def output_is_a_file(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output").write_text("mine")
    return {}, "is a file"


def output_is_in_a_file(path: Path) -> tuple[dict[str, Any], str]:
    (path / "file").write_text("mine")
    return {"output_dir": str(path / "file" / "output")}, "file/output"


def output_is_another_model(path: Path) -> tuple[dict[str, Any], str]:
    folder("resnet", path / "output/ensemble")
    return {"overwrite": True}, "model_type 'resnet'"


def two_per_class(path: Path) -> tuple[dict[str, Any], str]:
    return write_pictures(path / "pictures", classes=2, number=2), "one test image"


def one_per_class(path: Path) -> tuple[dict[str, Any], str]:
    return write_pictures(path / "pictures", classes=3, number=1), "test_fraction is 0.2: 1 of 3 examples"


def one_class(path: Path) -> tuple[dict[str, Any], str]:
    return write_pictures(path / "pictures", classes=1, number=20), "has one class, 'class-0'"


def broken_test_images(path: Path) -> tuple[dict[str, Any], str]:
    settings = {}
    for split, number in (("train", 6), ("test", 40)):
        settings = write_pictures(path / "pictures" / split, classes=2, number=number)
    files = [path / "pictures/test" / name for name in ("class-0/9.png", "class-1/1.png")]
    files[0].write_bytes(files[0].read_bytes()[:60])
    files[1].write_text("no picture")
    # A record of the data set decodes some of its images. These are others.
    return settings | {"data_set": str(path / "pictures")}, f"Cannot read the image {files[0]}: image file is tru"


def write_pictures(directory: Path, classes: int, number: int) -> dict[str, Any]:
    for label in range(classes):
        (directory / f"class-{label}").mkdir(parents=True)
        for index in range(number):
            Image.new("RGB", (20, 20), (index, 40 * label, 0)).save(directory / f"class-{label}" / f"{index}.png")
    return {"data_set": str(directory), "max_train_examples": None, "max_test_examples": None}


MISTAKES: list[tuple[str, Any]] = [
    ("unknown backbone", lambda path: ({"backbone": "no/such-backbone"}, "no/such-backbone")),
    ("unknown data", lambda path: ({"data_set": "no_such_data"}, "no_such_data")),
    ("unknown folder", lambda path: ({"backbone": str(path / "bakbone")}, "there is no such folder")),
    ("unknown split", lambda path: ({"validation_split": "valid"}, "digits has no split 'valid'")),
    ("two images per class", two_per_class),
    ("one image per class", one_per_class),
    ("one class", one_class),
    ("broken test images", broken_test_images),
    ("no batch", lambda path: ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0")),
    ("no number", lambda path: ({"learning_rate": "nan"}, "learning_rate is nan")),
    ("negative epochs", lambda path: ({"num_train_epochs": -1}, "num_train_epochs is -1")),
    ("negative workers", lambda path: ({"dataloader_num_workers": -1}, "dataloader_num_workers is -1")),
    ("other labels", other_labels),
    ("corrupt mode", corrupt_mode),
    ("modes of two kinds", modes_of_two_kinds),
    ("mode without a head", headless_mode),
    ("labels in another order", mixed_up_labels),
    ("ensemble as backbone", an_ensemble_as_backbone),
    ("occupied output", refuse_twice),
    ("output is an ensemble", output_is_an_ensemble),
    ("output is a file", output_is_a_file),
    ("output in a file", output_is_in_a_file),
    ("output is another model", output_is_another_model),
    ("no image processor", no_image_processor),
    ("unfinished run", unfinished_run),
    ("no such component", lambda path: ({"component": 2}, "component is 2: expected 0 to 1")),
    (
        "probe of random features",
        lambda path: ({"from_scratch": True, "probe_head": True}, "probe_head was given with from_scratch"),
    ),
    (
        "probe of given modes",
        lambda path: ({"backbone": None, "modes": ["a", "b"], "probe_head": True}, "probe_head was given with modes"),
    ),
    ("checkpoint of Trainer's", lambda path: ({"resume_from_checkpoint": "x"}, "give --resume")),
    (
        "modes that make no simplexes",
        lambda path: (
            {"backbone": None, "modes": ["a", "b", "c"], "num_modes": 2},
            "3 modes, which cannot be divided",
        ),
    ),
    (
        "equal modes in one simplex",
        lambda path: (
            {
                "backbone": None,
                "modes": [str(folder("resnet", path / n, labels=10, seed=n == "a")) for n in "abc"],
                "num_components": 1,
                "num_modes": 3,
            },
            "/b and ",
        ),
    ),
    ("both sources", lambda path: ({"modes": ["a"]}, "either backbone")),
    (
        "a simplex of modes from scratch",
        lambda path: ({"from_scratch": True, "num_modes": 2}, "barriers between them"),
    ),
    ("modes from scratch", lambda path: ({"backbone": None, "modes": ["a"], "from_scratch": True}, "from_scratch")),
    ("unknown architecture", lambda path: ({"backbone": "vgg17", "from_scratch": True}, "'vgg17' is no architecture")),
    ("neither source", lambda path: ({"backbone": None}, "either backbone")),
    ("few members", lambda path: ({"num_members": 1}, "num_members is 1")),
    ("unknown argument", lambda path: ({"no_such_argument": 1}, "'no_such_argument'")),
    ("wrong type", lambda path: ({"num_vertices": "many"}, "many")),
    ("out of range", lambda path: ({"points_per_step": 0}, "points_per_step is 0")),
    ("too many images", lambda path: ({"max_train_examples": 10**6}, "1000000")),
]


@pytest.mark.parametrize("mistake", [m[1] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_touched(
    mistake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))
    settings = {"backbone": str(folder("resnet", tmp_path / "backbone")), **DIGITS}
    change, message = mistake(tmp_path)
    file = config(tmp_path, **{**settings, **change})
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(file)])
    assert raised.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n- b\n", "holds list"), ("a: [", "is not YAML"), (None, "No such file")]
)
def test_a_broken_configuration_is_named(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(tmp_path / "config.yaml")])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_flag_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(config(tmp_path)), "--no_such_flag", "1"])
    assert raised.value.code == 2
    assert "no_such_flag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"eval_strategy": "epoch"}, "eval_dataset"),
        ({"learning_rate": "1e30"}, "not finite in|is nan in|are no longer finite"),
        ({"per_device_train_batch_size": 1}, "BatchNorm needs several images"),
    ],
)
def test_a_mistake_that_the_trainer_finds_is_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone"))
    file = config(tmp_path, **{**DIGITS, "backbone": backbone, "image_size": 4, **settings})
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(file)])
    assert raised.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(message, error)


def test_a_configuration_without_its_ending_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_espro.main(["recipes/configs/quickstart"])
    assert "ends in .yaml" in capsys.readouterr().err
