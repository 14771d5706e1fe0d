"""The peak memory of growing a vertex beside that of plain fine-tuning, in fresh processes.

    python recipes/benchmarks/memory_cost.py --backbone vit_small_patch16_224

Expected is the peak of plain fine-tuning and one backbone's bytes for each vertex: those that are frozen, and a copy
of the growing one that is kept while its module holds a point. On a CPU the peak is that of resident memory, on CUDA
that of allocated memory.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import parser, report, start
from step_cost import Steps


def peak(args: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Bytes that a few steps take at most, beyond those of the process before; and the bytes of the backbone."""
    before = _resident()
    steps = Steps(args.backbone, args, device)
    for _ in range(args.rounds):
        if args.part == "growing":
            steps.simplex(1, split=True)
        else:
            steps.plain()
    if device.type == "cuda":
        taken = torch.cuda.max_memory_allocated(device)
    else:
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    size = sum(p.numel() * p.element_size() for p in steps.module.parameters())
    return {"peak": taken, "backbone": size}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    found = parser(__doc__.splitlines()[0], "memory_cost")
    found.add_argument("--backbone", default="vit_small_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_size", type=int, default=4)
    found.add_argument("--num_vertices", type=int, nargs="+", default=[2, 4, 8])
    found.add_argument("--part", choices=("plain", "growing"), help="Only this, in this process, as JSON.")
    found.set_defaults(rounds=3)
    args = found.parse_args(argv)
    device = start(args)
    if args.part:
        args.num_vertices = args.num_vertices[0]
        args.channels_last, args.compile, args.volume_weight = False, False, 1e-8
        print(json.dumps(peak(args, device)))
        return {}
    plain = _in_a_process(args, "plain", 2)
    rows = []
    for vertices in args.num_vertices:
        growing = _in_a_process(args, "growing", vertices)
        expected = plain["peak"] + vertices * plain["backbone"]
        rows.append(
            {
                "backbone": args.backbone,
                "vertices": vertices,
                "backbone_megabytes": plain["backbone"] / 1e6,
                "plain_megabytes": plain["peak"] / 1e6,
                "growing_megabytes": growing["peak"] / 1e6,
                "to_expected": growing["peak"] / expected,
            }
        )
    return report(args, device, rows)


def _in_a_process(args: argparse.Namespace, part: str, vertices: int) -> dict[str, int]:
    command = [sys.executable, __file__, "--part", part, "--num_vertices", str(vertices)]
    for name in ("backbone", "image_size", "batch_size", "device", "threads", "rounds", "seed"):
        command += [f"--{name}", str(getattr(args, name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, int] = json.loads(output.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
