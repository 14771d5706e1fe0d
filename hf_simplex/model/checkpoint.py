"""The files of an ensemble: safetensors files for the vertices, what they share and the statistics, and the index."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils.hub import extract_commit_hash, has_file, is_offline_mode

from .atomic_saves import atomic_write, committed_saves, finish_saves, is_regular_file
from .digests import sort_metadata, tensor_digest
from .header_digests import digest_of_all, header_digest
from .index_file import (
    DIGEST,
    FOREIGN_FILES,
    SAVE,
    Index,
    check_header_digest,
    file_of_tensor,
    foreign_weights,
    is_weight_file,
    missing_file,
    missing_index,
    not_whole,
    parse_index,
)
from .json_files import read_json
from .local_paths import check_folder
from .recorded_volumes import RECORD

__all__ = [
    "DOWNLOAD_KWARGS",
    "atomic_write",
    "check_dtypes",
    "check_files",
    "check_no_foreign_weights",
    "check_target",
    "finish_saves",
    "forget_save",
    "indexed_files",
    "locate",
    "name_save",
    "read_index",
    "stored_dtype",
    "write_tensors",
]

DOWNLOAD_KWARGS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_tensors(directory: Path, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a state dict to safetensors files, with the index that transformers reads.

    Each file holds the SHA-256 digest of its tensors, and the index holds the digest of each file's header. Loading
    compares headers with the index, so that files of different saves are not taken for one ensemble. The same tensors
    give the same bytes.

    Args:
        directory: an existing folder.
        state: tensors named `shared.*`, `vertices.<i>.*`, `members.<j>.*` and `centroids.<s>.*`.

    Returns:
        The digest of each file's header.

    Example::

        write_tensors(Path("ensemble"), model.state_dict())
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        files.setdefault(file_of_tensor(name), {})[name] = tensor.detach().cpu().contiguous()
    digests = {}
    for file, tensors in files.items():
        metadata = {"format": "pt", DIGEST: tensor_digest(tensors)}
        save_file(tensors, directory / file, metadata=metadata)
        sort_metadata(directory / file, metadata)
        digests[file] = header_digest(directory / file)
    index = {
        "metadata": {
            DIGEST: digests,
            "total_parameters": sum(tensor.numel() for name, tensor in state.items()),
            "total_size": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        },
        "weight_map": {name: file_of_tensor(name) for name in sorted(state)},
    }
    (directory / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
    return digests


def name_save(directory: Path, digests: Mapping[str, str], volumes: Mapping[str, Any]) -> None:
    """Write into config.json which weights it was saved with, and what they span.

    Args:
        directory: a folder with config.json.
        digests: the digest of each weight file.
        volumes: from `recorded_volumes.volume_record`.

    Example::

        digests = write_tensors(Path("ensemble"), model.state_dict())
        name_save(Path("ensemble"), digests, volume_record(digests, 23, [[0, 1]], [2.5]))
    """
    file = directory / CONFIG_NAME
    content = {**read_json(file), SAVE: digest_of_all(digests), RECORD: volumes}
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def forget_save(config: PreTrainedConfig) -> None:
    """Remove from a configuration in memory which weights it was saved with: the weights may change.

    Example:
        >>> forget_save(PreTrainedConfig())
    """
    if hasattr(config, SAVE):
        delattr(config, SAVE)


def check_target(directory: str | os.PathLike[str], model_type: str) -> None:
    """Check that a save to `directory` would only replace a model of the same type.

    Raises:
        ValueError: `directory` is a file, or its config.json has another `model_type` or none.

    Example:
        >>> check_target("no-such-folder", "simplex")
    """
    if os.path.isfile(directory):
        raise ValueError(f"{directory} is a file: give a folder to save to.")
    config_file = Path(directory) / CONFIG_NAME
    if not config_file.exists():
        return
    try:
        found = json.loads(config_file.read_text("utf-8")).get("model_type")
    except (ValueError, AttributeError):
        found = None
    if found != model_type:
        raise ValueError(
            f"{config_file} has model_type {found!r}, and a model of type {model_type!r} would replace it: give "
            "another folder."
        )


def indexed_files(directory: str | os.PathLike[str]) -> set[str]:
    """Return the weight files named by the index in `directory`; empty without a valid index.

    Example:
        >>> indexed_files("no-such-folder")
        set()
    """
    try:
        index = json.loads((Path(directory) / SAFE_WEIGHTS_INDEX_NAME).read_text("utf-8"))
        files = {str(file) for file in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()
    return {file for file in files if is_weight_file(file)}


def read_index(name_or_path: str | os.PathLike[str], **kwargs: Any) -> Index:
    """Read and check the index of an ensemble.

    Args:
        name_or_path: a folder or a Hub id.
        **kwargs: arguments of `from_pretrained`; only those in `DOWNLOAD_KWARGS` are used.

    Raises:
        OSError: the repository or revision does not exist, or the token has no access to it.
        FileNotFoundError: there is no such folder, or no index, so this is not an ensemble.
        ValueError: the index is broken, names a file outside the folder, or names a tensor that no ensemble has.

    Example::

        read_index("me/resnet50-simplex", revision="main").weight_map
    """
    check_folder(name_or_path, "ensemble")
    try:
        index_file = locate(name_or_path, SAFE_WEIGHTS_INDEX_NAME, **kwargs)
    except OSError as error:
        raise OSError(f"The ensemble {os.fspath(name_or_path)!r} could not be loaded: {error}") from error
    if index_file is None:
        raise missing_index(name_or_path)
    return parse_index(index_file, extract_commit_hash(str(index_file), None))


def locate(name_or_path: str | os.PathLike[str], file: str, **kwargs: Any) -> Path | None:
    """Return the path of a file of a folder or a Hub repository; None if there is no such file.

    A save that was killed after its commit has left files aside. They are found where they are, and not moved.

    Args:
        name_or_path: a folder or a Hub id.
        file: a plain file name.
        **kwargs: as for `read_index`.

    Raises:
        OSError: the repository or revision does not exist, or the token has no access to it.

    Example:
        >>> locate(".", "no-such-file") is None
        True
    """
    if os.path.isdir(name_or_path):
        for folder in committed_saves(Path(name_or_path, kwargs.get("subfolder") or "")):
            # As the next save, which moves no links.
            if is_regular_file(folder / file):
                return folder / file
    path = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **_download_kwargs(kwargs))
    return None if path is None else Path(path)


def check_no_foreign_weights(name_or_path: str | os.PathLike[str], **kwargs: Any) -> None:
    """Check that the folder or repository holds no other weights that transformers would load instead.

    Args:
        name_or_path: a folder or a Hub id. Nothing is downloaded.
        **kwargs: as for `read_index`.

    Raises:
        ValueError: such a file exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     check_no_foreign_weights(directory)
    """
    where = {name: kwargs[name] for name in ("cache_dir", "token", "revision") if kwargs.get(name) is not None}
    cached = bool(kwargs.get("local_files_only")) or is_offline_mode()
    for file, consequence in FOREIGN_FILES.items():
        path = PurePosixPath(kwargs.get("subfolder") or "", file)
        if has_file(name_or_path, str(path), local_files_only=cached, **where):
            raise foreign_weights(name_or_path, path, consequence)


def check_files(
    name_or_path: str | os.PathLike[str], files: Iterable[str], digests: Mapping[str, str] | None = None, **kwargs: Any
) -> dict[str, Path]:
    """Locate (or download) safetensors files and check their headers.

    Args:
        name_or_path: a folder or a Hub id.
        files: file names, from `read_index`.
        digests: the expected digest of each file's header, from `read_index`; default: any.
        **kwargs: as for `read_index`.

    Returns:
        The path of each file by name.

    Raises:
        FileNotFoundError: a file is missing.
        OSError: a file is of another save than the index.
        ValueError: a file is empty or truncated, or its header is inconsistent.

    Example::

        check_files("me/resnet50-simplex", ["vertex-00000.safetensors"])
    """
    found = {}
    for file in sorted(set(files)):
        path = locate(name_or_path, file, **kwargs)
        if path is None:
            raise missing_file(name_or_path, file)
        try:
            with safe_open(path, framework="pt") as opened:
                opened.keys()
            found_digest = header_digest(path)
        except (SafetensorError, OSError, RuntimeError) as error:
            # A file that has just been renamed raises RuntimeError before, and OSError here.
            raise not_whole(path, os.path.getsize(path), error) from error
        if digests:
            check_header_digest(path, found_digest, digests[file])
        found[file] = path
    return found


def check_dtypes(
    state: Mapping[str, Tensor], sources: Mapping[str, Path], expected: Mapping[str, Tensor], stored: str | None
) -> None:
    """Check the dtypes of stored tensors: a wrong dtype in a file header turns the weights into other numbers.

    Args:
        state: tensors as they are stored.
        sources: the file of each tensor.
        expected: the model's tensors.
        stored: the `dtype` in config.json; weights may have it or float32. None allows any floating dtype.

    Raises:
        ValueError: a tensor has an unexpected dtype.

    Example:
        >>> import torch
        >>> check_dtypes({"a": torch.zeros(1)}, {"a": Path("b.safetensors")}, {"a": torch.ones(1)}, "float32")
    """
    floating = None if stored not in _DTYPES else {_DTYPES[stored], torch.float32}
    for name in sorted(state.keys() & expected.keys()):
        dtype, is_floating = state[name].dtype, state[name].is_floating_point()
        if is_floating != expected[name].is_floating_point() or (
            is_floating and floating is not None and dtype not in floating
        ):
            raise ValueError(
                f"{sources[name]} says that {name} is of dtype {dtype}, but config.json and the backbone make it "
                f"{stored if expected[name].is_floating_point() else expected[name].dtype}: the numbers would be "
                "misread. Restore or re-save the checkpoint."
            )


def stored_dtype(name_or_path: str | os.PathLike[str], **kwargs: Any) -> str | None:
    """Return the `dtype` in config.json; None where it is missing.

    Args:
        name_or_path: a folder or a Hub id.
        **kwargs: as for `read_index`.

    Example::

        stored_dtype("me/resnet50-simplex")   # 'float32'
    """
    config_file = locate(name_or_path, CONFIG_NAME, **kwargs)
    if config_file is None:
        return None
    dtype = read_json(config_file).get("dtype")
    return str(dtype) if dtype else None


def _download_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in DOWNLOAD_KWARGS if kwargs.get(name) is not None}
