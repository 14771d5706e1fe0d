"""The files of an ensemble: a safetensors file for each vertex, one for BatchNorm statistics, the standard index."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

MEMBERS_FILE = "members.safetensors"
_VERTEX_FILE = re.compile(r"vertex-\d{5,}\.safetensors")
_HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")


def vertex_file(vertex: int) -> str:
    """The file name of a vertex, `vertex-00000.safetensors` for the first."""
    return f"vertex-{vertex:05d}.safetensors"


def file_of(name: str) -> str:
    """The file that holds the tensor of that name: `vertices.<i>.*` its vertex's, all else the members'."""
    kind, index, _ = name.split(".", 2)
    return vertex_file(int(index)) if kind == "vertices" else MEMBERS_FILE


@contextmanager
def written_aside(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder inside `directory` whose files take their places there when the context ends well.

    What was in `directory` is touched only then, one rename a file: a crash or a full disk leaves the old files whole.
    Weights come first and config.json last, so that what grew and was interrupted here is still what it was.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as aside:
        yield Path(aside)
        files = sorted(
            Path(aside).iterdir(), key=lambda file: (file.suffix == ".json", file.name == CONFIG_NAME, file.name)
        )
        for file in files:
            os.replace(file, target / file.name)


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
    return {file for file in files if _VERTEX_FILE.fullmatch(file) or file == MEMBERS_FILE}


def remove_stale(directory: Path, before: set[str]) -> None:
    """Remove the `before` files of an earlier, larger ensemble that the index in `directory` no longer names."""
    for file in before - indexed_files(directory):
        (directory / file).unlink(missing_ok=True)


def check_files(name_or_path: str | os.PathLike[str], **kwargs: Any) -> None:
    """Check index and safetensors files of an ensemble before anything is read from them.

    Args:
        name_or_path: a folder or a Hub id.
        **kwargs: those of `from_pretrained`; the ones that say where on the Hub to look are used.

    Raises:
        FileNotFoundError: there is no index, so this is no ensemble, or a file that it names is missing.
        ValueError: the index names a file outside the folder, or a file is empty or not whole.
    """
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
    try:
        index_file = cached_file(
            name_or_path, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **hub
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
        files = sorted(set(index["weight_map"].values()))
        if not files or not isinstance(index["metadata"], dict):
            raise ValueError("no tensors or no metadata")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{index_file} is not an index of safetensors files ({error!r}). Restore or re-save it."
        ) from error
    for file in files:
        check_file_name(file, index_file)
    for file in files:
        path = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **hub)
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


def check_file_name(file: object, index_file: str | os.PathLike[str]) -> None:
    """Raise ValueError unless `file` is the plain name of a safetensors file, in the index's own folder."""
    plain = isinstance(file, str) and PurePosixPath(file).name == file and "\\" not in file
    if not plain or not str(file).endswith(".safetensors"):
        raise ValueError(
            f"{index_file} names {file!r}; expected the name of a .safetensors file in the same folder. "
            "Do not load this checkpoint: its index points elsewhere."
        )
