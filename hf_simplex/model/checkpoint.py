"""The files of an ensemble: a safetensors file for each vertex, one for BatchNorm statistics, the standard index."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import extract_commit_hash, has_file, is_offline_mode

MEMBERS_FILE = "members.safetensors"
_TENSOR_NAME = re.compile(r"(vertices|members|centroids)\.[0-9]+\..+")
_VERTEX_FILE = re.compile(r"vertex-\d{5,}\.safetensors")
# A save's temporary folder, before and after it is decided that the save takes place.
_UNFINISHED, _DECIDED = ".saving-", ".saved-"
_FOREIGN_FILES = {
    SAFE_WEIGHTS_NAME: "transformers would load in place of the vertices",
    "adapter_config.json": "peft would take for that of an adapter, perhaps to a model of another repository",
}
HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def vertex_file(vertex: int) -> str:
    """The file name of a vertex, `vertex-00000.safetensors` for the first."""
    return f"vertex-{vertex:05d}.safetensors"


def file_of(name: str) -> str:
    """The file that holds the tensor of that name: `vertices.<i>.*` its vertex's, all else the members'."""
    kind, index, _ = name.split(".", 2)
    return vertex_file(int(index)) if kind == "vertices" else MEMBERS_FILE


@contextmanager
def atomic_write(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder inside `directory` whose files take their places there when the context ends well.

    What was in `directory` is touched only then: a crash or a full disk leaves the old files whole. One rename of the
    temporary folder decides: killed before it, a save has not happened; killed after it, `finish_saves` moves the
    files that are left, and is called by whoever next saves to or loads from `directory`.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    finish_saves(target)
    aside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=target))
    try:
        yield aside
        os.replace(aside, target / aside.name.replace(_UNFINISHED, _DECIDED))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    finish_saves(target)


def finish_saves(directory: str | os.PathLike[str]) -> None:
    """Move the files of saves that were decided on but killed before all files were in their places."""
    for decided in Path(directory).glob(f"{_DECIDED}*"):
        for file in decided.iterdir():
            # Two processes may do this at once, and either may be the one that moves a file.
            with suppress(FileNotFoundError):
                os.replace(file, Path(directory) / file.name)
        with suppress(FileNotFoundError):
            decided.rmdir()


def clear_saves(directory: str | os.PathLike[str]) -> None:
    """Remove what killed saves left that were not decided on; no other process may be saving to `directory`."""
    for unfinished in Path(directory).glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished)


def write_tensors(directory: Path, state: Mapping[str, Tensor]) -> None:
    """Write the tensors of a state dict into their safetensors files, with the index that transformers reads.

    Args:
        directory: an existing folder.
        state: tensors by the names `vertices.<i>.*`, `members.<j>.*` and `centroids.<s>.*`.
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        files.setdefault(file_of(name), {})[name] = tensor.detach().cpu().contiguous()
    for file, tensors in files.items():
        save_file(tensors, directory / file, metadata={"format": "pt"})
    index = {
        "metadata": {
            "total_parameters": sum(tensor.numel() for name, tensor in state.items()),
            "total_size": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        },
        "weight_map": {name: file_of(name) for name in sorted(state)},
    }
    (directory / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def check_target(directory: str | os.PathLike[str], model_type: str) -> None:
    """Check that saving a model of a type to `directory` would not destroy anything but an earlier save of its kind.

    Raises:
        ValueError: `directory` is a file, or holds a config.json of another model_type or of none.
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
            f"{config_file} is of model_type {found!r} and one of {model_type!r} would replace it: give another "
            "folder."
        )


def indexed_files(directory: str | os.PathLike[str]) -> set[str]:
    """The weight files of the ensemble in `directory`, by its index; none where there is no such index."""
    try:
        index = json.loads((Path(directory) / SAFE_WEIGHTS_INDEX_NAME).read_text("utf-8"))
        files = {str(file) for file in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()
    return {file for file in files if is_weight_file(file)}


def is_weight_file(file: str) -> bool:
    """Whether a file of that name is one that an ensemble's weights are saved in."""
    return bool(_VERTEX_FILE.fullmatch(file)) or file == MEMBERS_FILE


def remove_stale(directory: Path, before: set[str]) -> None:
    """Remove the `before` files of an earlier, larger ensemble that the index in `directory` no longer names."""
    for file in before - indexed_files(directory):
        (directory / file).unlink(missing_ok=True)


@dataclass(frozen=True)
class Index:
    """What the index of an ensemble says, checked.

    Attributes:
        weight_map: from each tensor's name to the plain name of its safetensors file.
        commit: of the Hub, where it was read from there: the other files of the same commit belong to it.
    """

    weight_map: dict[str, str]
    commit: str | None


def read_index(name_or_path: str | os.PathLike[str], **kwargs: Any) -> Index:
    """Read and check the index of an ensemble.

    Args:
        name_or_path: a folder or a Hub id.
        **kwargs: those of `from_pretrained`; the ones that say where on the Hub to look are used.

    Raises:
        OSError: there is no such repository or revision, or not for this token.
        FileNotFoundError: there is no index, so this is no ensemble.
        ValueError: the index is broken, names a file outside the folder, or a tensor that no ensemble has.
    """
    if os.path.isdir(name_or_path):
        finish_saves(name_or_path)
    try:
        index_file = cached_file(
            name_or_path, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **_hub(kwargs)
        )
    except OSError as error:
        raise OSError(f"The ensemble {os.fspath(name_or_path)!r} could not be loaded: {error}") from error
    if index_file is None:
        place = "" if os.path.isdir(name_or_path) else " (no such folder here, nor a repository in reach that has one)"
        raise FileNotFoundError(
            f"{name_or_path} holds no {SAFE_WEIGHTS_INDEX_NAME}{place}, so it is not an ensemble that save_pretrained "
            f"wrote. A single model ({SAFE_WEIGHTS_NAME}) is loaded by SimplexForImageClassification.from_backbone."
        )
    try:
        index = json.loads(Path(index_file).read_text("utf-8"))
        weight_map = dict(index["weight_map"])
        if not weight_map or not isinstance(index["metadata"], dict):
            raise ValueError("no tensors or no metadata")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{index_file} is not an index of safetensors files ({error!r}). Restore or re-save it."
        ) from error
    for file in weight_map.values():
        check_file_name(file, index_file)
    for name in weight_map:
        if not _TENSOR_NAME.fullmatch(name):
            raise ValueError(
                f"{index_file} names the tensor {name!r}; expected vertices.<number>.<name> or members or centroids. "
                "This is the index of another kind of model, or broken: restore or re-save it."
            )
    return Index(weight_map, extract_commit_hash(index_file, None))


def check_alone(name_or_path: str | os.PathLike[str], **kwargs: Any) -> None:
    """Check that nothing beside the files of an ensemble would have transformers read other weights than those.

    Args:
        name_or_path: a folder or a Hub id, of which nothing is downloaded.
        **kwargs: as for `read_index`.

    Raises:
        ValueError: there is such a file.
    """
    where = {name: kwargs[name] for name in ("cache_dir", "token", "revision") if kwargs.get(name) is not None}
    cached = bool(kwargs.get("local_files_only")) or is_offline_mode()
    for file, consequence in _FOREIGN_FILES.items():
        path = PurePosixPath(kwargs.get("subfolder") or "", file)
        if has_file(name_or_path, str(path), local_files_only=cached, **where):
            raise ValueError(
                f"{name_or_path} holds {path}, which {consequence}: remove that file, or give another folder."
            )


def check_files(name_or_path: str | os.PathLike[str], files: Iterable[str], **kwargs: Any) -> dict[str, Path]:
    """Find the safetensors files of an ensemble, and check each before anything is read from it.

    Args:
        name_or_path: a folder or a Hub id, from which the files are downloaded.
        files: their names, from `read_index`.
        **kwargs: as for `read_index`.

    Returns:
        From each name to where the file is.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or not whole, or its header contradicts itself.
    """
    found = {}
    for file in sorted(set(files)):
        path = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **_hub(kwargs))
        if path is None:
            raise FileNotFoundError(f"{name_or_path} holds no {file}, which its index names. Restore or re-save it.")
        try:
            with safe_open(path, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            size = os.path.getsize(path)
            raise ValueError(
                f"{path} ({size} bytes) is empty or not a whole safetensors file ({error}). Restore or re-save it."
            ) from error
        found[file] = Path(path)
    return found


def check_dtypes(files: Iterable[Path], expected: Mapping[str, Tensor], stored: str | None) -> None:
    """Check that the tensors in the files are of the kind that the model has: other numbers would be read as weights.

    Args:
        files: safetensors files.
        expected: the model's tensors by their names in the files; others are passed over.
        stored: the `dtype` in config.json, the only one for weights beside float32; None: any floating one will do.

    Raises:
        ValueError: a tensor that is to be floating is not, or the other way round, or is of another floating dtype.
    """
    floating = None if stored not in _CODES else {_CODES[stored], _CODES["float32"]}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for name in sorted(set(opened.keys()) & expected.keys()):
                code = opened.get_slice(name).get_dtype()
                is_floating = code.startswith(("F", "BF"))
                if is_floating != expected[name].is_floating_point() or (
                    is_floating and floating is not None and code not in floating
                ):
                    raise ValueError(
                        f"{path} says that {name} is of dtype {code}, but config.json and the backbone make it "
                        f"{stored if expected[name].is_floating_point() else expected[name].dtype}: the numbers would "
                        "be misread. Restore or re-save the checkpoint."
                    )


def stored_dtype(name_or_path: str | os.PathLike[str], **kwargs: Any) -> str | None:
    """The dtype that config.json gives for the weights, whatever they are to be loaded as."""
    config_file = cached_file(name_or_path, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **_hub(kwargs))
    if config_file is None:
        return None
    dtype = json.loads(Path(config_file).read_text("utf-8")).get("dtype")
    return str(dtype) if dtype else None


def _hub(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}


def check_file_name(file: object, index_file: str | os.PathLike[str]) -> None:
    """Raise ValueError unless `file` is the plain name of a safetensors file, in the index's own folder."""
    plain = isinstance(file, str) and PurePosixPath(file).name == file and "\\" not in file
    if not plain or not str(file).endswith(".safetensors"):
        raise ValueError(
            f"{index_file} names {file!r}; expected the name of a .safetensors file in the same folder. "
            "Do not load this checkpoint: its index points elsewhere."
        )
