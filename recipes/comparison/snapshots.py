"""Snapshots of a run with a cyclic learning rate, one at the end of each cycle: FGE, SWA and SWAG start from them.

Sources: Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018; Huang et al.,
Snapshot Ensembles, ICLR 2017; Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, TrainerCallback

from comparison.arguments import CompareArguments
from comparison.repetition import Repetition, Weights
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["CyclicTrainer", "check_cycles", "cycle_position", "number_of_cycles", "snapshots"]


def cycle_position(step: int, steps: int, cycles: int) -> float:
    """The position of a step, counted from 0, in its cycle: above 0, and 1 at the last step of each cycle.

    Cycles are as equal as whole steps allow.

    Example:
        >>> [cycle_position(step, steps=4, cycles=2) for step in range(4)]
        [0.5, 1.0, 0.5, 1.0]
    """
    cycle = step * cycles // steps
    first, end = -(-cycle * steps // cycles), -(-(cycle + 1) * steps // cycles)
    return (step - first + 1) / (end - first)


class CyclicTrainer(Trainer):
    """`transformers.Trainer` with a learning rate that falls linearly in every cycle, from the given one.

    Args:
        cycles: the number of cycles; no more than the run has steps.
        lowest: the learning rate at the end of a cycle, as a part of args.learning_rate.
        **kwargs: of `transformers.Trainer`.

    Attributes:
        snapshots: [cycles] copies of the state dict on the CPU, one at the end of each cycle.

    Raises:
        ValueError: from `train`: the run has fewer steps than cycles.

    Example::

        trainer = CyclicTrainer(cycles=4, model=model, args=args, train_dataset=train)
        trainer.train()
        last = trainer.snapshots[-1]
    """

    def __init__(self, *, cycles: int, lowest: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cycles, self.lowest = cycles, lowest
        self.snapshots: list[dict[str, Tensor]] = []
        self.add_callback(_TakeSnapshots(self))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """A sawtooth with one tooth a cycle."""
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


def number_of_cycles(compare: CompareArguments, args: EsproArguments) -> int:
    """Cycles that the budget leaves room for after one mode of the deep ensemble."""
    return max(1, int((compare.budget - float(args.num_train_epochs)) / compare.cycle_epochs))


def check_cycles(compare: CompareArguments, args: EsproArguments, needed: int) -> None:
    """Raise ValueError where the budget has no room for so many cycles."""
    if (compare.budget - args.num_train_epochs) / compare.cycle_epochs < needed:
        raise ValueError(
            f"budget is {compare.budget:g} epochs: after a mode of {args.num_train_epochs:g} it has no room for "
            f"{needed} cycles of {compare.cycle_epochs:g} (cycle_epochs), which swa, swag and fge need."
        )


def snapshots(
    run: Repetition,
    model: int = 0,
    mode_epochs: float | None = None,
    cycle_epochs: float | None = None,
    cycles: int | None = None,
) -> list[Weights]:
    """Train a mode further with a cyclic learning rate, and return its weights after each cycle.

    Args:
        run: the repetition.
        model: the number of the mode.
        mode_epochs: epochs of the mode; default: those of a mode of the deep ensemble.
        cycle_epochs: epochs of a cycle; default: the comparison's.
        cycles: the number of cycles; default: until the budget is spent.
    """
    compare, args = run.compare, run.args
    mode_epochs = float(args.num_train_epochs) if mode_epochs is None else mode_epochs
    cycle_epochs = compare.cycle_epochs if cycle_epochs is None else cycle_epochs
    number = number_of_cycles(compare, args) if cycles is None else cycles

    def make() -> Weights:
        module = run.start(model)
        module.load_state_dict(dict(run.mode(model, mode_epochs)))
        rate = compare.cycle_learning_rate
        trainer: Any = run.fit(
            CyclicTrainer,
            module,
            model,
            number * cycle_epochs,
            rate=float(args.learning_rate) / 2 if rate is None else rate,
            cycles=number,
        )
        return {f"{i}/{name}": tensor for i, shot in enumerate(trainer.snapshots) for name, tensor in shot.items()}

    found: list[dict[str, Tensor]] = [{} for _ in range(number)]
    for key, tensor in run.kept(f"snapshots-{model}-after-{mode_epochs:g}-{number}-of-{cycle_epochs:g}", make).items():
        index, name = key.split("/", 1)
        found[int(index)][name] = tensor
    return list(found)
