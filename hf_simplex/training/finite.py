"""The error that ends a stage whose loss or weights are not finite."""

from transformers import TrainerState

from .stage_checkpoints import StageCheckpoints

__all__ = ["NonFiniteError", "non_finite_error"]


class NonFiniteError(RuntimeError):
    """The loss or the weights of a vertex are not finite. The message names stage, step and learning rate.

    Example::

        try:
            trainer.grow()
        except NonFiniteError as error:
            print(error)  # names the last checkpoint
    """


def non_finite_error(
    what: str, step: int, state: TrainerState, checkpoints: StageCheckpoints, learning_rate: float
) -> NonFiniteError:
    """Return the error for `what` was found at `step` of a stage.

    Args:
        what: What is not finite, as the start of the message.
        step: Step of the stage.
        state: State of the stage's Trainer.
        checkpoints: Checkpoints of the stage.
        learning_rate: Learning rate at the step.

    Example::

        raise non_finite_error("The loss is nan", 3, trainer.state, checkpoints, learning_rate=0.1)
    """
    last = checkpoints.last()
    return NonFiniteError(
        f"{what} in stage {checkpoints.folder.name}, step {step} of {state.max_steps}, at learning rate "
        f"{learning_rate:.3g}. "
        + ("There is no checkpoint of the stage. " if last is None else f"The last checkpoint is {last}. ")
        + "Look for images or labels that are not finite. If there are none, begin anew with a lower learning rate, "
        "more warm-up steps or clipped gradients: the same run, resumed, comes to the same values."
    )
