"""Engines take the step of a plain run, or are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from growing import (
    POINTS,
    VOLUME_WEIGHT,
    FirstStep,
    trainer,
    weights,
)
from tiny import ensemble

from hf_simplex import SimplexTrainingArguments
from hf_simplex.training.engines import CHECKPOINTING, check_engine
from hf_simplex.training.spro import GrowingVertex

AGREEING = [
    ({"bf16": True}, 0.03),
    ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "points_per_step": 1}, 1e-5),
    ({CHECKPOINTING: True}, 1e-6),
    ({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1e-5),
]


def first_gradient(path: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> torch.Tensor:
    left = iter(POINTS)
    seen_by_the_engine: list[torch.dtype] = []
    settings = {
        "number": 8,
        "max_steps": 1,
        "max_grad_norm": 0,
        "points_per_step": 2,
        "start_jitter": 0.1,
        "train_sampling_strategy": "sequential",
        "volume_weight": VOLUME_WEIGHT,
        "volume_weight_scaling": "none",
        "save_strategy": "no",
    }
    run = trainer(path, model=ensemble("vit"), **{**settings, **arguments})
    seen = FirstStep(run.simplex.backbone)
    run.add_callback(seen)
    with monkeypatch.context() as patch:
        patch.setattr(GrowingVertex, "draw", lambda self, number, generator: [next(left) for _ in range(number)])
        patch.setattr(
            "hf_simplex.model.weight_space.torch._foreach_lerp_",
            lambda targets, *rest: (
                seen_by_the_engine.extend(target.dtype for target in targets),
                torch.ops.aten._foreach_lerp_(targets, *rest),
            ),
        )
        run.grow_connector()
    assert set(seen_by_the_engine) <= {torch.float32}
    return torch.cat([tensor.flatten() for tensor in seen.gradient.values()])


@pytest.mark.parametrize(
    ("arguments", "tolerance"), AGREEING, ids=lambda value: "".join(value)[:12] if isinstance(value, dict) else None
)
def test_engines_agree_with_the_plain_run(
    arguments: dict[str, Any], tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = first_gradient(tmp_path / "plain", monkeypatch)
    other = first_gradient(tmp_path / "other", monkeypatch, **arguments)
    assert (other - plain).norm() < tolerance * plain.norm()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ZeRO-3 keeps the weights in partitions.*fsdp2.yaml"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "volume_weight is 1e-08, but DeepSpeed"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "FSDP version 1 flattens.*fsdp_version 2"),
        (
            {"fsdp_plugin": SimpleNamespace(fsdp_version=2, activation_checkpointing=True)},
            f"activation_checkpointing renames the weights.*--{CHECKPOINTING}",
        ),
    ],
    ids=["zero3", "zero2", "fsdp1", "activation checkpointing"],
)
def test_engines_without_writable_weights_are_refused(engine: dict[str, Any], message: str, tmp_path: Path) -> None:
    args = SimplexTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", volume_weight=1e-8)
    with pytest.raises(ValueError, match=message):
        check_engine(args, SimpleNamespace(**engine))


def test_features_that_the_cpu_lacks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no SyncBatchNorm for the CPU"):
        trainer(tmp_path, "resnet", sync_batch_norm=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for, but accelerate runs NO on cpu"):
        trainer(tmp_path, "resnet")


def test_a_gradient_scaler_does_not_change_the_step(tmp_path: Path) -> None:
    vertices = []
    for name, scaler in (("plain", None), ("scaled", torch.amp.GradScaler("cpu", init_scale=1024.0))):
        run = trainer(
            tmp_path / name,
            model=ensemble("vit"),
            max_steps=1,
            max_grad_norm=0,
            optim="sgd",
            start_jitter=0.1,
            volume_weight=VOLUME_WEIGHT,
            volume_weight_scaling="none",
            save_strategy="no",
        )
        run.accelerator.scaler = scaler
        run.grow_connector()
        vertices.append(weights(run.simplex, 3))
    for name, tensor in vertices[0].items():
        torch.testing.assert_close(vertices[1][name], tensor, rtol=1e-6, atol=1e-7)
