"""Saves and loads an ensemble, whole or in part; saves one of its points as an ordinary checkpoint."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel

from .backbones import set_labels
from .checkpoint import (
    DOWNLOAD_KWARGS,
    atomic_write,
    check_dtypes,
    check_files,
    check_no_foreign_weights,
    check_target,
    indexed_files,
    read_index,
    remove_stale_files,
    stored_dtype,
    write_tensors,
)
from .configuration_simplex import SimplexConfig
from .image_processors import save_image_processor
from .remote_code import write_inference_code
from .subset import read_part, select_part

__all__ = ["export_backbone", "load_ensemble", "save_ensemble"]


def load_ensemble(
    load: Callable[..., Any],
    name_or_path: str | os.PathLike[str],
    *model_args: Any,
    simplex: int | Sequence[int] | None = None,
    num_members: int | None = None,
    **kwargs: Any,
) -> tuple[Any, dict[str, Any]]:
    """Load an ensemble or a part of one, and check that its files fit its configuration.

    Args:
        load: `PreTrainedModel.from_pretrained` of the model's class.
        name_or_path: a folder or a Hub id.
        *model_args: arguments of `load`.
        simplex: load only this simplex, or these.
        num_members: load only the first members, and their simplexes.
        **kwargs: arguments of `load`.

    Returns:
        The model and the loading info of transformers.

    Raises:
        OSError, FileNotFoundError, ValueError: see `SimplexForImageClassification.from_pretrained`.

    Example::

        class Model(ComplexOfBackbones): ...
        model, info = load_ensemble(Model.from_pretrained, "me/ensemble", num_members=2)
    """
    if kwargs.pop("use_safetensors", True) is False:
        raise ValueError("use_safetensors=False was given: weights are only read from safetensors files.")
    index = read_index(name_or_path, **kwargs)
    # Read every file from one commit, even if another is pushed meanwhile.
    kwargs["revision"] = index.commit or kwargs.get("revision")
    download = {name: kwargs[name] for name in DOWNLOAD_KWARGS if name in kwargs}
    check_no_foreign_weights(name_or_path, **download)
    renamed = {name: name for name in index.weight_map}
    if simplex is None and num_members is None:
        files = check_files(name_or_path, index.weight_map.values(), **download)
        model, loading = load(name_or_path, *model_args, output_loading_info=True, use_safetensors=True, **kwargs)
    else:
        config, kwargs = _load_config(name_or_path, kwargs)
        config, renamed = select_part(config, list(renamed), simplex=simplex, num_members=num_members)
        needed = {index.weight_map[name] for name in renamed}
        files = check_files(name_or_path, needed, **download)
        state = read_part(index.weight_map, files, renamed)
        model, loading = load(None, *model_args, config=config, state_dict=state, output_loading_info=True, **kwargs)
        model.config.name_or_path = os.fspath(name_or_path)
    model.config._commit_hash = index.commit
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if loading[kind]:
            example = sorted(str(key) for key in loading[kind])[0]
            raise ValueError(
                f"{name_or_path}: {len(loading[kind])} {kind.replace('_', ' ')}, {example} among them. The weight "
                "files do not fit config.json; restore or re-save the checkpoint."
            )
    tensors = model.state_dict()
    expected = {name: tensors[new] for name, new in renamed.items()}
    check_dtypes(files.values(), expected, stored_dtype(name_or_path, **download))
    return model, loading


def _load_config(name_or_path: str | os.PathLike[str], kwargs: dict[str, Any]) -> tuple[SimplexConfig, dict[str, Any]]:
    """The configuration that `kwargs` of `from_pretrained` give or change, and the remaining `kwargs`."""
    config = kwargs.pop("config", None)
    if isinstance(config, SimplexConfig):
        return config, {name: value for name, value in kwargs.items() if name not in DOWNLOAD_KWARGS}
    dtypes = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
    source = name_or_path if config is None else config
    config, unused = SimplexConfig.from_pretrained(source, return_unused_kwargs=True, **kwargs)
    return config, unused | dtypes


def save_ensemble(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor | None,
    directory: str | os.PathLike[str],
    *,
    include_code: bool,
) -> None:
    """Save the weights, config.json, the image processor and, on request, the inference code, all or nothing.

    Args:
        model: the ensemble.
        image_processor: None saves none.
        directory: created if it does not exist.
        include_code: save the code that loads the ensemble without hf_simplex.

    Raises:
        ValueError: `directory` holds an adapter or other weights.

    Example::

        save_ensemble(model, model.image_processor, "ensemble", include_code=True)
    """
    if os.path.isdir(directory):
        check_no_foreign_weights(directory)
    before = indexed_files(directory)
    state = model.state_dict()
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    with atomic_write(directory) as aside:
        write_tensors(aside, state)
        save_image_processor(image_processor, aside)
        model.config.save_pretrained(aside)
        if include_code:
            write_inference_code(aside)
    remove_stale_files(Path(directory), before)


def export_backbone(
    backbone: PreTrainedModel,
    config: SimplexConfig,
    image_processor: BaseImageProcessor | None,
    directory: str | os.PathLike[str],
) -> None:
    """Save a backbone as an ordinary checkpoint, with the labels of the ensemble and its image processor.

    Args:
        backbone: holds the point to save.
        config: of the ensemble.
        image_processor: None saves none.
        directory: created if it does not exist.

    Raises:
        ValueError: `directory` is a file or holds another kind of model.

    Example::

        export_backbone(model.backbone_at([0.5, 0.5]), model.config, model.image_processor, "midpoint")
    """
    check_target(directory, backbone.config.model_type)
    set_labels(backbone.config, config.id2label, config.label2id)
    with atomic_write(directory) as aside:
        backbone.save_pretrained(aside)
        save_image_processor(image_processor, aside)
