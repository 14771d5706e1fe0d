"""What a recipe prints: lines in a log file, bars in a terminal, nothing twice, and no carriage return in a file."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from tiny import folder
from tiny_recipes import DIGITS, RECIPE, config
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from hf_simplex.training.recipe.progress import FEW_STEPS, few_steps, readable_progress

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
FIGURES = r"loss \d[\d.]*, learning rate [\d.e-]+"
STAGE = rf"component (\d), vertex (\d), epoch ([\d.]+) of \d: {FIGURES}(?:, log volume [-\d.]+)?, (.+)"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Two components of a mode and a connector, of a timm backbone with BatchNorm and another head."""
    settings = {"num_vertices": 2, "num_train_epochs": 3, "save_strategy": "epoch", "surface_resolution": 2}
    settings |= {"surface_images": 10, "disable_tqdm": None, "num_members": None, "max_train_examples": 200}
    backbone = str(folder("timm", tmp_path / "backbone", labels=7))
    file = config(tmp_path, backbone=backbone, **{**DIGITS, **settings})
    return [sys.executable, str(RECIPE), str(file)]


def printed_in_a_terminal(command: list[str]) -> tuple[int, str]:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=ENVIRONMENT)
    os.close(terminal)
    printed = b""
    while True:
        try:
            found = os.read(main, 65536)
        except OSError:
            # Linux reports the end of a terminal as an error.
            break
        printed += found
    os.close(main)
    return process.wait(), printed.decode()


def test_a_log_file_has_a_few_lines_for_a_stage_and_no_carriage_return(command: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=file, env=ENVIRONMENT, timeout=300, check=True)
    # read_text would take carriage returns for ends of lines.
    text = log.read_bytes().decode()
    assert "\r" not in text and "\x1b" not in text and "it/s" not in text
    lines = text.splitlines()
    stages = [match for line in lines if (match := re.fullmatch(STAGE, line))]
    grouped = [list(found) for _, found in groupby(stages, lambda match: match[1] + match[2])]
    assert [stage[0][1] + stage[0][2] for stage in grouped] == ["10", "11", "20", "21"]
    for stage, epochs in zip(grouped, (3, 1, 3, 1), strict=True):
        assert 0 < float(stage[0][3]) <= 0.1 and float(stage[-1][3]) == epochs
        assert all(re.fullmatch(r"\d\d:\d\d left", match[4]) for match in stage[:-1])
        assert re.fullmatch(r"done after \d\d:\d\d", stage[-1][4])
        # The stage takes seconds; there may be one more in each ten.
        assert 2 <= len(stage) <= 4
    assert [line for line in lines if "new head" in line] == [
        f"The backbone {tmp_path / 'backbone'} has a new head for 10 labels."
    ]
    assert not any(noise in text for noise in ("LOAD REPORT", "num_labels=", "backend", "initialized"))
    assert [line for line, times in Counter(lines).items() if times > 1] == []
    assert [line for line in lines if line.endswith(" ...")] == [
        "Evaluating the ensemble and its parts on 60 test images ..."
    ]
    assert sum(line.startswith("warning: a mode trains for ") for line in lines) == 1
    # Besides the stages: data, head, few steps, two lines of components, the evaluation, the table and the verdict.
    assert len(lines) - len(stages) == 4 + 1 + 1 + 6 + 8


def test_a_terminal_has_bars_that_no_line_breaks(command: list[str]) -> None:
    code, printed = printed_in_a_terminal(command)
    assert code == 0, printed
    assert "\r" in printed.replace("\r\n", "")
    # What a reader sees: a carriage return goes back, and the bar is written over.
    ends = [line.rstrip("\r").split("\r")[-1] for line in printed.split("\n")]
    bars = [line for line in ends if "%|" in line]
    assert sum("vertex" in bar and "100%" in bar for bar in bars) == 4
    assert not re.search(STAGE, printed) and "Writing" not in printed
    for told in ("component 1 of 2", "component 2 of 2", "The backbone "):
        assert sum(line.startswith(told) for line in ends) == 1, told
    # A line stands alone: no bar before it or after it.
    assert all(bar.startswith(("component", "Loading", "100%")) for bar in bars), bars
    assert all(bar.endswith("]") for bar in bars), bars


def test_a_small_folder_in_large_batches_is_warned_of(tmp_path: Path) -> None:
    def warned(images: int, **settings: int) -> str | None:
        return few_steps(images, TrainingArguments(str(tmp_path), use_cpu=True, **settings))

    assert warned(168, num_train_epochs=10, per_device_train_batch_size=64) == (
        "warning: a mode trains for 30 steps only (168 images in batches of 64). Give smaller batches "
        "(per_device_train_batch_size) or more epochs (num_train_epochs)."
    )
    assert warned(168, num_train_epochs=10, per_device_train_batch_size=16) is None
    assert warned(8, num_train_epochs=FEW_STEPS, per_device_train_batch_size=8) is None
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    accumulated = warned(8 * FEW_STEPS, num_train_epochs=1, **settings)
    assert accumulated is not None and "25 steps" in accumulated and "batches of 16" in accumulated
    assert warned(10_000, max_steps=FEW_STEPS - 1) is not None
    assert warned(2, max_steps=FEW_STEPS) is None


@pytest.mark.filterwarnings("error:This DataLoader will create")
def test_more_data_loader_workers_than_cores_are_no_wall_of_warnings() -> None:
    def make_loader() -> DataLoader[int]:
        return DataLoader(list(range(2)), num_workers=len(os.sched_getaffinity(0)) + 1)

    with readable_progress():
        make_loader()
    with pytest.raises(UserWarning, match="This DataLoader will create"):
        make_loader()
