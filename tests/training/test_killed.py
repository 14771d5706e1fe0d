"""A recipe that is killed at random moments and resumed writes the same bytes as an uninterrupted one.

`make nightly` kills it 32 times.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import train_espro
from tiny import folder
from tiny_recipes import DIGITS, RECIPE, config

from hf_simplex.training.preemption import EXIT_CODE

SECONDS = 600.0


class Recipe:
    """Successive processes of the recipe with one output folder.

    They are forked from a server with the imports done, which take longer than the training.
    """

    def __init__(self, path: Path, backbone: Path) -> None:
        self.output = path / "output"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["imported_recipe"])
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

    def start(self) -> BaseProcess:
        """Start a process that resumes what the one before it left."""
        process = self.context.Process(target=train_espro.main, args=([str(self.file), "--resume"],))
        process.start()
        return process

    def wait(self, process: BaseProcess, is_reached: Callable[[], bool] = lambda: False) -> None:
        """Wait until the condition holds or the process has ended."""
        end = time.monotonic() + SECONDS
        while process.exitcode is None and not is_reached():
            assert time.monotonic() < end, "the recipe hangs"
            process.join(0.002)

    def files(self) -> dict[str, bytes]:
        """Contents of all published weight files: vertices and members of components and ensemble."""
        places = [self.output / "ensemble", *self.output.glob("components/*")]
        return {f"{place.name}/{file.name}": file.read_bytes() for place in places for file in place.glob("*.saf*")}


def is_saving(output: Path) -> bool:
    """Whether a checkpoint or an ensemble is half written or half moved."""
    folders = [output, output / "ensemble", *output.glob("components/*"), *output.glob("components/*/vertex-*")]
    return any(next(folder.glob(".sav*"), None) is not None for folder in folders)


def test_a_run_killed_at_random_moments_writes_the_same_bytes(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fork server does not know the paths of pytest.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (RECIPE.parent, *Path(__file__).parents[1:3]))))
    kills = pytestconfig.getoption("--kills")
    backbone = folder("resnet", tmp_path / "backbone", labels=7)
    whole = Recipe(tmp_path / "whole", backbone)
    # The first process waits for the imports. The time of the run is to be without them.
    imports = whole.context.Process(target=int)
    imports.start()
    imports.join()
    process, began = whole.start(), time.monotonic()
    whole.wait(process)
    span = time.monotonic() - began
    assert process.exitcode == 0
    expected = whole.files()
    assert len([name for name in expected if name.startswith("ensemble/vertex-")]) == 4

    recipe, chance, killed, completed = Recipe(tmp_path / "cut", backbone), random.Random(0), 0, 0
    while killed < kills or not completed:
        process, began = recipe.start(), time.monotonic()
        if killed < kills:
            # In turn: at any moment, within a save, by SIGTERM.
            number = signal.SIGTERM if killed % 3 == 2 else signal.SIGKILL
            moment = began + chance.uniform(0, span)
            recipe.wait(process, lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            if killed % 3 == 1:
                recipe.wait(process, lambda: is_saving(recipe.output))
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)
        recipe.wait(process)
        print(f"{process.exitcode} after {time.monotonic() - began:.2f} of {span:.2f} s, {len(recipe.files())} files")
        if process.exitcode == 0:
            assert recipe.files() == expected
            completed += 1
            shutil.rmtree(recipe.output)
        else:
            # Before and after the recipe, SIGTERM has its default effect.
            assert process.exitcode in (-number, EXIT_CODE)
            killed, completed = killed + 1, 0
