"""Timing and reports of the benchmarks. The benchmarks share this helper module.

A method and its baseline run in one process, in alternation.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.version import __version__

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Ratio:
    """Ratio of two times, measured in the same rounds.

    Args:
        median: median ratio over rounds.
        lower: lower quartile.
        upper: upper quartile.
        milliseconds: median time of the numerator.
    """

    median: float
    lower: float
    upper: float
    milliseconds: float


def parser(description: str, result: str) -> argparse.ArgumentParser:
    """Build a parser with the arguments of all benchmarks."""
    found = argparse.ArgumentParser(description=description, allow_abbrev=False)
    found.add_argument("--device", default="cpu", help="cpu or cuda.")
    found.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch.")
    found.add_argument("--rounds", type=int, default=7, help="Measurements of each task, in alternation.")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="'cpu' counts CPU time of this process: for a shared machine, with --threads 1.",
    )
    found.add_argument("--output", type=Path, default=Path("recipes/results/benchmarks") / f"{result}.json")
    return found


def start(args: argparse.Namespace) -> torch.device:
    """Check the arguments, set threads and seed, and return the device."""
    if args.rounds < 1:
        raise SystemExit(f"error: --rounds is {args.rounds}: expected at least 1.")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    if args.clock == "cpu" and (device.type != "cpu" or args.threads != 1):
        raise SystemExit(
            "error: --clock cpu is for --device cpu and --threads 1: waiting threads would count as work."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU.")
    return device


def alternating(
    tasks: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    clock_name: str = "wall",
) -> dict[str, list[float]]:
    """Time tasks in alternation. Each round runs all tasks, in a rotated order. One round before is not measured.

    Args:
        tasks: functions to time, by name.
        rounds: measurements of each task.
        device: device to synchronize after each task.
        clock_name: key of `CLOCKS`.

    Returns:
        Seconds of each round, by task.
    """
    clock = CLOCKS[clock_name]
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wait(device)
            started = clock()
            tasks[name]()
            wait(device)
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def alternating_clocked(tasks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run tasks that time themselves, in alternation. One round before is not kept: it reads files into memory.

    Args:
        tasks: functions that return seconds, by name.
        rounds: measurements of each task.

    Returns:
        Seconds of each round, by task.
    """
    kept = [{name: task() for name, task in tasks.items()} for _ in range(rounds + 1)][1:]
    return {name: [seconds[name] for seconds in kept] for name in tasks}


def wait(device: torch.device) -> None:
    """Synchronize the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str, times: float = 1) -> Ratio:
    """Ratio of a task's time to `times` the time of another, round by round."""
    ratios = [one / (times * other) for one, other in zip(seconds[of], seconds[to], strict=True)]
    lower, _, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(statistics.median(ratios), lower, upper, 1e3 * statistics.median(seconds[of]))


def resident(of: str = "VmRSS") -> int:
    """Return the resident bytes of this process. getrusage inherits the peak of the parent process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{of}:"))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and load of the machine."""
    packages = ("torch", "transformers", "timm", "safetensors")
    return {
        "versions": {
            "python": platform.python_version(),
            "hf-simplex": __version__,
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average_of_15_minutes": os.getloadavg()[2],
        },
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(args: argparse.Namespace, device: torch.device, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write rows with arguments, versions and hardware to `args.output`, and print them as a table."""
    # Only the name of a path: folders of a machine are not part of the result.
    arguments = {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()}
    plain = [{key: asdict(v) if isinstance(v, Ratio) else v for key, v in row.items()} for row in rows]
    result = {"rows": plain, "arguments": arguments, **environment(device)}
    with atomic_write(args.output.parent) as aside:
        (aside / args.output.name).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(rows))
    return result


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a Markdown table. A ratio shows its median and quartiles."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, Ratio):
        return f"{value.median:.3f} ({value.lower:.3f} to {value.upper:.3f}; {value.milliseconds:.1f} ms)"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def time_of_process(code: str, *arguments: str) -> float:
    """Seconds of processor time, user and system, of a fresh interpreter for a line of code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
