"""Arguments of a comparison, and the arguments that the models of one folder share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.recipe.backbones_from_scratch import SMALL_RESNET

__all__ = ["ESPRO_ARGUMENTS", "SHARED_ARGUMENTS", "CompareArguments", "check_arguments"]

# Shared by the components of ESPRO in one folder.
ESPRO_ARGUMENTS = (
    "num_vertices",
    "num_modes",
    "connector_epochs",
    "connector_learning_rate",
    "connector_lr_scheduler_type",
    "points_per_step",
    "point_batches",
    "volume_weight",
    "volume_weight_scaling",
    "volume_measure",
    "volume_target",
    "start_jitter",
)
# Shared by all models and predictions of one folder: arguments of the comparison, of the images and of the training.
SHARED_ARGUMENTS = (
    ("backbone", "from_scratch", "width", "shared_head", "validation_fraction", "bfloat16_evaluation"),
    (
        "data_set",
        "data_config",
        "train_split",
        "test_split",
        "max_train_examples",
        "max_test_examples",
        "image_size",
        "augment",
        "horizontal_flip",
        "scale_min",
        "auto_augment",
        "color_jitter",
        "random_erasing",
    ),
    (
        "learning_rate",
        "weight_decay",
        "lr_scheduler_type",
        "warmup_steps",
        "optim",
        "label_smoothing_factor",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "batch_norm_images",
        "probe_head",
    ),
)


@dataclass
class CompareArguments:
    """What a comparison compares, and on what budget."""

    _argument_group_name = "comparison"

    backbone: str = field(
        default=SMALL_RESNET,
        metadata={"help": f"As for train_espro.py; from_scratch takes architectures, such as '{SMALL_RESNET}'."},
    )
    from_scratch: bool = field(default=False, metadata={"help": "Begin with random weights, not pretrained ones."})
    width: int = field(default=32, metadata={"help": f"Channels of the first stage of '{SMALL_RESNET}'."})
    shared_head: bool = field(
        default=False,
        metadata={"help": "All models begin with the same new head, not each with its own."},
    )
    channels_last: bool = field(default=False, metadata={"help": "Memory format of the weights."})
    methods: list[str] = field(
        default_factory=lambda: [
            "single",
            "deep_ensemble",
            "short_deep_ensemble",
            "uniform_soup",
            "greedy_soup",
            "swa",
            "swag",
            "fge",
            "espro",
        ],
        metadata={"help": "Rivals to run, by their names in comparison/registry.py."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One repetition each."})
    budget: float = field(default=32.0, metadata={"help": "Training epochs that every method may use."})
    validation_fraction: float = field(
        default=0.25,
        metadata={"help": "Part of the training images that is kept for temperatures and soups, where no split is."},
    )
    out_of_distribution: str | None = field(default=None, metadata={"help": "Another data set, as for data_set."})
    max_out_of_distribution_examples: int = field(default=1000, metadata={"help": "Of them, the first ones."})
    corruptions: list[str] | None = field(
        default=None, metadata={"help": "Of ImageNet-C's, such as gaussian_noise; 'none' for none."}
    )
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5], metadata={"help": "Of the corruptions."})
    max_corrupted_examples: int = field(default=1000, metadata={"help": "Test images to corrupt, the first ones."})
    bfloat16_evaluation: bool = field(default=False, metadata={"help": "Predict under bfloat16 autocast."})
    forward_passes: int = field(default=8, metadata={"help": "Members drawn where a method can have any number."})

    espro_name: str = field(default="espro", metadata={"help": "Folder of this setting of ESPRO; one for each."})
    espro_mode_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a mode of ESPRO; default: num_train_epochs, the deep ensemble's."}
    )
    short_mode_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a mode of short_deep_ensemble; default: those of ESPRO's."}
    )
    espro_components: int | None = field(
        default=None, metadata={"help": "Components; default: as many as the budget allows."}
    )
    num_leaves: int = field(default=4, metadata={"help": "Leaves of a trunk (leaves)."})
    leaf_rates: list[float] = field(
        default_factory=lambda: [2.0],
        metadata={"help": "Learning rates of the leaves: multiples of learning_rate."},
    )
    late_leaf_share: float = field(
        default=0.0625, metadata={"help": "Part of the budget of a leaf of late_leaves; the trunk gets the rest."}
    )
    subspace_vertices: int = field(default=4, metadata={"help": "Vertices of learned_subspace."})
    subspace_apart: float = field(
        default=1.0, metadata={"help": "Weight of the squared cosine between vertices (learned_subspace)."}
    )
    mirrored: bool = field(
        default=False, metadata={"help": "Also predict mirrored validation and test images (test-time augmentation)."}
    )
    points_a_component: int = field(default=2, metadata={"help": "Members drawn at random from each component."})

    cycle_epochs: float = field(
        default=2.0, metadata={"help": "Epochs from one snapshot to the next (FGE, SWA, SWAG; at most, multi-SWAG)."}
    )
    cycle_learning_rate: float | None = field(
        default=None, metadata={"help": "Highest learning rate of a cycle; default: half of learning_rate."}
    )
    dropout: float = field(default=0.2, metadata={"help": "Rate that the backbone is trained with for mc_dropout."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of lora_ensemble's adapters."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj", "query", "value", "qkv"],
        metadata={"help": "Linear layers that get adapters, by the end of their names."},
    )
    lora_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of lora_ensemble."})

    def __post_init__(self) -> None:
        # A configuration's list cannot be emptied by a flag.
        if self.corruptions == ["none"]:
            self.corruptions = None


def check_arguments(folder: Path, own: Mapping[str, Any], instead: str) -> None:
    """Write the arguments into a folder, or compare them with those that are there.

    Args:
        folder: holds models, or nothing yet.
        own: the arguments.
        instead: what to give instead, for the message.

    Raises:
        ValueError: the models of the folder were made with other or unknown arguments.
    """
    file = folder / "arguments.json"
    if not file.exists() and any(folder.glob("*/*.safetensors")):
        raise ValueError(f"{folder} holds models whose arguments are not known: give {instead}.")
    if not file.exists():
        with atomic_write(folder) as aside:
            (aside / file.name).write_text(json.dumps(own, indent=1) + "\n", "utf-8")
        return
    known = json.loads(file.read_text("utf-8"))
    if different := [name for name in own if known.get(name) != own[name]]:
        name = different[0]
        raise ValueError(f"{folder} was made with {name} {known.get(name)!r}, not {own[name]!r}: give {instead}.")
