"""What a run needs at its end is found before it trains."""

import sys
from pathlib import Path
from typing import Any

import connect_modes
import numpy as np
import PIL.Image
import pytest
import torch
import train_espro
import two_spirals
from datasets import Image
from tiny import folder
from tiny_recipes import DIGITS, TINY, config, run, write_config
from torch.utils.data import DataLoader

from hf_simplex import SimplexTrainer
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import with_pixel_values
from hf_simplex.training.recipe.requirements import broken_images_named, check_evaluation_images, check_hub_account


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))


def error_of(main: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(("package", "extra"), [("matplotlib", "plots"), ("pandas", "recipes")])
@pytest.mark.usefixtures("no_training")
def test_a_missing_package_is_found_before_training(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    file = config(tmp_path, backbone=str(folder("resnet", tmp_path / "backbone")), **DIGITS)
    assert f'pip install "hf-simplex[{extra}]"' in error_of(train_espro.main, [str(file)], capsys)
    assert not (tmp_path / "output").exists()


def test_a_single_component_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    settings = {"num_vertices": 1, "num_train_epochs": 1, "num_members": None}
    backbone = str(folder("resnet", tmp_path / "backbone"))
    assert run(tmp_path, "--component", "0", backbone=backbone, **settings, **DIGITS) is None


@pytest.mark.usefixtures("no_training")
def test_the_other_recipes_draw_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    file = write_config(tmp_path, {**TINY, "output_dir": str(tmp_path / "output")})
    spirals = ["--output_dir", str(tmp_path / "spirals")]
    for main, arguments in ((connect_modes.main, [str(file)]), (two_spirals.main, spirals)):
        assert 'pip install "hf-simplex[plots]"' in error_of(main, arguments, capsys)


@pytest.mark.usefixtures("no_training")
def test_a_token_that_may_not_write_is_found_before_training(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, backbone=str(folder("resnet", tmp_path / "backbone")), push_to_hub=True, **DIGITS)
    assert "may only read" in error_of(train_espro.main, [str(file), "--hub_token", hub.read_token], capsys)
    refused = error_of(train_espro.main, [str(file), "--hub_token", "hf_nobody"], capsys)
    assert "the Hub accepts no token" in refused and "Invalid user token" in refused and "hf_nobody" not in refused
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in error_of(train_espro.main, [str(file)], capsys)
    assert not hub.repositories and not (tmp_path / "output").exists()


def test_a_token_that_may_write_passes(hub: Any) -> None:
    check_hub_account(None)
    check_hub_account(hub.other_token)


def test_a_hub_that_cannot_be_reached_is_one_line(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    with pytest.raises(OSError, match="the Hub accepts no token"):
        check_hub_account(None)


def test_all_broken_images_are_counted_and_five_are_named(tmp_path: Path) -> None:
    for split, number in (("train", 2), ("test", 9)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(number):
                PIL.Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / split / label / f"{index}.png")
    data = load_image_data(str(tmp_path))
    check_evaluation_images(data)
    broken = [tmp_path / "test" / "cat" / f"{index}.png" for index in range(2, 9)]
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"And 2 more\.$") as raised:
        check_evaluation_images(data)
    assert [file for file in broken if str(file) in str(raised.value)] == broken[:5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_ends_at_a_broken_training_image_names_all_of_them(tmp_path: Path, workers: int) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for index in range(5):
            PIL.Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "train" / label / f"{index}.png")
    train = load_image_data(str(tmp_path)).train
    first, last = (train.cast_column("image", Image(decode=False))[index]["image"]["path"] for index in (1, -1))
    broken = [Path(first), Path(last)]
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    images = with_pixel_values(train, lambda image: torch.tensor(np.asarray(image)))
    with pytest.raises(ValueError) as raised, broken_images_named(train):
        list(DataLoader(images, batch_size=4, num_workers=workers))
    message = str(raised.value)
    assert all(str(file) in message for file in broken) and message.count("Cannot read") == 2
    assert "Traceback" not in message
    # An error of another kind stays as it is.
    with pytest.raises(ValueError, match=r"^another$"), broken_images_named(train):
        raise ValueError("another")
