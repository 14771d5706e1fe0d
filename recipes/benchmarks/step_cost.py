"""Time of a step of SPRO relative to a step of plain fine-tuning, on the same backbone and batch.

    python recipes/benchmarks/step_cost.py --backbones resnet50 --image_size 224
    python recipes/benchmarks/step_cost.py --backbones tf_efficientnet_lite0 --image_size 64 --channels_last

`split_h` divides the batch over h points. `full_h` gives the whole batch to each of h points; its baseline is h plain
steps. Both include the volume term. `parts_4` is a plain step with gradients accumulated over 4 parts: the cost of
smaller batches. `points` and `volume` isolate what SPRO adds to a step: writing a point and restoring the vertex, and
the gradient of the volume term. `volume_every_n` is `split_1` with the volume term at every n-th step, averaged over n
steps.

`frozen_bfloat16_to_device` and `frozen_cpu_to_device` compare placements of the frozen vertices with float32 on the
device, at one point a step, with the volume term at each step or at every n-th. Without an accelerator, `cpu` equals
`device`.
"""

import argparse
import gc
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import Ratio, alternating, parser, ratio, report, start
from workloads import Steps

from hf_simplex.training.frozen_vertices import FROZEN_VERTICES


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "step_cost")
    found.add_argument(
        "--backbones",
        nargs="+",
        default=["tf_efficientnet_lite0", "vit_small_patch16_224", "transformers_vit_small", "resnet50"],
    )
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_size", type=int, default=32)
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--volume_weight", type=float, default=1e-8)
    found.add_argument("--full_points", type=int, default=2, help="h of full_h.")
    found.add_argument("--channels_last", action="store_true")
    found.add_argument("--compile", action="store_true", help="The module that steps is compiled by torch.compile.")
    found.add_argument("--volume_interval", type=int, default=10, help="n of the volume_every_n rows.")
    found.add_argument("--frozen", nargs="*", choices=FROZEN_VERTICES, default=FROZEN_VERTICES)
    args = found.parse_args(argv)
    device = start(args)
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for name in args.backbones:
        try:
            rows.append({"backbone": name, **measured(name, args, device)})
        except RuntimeError as error:
            # Keep the other results if one backbone runs out of memory.
            rows.append({"backbone": name, "error": str(error).splitlines()[0]})
        gc.collect()
        # After each backbone: an interrupted run keeps its results.
        result = report(args, device, rows)
    return result


def measured(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure one backbone: each step relative to a plain step."""
    steps, full, interval = Steps(name, args, device), args.full_points, args.volume_interval
    tasks: dict[str, Callable[[], Any]] = {
        "plain": steps.plain,
        "parts_4": partial(steps.plain, 4),
        "split_1": partial(steps.simplex, 1, split=True),
        "split_4": partial(steps.simplex, 4, split=True),
        f"full_{full}": partial(steps.simplex, full, split=False),
        "points": steps.points,
        "volume": steps.growing.add_volume_gradient,
        f"volume_every_{interval}": partial(steps.with_volume_every, interval),
    }
    seconds = alternating(tasks, args.rounds, device, args.clock)
    plain_steps = {f"full_{full}": full, f"volume_every_{interval}": interval}
    row: dict[str, Any] = {
        "million_parameters": sum(p.numel() for p in steps.module.parameters()) / 1e6,
        "plain_milliseconds": 1e3 * statistics.median(seconds["plain"]),
    }
    row |= {task: ratio(seconds, task, "plain", plain_steps.get(task, 1)) for task in tasks}
    row["split_4_to_parts_4"] = ratio(seconds, "split_4", "parts_4")
    for where in args.frozen:
        row |= against_device(name, where, args, device) if where != "device" else {}
    return row


def against_device(name: str, where: str, args: argparse.Namespace, device: torch.device) -> dict[str, Ratio]:
    """Compare a placement of the frozen vertices with float32 on the device."""
    tasks = {}
    for place in (where, "device"):
        steps = Steps(name, args, device, place)
        tasks[place] = partial(steps.simplex, 1, split=True)
        tasks[f"{place}_every"] = partial(steps.with_volume_every, args.volume_interval)
    seconds = alternating(tasks, args.rounds, device, args.clock)
    interval = f"frozen_{where}_to_device_volume_every_{args.volume_interval}"
    return {
        f"frozen_{where}_to_device": ratio(seconds, where, "device"),
        interval: ratio(seconds, f"{where}_every", "device_every"),
    }


if __name__ == "__main__":
    main()
