"""Snapshots of one run after each cycle of its learning rate: the members of FGE, and what SWA and SWAG start from.

Source: Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018; Huang et al.,
Snapshot Ensembles, ICLR 2017; Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, TrainerCallback


def cycle_position(step: int, steps: int, cycles: int) -> float:
    """How far a step, counted from 0, is in its cycle: above 0, and 1 at the last step of each cycle.

    Cycles are as equal as whole steps allow.
    """
    cycle = step * cycles // steps
    first, end = -(-cycle * steps // cycles), -(-(cycle + 1) * steps // cycles)
    return (step - first + 1) / (end - first)


class CyclicTrainer(Trainer):
    """`transformers.Trainer` whose learning rate falls linearly in every cycle, from the given one.

    Args:
        cycles: how many cycles the run has; no more than it has steps.
        lowest: the learning rate at the end of a cycle, as a part of args.learning_rate.
        **kwargs: of `transformers.Trainer`.

    Attributes:
        snapshots: [cycles] the state dict (a copy, on the CPU) at the end of each cycle.

    Raises:
        ValueError: from `train`: the run has fewer steps than cycles.
    """

    def __init__(self, *, cycles: int, lowest: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cycles, self.lowest = cycles, lowest
        self.snapshots: list[dict[str, Tensor]] = []
        self.add_callback(_TakeSnapshots(self))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """A sawtooth of as many teeth as there are cycles."""
        if num_training_steps < self.cycles:
            raise ValueError(
                f"{self.cycles} cycles in {num_training_steps} training steps: each needs a step at least. Give "
                "longer cycles (cycle_epochs), smaller batches or more images."
            )
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[arg-type]
            lambda step: 1 - (1 - self.lowest) * cycle_position(step, num_training_steps, self.cycles),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler


class _TakeSnapshots(TrainerCallback):
    def __init__(self, trainer: CyclicTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
        if cycle_position(state.global_step - 1, state.max_steps, self.trainer.cycles) == 1:
            weights = self.trainer.accelerator.unwrap_model(model).state_dict()
            self.trainer.snapshots.append({name: tensor.detach().cpu().clone() for name, tensor in weights.items()})
