"""Opens the files of an ensemble so that all of them are of one save, whoever saves to the folder meanwhile."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from .checkpoint import (
    DOWNLOAD_KWARGS,
    check_files,
    check_no_foreign_weights,
    locate,
    read_index,
    stored_dtype,
)
from .configuration_simplex import SimplexConfig
from .counts import check_counts, check_stored_counts
from .image_processors import processor_file
from .index_file import SAVE, Index, check_same_save
from .json_files import read_json
from .one_save import read_one_save
from .subset import read_part, select_part

__all__ = ["OpenedEnsemble", "open_ensemble"]


@dataclass(frozen=True)
class OpenedEnsemble:
    """An ensemble, or a part of one, whose files are open.

    Attributes:
        config: of the part.
        kwargs: the arguments of `from_pretrained` that the configuration did not take.
        index: of the whole ensemble.
        state: the part's tensors by their names in the model. Their values are read from the files when they are used.
        sources: the file of each of these tensors.
        dtype: the `dtype` in config.json.
        image_processor: name and content of the file that describes the image processor; None for a repository, which
            is read from one commit, and where there is none.

    Example::

        with open_ensemble("ensemble") as opened:
            opened.state["vertices.0.classifier.bias"]
    """

    config: SimplexConfig
    kwargs: dict[str, Any]
    index: Index
    state: dict[str, Tensor]
    sources: dict[str, Path]
    dtype: str | None
    image_processor: tuple[str, bytes] | None


@contextmanager
def open_ensemble(
    name_or_path: str | os.PathLike[str],
    *,
    simplex: int | Sequence[int] | None = None,
    num_members: int | None = None,
    **kwargs: Any,
) -> Iterator[OpenedEnsemble]:
    """Open an ensemble or a part of one, with all files of one save.

    Files of a folder may be replaced while they are opened. They are then opened again. Files that are open stay as
    they are.

    Args:
        name_or_path: a folder or a Hub id.
        simplex: open only this simplex, or these.
        num_members: open only the first members, and their simplexes.
        **kwargs: arguments of `from_pretrained`.

    Raises:
        OSError: the files are of different saves, or another process saves without a pause.
        FileNotFoundError, ValueError: see `SimplexForImageClassification.from_pretrained`.

    Example::

        with open_ensemble("ensemble") as opened:
            opened.state["vertices.0.head.weight"]
    """
    folder = Path(name_or_path, kwargs.get("subfolder") or "")
    with ExitStack() as stack:
        if not os.path.isdir(name_or_path):
            yield _open(stack, name_or_path, simplex, num_members, kwargs)
            return
        yield read_one_save(folder, lambda attempt: _open(attempt, name_or_path, simplex, num_members, kwargs), stack)


def _open(
    stack: ExitStack,
    name_or_path: str | os.PathLike[str],
    simplex: int | Sequence[int] | None,
    num_members: int | None,
    kwargs: Mapping[str, Any],
) -> OpenedEnsemble:
    index = read_index(name_or_path, **kwargs)
    # Read every file from one commit, even if another is pushed meanwhile.
    kwargs = {**kwargs, "revision": index.commit or kwargs.get("revision")}
    download = _download(kwargs)
    check_no_foreign_weights(name_or_path, **download)
    config, unused = _load_config(name_or_path, kwargs, index)
    check_same_save(index, getattr(config, SAVE, None), name_or_path)
    check_counts(
        index,
        name_or_path,
        vertices=config.num_vertices,
        members=len(config.members),
        simplexes=len(config.simplexes),
        backbone={} if config.backbone_config is None else config.backbone_config.to_dict(),
    )
    renamed = {name: name for name in index.weight_map}
    if simplex is not None or num_members is not None:
        config, renamed = select_part(config, list(renamed), simplex=simplex, num_members=num_members)
    files = check_files(name_or_path, {index.weight_map[name] for name in renamed}, index.digests, **download)
    opened = {file: stack.enter_context(safe_open(path, framework="pt")) for file, path in files.items()}
    state = read_part(index.weight_map, opened, renamed)
    sources = {new: files[index.weight_map[name]] for name, new in renamed.items()}
    processor = processor_file(name_or_path, **download) if os.path.isdir(name_or_path) else None
    described = None if processor is None else (processor.name, processor.read_bytes())
    return OpenedEnsemble(config, unused, index, state, sources, stored_dtype(name_or_path, **download), described)


def _load_config(
    name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any], index: Index
) -> tuple[SimplexConfig, dict[str, Any]]:
    """The configuration that `kwargs` of `from_pretrained` give or change, and the remaining `kwargs`."""
    given = kwargs.get("config")
    others = {name: value for name, value in kwargs.items() if name != "config"}
    # Not SimplexConfig: transformers can have imported the same code twice for trust_remote_code.
    if isinstance(given, PreTrainedConfig):
        return _current(given, name_or_path, kwargs), {
            name: value for name, value in others.items() if name not in DOWNLOAD_KWARGS
        }
    dtypes = {name: others.pop(name) for name in ("dtype", "torch_dtype") if name in others}
    source = name_or_path if given is None else given
    if given is None and os.path.isdir(name_or_path):
        source, others["subfolder"] = _folder_of_config(name_or_path, kwargs), ""
    if (config_file := locate(name_or_path, CONFIG_NAME, **_download(kwargs))) is not None and given is None:
        check_stored_counts(index, read_json(config_file), name_or_path)
    config, unused = SimplexConfig.from_pretrained(source, return_unused_kwargs=True, **others)
    return config, unused | dtypes


def _download(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in DOWNLOAD_KWARGS if name in kwargs}


def _folder_of_config(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Path:
    file = locate(name_or_path, CONFIG_NAME, subfolder=kwargs.get("subfolder"))
    return Path(name_or_path, kwargs.get("subfolder") or "") if file is None else file.parent


def _current(given: Any, name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> SimplexConfig:
    """A given configuration, or that of a committed save instead, whose config.json is not in its place yet."""
    if not os.path.isdir(name_or_path):
        return given
    folder = Path(name_or_path, kwargs.get("subfolder") or "")
    current = _folder_of_config(name_or_path, kwargs)
    if current == folder or not (folder / CONFIG_NAME).is_file():
        return given
    former = SimplexConfig.from_pretrained(folder)
    if {**given.to_dict(), "_name_or_path": None} != {**former.to_dict(), "_name_or_path": None}:
        return given
    return SimplexConfig.from_pretrained(current)
