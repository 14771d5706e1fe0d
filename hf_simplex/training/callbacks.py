"""Callbacks of a stage: its progress, and hooks at the start, at each epoch and after each step."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from .preemption import Preemption

__all__ = ["StageCallback", "StageProgressCallback", "shows_bars"]


def shows_bars(args: TrainingArguments) -> bool:
    """Return whether progress is shown as bars: stderr is a terminal, and `args.disable_tqdm` is off.

    Example::

        shows_bars(SimplexTrainingArguments("out", disable_tqdm=True))   # False
    """
    return not args.disable_tqdm and sys.stderr.isatty()


class StageProgressCallback(ProgressCallback):
    """Progress of each stage: a bar in a terminal, else lines, which suit a log file.

    The bar holds the last logged values. A line names vertex, epoch, loss, learning rate and time left. Its loss is
    the mean since the line before. The first and the last log of a stage are lines. Between them, lines are at least
    `SECONDS` and a fiftieth of the stage apart. With `args.disable_tqdm` there are lines in a terminal too.

    Example::

        trainer.add_callback(StageProgressCallback)
    """

    SHOWN = ("loss", "eval_loss", "eval_accuracy", "log_volume", "regularizer_share")
    SECONDS = 10.0
    LINES = 50

    def __init__(self) -> None:
        super().__init__()
        self._vertex = ""
        self._shows_bars = False
        self._first_step = 0
        self._began = self._last_line = 0.0
        self._losses: list[tuple[float, int]] = []
        """Logged losses since the last line, each with its number of steps."""
        self._logged_step = 0

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_train_begin`."""
        self._vertex = _stage_name(Path(args.output_dir))
        self._shows_bars = shows_bars(args)
        self._first_step = self._logged_step = state.global_step
        self._began, self._last_line = time.monotonic(), -math.inf
        self._losses = []
        if not self._shows_bars:
            return
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self._vertex)

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_step_end`."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_prediction_step`."""
        if shows_bars(args):
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_log`."""
        if not logs or not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.set_postfix({name: f"{logs[name]:.4g}" for name in self.SHOWN if name in logs})
        elif self._vertex and not self._shows_bars:
            self._on_log_without_bar(state, logs)

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_train_end`."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)
        elif self._losses and state.is_world_process_zero:
            # The stage stopped before its last step.
            self._print_line(state, {})
        self._vertex = ""

    def _on_log_without_bar(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        evaluated = {name: value for name, value in logs.items() if name in self.SHOWN and name.startswith("eval_")}
        if evaluated:
            figures = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in evaluated.items())
            self._print(f"{self._where(state)}: evaluation {figures}")
        if "loss" not in logs:
            return
        self._losses.append((logs["loss"], state.global_step - self._logged_step))
        self._logged_step = state.global_step
        now = time.monotonic()
        done, steps = state.global_step - self._first_step, state.max_steps - self._first_step
        between = max(self.SECONDS, (now - self._began) * steps / max(done, 1) / self.LINES)
        if state.global_step >= state.max_steps or now - self._last_line >= between:
            self._last_line = now
            self._print_line(state, logs)

    def _print_line(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        steps = sum(number for _, number in self._losses) or 1
        figures = [f"loss {sum(loss * number for loss, number in self._losses) / steps:.4g}"]
        self._losses = []
        if "learning_rate" in logs:
            figures.append(f"learning rate {logs['learning_rate']:.3g}")
        if "log_volume" in logs:
            figures.append(f"log volume {logs['log_volume']:.4g}")
        spent = time.monotonic() - self._began
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        if logs and left:
            figures.append(f"{tqdm.format_interval(spent / max(done, 1) * left)} left")
        else:
            figures.append(f"{'stopped' if left else 'done'} after {tqdm.format_interval(spent)}")
        self._print(f"{self._where(state)}: {', '.join(figures)}")

    def _where(self, state: TrainerState) -> str:
        return f"{self._vertex}, epoch {state.epoch or 0:.2f} of {state.num_train_epochs}"

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _stage_name(output: Path) -> str:
    """Name of a stage by its folder: `vertex-00001`, in that of a component if it is one of several."""
    vertex = f"vertex {int(output.name.removeprefix('vertex-'))}" if output.name.startswith("vertex-") else output.name
    component = output.parent
    if component.parent.name == "components" and component.name.isdigit():
        return f"component {int(component.name) + 1}, {vertex}"
    return vertex


class StageCallback(TrainerCallback):
    """Connects a stage with Trainer's training loop.

    Args:
        on_begin: Called after the engine has wrapped the backbone, before the first step.
        on_epoch: Called at the start of each epoch, with its number.
        preemption: After SIGTERM or Ctrl-C, the stage saves a checkpoint and stops at the end of the step.

    Example::

        trainer.add_callback(StageCallback(place_vertices, dataset.set_epoch, preemption))
    """

    def __init__(self, on_begin: Callable[[], None], on_epoch: Callable[[int], None], preemption: Preemption) -> None:
        self._on_begin = on_begin
        self._on_epoch = on_epoch
        self._preemption = preemption

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_train_begin`."""
        self._on_begin()

    def on_epoch_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_epoch_begin`."""
        self._on_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_step_end`."""
        if self._preemption.agreed(args.device):
            control.should_save = control.should_training_stop = True
