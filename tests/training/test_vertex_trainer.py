"""A stage is an ordinary run of Trainer: its arguments, data and logs keep working."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from growing import (
    CHECKPOINTED,
    trainer,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Images
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_simplex.training.trainer import NonFiniteError


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": 21, "points_per_step": 2},
        {"bf16": True},
        {"optim": "sgd", "lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"max_steps": 2, "dataloader_num_workers": 1},
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_training_arguments_keep_working(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", **arguments)
    assert all(torch.isfinite(torch.tensor(stage["loss"])) for stage in run.grow())
    assert type(run.simplex.backbone).forward is run.simplex.backbone.forward.__func__


def test_stages_evaluate_their_vertex_keep_the_best_and_stop_early(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        num_train_epochs=6,
        learning_rate=0.0,
        volume_weight=0.0,
        trainer_arguments={"callbacks": [EarlyStoppingCallback(1)]},
    )
    stages = run.grow()
    assert all(stage["epochs"] < 6 for stage in stages)
    assert all("eval_loss" in entry for entry in run.state.log_history if "eval_runtime" in entry)


class Stream(IterableDataset):
    """Images without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        data = Images()
        yield from (data[index] for index in range(len(data)))


def rows() -> Iterator[dict[str, Any]]:
    for row in Stream():
        yield {"pixel_values": row["pixel_values"].numpy(), "labels": int(row["labels"]), "name": "not for the model"}


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("hub", [False, True], ids=["torch", "datasets"])
def test_streamed_images_train_by_steps(kind: str, hub: bool, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind, max_steps=2, num_vertices=2)
    run.train_dataset = datasets.IterableDataset.from_generator(rows).with_format("torch") if hub else Stream()
    assert [stage["steps"] for stage in run.grow()] == [2, 2]
    assert len(run.simplex.config.members) == 2


def test_every_stage_has_its_own_data_order(tmp_path: Path) -> None:
    for arguments in ({}, {"data_seed": 5}):
        seen: list[int] = []

        class Watched(Images):
            def __getitem__(self, index: int, seen: list[int] = seen) -> dict[str, torch.Tensor]:
                seen.append(int(index))
                return super().__getitem__(index)

        run = trainer(tmp_path / str(arguments), "vit", **arguments)

        class Begin(TrainerCallback):
            def on_train_begin(self, args, state, control, seen=seen, **kwargs):  # type: ignore[no-untyped-def]
                # Checks read images between the stages.
                del seen[24 * int(args.output_dir[-1]) :]

        run.train_dataset = Watched()
        run.add_callback(Begin())
        run.grow()
        orders = [tuple(seen[start : start + 24]) for start in (0, 24, 48)]
        assert all(sorted(order) == list(range(24)) for order in orders)
        assert len(set(orders)) == 3


def test_statistics_come_from_random_images_of_the_given_data_set(tmp_path: Path) -> None:
    run = trainer(tmp_path, trainer_arguments={"batch_norm_dataset": Images(100)})
    first, second = run._batch_norm_batches(), run._batch_norm_batches()
    assert sum(len(batch["pixel_values"]) for batch in first) == 16
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0]["pixel_values"], Images(100).pixel_values[: len(first[0]["pixel_values"])])
    assert set(first[0]) == {"pixel_values"}


class Poison(TrainerCallback):
    """Sets weights of a stage to a value before a step."""

    def __init__(self, module: torch.nn.Module, step: int, value: float) -> None:
        self.module, self.step, self.value = module, step, value

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith("1") and state.global_step == self.step:
            with torch.no_grad():
                next(self.module.parameters()).fill_(self.value)


def test_a_non_finite_loss_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", connector_learning_rate=0.025, **CHECKPOINTED)
    run.add_callback(Poison(run.simplex.backbone, 2, float("nan")))
    place = "stage vertex-00001, step 3 of 3, at learning rate .*checkpoint-2"
    with pytest.raises(NonFiniteError, match=f"The loss is nan in {place}"):
        run.grow()
    assert sorted(path.name for path in (tmp_path / "vertex-00001").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert run.simplex.config.roles == ["mode"]


def test_a_non_finite_loss_before_the_first_checkpoint_names_none(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", learning_rate=1e30, save_strategy="no")
    with pytest.raises(NonFiniteError) as raised:
        run.grow()
    said = str(raised.value)
    assert "There is no checkpoint of the stage." in said and "None" not in said
    # A run with another learning rate is not resumed.
    assert "begin anew with a lower learning rate" in said


def test_non_finite_weights_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gradient(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            if state.global_step == 1:
                next(run.simplex.backbone.parameters()).grad.fill_(float("inf"))

    run = trainer(tmp_path, "vit", max_grad_norm=0, **CHECKPOINTED)
    run.add_callback(Gradient())
    with pytest.raises(NonFiniteError, match=r"weights of .* no longer finite in stage vertex-00000, step 2"):
        run.grow()
    assert [path.name for path in (tmp_path / "vertex-00000").iterdir()] == ["checkpoint-1"]


def test_tensorboard_gets_the_logs_of_each_step(tmp_path: Path) -> None:
    trainer(tmp_path, "vit", num_vertices=2, report_to="tensorboard").grow()
    written: dict[str, int] = {}
    for file in tmp_path.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file)).Reload()
        written |= {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]}
    names = ("loss", "learning_rate", "log_volume", "regularizer", "regularizer_share")
    assert {name: written.get(f"train/{name}") for name in names} == dict.fromkeys(names, 3)


def test_an_infinite_pixel_among_the_batch_norm_images_is_not_saved(tmp_path: Path) -> None:
    plain = Images(24)
    plain.pixel_values[5, 0, 2, 2] = float("inf")
    run = trainer(tmp_path, batch_norm_images=24, trainer_arguments={"batch_norm_dataset": plain})
    with pytest.raises(ValueError, match=r"BatchNorm statistics of layer '.*' at vertex 1 are not finite"):
        run.grow()
    assert run.simplex.config.roles == ["mode"]
    assert all(bool(tensor.isfinite().all()) for tensor in run.simplex.state_dict().values())


def test_a_loss_of_an_evaluation_that_is_not_finite_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "hf_simplex"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    run = trainer(tmp_path, "vit", num_vertices=2, eval_strategy="epoch")
    run.grow()
    run.evaluate()
    assert "is not finite" not in caplog.text
    run.eval_dataset.pixel_values[0] = float("nan")  # type: ignore[union-attr]
    run.evaluate()
    assert (
        "The loss of the ensemble is not finite on 1 evaluation batches. The mean loss leaves them out" in caplog.text
    )
    again = trainer(tmp_path / "again", "vit", num_vertices=1, eval_strategy="epoch")
    again.eval_dataset.pixel_values[0] = float("nan")  # type: ignore[union-attr]
    again.grow()
    assert "The loss of vertex 0 is not finite on 1 evaluation batches" in caplog.text
