"""Processor time of `hf-simplex inspect`, with and without loading weights, and of the volumes that a save records.

    python recipes/benchmarks/inspection_cost.py --backbone vit_tiny_patch16_224 --num_vertices 8 --threads 1

`inspect` reads headers. `with_volumes` is `inspect --volumes`, which loads all weights and computes all volumes, as
`inspect` did in version 0.1.0. Each runs in a fresh process, and `empty` is one that does nothing. `save` is
`save_pretrained`, and `log_volumes` the part of it that computes the volumes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import alternating_clocked, parser, ratio, report, start, time_of_process
from workloads import ensemble

_COMMAND = "from hf_simplex.cli import app; app(standalone_mode=False)"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "ensemble")
        model = ensemble(args.backbone, args, torch.device("cpu"), members=1)
        tasks: dict[str, Callable[[], float]] = {
            "save": partial(own_time, partial(model.save_pretrained, folder)),
            "log_volumes": partial(own_time, model.log_volumes),
            "empty": partial(time_of_process, "pass"),
            "inspect": partial(time_of_process, _COMMAND, "inspect", str(folder)),
            "with_volumes": partial(time_of_process, _COMMAND, "inspect", str(folder), "--volumes"),
        }
        seconds = alternating_clocked(tasks, args.rounds)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    row: dict[str, Any] = {"backbone": args.backbone, "vertices": args.num_vertices, "megabytes": size / 1e6}
    row["inspect_to_with_volumes"] = ratio(seconds, "inspect", "with_volumes")
    row["inspect_to_empty"] = ratio(seconds, "inspect", "empty")
    row["log_volumes_to_save"] = ratio(seconds, "log_volumes", "save")
    return report(args, device, [row])


def own_time(task: Callable[[], Any]) -> float:
    """Seconds of processor time that this process takes for a task."""
    started = time.process_time()
    task()
    return time.process_time() - started


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "inspection_cost")
    found.add_argument("--backbone", default="vit_tiny_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--num_vertices", type=int, default=8)
    # Processor time of processes is all that is measured.
    found.set_defaults(channels_last=False, clock="cpu")
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
