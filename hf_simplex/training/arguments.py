"""Arguments of SimplexTrainer: those of transformers' Trainer, and those that SPRO adds."""

import math
from dataclasses import dataclass, field

from transformers import SchedulerType, TrainingArguments

from ..model.configuration_simplex import SAMPLINGS
from .frozen_vertices import FROZEN_VERTICES
from .volume_measure import VOLUME_MEASURES

POINT_BATCHES = ("split", "full")
VOLUME_WEIGHT_SCALINGS = ("random_complex", "none")


@dataclass
class SimplexTrainingArguments(TrainingArguments):
    """All of `transformers.TrainingArguments`, which hold for every vertex, and what SPRO adds.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    output_dir: str = field(default="trainer_output", metadata={"help": "Where checkpoints and vertices go."})
    logging_steps: float = field(default=1, metadata={"help": "Log every so many steps."})
    num_vertices: int = field(default=4, metadata={"help": "Vertices that each simplex grows to, its modes included."})
    num_modes: int = field(
        default=1,
        metadata={
            "help": "Modes that each simplex begins with, trained one by one from the same weights; the rest of "
            "num_vertices are connectors. More than 1 is for pretrained weights: modes from scratch have barriers."
        },
    )
    connector_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of each connector; default: num_train_epochs, the modes' epochs."}
    )
    connector_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of each connector; default: learning_rate, the modes' rate."}
    )
    connector_lr_scheduler_type: str | None = field(
        default=None, metadata={"help": "Schedule of each connector; default: lr_scheduler_type, the modes' schedule."}
    )
    points_per_step: int = field(default=1, metadata={"help": "Points drawn from the simplex for each batch (H)."})
    point_batches: str = field(
        default="split",
        metadata={
            "help": "'split' divides each batch over the points, at the cost of one ordinary step; "
            "'full' shows each point the whole batch, as the paper does, at H times the cost.",
            "choices": POINT_BATCHES,
        },
    )
    volume_weight: float = field(default=1e-8, metadata={"help": "Weight of the log volume in the objective."})
    volume_weight_scaling: str = field(
        default="random_complex",
        metadata={
            "help": "'random_complex' divides volume_weight by the log volume of a random complex, as the paper does; "
            "'none' takes it plainly.",
            "choices": VOLUME_WEIGHT_SCALINGS,
        },
    )
    volume_interval: int = field(
        default=1,
        metadata={
            "help": "Add the gradient of the log volume at every so many steps, that many times: the same pull on "
            "average at a part of the cost."
        },
    )
    volume_measure: str = field(
        default="weights",
        metadata={
            "help": "The volume is that of the 'weights' (the paper), or of weights 'normalized' by the norm that "
            "each tensor has in the first vertex of the simplex, so that scale alone gains little.",
            "choices": VOLUME_MEASURES,
        },
    )
    volume_target: float | None = field(
        default=None,
        metadata={
            "help": "Pull the volume to that of a regular simplex of this radius, relative to the norm of the first "
            "vertex: volume_weight weighs half the squared difference of log volumes. Default: more is always better "
            "(the paper)."
        },
    )
    frozen_vertices: str = field(
        default="device",
        metadata={
            "help": "Where frozen vertices are while another grows: on the 'device' as they are, there in 'bfloat16' "
            "(training sees them rounded, what is saved is not), or on the 'cpu', fetched while the step before "
            "computes.",
            "choices": FROZEN_VERTICES,
        },
    )
    start_jitter: float = field(
        default=0.0,
        metadata={"help": "Noise on a new vertex, relative to the root mean square of each weight tensor."},
    )
    sampling: str = field(
        default="equal",
        metadata={
            "help": "How points choose among several simplexes: with 'equal' chance or in proportion to 'volume'.",
            "choices": SAMPLINGS,
        },
    )
    num_members: int | None = field(
        default=None,
        metadata={
            "help": "Random members, drawn uniformly when the growth ends (the paper); default: in each simplex "
            "as many as it has vertices, placed so that their mean stands for that of all points."
        },
    )
    member_seed: int = field(default=0, metadata={"help": "Seed of the draw of the members."})
    batch_norm_images: int = field(
        default=1024, metadata={"help": "Training images that each member's BatchNorm statistics are computed from."}
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata={"help": "Normalize over the images of all processes while a vertex trains (SyncBatchNorm)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sync_batch_norm and self.device.type == "cpu":
            raise ValueError("sync_batch_norm is True, but torch has no SyncBatchNorm for the CPU.")
        for name in ("num_vertices", "num_modes", "points_per_step", "num_members", "volume_interval"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.num_modes > self.num_vertices:
            raise ValueError(
                f"num_modes is {self.num_modes} and num_vertices {self.num_vertices}: modes are vertices too, so "
                "expected at least as many vertices."
            )
        if self.batch_norm_images < 2:
            raise ValueError(f"batch_norm_images is {self.batch_norm_images}: expected at least 2.")
        for name in ("connector_epochs", "connector_learning_rate", "volume_weight", "start_jitter"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}: expected a finite number of at least 0.")
        for name, choices in (
            ("point_batches", POINT_BATCHES),
            ("volume_weight_scaling", VOLUME_WEIGHT_SCALINGS),
            ("volume_measure", VOLUME_MEASURES),
            ("frozen_vertices", FROZEN_VERTICES),
            ("sampling", SAMPLINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose from {', '.join(choices)}.")
        schedules = [schedule.value for schedule in SchedulerType]
        if self.connector_lr_scheduler_type not in (None, *schedules):
            raise ValueError(
                f"connector_lr_scheduler_type is {self.connector_lr_scheduler_type!r}: choose from "
                f"{', '.join(schedules)}."
            )
        if self.volume_target is not None:
            if not (math.isfinite(self.volume_target) and self.volume_target > 0):
                raise ValueError(f"volume_target is {self.volume_target}: expected a positive number, or none at all.")
            if not self.volume_weight:
                raise ValueError(
                    f"volume_target is {self.volume_target}, but volume_weight is 0: nothing pulls to the target. "
                    "Give a volume_weight, or no target."
                )

    @property
    def place_model_on_device(self) -> bool | None:
        """As in `TrainingArguments`, except that an ensemble whose frozen vertices are kept elsewhere stays there."""
        placed: bool | None = super().place_model_on_device
        return placed if self.frozen_vertices == "device" else False
