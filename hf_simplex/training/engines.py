"""Engines: checks that FSDP and DeepSpeed settings can train a vertex, and unwraps modules."""

import os
from typing import Any

from accelerate.accelerator import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .arguments import SimplexTrainingArguments

__all__ = ["CHECKPOINTING", "check_engine", "unwrap"]

# Newer versions of transformers warn of the former name.
CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(SimplexTrainingArguments, "activation_checkpointing")
    else "gradient_checkpointing"
)
"""Name of the training argument that trades computation for memory, in the installed version of transformers."""


def check_engine(args: SimplexTrainingArguments, state: Any) -> None:
    """Check that the engine can train a vertex: it must follow the arguments and let points be written.

    Args:
        args: Arguments of the run.
        state: The `AcceleratorState` of the run, `accelerator.state`.

    Raises:
        ValueError: The engine cannot. The message names the setting and an alternative.

    Example::

        check_engine(trainer.args, trainer.accelerator.state)
    """
    fsdp, deepspeed = getattr(state, "fsdp_plugin", None), getattr(state, "deepspeed_plugin", None)
    asks_for_fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asks_for_fsdp and state.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but accelerate runs {state.distributed_type.value} on {args.device}: it shards "
            "weights over several accelerators only. Use recipes/accelerate/cpu.yaml or ddp.yaml."
        )
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise ValueError("FSDP version 1 flattens the weights: no point can be written. Use fsdp_version 2.")
    if fsdp is not None and fsdp.activation_checkpointing:
        raise ValueError(
            "FSDP's activation_checkpointing renames the weights: no point can be written. Turn it off in fsdp_config "
            f"and give --{CHECKPOINTING}, which saves the same memory."
        )
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ValueError(
            "DeepSpeed ZeRO-3 keeps the weights in partitions of its own: no point can be written. Use FSDP2 "
            "(recipes/accelerate/fsdp2.yaml), which shards weights, gradients and optimizer as well."
        )
    if deepspeed is not None and args.volume_weight:
        raise ValueError(
            f"volume_weight is {args.volume_weight}, but DeepSpeed takes the gradients before the volume gradient is "
            "added. Use DDP or FSDP2, or give volume_weight 0."
        )


def unwrap(accelerator: Accelerator, wrapped: nn.Module, module: nn.Module) -> None:
    """Undo the changes that `accelerator.prepare` made to a module.

    Args:
        accelerator: The accelerator that prepared it.
        wrapped: What `prepare` returned.
        module: The module itself.

    Example::

        wrapped = accelerator.prepare(backbone)
        unwrap(accelerator, wrapped, backbone)
    """
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False, keep_torch_compile=False)
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        module.__dict__.pop(name, None)
