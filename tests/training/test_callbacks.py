"""Lines of a stage's progress: how often, and what they say."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_simplex.training import callbacks
from hf_simplex.training.callbacks import StageProgressCallback

STEPS, EPOCHS = 1000, 4


class Stage:
    """A stage of a thousand steps, with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: str = "run/vertex-00003", **state: Any) -> None:
        self.now = 100.0
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.args = TrainingArguments(output, use_cpu=True, report_to="none", disable_tqdm=True)
        self.state = TrainerState(max_steps=STEPS, num_train_epochs=EPOCHS, is_world_process_zero=True, **state)
        self.callback = StageProgressCallback()
        self.callback.on_train_begin(self.args, self.state, TrainerControl())

    def log(self, step: int, **logs: float) -> None:
        self.state.global_step, self.state.epoch = step, step * EPOCHS / STEPS
        self.callback.on_log(self.args, self.state, TrainerControl(), logs)

    def run(self, seconds: float, last: int = STEPS) -> None:
        for step in range(self.state.global_step + 1, last + 1):
            self.now += seconds
            self.log(step, loss=float(step), learning_rate=0.5)
        self.callback.on_train_end(self.args, self.state, TrainerControl())


def test_a_line_names_vertex_epoch_loss_learning_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Stage(monkeypatch).run(seconds=1)
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first == "vertex 3, epoch 0.00 of 4: loss 1, learning rate 0.5, 16:39 left"
    # A fiftieth of 1000 seconds later. The loss is the mean of the steps 2 to 21.
    assert second == "vertex 3, epoch 0.08 of 4: loss 11.5, learning rate 0.5, 16:19 left"
    assert re.fullmatch(r"vertex 3, epoch 4.00 of 4: loss [\d.]+, learning rate 0.5, done after 16:40", last)


@pytest.mark.parametrize(("seconds", "lines"), [(0.001, 2), (0.1, 11), (1, 51), (100, 51)])
def test_a_stage_has_a_line_each_ten_seconds_and_fifty_at_most(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Stage(monkeypatch).run(seconds)
    assert abs(len(capsys.readouterr().err.splitlines()) - lines) <= 1


def test_a_resumed_stage_tells_the_time_left_by_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Stage(monkeypatch, "run/components/01/vertex-00000", global_step=900).run(seconds=1)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "component 2, vertex 0, epoch 3.60 of 4: loss 901, learning rate 0.5, 01:39 left"


def test_losses_of_several_steps_weigh_by_their_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(monkeypatch)
    stage.log(1, loss=5.0, learning_rate=0.5)
    stage.log(2, loss=1.0, learning_rate=0.5)
    stage.log(5, loss=2.0, learning_rate=0.5)
    stage.callback.on_train_end(stage.args, stage.state, TrainerControl())
    assert capsys.readouterr().err.splitlines()[-1] == "vertex 3, epoch 0.02 of 4: loss 1.75, stopped after 00:00"


def test_an_evaluation_is_a_line_and_another_process_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(monkeypatch)
    stage.log(250, eval_loss=0.25, eval_accuracy=0.875, eval_runtime=3.0)
    assert capsys.readouterr().err == "vertex 3, epoch 1.00 of 4: evaluation loss 0.25, accuracy 0.875\n"
    stage.state.is_world_process_zero = False
    stage.run(seconds=1)
    assert capsys.readouterr().err == ""
