"""Record of what shapes the weights of a growth, by which a resumed run is known to be the same run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import nn

from ..model.atomic_saves import atomic_write
from ..model.batch_norm import batch_norm_layers
from ..model.digests import tensor_digest
from ..model.index_file import SHARED
from ..model.json_files import read_json
from ..model.modeling_simplex import SimplexForImageClassification
from .arguments import SimplexTrainingArguments

__all__ = [
    "RECORD",
    "SHAPING_ARGUMENTS",
    "GrowthRecord",
    "differ",
    "initial_weights",
    "shaping_arguments",
    "weights_digest",
]

RECORD = "growth.json"
"""File with the record, in the output folder of a growth."""

SHAPING_ARGUMENTS = (
    "learning_rate",
    "leaf_learning_rate",
    "mode_learning_rates",
    "connector_learning_rate",
    "num_train_epochs",
    "leaf_epochs",
    "connector_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
    "num_modes",
    "mode_start",
    "lr_scheduler_type",
    "connector_lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "mode_label_smoothing",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "accelerator_config",
    "points_per_step",
    "point_batches",
    "volume_weight",
    "volume_weight_scaling",
    "volume_interval",
    "volume_measure",
    "volume_target",
    "frozen_vertices",
    "start_jitter",
    "sampling",
    "probe_head",
    "sync_batch_norm",
    "load_best_model_at_end",
)
"""Arguments that shape the weights of a growth."""

# These shape the statistics that a vertex keeps, so they matter only with BatchNorm.
_BATCH_NORM_ARGUMENTS = ("batch_norm_images", "member_seed")

_DEFAULTS = {field.name: field.default for field in fields(SimplexTrainingArguments)}


@dataclass(frozen=True)
class GrowthRecord:
    """What shapes the weights of a growth.

    A field of None is unknown and equals every value.

    Args:
        arguments: JSON values by name, from `shaping_arguments`, and those of the images' transforms.
        processes: Number of processes.
        backbone: Name of the backbone, for messages only.
        weights: Digest of the initial vertices, from `weights_digest`.
        data: Fingerprint of the training images as the trainer sees them, from `example_digest`.
        images: Fingerprint of the training split, from `SplitRecord`.
        superseded: Digest of a configuration that an earlier run left in the folder; None if there is none.

    Example:
        >>> from hf_simplex.training.growth_record import GrowthRecord
        >>> stored = GrowthRecord({"seed": 0}, processes=1)
        >>> stored.differences(GrowthRecord({"seed": 1}, processes=2))
        ['seed was 0 and is 1', 'number of processes was 1 and is 2']
    """

    arguments: Mapping[str, Any]
    processes: int
    backbone: str | None = None
    weights: str | None = None
    data: str | None = None
    images: str | None = None
    superseded: str | None = None

    def differences(self, given: "GrowthRecord") -> list[str]:
        """Compare with the record of the run that would resume this one.

        An argument that the stored record does not know is newer than the record, whose run had its default.

        Returns:
            A phrase for each difference: argument, stored value, given value.

        Example::

            GrowthRecord.read("out").differences(given)
        """
        found = [
            f"{name} was {value!r} and is {given.arguments[name]!r}"
            for name, value in self.arguments.items()
            if name in given.arguments and given.arguments[name] != value
        ]
        found += [
            f"{name} was not known and is {value!r}"
            for name, value in given.arguments.items()
            if name not in self.arguments and name in _DEFAULTS and value != _DEFAULTS[name]
        ]
        if self.processes != given.processes:
            found.append(f"number of processes was {self.processes} and is {given.processes}")
        if differ(self.weights, given.weights):
            found.append(
                f"initial weights were those of {self.backbone} (digest {self.weights}) and are those of "
                f"{given.backbone} (digest {given.weights})"
            )
        for name, stored, present in (
            ("training images", self.images, given.images),
            ("training images and their transforms", self.data, given.data),
        ):
            if differ(stored, present):
                found.append(f"fingerprint of the {name} was {stored} and is {present}")
        return found

    @classmethod
    def read(cls, folder: str | Path) -> Self | None:
        """Read the record in a folder; None if there is none.

        Raises:
            ValueError: The file is no record.

        Example::

            GrowthRecord.read("out")
        """
        file = Path(folder) / RECORD
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            record = cls(**content)
            if not isinstance(record.arguments, dict):
                raise TypeError(f"arguments is {record.arguments!r}")
        except TypeError as error:
            raise ValueError(
                f"{file} is no record of a growth ({error}). Restore it, or remove it to resume without the check."
            ) from error
        return record

    def write(self, folder: str | Path) -> None:
        """Write the record to a folder, unless it holds the same. A configuration of another run is superseded.

        Example::

            record.write("out")
        """
        stored, record = self._stored(folder), self
        if stored is None or stored.differences(self):
            configuration = Path(folder) / "config.json"
            record = replace(self, superseded=_file_digest(configuration) if configuration.is_file() else None)
        else:
            unknown = {name: value for name, value in vars(stored).items() if getattr(self, name) is None}
            record = replace(self, **unknown)
        if record != stored:
            with atomic_write(folder) as aside:
                (aside / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n", "utf-8")

    @classmethod
    def _stored(cls, folder: str | Path) -> Self | None:
        try:
            return cls.read(folder)
        except ValueError:
            # A new run replaces a broken record.
            return None

    def supersedes(self, configuration: Path) -> bool:
        """Return whether a configuration file is that of an earlier run.

        Example::

            record.supersedes(Path("out/config.json"))
        """
        return self.superseded is not None and _file_digest(configuration) == self.superseded


def differ(stored: Any, given: Any) -> bool:
    """Return whether two known values differ. None is unknown.

    Example:
        >>> from hf_simplex.training.growth_record import differ
        >>> differ("a", "b"), differ("a", None)
        (True, False)
    """
    return None not in (stored, given) and stored != given


def shaping_arguments(args: SimplexTrainingArguments, model: SimplexForImageClassification) -> dict[str, Any]:
    """Select the arguments that shape the weights, as JSON values by name.

    Example::

        shaping_arguments(trainer.args, trainer.simplex)["learning_rate"]
    """
    names = [*SHAPING_ARGUMENTS, *(_BATCH_NORM_ARGUMENTS if batch_norm_layers(model.backbone) else ())]
    if args.load_best_model_at_end:
        names.append("metric_for_best_model")
    values = {name: getattr(args, name) for name in names}
    values["devices_per_process"] = max(1, args.n_gpu)
    values["vertex_parameters"] = model.config.vertex_parameters
    selected: dict[str, Any] = json.loads(json.dumps(values, default=_as_json))
    return selected


def _as_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value.to_dict() if hasattr(value, "to_dict") else str(value)


_INITIAL: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()


def initial_weights(model: SimplexForImageClassification, folder: str | Path) -> str:
    """Return the digest of the vertices that a model had when it first grew in a folder.

    A growth of several calls, such as modes and then connectors, starts from one set of weights.

    Args:
        model: The model.
        folder: Output folder of the growth.

    Example::

        initial_weights(trainer.simplex, trainer.args.output_dir)
    """
    known = _INITIAL.setdefault(model, {})
    if str(folder) not in known:
        known[str(folder)] = weights_digest(model)
    return known[str(folder)]


def weights_digest(model: SimplexForImageClassification, like: SimplexForImageClassification | None = None) -> str:
    """Return a digest of all vertices of a model and of what they share, 16 hexadecimal digits.

    Weights that `from_backbone` initialized at random do not count: each process draws others.

    Args:
        model: The model.
        like: A model whose random weights do not count. Default: `model`.

    Example::

        weights_digest(model)
    """
    without = (model if like is None else like).new_weights
    parts = [*enumerate(model.weights), (SHARED, model.shared.tensors())]
    tensors = {
        f"{part}.{name}": tensor.detach().cpu()
        for part, weights in parts
        for name, tensor in weights.items()
        if name not in without
    }
    return tensor_digest(tensors)[:16]


def _file_digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()[:16]
