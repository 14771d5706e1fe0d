"""Runs all kinds of cases: `python -m saves --cases 1000 --seconds 120`."""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from saves import full_disks, kills, links, readers
from saves.outcomes import Outcome, Report
from saves.world import World

__all__ = ["main"]


def _kinds(world: World, args: argparse.Namespace) -> dict[str, Iterable[Outcome]]:
    cases, seed = args.cases, args.seed
    return {
        "kills": kills.at_each_operation(world, args.step),
        "several-kills": kills.several(world, cases, seed),
        "sigkill": kills.at_random_moments(world, cases, seed),
        "torn": kills.within_a_write(world, cases // 2, seed),
        "readers": readers.beside_savers(world, args.seconds, seed, kill=False),
        "readers-kills": readers.beside_savers(world, args.seconds, seed, kill=True),
        "full": full_disks.at_each_operation(world, args.step),
        "small-files": full_disks.with_small_files(world, cases // 2, seed),
        "small-disk": full_disks.on_a_small_disk(world, cases // 2, seed),
        "links": links.hostile_folders(world, cases // 2, seed),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="random cases of a kind")
    parser.add_argument("--seconds", type=float, default=120.0, help="of readers beside savers")
    parser.add_argument("--step", type=int, default=1, help="1: at every operation; 10: at every tenth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="kinds; default: all")
    args = parser.parse_args()
    # Cases are forks of this process: it may have no other threads.
    torch.set_num_threads(1)
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    report, began = Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        for kind, outcomes in _kinds(world, args).items():
            if not args.only or kind in args.only:
                report.add(outcomes)
                print(f"{kind}: {time.monotonic() - began:.0f} s", flush=True)
    print(report)
    used = os.times()
    processor = used.user + used.system + used.children_user + used.children_system
    print(f"{time.monotonic() - began:.0f} s, {processor:.0f} s of processors")
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
