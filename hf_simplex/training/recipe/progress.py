"""Output of a recipe that reads well in a terminal and in a log file."""

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import datasets
import transformers
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainingArguments

__all__ = ["FEW_STEPS", "few_steps", "readable_progress", "say"]

FEW_STEPS = 50
"""Fewer optimizer steps than these hardly train a new head."""

_LIBRARIES = ("transformers", "datasets", "huggingface_hub")


@contextmanager
def readable_progress() -> Iterator[None]:
    """Keep log records apart from progress bars in a terminal, and show no bars where stderr is no terminal.

    That there are fewer cores than data loader workers is not said: each loader would, and it costs little.

    Example:
        >>> from hf_simplex.training.recipe.progress import readable_progress
        >>> with readable_progress():
        ...     pass  # load, train and evaluate
    """
    with warnings.catch_warnings(), _apart() if sys.stderr.isatty() else _without_bars():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def _apart() -> AbstractContextManager[None]:
    # A logger without a handler of its own would write each record twice.
    own = [logger for name in _LIBRARIES if _writes(logger := logging.getLogger(name))]
    return logging_redirect_tqdm([logging.root, *own])


@contextmanager
def _without_bars() -> Iterator[None]:
    shown = transformers.utils.logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown[0]:
            transformers.utils.logging.enable_progress_bar()
        if shown[1]:
            datasets.enable_progress_bars()


def _writes(logger: logging.Logger) -> bool:
    return any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers)


def say(line: str, args: TrainingArguments) -> None:
    """Print a line on stderr, above a progress bar if there is one. Only one process prints.

    Args:
        line: The line.
        args: Arguments of the run. They tell which process it is.

    Example::

        say("component 1 of 2", args)
    """
    if args.should_log:
        tqdm.write(line, file=sys.stderr)


def few_steps(images: int, args: TrainingArguments) -> str | None:
    """Warn of a mode that trains for fewer than `FEW_STEPS` optimizer steps, as on a small folder in large batches.

    Args:
        images: number of training images.
        args: arguments of the run.

    Returns:
        One line; None for enough steps.

    Example:
        >>> from transformers import TrainingArguments
        >>> from hf_simplex.training.recipe.progress import few_steps
        >>> few_steps(2000, TrainingArguments(num_train_epochs=10, per_device_train_batch_size=64)) is None
        True
    """
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = math.ceil(math.ceil(images / batch) * args.num_train_epochs) if args.max_steps <= 0 else args.max_steps
    if steps >= FEW_STEPS:
        return None
    return (
        f"warning: a mode trains for {steps} steps only ({images} images in batches of {batch}). Give smaller batches "
        "(per_device_train_batch_size) or more epochs (num_train_epochs)."
    )
