"""Memory format of convolutional weights, chosen by timing training steps on the run's device."""

import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ...model.checkpoint import atomic_write
from ...model.modeling_simplex import SimplexForImageClassification
from ..trainer import SimplexTrainingArguments

__all__ = ["CHOICES", "FORMATS", "MARGIN", "RECORD", "Choice", "choose", "set_memory_formats", "step_seconds"]

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTO = "auto"
CHOICES = (AUTO, *FORMATS)
RECORD = "memory_format.json"
"""File with the choice, in the folder of a component."""

MARGIN = 0.05
"""Relative speed-up that channels_last needs to be chosen. A smaller one is within the noise of the timing."""


@dataclass(frozen=True)
class Choice:
    """A memory format and the timings behind it.

    Args:
        memory_format: key of `FORMATS`.
        seconds: median time of a forward and a backward pass, by format.

    Example:
        >>> from hf_simplex.training.recipe.memory_format import Choice
        >>> Choice("contiguous", {"contiguous": 0.1, "channels_last": 0.2}).memory_format
        'contiguous'
    """

    memory_format: str
    seconds: dict[str, float]

    def described(self, number: int) -> str:
        """Say what was chosen for a component, counted from 0, and why.

        Example:
            >>> from hf_simplex.training.recipe.memory_format import Choice
            >>> Choice("channels_last", {"contiguous": 0.2, "channels_last": 0.1}).described(0)
            'component 1 uses channels_last (a step takes 200.0 ms contiguous, 100.0 ms channels_last)'
        """
        seconds = ", ".join(f"{1e3 * taken:.1f} ms {name}" for name, taken in self.seconds.items())
        return f"component {number + 1} uses {self.memory_format} (a step takes {seconds})"


def choose(seconds: dict[str, float]) -> Choice:
    """Choose channels_last if it is faster by `MARGIN`, else contiguous.

    Example:
        >>> from hf_simplex.training.recipe.memory_format import choose
        >>> choose({"contiguous": 1.0, "channels_last": 0.9}).memory_format
        'channels_last'
    """
    faster = seconds["channels_last"] < (1 - MARGIN) * seconds["contiguous"]
    return Choice("channels_last" if faster else "contiguous", seconds)


def step_seconds(
    backbone: nn.Module, images: Tensor, labels: int, dtype: torch.dtype | None = None, rounds: int = 5
) -> dict[str, float]:
    """Time a forward and a backward pass in each memory format, in alternation.

    The backbone and the random state do not change.

    Args:
        backbone: module from `pixel_values` to an output with `logits`.
        images: contiguous, [batch, channels, height, width], on the device to measure.
        labels: number of logits.
        dtype: autocast dtype. Default: no autocast.
        rounds: measurements of each format, after one warm-up round.

    Returns:
        Median seconds by format.

    Example::

        step_seconds(backbone, torch.zeros(32, 3, 224, 224), labels=10)
    """
    device = images.device
    modules = {
        name: copy.deepcopy(backbone).to(device).to(memory_format=memory_format).train()
        for name, memory_format in FORMATS.items()
    }
    targets = torch.arange(len(images), device=device) % labels
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    # Dropout draws random numbers. Training must see the same random state as without the timing.
    with torch.random.fork_rng():
        for number in range(-1, rounds):
            for name, module in modules.items():
                _wait(device)
                started = time.perf_counter()
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                    loss = nn.functional.cross_entropy(module(pixel_values=images).logits, targets)
                loss.backward()
                module.zero_grad()
                _wait(device)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_memory_formats(
    memory_format: str,
    components: Sequence[SimplexForImageClassification],
    arguments: Sequence[SimplexTrainingArguments],
    images: Any,
) -> list[Choice]:
    """Convert components to a memory format. "auto" measures and takes the faster one.

    The memory format affects the last bits of a training run, so a component must keep its format. The choice of
    "auto" is recorded in the component's folder and read back after a resume. The main process chooses for all
    processes.

    Args:
        memory_format: one of `CHOICES`.
        components: models to convert in place.
        arguments: training arguments of each component: folder, batch size, device and precision.
        images: data set. The `pixel_values` of its first image have the shape of all images.

    Returns:
        The choice of "auto" for each component. Empty for any other format.

    Example::

        set_memory_formats("auto", [component], [args], train_images)
    """
    if memory_format != AUTO:
        for component in components:
            component.to(memory_format=FORMATS[memory_format])  # type: ignore[call-arg]
        return []
    found: list[Choice | None] = [None] * len(components)
    if arguments[0].process_index == 0:
        found = _recorded_or_chosen(components, arguments, images)
    broadcast_object_list(found)
    chosen = [choice for choice in found if choice is not None]
    for component, choice in zip(components, chosen, strict=True):
        component.to(memory_format=FORMATS[choice.memory_format])  # type: ignore[call-arg]
    return chosen


def _recorded_or_chosen(
    components: Sequence[SimplexForImageClassification], arguments: Sequence[SimplexTrainingArguments], images: Any
) -> list[Choice | None]:
    found: list[Choice | None] = []
    measured: Choice | None = None
    for component, args in zip(components, arguments, strict=True):
        record = Path(args.output_dir) / RECORD
        if record.exists():
            found.append(Choice(**json.loads(record.read_text("utf-8"))))
            continue
        if measured is None:
            # One measurement is enough: all components have the same backbone and batch size.
            shape = images[0]["pixel_values"].shape
            batch = torch.zeros(args.per_device_train_batch_size, *shape, device=args.device)
            dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
            assert component.config.num_labels is not None
            measured = choose(step_seconds(component.backbone, batch, component.config.num_labels, dtype))
        with atomic_write(record.parent) as aside:
            (aside / RECORD).write_text(json.dumps(asdict(measured), indent=2) + "\n", "utf-8")
        found.append(measured)
    return found
