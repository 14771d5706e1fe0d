"""Training arguments that a model card shows."""

from enum import Enum
from typing import Any

from .arguments import SimplexTrainingArguments

__all__ = ["shown_arguments"]

_SHOWN_ARGUMENTS = (
    "num_vertices",
    "num_modes",
    "mode_start",
    "num_train_epochs",
    "leaf_epochs",
    "connector_epochs",
    "probe_head",
    "learning_rate",
    "leaf_learning_rate",
    "mode_learning_rates",
    "mode_label_smoothing",
    "connector_learning_rate",
    "connector_lr_scheduler_type",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "points_per_step",
    "point_batches",
    "volume_weight",
    "volume_weight_scaling",
    "start_jitter",
    "sampling",
    "num_members",
    "member_seed",
    "batch_norm_images",
    "seed",
)


def shown_arguments(args: SimplexTrainingArguments) -> dict[str, Any]:
    """Select the arguments that shape the weights, as YAML values by name, without the unset ones.

    Example::

        write_card(model, "out", Evidence(arguments=shown_arguments(args)))
    """
    shown = {name: getattr(args, name) for name in _SHOWN_ARGUMENTS}
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in shown.items()
        if value is not None and value is not False
    }
