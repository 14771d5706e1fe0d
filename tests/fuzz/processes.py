"""A harness for each process of a pool."""

import logging
import tempfile
from pathlib import Path

import torch
import transformers

from fuzz.harness import Harness, Outcome

__all__ = ["run", "start"]

_harness: Harness


def start(directory: str) -> None:
    global _harness
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    _harness = Harness(Path(tempfile.mkdtemp(dir=directory)))


def run(number: int) -> Outcome:
    return _harness.run(number)
