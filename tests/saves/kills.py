"""A save is killed: the folder holds the former content or the new one, and the next save leaves nothing behind."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hf_simplex.model.atomic_saves import finish_saves
from saves.children import KILLED, kill_at, kill_beyond_size, run
from saves.outcomes import Outcome
from saves.world import Save, World

__all__ = ["at_each_operation", "at_random_moments", "several", "within_a_write"]

SIGKILL, SIGXFSZ = -9, -25


def _judge(kind: str, case: str, save: Save, folder: Path, problem: str | None, *, finish: bool = False) -> Outcome:
    """Look at what a kill has left, then recover."""
    found, fault = save.check(folder)
    if finish and fault is None:
        finish_saves(folder)
        finished, fault = save.check(folder)
        # A killed save holds what loading found. transformers does not look aside, and finds the former export.
        if fault is None and finished != found and "refused" not in save.allowed:
            fault = f"holds {finished} once it was finished, and {found} before"
        if fault is None and finished == "refused":
            fault = "is refused although it was finished"
    if fault is None:
        fault = save.recover(folder)
    return Outcome(kind, case, found, problem or fault)


def at_each_operation(world: World, step: int = 1) -> Iterator[Outcome]:
    """Kill each save before its first operation on files, its second, and so on to its end."""
    for save in world.saves:
        folder, operation, ended = world.directory / "killed", 0, None
        while ended is None or ended.status:
            operation += 1
            if operation % step and operation > 1:
                continue
            save.prepare(folder)
            ended = run(partial(save.save, folder), kill_at(operation))
            problem = None if ended.status in (0, KILLED) else f"{ended.error}: {ended.message}"
            case = f"operation {operation}"
            yield _judge(f"kill, {save.name}", case, save, folder, problem, finish=operation % 2 == 0)


def several(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """Kill a save, the next one, which recovers, and the one after that."""
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        save, folder = rng.choice(world.saves), world.directory / "killed"
        save.prepare(folder)
        operations, problem = [], None
        for _ in range(rng.choice((2, 2, 3, 4))):
            operations.append(rng.choice((rng.randint(1, 20), rng.randint(1, 120))))
            ended = run(partial(save.save, folder), kill_at(operations[-1]))
            if ended.status not in (0, KILLED):
                problem = f"{ended.error}: {ended.message}"
        case = f"{save.name}, seed {seed}, case {number}: operations {operations}"
        yield _judge("kills, one after another", case, save, folder, problem)


def at_random_moments(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """Kill saves by SIGKILL, at any moment."""
    spans: dict[str, float] = {}
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        save, folder = rng.choice(world.saves), world.directory / "killed"
        save.prepare(folder)
        if save.name not in spans:
            spans[save.name] = run(partial(save.save, folder)).seconds
            save.prepare(folder)
        moment = rng.uniform(0, 1.1 * spans[save.name])
        ended = run(partial(save.save, folder), kill_after=moment)
        problem = None if ended.status in (0, SIGKILL) else f"{ended.error}: {ended.message}"
        yield _judge("kill, at a random moment", f"{save.name} after {moment:.4f} s", save, folder, problem)


def within_a_write(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """Kill saves within the write that makes a file too large, which is then half written."""
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        save, folder = rng.choice(world.saves), world.directory / "killed"
        size = rng.randint(0, max(map(len, save.expected.values())))
        save.prepare(folder)
        ended = run(partial(save.save, folder), kill_beyond_size(size))
        problem = None if ended.status in (0, SIGXFSZ) else f"{ended.error}: {ended.message}"
        yield _judge("kill, within a write", f"{save.name}, file size {size}", save, folder, problem)
