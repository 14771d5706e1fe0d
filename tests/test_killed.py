"""A recipe that is killed at random moments and resumed ends with the bytes of one that ran through.

`make nightly` kills it more often.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_train_espro import DIGITS, RECIPE, config
from tiny import folder

from hf_simplex.preemption import EXIT_CODE

SECONDS = 300.0


class Recipe:
    """Processes of the recipe, one after the other, that write to one folder."""

    def __init__(self, path: Path, backbone: Path) -> None:
        self.output = path / "output"
        self.told = path / "stderr.txt"
        self.file = config(
            path,
            backbone=str(backbone),
            num_vertices=2,
            num_train_epochs=2,
            connector_epochs=2,
            warmup_steps=2,
            lr_scheduler_type="cosine",
            save_strategy="steps",
            save_steps=1,
            save_total_limit=2,
            **{**DIGITS, "max_test_examples": 20},
        )

    def start(self) -> "subprocess.Popen[bytes]":
        """A process that has come as far as its training."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self.told.open("wb") as told:
            command = [sys.executable, str(RECIPE), str(self.file), "--resume"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told, env=environment)
        self.wait(process, lambda: b"component 1" in self.told.read_bytes())
        return process

    def wait(self, process: "subprocess.Popen[bytes]", is_reached: Callable[[], bool]) -> None:
        """Return when something is reached or the process has ended."""
        end = time.monotonic() + SECONDS
        while process.poll() is None and not is_reached():
            assert time.monotonic() < end, self.told.read_text()
            time.sleep(0.002)

    def files(self) -> dict[str, bytes]:
        """All weights that a user gets: vertices and members of the components and of the ensemble."""
        places = [self.output / "ensemble", *sorted((self.output / "components").iterdir())]
        return {f"{place.name}/{file.name}": file.read_bytes() for place in places for file in place.glob("*.saf*")}


def is_saving(output: Path) -> bool:
    """Whether a checkpoint or an ensemble is half written, or a decided save half moved."""
    folders = [output, output / "ensemble", *output.glob("components/*"), *output.glob("components/*/vertex-*")]
    return any(next(folder.glob(".sav*"), None) is not None for folder in folders)


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("--kills")
    backbone = folder("resnet", tmp_path / "backbone", labels=7)
    whole = Recipe(tmp_path / "whole", backbone)
    process = whole.start()
    began = time.monotonic()
    assert process.wait(SECONDS) == 0, whole.told.read_text()
    span = time.monotonic() - began
    expected = whole.files()
    assert len([name for name in expected if name.startswith("ensemble/vertex-")]) == 4

    recipe, chance, killed, completed = Recipe(tmp_path / "cut", backbone), random.Random(0), 0, 0
    while killed < kills or not completed:
        process = recipe.start()
        if killed < kills:
            # By turns: any moment, within a save, and the cluster's polite way.
            signal_number = signal.SIGTERM if killed % 3 == 2 else signal.SIGKILL
            moment = time.monotonic() + chance.uniform(0, span if killed % 2 else 0.7 * span)
            recipe.wait(process, lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            if killed % 3 == 1:
                recipe.wait(process, lambda: is_saving(recipe.output))
            if process.poll() is None:
                process.send_signal(signal_number)
                code = process.wait(SECONDS)
                if code != 0:
                    assert code == (EXIT_CODE if signal_number == signal.SIGTERM else -signal.SIGKILL)
                    killed, completed = killed + 1, 0
                    print(f"{signal_number.name} at {moment - began:.2f} s, after {len(recipe.files())} files")
                    continue
        assert process.wait(SECONDS) == 0, recipe.told.read_text()
        assert recipe.files() == expected
        completed += 1
        shutil.rmtree(recipe.output)
