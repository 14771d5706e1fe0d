"""A small growth for the tests of the trainer, and what they watch of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Images, backbone, images, same
from transformers import TrainerCallback

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments


def trainer(
    path: Path,
    kind: str = "resnet",
    model: SimplexForImageClassification | None = None,
    number: int = 24,
    trainer_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> SimplexTrainer:
    settings: dict[str, Any] = {
        "num_vertices": 3,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "num_members": 2,
        "batch_norm_images": 16,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if model is None:
        model = SimplexForImageClassification.from_backbone(backbone(kind), fine_tuned=False)
    return SimplexTrainer(
        model=model,
        args=SimplexTrainingArguments(str(path), **{**settings, **arguments}),
        train_dataset=Images(number),
        eval_dataset=Images(12),
        **(trainer_arguments or {}),
    )


def weights(model: SimplexForImageClassification, vertex: int) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.weights[vertex].items()}


class Recorder(TrainerCallback):
    """Records the optimizer's parameters and a copy of the vertices at the start of each stage."""

    def __init__(self, model: SimplexForImageClassification) -> None:
        self.model = model
        self.optimized: list[list[torch.Tensor]] = []
        self.frozen: list[list[dict[str, torch.Tensor]]] = []

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        self.optimized.append([p for group in optimizer.param_groups for p in group["params"]])
        self.frozen.append([weights(self.model, vertex) for vertex in range(self.model.config.num_vertices)])

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        assert all(p.grad is None for vertex in self.model.vertices for p in vertex.parameters())


POINTS = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.1, 0.4], [0.05, 0.15, 0.0, 0.8], [0.25, 0.3, 0.35, 0.1]]


VOLUME_WEIGHT = 0.05


class FirstStep(TrainerCallback):
    """Records the growing vertex and its gradient before the first optimizer step of a stage."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.vertex: dict[str, torch.Tensor] = {}
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.vertex = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.gradient = {name: p.grad.clone() for name, p in self.module.named_parameters()}
        self.checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in self.module.modules())


CHECKPOINTED = {"save_strategy": "steps", "save_steps": 1}


class Crash(TrainerCallback):
    """Interrupts the stage of a vertex after `step` steps. 0: before the first."""

    def __init__(self, vertex: int, step: int) -> None:
        self.vertex, self.step = vertex, step

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith(str(self.vertex)) and state.global_step == self.step:
            raise KeyboardInterrupt

    on_step_end = on_train_begin


def interrupted(path: Path, vertex: int, step: int, **arguments: Any) -> SimplexTrainer:
    run = trainer(path, **arguments)
    run.add_callback(Crash(vertex, step))
    with pytest.raises(KeyboardInterrupt):
        run.grow()
    run.remove_callback(Crash)
    return run


def assert_the_same_growth(run: SimplexTrainer, whole: SimplexTrainer) -> None:
    assert run.simplex.config.roles == whole.simplex.config.roles == ["mode", "connector", "connector"]
    assert run.simplex.config.members == whole.simplex.config.members
    for index in range(3):
        assert same(weights(run.simplex, index), weights(whole.simplex, index)), index
    assert torch.equal(run.simplex(images()).logits, whole.simplex(images()).logits)
