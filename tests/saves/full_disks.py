"""A disk is full during a save: an OSError names the folder, and the former content is whole."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tiny import contents

from saves.children import Ended, fail_at, limit_size, run
from saves.outcomes import Outcome
from saves.world import Save, World

__all__ = ["at_each_operation", "on_a_small_disk", "with_small_files"]

PAGE = 4096


def _judge(kind: str, case: str, save: Save, folder: Path, ended: Ended, before: dict[str, bytes]) -> Outcome:
    found, fault = save.check(folder)
    after = contents(folder)
    if ended.status:
        if ended.error != "OSError":
            fault = fault or f"raised {ended.error}: {ended.message[:300]}"
        elif str(folder) not in ended.message:
            fault = fault or f"the error names no path: {ended.message[:300]}"
        # A save that was decided is completed by the next one: a load finds it, as `save.check` did.
        elif after != before and not any(".saved-" in name for name in after):
            left = sorted(name for name in after.keys() | before.keys() if after.get(name) != before.get(name))
            fault = fault or f"left or changed {left[:5]}"
    elif after != save.expected:
        fault = fault or "the save is not whole"
    return Outcome(kind, case, f"{found}, {'OSError' if ended.status else 'saved'}", fault)


def _with_recovery(outcome: Outcome, save: Save, folder: Path) -> Outcome:
    """The same, and the next save when there is space again."""
    fault = outcome.fault or save.recover(folder)
    return Outcome(outcome.kind, outcome.case, outcome.result, fault)


def at_each_operation(world: World, step: int = 1) -> Iterator[Outcome]:
    """The disk is full at the first operation that takes space, at the second, ...; once or from then on."""
    for save in world.saves:
        folder = world.directory / "full"
        for for_good in (False, True):
            operation, ended = 0, None
            while ended is None or ended.status:
                operation += 1
                if operation % step and operation > 1:
                    continue
                save.prepare(folder)
                before = contents(folder)
                ended = run(partial(save.save, folder), fail_at(operation, for_good=for_good))
                case = f"operation {operation}{' and on' * for_good}"
                outcome = _judge(f"full disk, {save.name}", case, save, folder, ended, before)
                yield _with_recovery(outcome, save, folder)


def with_small_files(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """The system lets no file grow beyond a random size."""
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        save, folder = rng.choice(world.saves), world.directory / "full"
        largest = max(map(len, save.expected.values()))
        size = rng.choice((rng.randint(0, 500), rng.randint(0, largest), largest))
        save.prepare(folder)
        before = contents(folder)
        ended = run(partial(save.save, folder), limit_size(size))
        outcome = _judge("full disk, files of limited size", f"{save.name}, {size}", save, folder, ended, before)
        yield _with_recovery(outcome, save, folder)


def on_a_small_disk(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """A file system in memory with a random number of free pages or files. Only root may mount one."""
    disk = world.directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=300", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield Outcome("full disk, a small file system", "mount", "not tried: mounting is not permitted")
        return
    try:
        for number in range(cases):
            yield _on_disk(world, disk, random.Random(f"{seed} {number}"), f"seed {seed}, case {number}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _on_disk(world: World, disk: Path, rng: random.Random, name: str) -> Outcome:
    save, folder, filler = rng.choice(world.saves), disk / "folder", disk / "filler"
    save.prepare(folder)
    before = contents(folder)
    needed = sum(map(len, save.expected.values())) // PAGE
    filler.mkdir()
    if rng.random() < 0.6:
        free, unit = rng.randint(0, needed + 10), "pages"
        usage = shutil.disk_usage(disk)
        with open(filler / "pages", "wb") as file:
            file.write(bytes(max(usage.free - free * PAGE, 0)))
    else:
        free, unit = rng.randint(0, len(save.expected) + 8), "files"
        while True:
            try:
                (filler / str(len(list(filler.iterdir())))).touch()
            except OSError:
                break
        for number in range(free):
            (filler / str(number)).unlink()
    ended = run(partial(save.save, folder))
    outcome = _judge(
        "full disk, a small file system", f"{save.name}, {free} {unit}, {name}", save, folder, ended, before
    )
    shutil.rmtree(filler)
    return _with_recovery(outcome, save, folder)
