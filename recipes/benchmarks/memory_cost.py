"""The peak memory of growing a vertex beside that of plain fine-tuning, in fresh processes.

    python recipes/benchmarks/memory_cost.py --backbone vit_small_patch16_224

Expected is the peak of plain fine-tuning and, in backbones of float32, on the device: one for a copy of the growing
vertex that is kept while its module holds a point; and for the V - 1 frozen ones V - 1 of them, half as many in
bfloat16, or one for the mix of those that are kept on the CPU. On a CPU the peak is that of resident memory, and what
is kept beside a device is there too: all V vertices as they are given, and rounded copies of those that are frozen.
On CUDA it is that of allocated memory.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import parser, report, start
from workloads import Steps

from hf_simplex.training.frozen_vertices import FROZEN_VERTICES


def peak(args: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Bytes that a few steps take at most, beyond those of the process before; and the bytes of the backbone."""
    before = _resident()
    steps = Steps(args.backbone, args, device, args.frozen[0])
    for _ in range(args.rounds):
        if args.part == "growing":
            steps.simplex(1, split=True)
        else:
            steps.plain()
    taken = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM") - before
    size = sum(p.numel() * p.element_size() for p in steps.module.parameters())
    return {"peak": taken, "backbone": size}


def _resident(of: str = "VmRSS") -> int:
    """Bytes of this process's own memory: getrusage's peak is that of the process which started it, if higher."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{of}:"))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    found = parser(__doc__.splitlines()[0], "memory_cost")
    found.add_argument("--backbone", default="vit_small_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_size", type=int, default=4)
    found.add_argument("--num_vertices", type=int, nargs="+", default=[2, 4, 8])
    found.add_argument("--frozen", nargs="+", choices=FROZEN_VERTICES, default=FROZEN_VERTICES, help="Where they are.")
    found.add_argument("--part", choices=("plain", "growing"), help="Only this, in this process, as JSON.")
    found.set_defaults(rounds=3)
    args = found.parse_args(argv)
    device = start(args)
    if args.part:
        args.num_vertices = args.num_vertices[0]
        args.channels_last, args.compile, args.volume_weight = False, False, 1e-8
        print(json.dumps(peak(args, device)))
        return {}
    plain = _in_a_process(args, "plain", 2, "device")
    rows = []
    for vertices in args.num_vertices:
        for frozen in args.frozen:
            row: dict[str, Any] = {"backbone": args.backbone, "vertices": vertices, "frozen": frozen}
            try:
                growing = _in_a_process(args, "growing", vertices, frozen)
            except subprocess.CalledProcessError as error:
                # One that does not fit into the memory must not cost what was measured of the others.
                rows.append({**row, "error": error.stderr.splitlines()[-1]})
                continue
            expected = plain["peak"] + int(backbones(vertices, frozen, device) * plain["backbone"])
            rows.append(
                {
                    **row,
                    "backbone_megabytes": plain["backbone"] / 1e6,
                    "plain_megabytes": plain["peak"] / 1e6,
                    "growing_megabytes": growing["peak"] / 1e6,
                    "to_expected": growing["peak"] / expected,
                }
            )
    return report(args, device, rows)


def backbones(vertices: int, frozen: str, device: torch.device) -> float:
    """What growing is expected to take beyond plain fine-tuning, in the bytes of a float32 backbone."""
    if device.type == "cpu":
        return vertices + ((vertices - 1) / 2 if frozen == "bfloat16" else 0)
    return 1 + {"device": vertices - 1, "bfloat16": (vertices - 1) / 2, "cpu": 1}[frozen]


def _in_a_process(args: argparse.Namespace, part: str, vertices: int, frozen: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--part", part, "--num_vertices", str(vertices), "--frozen", frozen]
    for name in ("backbone", "image_size", "batch_size", "device", "threads", "rounds", "seed"):
        command += [f"--{name}", str(getattr(args, name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, int] = json.loads(output.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
