"""Interrupted growths resume to the same bits; no checkpoint is ever half written."""

import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from growing import (
    CHECKPOINTED,
    assert_the_same_growth,
    interrupted,
    trainer,
    weights,
)
from tiny import KINDS, backbone, same
from transformers import (
    AutoModelForImageClassification,
    TrainerCallback,
)

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.training.preemption import EXIT_CODE
from hf_simplex.training.stage_checkpoints import StageCheckpoints


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let caplog hear what transformers logs."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimplexTrainer]:
    """Uninterrupted runs by kind of backbone. Resuming from an empty folder starts a run."""
    runs = {kind: trainer(tmp_path_factory.mktemp(kind), kind, **CHECKPOINTED) for kind in KINDS}
    for run in runs.values():
        run.grow(resume_from_checkpoint=True)
    return runs


def test_a_run_interrupted_in_its_second_mode_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_modes": 2, **CHECKPOINTED}
    whole = trainer(tmp_path / "whole", "resnet", **settings)
    whole.grow()
    interrupted(tmp_path / "cut", 1, 2, **settings)
    resumed = trainer(tmp_path / "cut", "resnet", **settings)
    resumed.grow(resume_from_checkpoint=True)
    assert resumed.simplex.config.roles == ["mode", "mode", "connector"]
    for vertex in range(3):
        assert same(weights(resumed.simplex, vertex), weights(whole.simplex, vertex))


@pytest.mark.parametrize(
    ("kind", "vertex", "step"), [("resnet", 0, 2), ("vit", 1, 1), ("timm", 1, 2), ("resnet", 2, 0), ("resnet", 2, 3)]
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    kind: str, vertex: int, step: int, tmp_path: Path, whole: dict[str, SimplexTrainer]
) -> None:
    interrupted(tmp_path, vertex, step, kind=kind, **CHECKPOINTED)
    resumed = trainer(tmp_path, kind, **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole[kind])
    before = resumed.simplex.config.provenance["stages"]
    assert trainer(tmp_path, kind, **CHECKPOINTED).grow(resume_from_checkpoint=True) == before


def test_a_run_with_a_volume_interval_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"volume_interval": 2, "volume_weight": 0.05, "volume_weight_scaling": "none"}
    uninterrupted = trainer(tmp_path / "whole", "vit", **CHECKPOINTED, **settings)
    uninterrupted.grow()
    # After an odd number of steps, so that counting from the resumption would add it at others.
    interrupted(tmp_path / "cut", 1, 1, kind="vit", **CHECKPOINTED, **settings)
    resumed = trainer(tmp_path / "cut", "vit", **CHECKPOINTED, **settings)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, uninterrupted)


def test_channels_last_weights_resume_to_the_same_bits_and_strides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights that are cut into pieces are summed in the order of the memory.
    monkeypatch.setattr("hf_simplex.model.weight_space.CHUNK_ON_CPU", 64)
    settings = {"volume_weight": 0.05, "volume_weight_scaling": "none", **CHECKPOINTED}
    grown = []
    for name, sizes in (("whole", [4]), ("cut", [2, 4])):
        for size in sizes:
            model = SimplexForImageClassification.from_backbone(backbone("resnet"), fine_tuned=False)
            model.to(memory_format=torch.channels_last)
            trainer(tmp_path / name, model=model, num_vertices=size, **settings).grow(resume_from_checkpoint=True)
        grown.append(model)
    whole, resumed = grown
    for vertex in range(4):
        assert same(weights(whole, vertex), weights(resumed, vertex))
        layouts = [{name: p.stride() for name, p in model.weights[vertex].items()} for model in grown]
        assert layouts[0] == layouts[1]


def test_an_interrupted_vertex_is_not_in_the_complex(tmp_path: Path, whole: dict[str, SimplexTrainer]) -> None:
    run = interrupted(tmp_path, 2, 2)
    assert run.simplex.config.roles == ["mode", "connector"] and run.simplex.config.simplexes == [[0, 1]]
    assert len(run.simplex.vertices) == 2 and run.model is run.simplex
    # Without any checkpoint the trainer goes on from the vertices that it has, to the same end.
    run.grow()
    assert_the_same_growth(run, whole["resnet"])


def test_a_checkpoint_of_a_stage_is_one_plain_backbone(tmp_path: Path) -> None:
    run = trainer(tmp_path, "timm", save_strategy="epoch")
    run.grow()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "vertex-00002" / "checkpoint-3")
    parameters = dict(saved.named_parameters())
    assert all(torch.equal(parameters[name], p) for name, p in run.simplex.vertices[2].named_parameters())
    assert SimplexForImageClassification.from_pretrained(tmp_path).config.roles == run.simplex.config.roles


def test_the_best_checkpoint_becomes_the_vertex(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        "vit",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        num_train_epochs=3,
        learning_rate=0.5,
        num_vertices=2,
    )
    run.grow()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = min(losses, key=lambda step: losses[step])
    assert losses[best] < max(losses.values())
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "vertex-00001" / f"checkpoint-{best}")
    assert same(weights(run.simplex, 1), dict(saved.state_dict()))


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path, whole: dict[str, SimplexTrainer]) -> None:
    run = trainer(tmp_path, "resnet", **CHECKPOINTED)
    save = run._save_rng_state

    def cut(directory: str) -> None:
        save(directory)
        if "vertex-00001" in directory and run.state.global_step == 2:
            raise KeyboardInterrupt

    run._save_rng_state = cut  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.grow()
    assert {path.name for path in (tmp_path / "vertex-00001").iterdir()} == {".saving", "checkpoint-1"}
    resumed = trainer(tmp_path, "resnet", **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole["resnet"])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json")
        for damage in ("missing", "cut")
    ],
)
def test_the_checkpoint_before_a_broken_one_is_taken_and_said(
    name: str, damage: str, tmp_path: Path, whole: dict[str, SimplexTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path, 1, 3, **CHECKPOINTED)
    file = tmp_path / "vertex-00001" / "checkpoint-2" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    resumed = trainer(tmp_path, **CHECKPOINTED)
    started: list[int] = []

    class Start(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            started.append(state.global_step)

    resumed.add_callback(Start())
    resumed.grow(resume_from_checkpoint=True)
    assert started == [1, 0]
    (said,) = [record.getMessage() for record in caplog.records if "not whole" in record.getMessage()]
    assert f"{file.parent} is not whole" in said and f"{tmp_path}/vertex-00001/checkpoint-1 is taken" in said
    assert_the_same_growth(resumed, whole["resnet"])


def test_a_stage_without_a_whole_checkpoint_is_trained_anew(
    tmp_path: Path, whole: dict[str, SimplexTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path, 1, 3, **CHECKPOINTED)
    for step in (1, 2):
        (tmp_path / "vertex-00001" / f"checkpoint-{step}" / "optimizer.pt").unlink()
    resumed = trainer(tmp_path, **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert "optimizer.pt is missing. vertex-00001 is trained anew" in caplog.text
    assert_the_same_growth(resumed, whole["resnet"])


def test_saving_a_step_again_always_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = SimplexTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    checkpoints = StageCheckpoints(args, barrier=lambda: None)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    replace = os.replace
    for killed_before in (1, 2, 3):
        left = iter(range(killed_before - 1))

        def cut(source: Any, target: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        new = tmp_path / ".saving" / "checkpoint-1"
        new.mkdir(parents=True)
        (new / "trainer_state.json").write_text("{}")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr("os.replace", cut)
            checkpoints.put_in_place("checkpoint-1")
        # Without weights it is no checkpoint to resume from.
        assert checkpoints.resume() is None and checkpoints.last() == str(tmp_path / "checkpoint-1")
        assert (tmp_path / "checkpoint-1" / "trainer_state.json").is_file()
        shutil.rmtree(tmp_path / ".saving", ignore_errors=True)


def test_save_total_limit_is_kept_and_a_fresh_run_starts_without_checkpoints(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", num_vertices=1, save_total_limit=1, **CHECKPOINTED)
    run.grow()
    assert [path.name for path in (tmp_path / "vertex-00000").iterdir()] == ["checkpoint-3"]
    again = trainer(tmp_path, "vit", num_vertices=1, max_steps=1, save_strategy="no")
    again.grow()
    assert not list((tmp_path / "vertex-00000").iterdir())


def test_a_checkpoint_holds_one_backbone_for_any_number_of_vertices(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", save_only_model=True, **CHECKPOINTED)
    run.grow()
    own = sum(p.numel() * 4 for p in run.simplex.backbone.parameters())
    for vertex in range(3):
        (file,) = (tmp_path / f"vertex-{vertex:05d}" / "checkpoint-3").glob("*.safetensors")
        assert own <= file.stat().st_size < 1.2 * own


class Terminate(TrainerCallback):
    """Sends SIGTERM to this process and to its data loader workers within a step."""

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith("1") and state.global_step == 1:
            for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
                process.terminate()


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_after_the_step_and_exits_with_its_own_code(
    workers: int, tmp_path: Path, whole: dict[str, SimplexTrainer]
) -> None:
    run = trainer(tmp_path, "resnet", dataloader_num_workers=workers)
    run.add_callback(Terminate())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        run.grow()
    assert raised.value.code == EXIT_CODE == 143 and signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "vertex-00001").iterdir()] == ["checkpoint-2"]
    resumed = trainer(tmp_path, "resnet")
    stages = resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole["resnet"])
    assert [stage["loss"] for stage in stages] == pytest.approx(
        [stage["loss"] for stage in whole["resnet"].simplex.config.provenance["stages"]]
    )


def test_a_growth_resumes_from_its_own_folder_only(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out")
    with pytest.raises(ValueError, match="output_dir"):
        run.train(resume_from_checkpoint=str(tmp_path / "elsewhere"))
    assert run.simplex.config.roles == ["pretrained"]


def test_a_link_in_place_of_the_folder_aside_moves_nothing(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "former-checkpoint-1").mkdir(parents=True)
    (mine / "checkpoint-1").mkdir()
    (mine / "checkpoint-1" / "notes.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".saving").symlink_to(mine)
    args = SimplexTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    checkpoints = StageCheckpoints(args, barrier=lambda: None)
    assert checkpoints.resume() is None
    checkpoints.put_in_place("checkpoint-1")
    assert (mine / "checkpoint-1" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "run" / ".saving").is_symlink()


def test_a_checkpoint_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    args = SimplexTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    former = os.umask(0o027)
    try:
        new = tmp_path / ".saving" / "checkpoint-1"
        new.mkdir(parents=True)
        for name, mode in (("model.safetensors", 0o600), ("scheduler.pt", 0o640)):
            (new / name).touch(mode)
        StageCheckpoints(args, barrier=lambda: None).put_in_place("checkpoint-1")
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "checkpoint-1").iterdir()} == {0o640}
