"""The order of convolutional weights in memory, chosen by timing steps of training in each on the run's device."""

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

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTO = "auto"
CHOICES = (AUTO, *FORMATS)
RECORD = "memory_format.json"

MARGIN = 0.05
"""By how much of its time channels_last must be faster: a difference that repeated timing would show again."""


@dataclass(frozen=True)
class Choice:
    """A memory format, and the seconds of a step that it was chosen by.

    Attributes:
        memory_format: a key of `FORMATS`.
        seconds: the median of a forward and a backward pass in each format.
    """

    memory_format: str
    seconds: dict[str, float]


def choose(seconds: dict[str, float]) -> Choice:
    """channels_last where it is faster by `MARGIN`, else contiguous."""
    faster = seconds["channels_last"] < (1 - MARGIN) * seconds["contiguous"]
    return Choice("channels_last" if faster else "contiguous", seconds)


def step_seconds(
    backbone: nn.Module, images: Tensor, labels: int, dtype: torch.dtype | None = None, rounds: int = 5
) -> dict[str, float]:
    """The median seconds of a forward and a backward pass in each memory format, taken in alternation.

    Args:
        backbone: copied, not changed; from `pixel_values` to an output with `logits`.
        images: [batch, channels, height, width], on the device to measure on. Like a data loader's they are
            contiguous.
        labels: the size of the logits.
        dtype: of autocast; default: none.
        rounds: how often each is timed, after one round that does not count.
    """
    device = images.device
    modules = {
        name: copy.deepcopy(backbone).to(device).to(memory_format=memory_format).train()
        for name, memory_format in FORMATS.items()
    }
    targets = torch.arange(len(images), device=device) % labels
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    # Dropout draws numbers, which must not be missing from what the training draws.
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
    """Put components into the memory format asked for, or with "auto" into the faster one.

    The order in memory decides the last bits of a training, so that a component keeps the format that it was begun
    in: what "auto" chose is recorded in the component's folder and read from there. The main process chooses and all
    others follow it.

    Args:
        memory_format: of `CHOICES`.
        components: their weights are reordered in place.
        arguments: of each component: its folder, and batch size, device and precision of training.
        images: a data set of which the first image's `pixel_values` give the shape of a batch.

    Returns:
        For each component what "auto" chose; nothing for a given format.
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
            # All components have the same backbone and batches.
            shape = images[0]["pixel_values"].shape
            batch = torch.zeros(args.per_device_train_batch_size, *shape, device=args.device)
            dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
            assert component.config.num_labels is not None
            measured = choose(step_seconds(component.backbone, batch, component.config.num_labels, dtype))
        with atomic_write(record.parent) as aside:
            (aside / RECORD).write_text(json.dumps(asdict(measured), indent=2) + "\n", "utf-8")
        found.append(measured)
    return found
