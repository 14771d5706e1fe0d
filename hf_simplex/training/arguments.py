"""Arguments of SimplexTrainer: those of transformers' Trainer, and those that SPRO adds."""

import math
from dataclasses import dataclass, field

from transformers import SchedulerType, TrainingArguments

from ..model.configuration_simplex import SAMPLINGS
from ..model.members import DEFAULT_RULE, MEMBER_RULES
from .frozen_vertices import FROZEN_VERTICES
from .volume_measure import VOLUME_MEASURES

__all__ = [
    "MODE_STARTS",
    "POINT_BATCHES",
    "VOLUME_WEIGHT_SCALINGS",
    "SimplexTrainingArguments",
    "check_mode_start",
]

MODE_STARTS = ("backbone", "first_mode")
"""Whether the modes of a simplex start from its given weights, or the later ones from its first trained mode."""

POINT_BATCHES = ("split", "full")
"""Whether the points of a step split the batch, or each point gets the full batch."""

VOLUME_WEIGHT_SCALINGS = ("random_complex", "none")
"""Whether `volume_weight` is divided by the log volume of a random complex."""


@dataclass
class SimplexTrainingArguments(TrainingArguments):
    """Arguments of `SimplexTrainer`. Those of `transformers.TrainingArguments` apply to each vertex.

    SPRO adds the fields below. Each has a help text.

    Raises:
        ValueError: An argument is out of its range. The message names it.

    Example::

        args = SimplexTrainingArguments("out", num_vertices=4, num_modes=2, num_train_epochs=10, bf16=True)
    """

    output_dir: str = field(default="trainer_output", metadata={"help": "Folder for checkpoints and vertices."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between two logs."})
    num_vertices: int = field(default=4, metadata={"help": "Vertices of each simplex at the end, modes included."})
    num_modes: int = field(
        default=1,
        metadata={
            "help": "Modes of each simplex, fine-tuned one by one from the same weights. The other vertices are "
            "connectors. Use more than 1 for pretrained weights only: between modes from scratch there are barriers."
        },
    )
    mode_start: str = field(
        default="backbone",
        metadata={
            "help": "'backbone': all modes of a simplex start from its given weights. 'first_mode': later modes start "
            "from the first mode of their simplex, the trunk, with a fresh optimizer and schedule: leaves (StarSSE, "
            "Sadrtdinov et al. 2023).",
            "choices": MODE_STARTS,
        },
    )
    leaf_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of each leaf. Default: num_train_epochs, as for the trunk."}
    )
    leaf_learning_rate: float | None = field(
        default=None, metadata={"help": "Initial learning rate of leaves. Default: learning_rate, as for the trunk."}
    )
    mode_learning_rates: list[float] | None = field(
        default=None,
        metadata={
            "help": "Multiples of learning_rate for the modes, in turn: mode i takes entry i modulo their number. "
            "Default: 1 for all."
        },
    )
    mode_label_smoothing: list[float] | None = field(
        default=None,
        metadata={"help": "Label smoothing of the modes, in turn. Default: label_smoothing_factor for all."},
    )
    connector_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of each connector. Default: num_train_epochs, as for modes."}
    )
    connector_learning_rate: float | None = field(
        default=None, metadata={"help": "Initial learning rate of connectors. Default: learning_rate, as for modes."}
    )
    connector_lr_scheduler_type: str | None = field(
        default=None, metadata={"help": "Schedule of connectors. Default: lr_scheduler_type, as for modes."}
    )
    probe_head: bool = field(
        default=False,
        metadata={
            "help": "Fit the new head to the frozen backbone's features by logistic regression before the modes are "
            "trained (LP-FT, Kumar et al. 2022). All modes start from it. For pretrained weights only."
        },
    )
    points_per_step: int = field(default=1, metadata={"help": "Points drawn from the simplex for each batch (H)."})
    point_batches: str = field(
        default="split",
        metadata={
            "help": "'split': the points share the batch, at the cost of one ordinary step. 'full': each point sees "
            "the whole batch, as in the paper, at H times the cost.",
            "choices": POINT_BATCHES,
        },
    )
    volume_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the log volume in the loss, in nats. 0: no volume term. The paper: 1e-8."},
    )
    volume_weight_scaling: str = field(
        default="random_complex",
        metadata={
            "help": "'random_complex': divide volume_weight by the log volume of a random complex, as in the paper. "
            "'none': use volume_weight as it is.",
            "choices": VOLUME_WEIGHT_SCALINGS,
        },
    )
    volume_interval: int = field(
        default=1,
        metadata={
            "help": "Steps between two volume gradients. Each is multiplied by this number: the same pull on average "
            "at less cost."
        },
    )
    volume_measure: str = field(
        default="weights",
        metadata={
            "help": "'weights': volume of the weights, as in the paper. 'normalized': each tensor counts relative to "
            "its norm in the first vertex of the simplex, so that scale alone adds little volume.",
            "choices": VOLUME_MEASURES,
        },
    )
    volume_target: float | None = field(
        default=None,
        metadata={
            "help": "Radius of a regular simplex whose volume is the target, relative to the norm of the first "
            "vertex. The volume term is then volume_weight times half the squared difference of log volumes. "
            "Default: no target, more volume is always better, as in the paper."
        },
    )
    frozen_vertices: str = field(
        default="device",
        metadata={
            "help": "Where frozen vertices are kept while another one trains. 'device': unchanged. 'bfloat16': on the "
            "device, rounded for training only. 'cpu': fetched during the step before.",
            "choices": FROZEN_VERTICES,
        },
    )
    start_jitter: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of the noise on a new connector, relative to the root mean square of each "
            "weight tensor."
        },
    )
    sampling: str = field(
        default="equal",
        metadata={
            "help": "How points choose among several simplexes: with 'equal' chance, or in proportion to 'volume'.",
            "choices": SAMPLINGS,
        },
    )
    num_members: int | None = field(
        default=None,
        metadata={
            "help": "Number of random members, drawn uniformly at the end as in the paper. Default: members by "
            "member_rule."
        },
    )
    member_rule: str = field(
        default=DEFAULT_RULE,
        metadata={
            "help": "Members without num_members. 'vertices_and_centroid', 'vertices' or 'centroid' of each simplex; "
            "'symmetric': one near each vertex, so that the mean of a quadratic function is exact.",
            "choices": MEMBER_RULES,
        },
    )
    member_seed: int = field(default=0, metadata={"help": "Seed of the random members and of BatchNorm images."})
    batch_norm_images: int = field(
        default=1024, metadata={"help": "Training images for the BatchNorm statistics of each member."}
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata={"help": "Use SyncBatchNorm during training: batch statistics over the images of all processes."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sync_batch_norm and self.device.type == "cpu":
            raise ValueError(
                "sync_batch_norm is True, but torch has no SyncBatchNorm for the CPU. Train on GPUs, or leave it out."
            )
        self._check_numbers()
        self._check_mode_lists()
        self._check_choices()
        self._check_mode_start()
        self._check_volume_target()

    def _check_numbers(self) -> None:
        if not self.output_dir:
            # Path("") is the working folder, where a run that begins anew deletes `components`.
            raise ValueError("output_dir is empty: give a folder, or . for the working folder.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps is {self.max_steps}: expected at least 1, or -1 for no limit.")
        for name in (
            *("num_vertices", "num_modes", "points_per_step", "num_members", "volume_interval"),
            "gradient_accumulation_steps",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.num_modes > self.num_vertices:
            raise ValueError(
                f"num_modes is {self.num_modes} and num_vertices {self.num_vertices}: modes are vertices too, so "
                "num_vertices must be at least num_modes."
            )
        if self.batch_norm_images < 2:
            raise ValueError(f"batch_norm_images is {self.batch_norm_images}: expected at least 2.")
        for name in (
            *("leaf_epochs", "leaf_learning_rate", "connector_epochs", "connector_learning_rate"),
            *("volume_weight", "start_jitter", "adam_epsilon", "max_grad_norm", "label_smoothing_factor"),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}: expected a finite number of at least 0.")

    def _check_mode_lists(self) -> None:
        smallest = math.ulp(0.0)
        for name, low, high, expected in (
            ("mode_learning_rates", smallest, math.inf, "finite numbers above 0"),
            ("mode_label_smoothing", 0.0, 1.0, "numbers of at least 0 and below 1"),
        ):
            values = getattr(self, name)
            if values is None:
                continue
            if not (
                isinstance(values, list | tuple)
                and values
                and all(isinstance(value, int | float) and low <= value < high for value in values)
            ):
                raise ValueError(f"{name} is {values!r}: expected a list of {expected}, one for each mode in turn.")

    def _check_choices(self) -> None:
        for name, choices in (
            ("mode_start", MODE_STARTS),
            ("point_batches", POINT_BATCHES),
            ("volume_weight_scaling", VOLUME_WEIGHT_SCALINGS),
            ("volume_measure", VOLUME_MEASURES),
            ("frozen_vertices", FROZEN_VERTICES),
            ("sampling", SAMPLINGS),
            ("member_rule", MEMBER_RULES),
            ("connector_lr_scheduler_type", (None, *(schedule.value for schedule in SchedulerType))),
        ):
            if getattr(self, name) not in choices:
                listed = ", ".join(choice for choice in choices if choice is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose from {listed}.")

    def _check_mode_start(self) -> None:
        check_mode_start(self)

    def _check_volume_target(self) -> None:
        if self.volume_target is None:
            return
        if not (math.isfinite(self.volume_target) and self.volume_target > 0):
            raise ValueError(f"volume_target is {self.volume_target}: expected a positive number, or None.")
        if not self.volume_weight:
            raise ValueError(
                f"volume_target is {self.volume_target}, but volume_weight is 0: nothing pulls to the target. Give a "
                "volume_weight, or no target."
            )

    @property
    def place_model_on_device(self) -> bool | None:
        """See `transformers.TrainingArguments.place_model_on_device`. False if frozen vertices are off the device."""
        placed: bool | None = super().place_model_on_device
        return placed if self.frozen_vertices == "device" else False


def check_mode_start(args: SimplexTrainingArguments) -> None:
    """Check that the arguments of leaves are given where there are leaves, and only there.

    Raises:
        ValueError: `mode_start` is `"first_mode"` with fewer than two modes, or `leaf_epochs` or `leaf_learning_rate`
            is given without it.

    Example::

        check_mode_start(args)
    """
    if args.mode_start == "first_mode":
        if args.num_modes < 2:
            raise ValueError(
                f"mode_start is 'first_mode' and num_modes {args.num_modes}: expected at least 2 modes, the trunk and "
                "its leaves."
            )
        return
    for name in ("leaf_epochs", "leaf_learning_rate"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"{name} is {getattr(args, name)}, but mode_start is {args.mode_start!r}, so there are no leaves: "
                f"give mode_start 'first_mode', or leave {name} out."
            )
