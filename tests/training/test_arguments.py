"""SimplexTrainingArguments names what is out of range."""

from pathlib import Path
from typing import Any

import pytest

from hf_simplex import SimplexTrainingArguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_vertices": 0}, "num_vertices is 0"),
        ({"num_modes": 0}, "num_modes is 0"),
        ({"num_modes": 5}, "num_modes is 5 and num_vertices 4"),
        ({"points_per_step": 0}, "points_per_step is 0"),
        ({"batch_norm_images": 1}, "batch_norm_images is 1"),
        ({"volume_weight": float("nan")}, "volume_weight is nan"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"max_steps": 0}, "max_steps is 0: expected at least 1, or -1"),
        ({"connector_epochs": -1.0}, "connector_epochs is -1"),
        ({"point_batches": "halves"}, "'halves'"),
        ({"sampling": "some"}, "'some'"),
        ({"volume_weight_scaling": "much"}, "'much'"),
        ({"volume_interval": 0}, "volume_interval is 0"),
        ({"volume_measure": "surface"}, "'surface'"),
        ({"volume_target": -0.1}, "volume_target is -0.1"),
        ({"volume_target": 0.1, "volume_weight": 0.0}, "volume_weight is 0: nothing pulls"),
        ({"frozen_vertices": "disk"}, "'disk'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexTrainingArguments(str(tmp_path), **arguments)


def test_an_empty_output_folder_is_not_the_working_folder() -> None:
    with pytest.raises(ValueError, match="output_dir is empty"):
        SimplexTrainingArguments("")


def test_an_unknown_schedule_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="connector_lr_scheduler_type is 'flat': choose from linear, cosine"):
        SimplexTrainingArguments(str(tmp_path), use_cpu=True, connector_lr_scheduler_type="flat")
