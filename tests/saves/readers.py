"""Readers beside savers that take turns and are killed: every load is of one save, or an OSError says why not."""

import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tiny import contents

from saves.outcomes import Outcome
from saves.world import World

__all__ = ["beside_savers"]

KIND = "readers beside savers"


def _start(action: Callable[[], dict[str, int]], file: Path) -> int:
    """Fork a process that writes counts to a file when SIGTERM has ended its loop."""
    process = os.fork()
    if not process:
        status = 0
        try:
            file.write_text(json.dumps(action()))
        except BaseException as error:
            file.write_text(json.dumps({f"{type(error).__name__}: {error}": 1}))
            status = 1
        finally:
            os._exit(status)
    return process


class _Loop:
    """Goes on until SIGTERM, and ends between two rounds."""

    def __init__(self) -> None:
        self.goes_on = True
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *args: object) -> None:
        self.goes_on = False


def _save(world: World, folder: Path, seed: str) -> dict[str, int]:
    loop, rng, counts = _Loop(), random.Random(seed), Counter[str]()
    while loop.goes_on:
        name = rng.choice("AB")
        world.models[name].save_pretrained(folder)
        counts[name] += 1
        time.sleep(rng.choice((0, 0, 0.01, 0.05)))
    return counts


def _read(read: Callable[[Path], str], folder: Path) -> dict[str, int]:
    loop, counts = _Loop(), Counter[str]()
    while loop.goes_on:
        try:
            counts[read(folder)] += 1
        except OSError as error:
            documented = "again" in str(error) or "changed" in str(error)
            counts["OSError: load again" if documented else f"OSError: {error}"] += 1
        except Exception as error:
            counts[f"{type(error).__name__}: {error}"] += 1
    return counts


def beside_savers(world: World, seconds: float, seed: int, *, kill: bool) -> Iterator[Outcome]:
    """Three readers and two savers for a while; with `kill`, savers die by SIGKILL and others start."""
    folder = world.directory / f"shared-{seed}-{kill}"
    world.models["A"].save_pretrained(folder)
    rng, end, killed = random.Random(seed), time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        reads = {"whole": world.read, "a member": world.read_part, "by transformers": world.read_automatically}
        readers = {label: _start(partial(_read, read, folder), results / label) for label, read in reads.items()}
        savers = [_start(partial(_save, world, folder, f"{seed} {n}"), results / f"saver {n}") for n in range(2)]
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.1, 0.6) if kill else 0.1)
            if kill:
                index = rng.randrange(2)
                os.kill(savers[index], signal.SIGKILL)
                os.waitpid(savers[index], 0)
                killed += 1
                number = 2 * killed + index
                savers[index] = _start(partial(_save, world, folder, f"{seed} {number}"), results / f"saver {number}")
        for process in (*readers.values(), *savers):
            os.kill(process, signal.SIGTERM)
        for process in (*readers.values(), *savers):
            os.waitpid(process, 0)
        kind = f"{KIND}{' that are killed' * kill}"
        for file in sorted(results.iterdir()):
            is_saver = file.name.startswith("saver")
            for result, number in json.loads(file.read_text()).items():
                right = result in ("A", "B") or (not is_saver and result == "OSError: load again")
                label = "saved" if is_saver else f"read {file.name}"
                yield Outcome(
                    kind, f"seed {seed}, {file.name}", f"{label}: {result}", None if right else result, number
                )
    if kill:
        yield Outcome(kind, f"seed {seed}", "savers killed", number=killed)
    world.models["B"].save_pretrained(folder)
    left = contents(folder).keys() ^ contents(world.directory / "reference-B").keys()
    yield Outcome(kind, f"seed {seed}", "the next save", f"left {sorted(left)}" if left else None)
