"""Saves and loads an ensemble, whole or in part; saves one of its points as an ordinary checkpoint."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import CONFIG_NAME, logging

from .backbones import set_labels
from .batch_norm import batch_norm_statistics
from .checkpoint import (
    atomic_write,
    check_dtypes,
    check_no_foreign_weights,
    check_target,
    forget_save,
    indexed_files,
    name_save,
    write_tensors,
)
from .complex_of_backbones import ComplexOfBackbones
from .configuration_simplex import SimplexConfig
from .device_maps import no_offloading
from .image_processors import save_image_processor
from .low_rank_adapters import check_adapters, is_inserted, merged, write_adapter
from .open_ensemble import OpenedEnsemble, open_ensemble
from .recorded_volumes import volume_record
from .remote_code import write_inference_code
from .tensor_tree import first_non_finite

__all__ = ["export_adapter", "export_backbone", "load_ensemble", "save_ensemble"]

logger = logging.get_logger(__name__)


def load_ensemble(
    load: Callable[..., Any],
    model_class: type[PreTrainedModel],
    name_or_path: str | os.PathLike[str],
    *model_args: Any,
    simplex: int | Sequence[int] | None = None,
    num_members: int | None = None,
    **kwargs: Any,
) -> tuple[Any, dict[str, Any], tuple[str, bytes] | None]:
    """Load an ensemble or a part of one, and check that its files fit its configuration.

    Args:
        load: `PreTrainedModel.from_pretrained` of the model's class.
        model_class: that class.
        name_or_path: a folder or a Hub id.
        *model_args: arguments of `load`.
        simplex: load only this simplex, or these.
        num_members: load only the first members, and their simplexes.
        **kwargs: arguments of `load`.

    Returns:
        The model, the loading info of transformers, and name and content of the file that describes the image
        processor in a folder.

    Raises:
        OSError, FileNotFoundError, ValueError: see `SimplexForImageClassification.from_pretrained`.

    Example::

        class Model(ComplexOfBackbones): ...
        model, info, processor = load_ensemble(Model.from_pretrained, Model, "me/ensemble", num_members=2)
    """
    if kwargs.pop("use_safetensors", True) is False:
        raise ValueError("use_safetensors=False was given: weights are only read from safetensors files.")
    if (variant := kwargs.pop("variant", None)) is not None:
        raise ValueError(f"variant={variant!r} was given, but an ensemble has no variants of its files: leave it out.")
    kwargs.pop("ignore_mismatched_sizes", None)
    with open_ensemble(name_or_path, simplex=simplex, num_members=num_members, **kwargs) as opened:
        _check_fit(model_class, opened, name_or_path)
        with no_offloading(name_or_path, kwargs.get("device_map")) as loaded:
            model, loading = load(
                None,
                *model_args,
                config=opened.config,
                state_dict=opened.state,
                output_loading_info=True,
                **opened.kwargs,
            )
            loaded.append(model)
        for parameter in model.shared.parameters():
            # Backbones compute with these themselves. In a mapped file they lie at any address, which is slower and
            # rounds otherwise.
            parameter.data = parameter.data.clone()
        model.config.name_or_path = os.fspath(name_or_path)
        model.config._commit_hash = opened.index.commit
        forget_save(model.config)
    if (name := first_non_finite(model.state_dict())) is not None:
        logger.warning(f"{name} of {name_or_path} is not finite: its predictions will be NaN. Train it again.")
    return model, loading, opened.image_processor


def _check_fit(
    model_class: type[PreTrainedModel], opened: OpenedEnsemble, name_or_path: str | os.PathLike[str]
) -> None:
    """Raise ValueError unless the tensors have the names, shapes and dtypes that the configuration asks for.

    This allocates no weights: transformers would, for those that do not fit.
    """
    with torch.device("meta"):
        expected = model_class(copy.deepcopy(opened.config)).state_dict()
    common = expected.keys() & opened.state.keys()
    problems = {
        "missing": expected.keys() - common,
        "unexpected": opened.state.keys() - common,
        "mismatched": {name for name in common if expected[name].shape != opened.state[name].shape},
    }
    for problem, names in problems.items():
        if names:
            name = min(names)
            shapes = [list(state[name].shape) if name in state else None for state in (opened.state, expected)]
            raise ValueError(
                f"{name_or_path}: {len(names)} {problem} keys, {name} among them. Its shape is {shapes[0]} in the "
                f"weight files and {shapes[1]} in config.json. Restore or re-save the checkpoint."
            )
    check_dtypes(opened.state, opened.sources, expected, opened.dtype)


def save_ensemble(
    model: ComplexOfBackbones,
    image_processor: BaseImageProcessor | None,
    directory: str | os.PathLike[str],
    *,
    include_code: bool,
) -> None:
    """Save the weights, config.json, the image processor and, on request, the inference code, all or nothing.

    config.json records the volumes of the simplexes, computed here, with the digest of the weights.

    Args:
        model: the ensemble.
        image_processor: None saves none.
        directory: created if it does not exist.
        include_code: save the code that loads the ensemble without hf_simplex.

    Raises:
        ValueError: `directory` holds an adapter or other weights, or a tensor is not finite.

    Example::

        save_ensemble(model, model.image_processor, "ensemble", include_code=True)
    """
    if os.path.isdir(directory):
        check_no_foreign_weights(directory)
    state = model.state_dict()
    if (name := first_non_finite(state)) is not None:
        raise ValueError(
            f"{name} is not finite, so the ensemble is not saved to {directory}. Train this vertex again, or draw the "
            "members again from finite images."
        )
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    with atomic_write(directory, listed=indexed_files) as aside:
        digests = write_tensors(aside, state)
        save_image_processor(image_processor, aside)
        model.config.save_pretrained(aside)
        parameters = sum(parameter.numel() for parameter in model.vertices[0].parameters())
        volumes = volume_record(digests, parameters, model.config.simplexes, model.log_volumes().tolist())
        name_save(aside, digests, volumes)
        if include_code:
            write_inference_code(aside)


def export_backbone(
    backbone: PreTrainedModel,
    config: SimplexConfig,
    image_processor: BaseImageProcessor | None,
    directory: str | os.PathLike[str],
) -> None:
    """Save a backbone as an ordinary checkpoint, with the labels of the ensemble and its image processor.

    Args:
        backbone: holds the point to save. Adapters are merged into a copy of its weights.
        config: of the ensemble.
        image_processor: None saves none.
        directory: created if it does not exist.

    Raises:
        ValueError: `directory` is a file or holds another kind of model, or a tensor is not finite.

    Example::

        export_backbone(model.backbone_at([0.5, 0.5]), model.config, model.image_processor, "midpoint")
    """
    check_target(directory, backbone.config.model_type)
    if (name := first_non_finite(backbone.state_dict())) is not None:
        raise ValueError(f"{name} is not finite, so the backbone is not saved to {directory}. Train it again.")
    if is_inserted(backbone):
        backbone = merged(backbone)
    set_labels(backbone.config, config.id2label, config.label2id)
    # transformers reads these folders, and does not know of saves that were killed.
    with atomic_write(directory, last=CONFIG_NAME) as aside:
        backbone.save_pretrained(aside, state_dict=_untied(backbone))
        save_image_processor(image_processor, aside)


def export_adapter(backbone: PreTrainedModel, config: SimplexConfig, directory: str | os.PathLike[str]) -> None:
    """Save the adapters that a backbone holds as an adapter of peft, which `PeftModel.from_pretrained` loads.

    Args:
        backbone: holds the point to save.
        config: of the ensemble.
        directory: created if it does not exist.

    Raises:
        ValueError: the vertices are not low-rank adapters, the backbone has BatchNorm, a tensor is not finite, or
            `directory` is a file or holds a model.

    Example::

        export_adapter(model.backbone_at([1.0, 0.0]), model.config, "adapter")
    """
    check_adapters(config.vertex_parameters, batch_norm_statistics(backbone))
    if os.path.isfile(directory) or os.path.isfile(os.path.join(directory, CONFIG_NAME)):
        raise ValueError(
            f"{directory} is a file or holds a model, which an adapter would change: give another folder."
        )
    if (name := first_non_finite(backbone.state_dict())) is not None:
        raise ValueError(f"{name} is not finite, so the adapter is not saved to {directory}. Train it again.")
    with atomic_write(directory) as aside:
        write_adapter(
            backbone, cast(dict[str, Any], config.vertex_parameters), config.provenance.get("backbone"), aside
        )


def _untied(backbone: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict with a tensor of its own for each name: transformers saves no others (timm's coat ties)."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in backbone.state_dict().items():
        state[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return state
