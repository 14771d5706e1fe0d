"""A harness for each process of a pool."""

import gc
import logging
import os
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
    # A thread for each tensor costs more than to read these small tensors.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    _harness = Harness(Path(tempfile.mkdtemp(dir=directory)))
    # To scan all imported modules for garbage takes longer than many a case.
    gc.freeze()


def run(number: int) -> Outcome:
    return _harness.run(number)
