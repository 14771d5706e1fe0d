"""A broken file of an ensemble gives right values or a documented error, in no time, and nothing else is touched."""

import logging
from pathlib import Path

import pytest
import transformers

from fuzz.harness import CONFIG, INDEX, PROCESSOR, Harness, Report

CASES = 2000


def test_broken_files_give_right_values_or_documented_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make fuzz` runs more of them. `python -m fuzz --first NUMBER --cases 1` runs one again."""
    # As in `fuzz.processes`.
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        harness, report = Harness(tmp_path), Report()
        for number in range(CASES):
            report.add(harness.run(number))
    finally:
        transformers.logging.enable_progress_bar()
        transformers.logging.set_verbosity(verbosity)
    assert not report.faults
    files = {file for file, _ in report.counts}
    assert files == {CONFIG, INDEX, PROCESSOR, "vertex", "shared.safetensors", "members.safetensors"}
    assert {result for _, result in report.counts} >= {"loaded", "ValueError", "OSError"}
