"""A resumed growth is the same run: another one is refused, and each difference named."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import CHECKPOINTED, assert_the_same_growth, interrupted, trainer, weights
from tiny import Images, backbone, folder, same

from hf_simplex import SimplexForImageClassification
from hf_simplex.training.growth_record import RECORD


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its first connector."""
    path = tmp_path_factory.mktemp("cut")
    interrupted(path, 1, 2, **CHECKPOINTED)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.02}, r"learning_rate was 0\.01 and is 0\.02"),
        ({"connector_learning_rate": 0.02}, r"connector_learning_rate was None and is 0\.02"),
        ({"seed": 1}, "seed was 42 and is 1"),
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size was 8 and is 4"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was 'linear' and is 'cosine'"),
        ({"batch_norm_images": 8}, "batch_norm_images was 16 and is 8"),
        ({"number": 27}, "fingerprint of the training images and their transforms was"),
        ({"seed": 1, "weight_decay": 0.5}, r"seed was 42 and is 1; weight_decay was 0\.0 and is 0\.5"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_another_run_is_not_resumed_and_each_difference_is_named(
    arguments: dict[str, Any], message: str, cut: Path
) -> None:
    run = trainer(cut, **{**CHECKPOINTED, **arguments})
    before = weights(run.simplex, 0)
    with pytest.raises(ValueError, match=message):
        run.grow(resume_from_checkpoint=True)
    assert run.simplex.config.roles == ["pretrained"] and same(weights(run.simplex, 0), before)


def test_another_backbone_and_another_number_of_processes_are_refused(cut: Path, tmp_path: Path) -> None:
    other = SimplexForImageClassification.from_backbone(backbone("resnet", seed=1), fine_tuned=False)
    with pytest.raises(ValueError, match="initial weights were those of ResNetForImageClassification"):
        trainer(cut, model=other, **CHECKPOINTED).grow(resume_from_checkpoint=True)
    path = shutil.copytree(cut, tmp_path / "cut")
    record = json.loads((path / RECORD).read_text())
    (path / RECORD).write_text(json.dumps({**record, "processes": 2}))
    with pytest.raises(ValueError, match="number of processes was 2 and is 1"):
        trainer(path, **CHECKPOINTED).grow(resume_from_checkpoint=True)
    (path / RECORD).write_text("{")
    with pytest.raises(ValueError, match=RECORD):
        trainer(path, **CHECKPOINTED).grow(resume_from_checkpoint=True)


def test_an_argument_newer_than_the_record_had_its_default(cut: Path, tmp_path: Path) -> None:
    path = shutil.copytree(cut, tmp_path / "cut")
    record = json.loads((path / RECORD).read_text())
    del record["arguments"]["probe_head"], record["arguments"]["mode_learning_rates"]
    (path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"mode_learning_rates was not known and is \[1\.0, 2\.0\]"):
        trainer(path, mode_learning_rates=[1.0, 2.0], **CHECKPOINTED).grow(resume_from_checkpoint=True)
    trainer(path, **CHECKPOINTED).grow(resume_from_checkpoint=True)


def test_what_does_not_shape_the_weights_may_change(cut: Path, tmp_path: Path) -> None:
    path = shutil.move(shutil.copytree(cut, tmp_path / "cut"), tmp_path / "moved")
    whole = trainer(tmp_path / "whole", **CHECKPOINTED)
    whole.grow()
    allowed = {
        "save_steps": 2,
        "save_strategy": "steps",
        "save_total_limit": 3,
        "logging_steps": 2,
        "per_device_eval_batch_size": 8,
        "hub_model_id": "me/model",
    }
    resumed = trainer(path, **allowed)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole)
    larger = trainer(path, num_vertices=4, num_members=None, member_rule="centroid", **CHECKPOINTED)
    assert len(larger.grow(resume_from_checkpoint=True)) == 4
    assert all(same(weights(larger.simplex, vertex), weights(whole.simplex, vertex)) for vertex in range(3))
    # The ensemble that the run left is the same run as well.
    left = SimplexForImageClassification.from_pretrained(path)
    trainer(path, model=left, num_vertices=4, **CHECKPOINTED).grow(resume_from_checkpoint=True)
    again = trainer(path, num_vertices=4, **CHECKPOINTED)
    assert len(again.grow(resume_from_checkpoint=True)) == 4
    with pytest.raises(ValueError, match=r"num_vertices is 3, but .* holds a simplex of 4 vertices"):
        trainer(path, num_vertices=3, **CHECKPOINTED).grow(resume_from_checkpoint=True)


def test_a_run_of_an_older_version_is_resumed_with_a_warning(
    cut: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(cut, tmp_path / "cut")
    (path / RECORD).unlink()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    resumed = trainer(path, **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert f"{path} has no {RECORD}" in caplog.text
    # What it was started with stays unknown.
    assert resumed.simplex.config.num_vertices == 3 and not (path / RECORD).exists()


def test_a_new_run_in_an_old_folder_is_not_continued_with_what_the_old_one_left(tmp_path: Path) -> None:
    trainer(tmp_path / "out", **CHECKPOINTED).grow()
    settings = {"learning_rate": 0.02, **CHECKPOINTED}
    interrupted(tmp_path / "out", 0, 2, **settings)
    resumed = trainer(tmp_path / "out", **settings)
    resumed.grow(resume_from_checkpoint=True)
    whole = trainer(tmp_path / "whole", **settings)
    whole.grow()
    assert_the_same_growth(resumed, whole)


def test_a_new_head_is_random_and_does_not_make_another_run(tmp_path: Path) -> None:
    path = folder("resnet", tmp_path / "backbone", labels=5)
    for resume in (False, True):
        torch.manual_seed(int(resume))
        model = SimplexForImageClassification.from_backbone(path, num_labels=3)
        assert model.new_weights == {"classifier.1.weight", "classifier.1.bias"}
        run = trainer(tmp_path / "out", model=model, num_vertices=2 + resume, **CHECKPOINTED)
        assert len(run.grow(resume_from_checkpoint=resume)) == 2 + resume


def test_the_record_is_written_with_the_first_checkpoint(tmp_path: Path) -> None:
    run = interrupted(tmp_path / "none", 0, 0, **CHECKPOINTED)
    assert not (tmp_path / "none" / RECORD).exists()
    run.train_dataset = Images(27)
    other = trainer(tmp_path / "none", seed=1, num_vertices=1, **CHECKPOINTED)
    assert len(other.grow(resume_from_checkpoint=True)) == 1
    record = json.loads((tmp_path / "none" / RECORD).read_text())
    assert record["arguments"]["seed"] == 1 and record["processes"] == 1
    trainer(tmp_path / "unsaved", save_strategy="no", num_vertices=1).grow()
    assert not (tmp_path / "unsaved" / RECORD).exists()
