"""The recipe goes on where it stopped, and replaces an ensemble only when asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import contents, folder
from tiny_recipes import DIGITS, run

from hf_simplex import SimplexTrainer


def test_an_interrupted_run_leaves_no_ensemble_and_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    settings = {"backbone": backbone, "num_vertices": 2, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    results = run(tmp_path / "whole", **settings)
    grow_connector, output = SimplexTrainer.grow_connector, tmp_path / "cut/output"

    def interrupted(trainer: SimplexTrainer, *arguments: Any) -> int:
        if trainer.args.output_dir.endswith("01"):
            raise KeyboardInterrupt
        return grow_connector(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr(SimplexTrainer, "grow_connector", interrupted)
        run(tmp_path / "cut", **settings)
    assert {path.name for path in output.iterdir()} == {"components"}
    done = [json.loads((output / f"components/0{i}/config.json").read_text())["provenance"]["stages"] for i in (0, 1)]
    assert [len(stages) for stages in done] == [2, 1]

    assert run(tmp_path / "cut", "--resume", **settings) == results
    told = json.loads((output / "run.json").read_text())["stages"]
    assert [stage["wall_time"] for stage in told[:3]] == [stage["wall_time"] for stages in done for stage in stages]
    for file in (tmp_path / "whole/output/ensemble").glob("*.safetensors"):
        assert file.read_bytes() == (output / "ensemble" / file.name).read_bytes()


def test_a_rare_augmentation_that_no_fingerprint_shows_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    settings = {"backbone": backbone, "num_components": 1, "num_vertices": 1, "num_train_epochs": 1, **DIGITS}
    run(tmp_path, augment="crop", **settings, num_members=1)
    for flags, message in (
        (["--random_erasing", "1e-6"], "something else: random_erasing was 0.0 and is 1e-06."),
        (["--augment", "none"], "augment was 'crop' and is 'none'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(tmp_path, "--resume", *flags, augment="crop", **settings, num_members=1)
        assert message in capsys.readouterr().err
    # A crop does not look at it.
    run(tmp_path, "--resume", "--scale_min", "0.5", augment="crop", **settings, num_members=1)


def test_another_run_is_refused_in_one_line_and_a_larger_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    settings = {"backbone": backbone, "num_components": 1, "num_vertices": 1, "num_train_epochs": 1, **DIGITS}
    run(tmp_path, **settings, num_members=1)
    before = contents(tmp_path / "output")
    for flags, message in (
        (["--learning_rate", "0.5"], "learning_rate was 0.01 and is 0.5"),
        (["--max_train_examples", "30"], "fingerprint of the training images was"),
        (["--image_size", "24"], "fingerprint of the training images and their transforms was"),
    ):
        with pytest.raises(SystemExit) as raised:
            run(tmp_path, "--resume", *flags, **settings, num_members=1)
        assert raised.value.code == 2 and message in capsys.readouterr().err
        assert contents(tmp_path / "output") == before
    other = str(folder("resnet", tmp_path / "other", labels=7, seed=3))
    with pytest.raises(SystemExit):
        run(tmp_path, "--resume", **{**settings, "backbone": other}, num_members=1)
    assert "initial weights were those of" in capsys.readouterr().err
    # The same backbone in another place, more components and more vertices are the same run.
    moved = str(Path(backbone).rename(tmp_path / "moved"))
    run(tmp_path, "--resume", **{**settings, "backbone": moved, "num_components": 2, "num_vertices": 2}, num_members=4)
    file = "components/00/vertex-00000.safetensors"
    assert contents(tmp_path / "output")[file] == before[file]


def test_the_memory_format_is_chosen_recorded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"num_components": 1, "num_vertices": 2, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    settings |= {"backbone": str(folder("resnet", tmp_path / "backbone", labels=10)), "memory_format": "auto"}
    taken = {"contiguous": 2.0, "channels_last": 1.0}
    timed = "hf_simplex.training.recipe.memory_format.step_seconds"
    monkeypatch.setattr(timed, lambda *_: taken)
    run(tmp_path, **settings)
    chosen = [{"memory_format": "channels_last", "seconds": taken}]
    assert json.loads((tmp_path / "output/run.json").read_text())["memory_formats"] == chosen
    shutil.rmtree(tmp_path / "output/ensemble")
    monkeypatch.setattr(
        "hf_simplex.training.recipe.memory_format.step_seconds", lambda *_: {"contiguous": 1.0, "channels_last": 2.0}
    )
    run(tmp_path, "--resume", **settings)
    assert json.loads((tmp_path / "output/run.json").read_text())["memory_formats"] == chosen


def test_components_are_independent_jobs_and_a_resumed_run_unites_them(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "backbone": str(folder("vit", tmp_path / "backbone")),
        "num_vertices": 2,
        "num_train_epochs": 1,
        **DIGITS,
    }
    together = run(tmp_path / "together", **settings)
    for component in ("1", "0"):
        assert run(tmp_path / "apart", "--component", component, **settings) is None
    output = tmp_path / "apart/output"
    assert {path.name for path in output.iterdir()} == {"components"}
    with pytest.raises(SystemExit):
        run(tmp_path / "apart", **settings)
    assert run(tmp_path / "apart", "--resume", **settings) == together
    for file in (tmp_path / "together/output/ensemble").glob("*.safetensors"):
        assert file.read_bytes() == (output / "ensemble" / file.name).read_bytes()


def test_an_ensemble_is_replaced_only_when_asked(tmp_path: Path) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 1, "num_members": 1, "num_train_epochs": 1, **DIGITS}
    first = run(tmp_path, backbone=backbone, **settings)
    with pytest.raises(SystemExit):
        run(tmp_path, backbone=backbone, **settings)
    assert run(tmp_path, "--overwrite", "--seed", "5", backbone=backbone, **settings) != first


def test_a_save_that_fails_leaves_the_ensemble_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 1, "num_train_epochs": 1, "save_strategy": "no", **DIGITS}
    run(tmp_path, backbone=backbone, **settings)
    before = contents(tmp_path / "output")

    def full(tensors: Any, file: Path, **kwargs: Any) -> None:
        file.write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_simplex.model.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path, "--overwrite", "--num_members", "2", "--seed", "5", backbone=backbone, **settings)
    assert contents(tmp_path / "output") == before
