"""Output of a recipe that reads well in a terminal and in a log file."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainingArguments

__all__ = ["readable_progress", "say"]

_LIBRARIES = ("transformers", "datasets", "huggingface_hub")


@contextmanager
def readable_progress() -> Iterator[None]:
    """Keep log records apart from progress bars in a terminal, and show no bars where stderr is no terminal.

    Example:
        >>> from hf_simplex.training.recipe.progress import readable_progress
        >>> with readable_progress():
        ...     pass  # load, train and evaluate
    """
    if sys.stderr.isatty():
        # A logger without a handler of its own would write each record twice.
        own = [logger for name in _LIBRARIES if _writes(logger := logging.getLogger(name))]
        with logging_redirect_tqdm([logging.root, *own]):
            yield
        return
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
