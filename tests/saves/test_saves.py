"""A sample of `make saves`, and faults that it has to find."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saves import full_disks, kills
from saves.outcomes import Report
from saves.world import World

SAMPLE = ["--cases", "4", "--step", "80", "--seconds", "2"]
KINDS = (
    "kill,",
    "kills,",
    "kill, at a random",
    "kill, within",
    "readers beside savers",
    "full disk,",
    "hostile links",
)


def test_saves_that_are_cut_short_leave_one_ensemble_or_the_other() -> None:
    """In a process of its own: it forks, so it may have no other threads."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-m", "saves", *SAMPLE],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert " 0 faults" in ended.stdout
    for kind in KINDS:
        assert any(line.startswith(kind) for line in ended.stdout.splitlines()), kind


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


def test_a_save_in_place_is_found_out(world: World) -> None:
    """Files that are copied over others one by one are a mixture when that is cut short."""

    def copy(folder: Path) -> None:
        for name in sorted(world.saves[0].expected):
            if name != "notes.txt":
                shutil.copyfile(world.directory / "reference-B" / name, folder / name)

    in_place = replace(world.saves[0], save=copy)
    world.saves[:] = [in_place]
    report = Report()
    report.add(kills.at_each_operation(world))
    report.add(full_disks.at_each_operation(world))
    assert {outcome.kind for outcome in report.faults} == {
        "kill, ensemble over another",
        "full disk, ensemble over another",
    }
    for message in ("is of another save", "after the next save", "the save is not whole"):
        assert any(message in str(outcome.fault) for outcome in report.faults), message
