"""A folder with links where recovery looks for files: nothing outside is read, moved or written."""

import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fuzz.audit import Audit

from hf_simplex.model.atomic_saves import finish_saves
from hf_simplex.model.save_lock import LOCK_FILE
from saves.children import run
from saves.outcomes import Outcome
from saves.world import World

__all__ = ["hostile_folders"]

MANIFEST = ".save.json"
FILES = ("config.json", "model.safetensors.index.json", "preprocessor_config.json", "vertex-00000.safetensors", "x")


def _tree(directory: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Sizes, times and contents of everything outside."""
    found = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def _manifest(rng: random.Random) -> bytes:
    files = [rng.choice((*FILES, "../outside/config.json")) for _ in range(rng.randint(0, 3))]
    removed = [rng.choice((*FILES, "../outside/x", "..")) for _ in range(rng.randint(0, 2))]
    return json.dumps({"format": "hf-simplex save 1", "files": files, "removed": removed}).encode()


def _add_hostile(folder: Path, outside: Path, rng: random.Random) -> None:
    """Add one thing that recovery could fall for."""
    name = f"{rng.choice(('.saved-', '.saving-'))}{rng.getrandbits(64):016x}"
    targets = [outside, outside / "config.json", outside / "no-such-file", Path("..") / "outside", Path(".")]
    kind = rng.randrange(5)
    if kind == 0:
        (folder / name).symlink_to(rng.choice(targets))
    elif kind == 1:
        place = folder / rng.choice((LOCK_FILE, f"{LOCK_FILE}-{rng.getrandbits(64):016x}"))
        if not place.is_symlink():
            place.symlink_to(rng.choice(targets))
            if rng.random() < 0.5:
                os.utime(place, (0, 0), follow_symlinks=False)
    else:
        (folder / name).mkdir()
        if kind == 2:
            (folder / name / MANIFEST).symlink_to(outside / MANIFEST)
        else:
            (folder / name / MANIFEST).write_bytes(_manifest(rng))
        for file in rng.sample(FILES, rng.randint(0, 4)):
            target = rng.choice((outside / file, outside))
            (folder / name / file).symlink_to(target, target_is_directory=target == outside)


def hostile_folders(world: World, cases: int, seed: int) -> Iterator[Outcome]:
    """Load from, finish the saves of, and save to folders with hostile links in them."""
    parent = world.directory / "hostile"
    outside, folder = parent / "outside", parent / "folder"
    world.models["B"].save_pretrained(outside)
    for name in ("x", MANIFEST):
        (outside / name).write_bytes(_manifest(random.Random(0)))
    save = world.saves[0]
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        save.prepare(folder)
        for _ in range(rng.randint(1, 4)):
            _add_hostile(folder, outside, rng)
        before = _tree(outside)
        for step, action in _actions(world, folder):
            ended = run(partial(_watched, action, folder, outside))
            fault = None
            if ended.status and ended.error not in ("OSError", "ValueError", "FileNotFoundError"):
                fault = f"{ended.error}: {ended.message[:300]}"
            if _tree(outside) != before:
                fault = "something outside was changed"
            result = f"{step}: {'documented error' if ended.status else 'done'}"
            yield Outcome("hostile links", f"seed {seed}, case {number}, {step}", result, fault)
            if fault is not None:
                break


def _actions(world: World, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    def load() -> None:
        if (found := world.read(folder)) != "A":
            raise AssertionError(f"loaded {found}")

    def save() -> None:
        world.models["B"].save_pretrained(folder)
        if (found := world.read(folder)) != "B":
            raise AssertionError(f"saved B, loaded {found}")

    return [("load", load), ("finish", lambda: finish_saves(folder)), ("save", save)]


def _watched(action: Callable[[], object], folder: Path, outside: Path) -> None:
    """Run an action, and fail if it opens or names something outside."""
    audit = Audit(folder, writes=True)
    with audit.watching() as offences:
        action()
    if reached := [offence for offence in offences if str(outside) in offence]:
        raise AssertionError(f"outside: {reached[:3]}")
