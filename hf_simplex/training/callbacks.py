"""Callbacks of a stage: a progress bar, and hooks at the start, at each epoch and after each step."""

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from .preemption import Preemption

__all__ = ["StageCallback", "StageProgressCallback"]


class StageProgressCallback(ProgressCallback):
    """One progress bar for each stage, with the last logged values in it.

    Example::

        trainer.add_callback(StageProgressCallback)
    """

    SHOWN = ("loss", "eval_loss", "eval_accuracy", "log_volume", "regularizer_share")

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_train_begin`."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(Path(args.output_dir).name)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        """See `transformers.TrainerCallback.on_log`."""
        if self.training_bar is not None and logs:
            self.training_bar.set_postfix({name: f"{logs[name]:.4g}" for name in self.SHOWN if name in logs})


class StageCallback(TrainerCallback):
    """Connects a stage with Trainer's training loop.

    Args:
        on_begin: Called after the engine has wrapped the backbone, before the first step.
        on_epoch: Called at the start of each epoch, with its number.
        preemption: After SIGTERM, the stage saves a checkpoint and stops at the end of the step.

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
