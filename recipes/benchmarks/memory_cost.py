"""Peak memory of SPRO relative to plain fine-tuning, in fresh processes.

    python recipes/benchmarks/memory_cost.py --backbone vit_small_patch16_224

Expected is the peak of plain fine-tuning plus, in units of a float32 backbone on the device: 1 for a copy of the
growing vertex; and for the V - 1 frozen vertices V - 1 in float32, half of that in bfloat16, or 1 for the mix of
vertices on the CPU. On CUDA the peak is allocated memory. On a CPU it is resident memory, which also holds what is off
the device elsewhere: all V vertices, and rounded copies of frozen ones.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from measure import parser, report, resident, start
from workloads import Steps

from hf_simplex.training.frozen_vertices import FROZEN_VERTICES


def peak(args: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Measure the peak of a few steps above the initial memory, and the size of the backbone, in bytes."""
    before = resident()
    steps = Steps(args.backbone, args, device, args.frozen[0])
    for _ in range(args.rounds):
        if args.part == "growing":
            steps.simplex(1, split=True)
        else:
            steps.plain()
    taken = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM") - before
    size = sum(p.numel() * p.element_size() for p in steps.module.parameters())
    return {"peak": taken, "backbone": size}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "memory_cost")
    found.add_argument("--backbone", default="vit_small_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_size", type=int, default=4)
    found.add_argument("--num_vertices", type=int, nargs="+", default=[2, 4, 8])
    found.add_argument(
        "--frozen",
        nargs="+",
        choices=FROZEN_VERTICES,
        default=FROZEN_VERTICES,
        help="Placements of the frozen vertices.",
    )
    found.add_argument(
        "--part", choices=("plain", "growing"), help="Measure only this part, in this process, and print JSON."
    )
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
                # Keep the other results if one run is out of memory.
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
    """Expected memory beyond plain fine-tuning, in units of a float32 backbone."""
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
