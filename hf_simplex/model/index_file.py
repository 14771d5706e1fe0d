"""The index of an ensemble, the names of its files and tensors, and their checks. Nothing here needs torch."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from .atomic_saves import is_plain_name
from .header_digests import digest_of_all
from .json_files import read_json

__all__ = [
    "DIGEST",
    "FOREIGN_FILES",
    "INDEX_NAME",
    "MEMBERS_FILE",
    "SAVE",
    "SHARED",
    "Index",
    "check_file_name",
    "check_header_digest",
    "check_same_save",
    "file_of_tensor",
    "foreign_weights",
    "is_weight_file",
    "missing_file",
    "missing_index",
    "not_whole",
    "parse_index",
    "vertex_file",
]

INDEX_NAME = "model.safetensors.index.json"
MEMBERS_FILE, SHARED_FILE = "members.safetensors", "shared.safetensors"
SHARED = "shared"
"""First part of the names of the weights that all vertices share."""
DIGEST = "sha256"
"""Of a weight file: in its metadata, and in those of the index."""
SAVE = "weights_sha256"
"""Field of config.json: the digest of all weight files."""

FOREIGN_FILES = {
    "model.safetensors": "transformers would load in place of the vertices",
    "adapter_config.json": "makes transformers load an adapter, perhaps to a model of another repository",
}
"""Other files that transformers would load from the same folder, and what that does."""

_OF_A_RUN = "ensemble"
"""Folder of the ensemble in the folder of a run."""

_TENSOR_NAME = re.compile(r"(shared|(vertices|members|centroids)\.(0|[1-9][0-9]{0,5}))\..+")
_VERTEX_FILE = re.compile(r"vertex-\d{5,}\.safetensors")


def vertex_file(vertex: int) -> str:
    """Return the file name of a vertex.

    Example:
        >>> vertex_file(0)
        'vertex-00000.safetensors'
    """
    return f"vertex-{vertex:05d}.safetensors"


def file_of_tensor(name: str) -> str:
    """Return the file of a tensor: a vertex file for `vertices.<i>.*`, that of the shared weights, or of the members.

    Example:
        >>> file_of_tensor("vertices.2.head.weight"), file_of_tensor("members.0.bn.running_mean")
        ('vertex-00002.safetensors', 'members.safetensors')
    """
    kind, index = name.split(".", 2)[:2]
    if kind == SHARED:
        return SHARED_FILE
    return vertex_file(int(index)) if kind == "vertices" else MEMBERS_FILE


def is_weight_file(file: str) -> bool:
    """Return whether this is the name of an ensemble's weight file.

    Example:
        >>> is_weight_file("vertex-00000.safetensors"), is_weight_file("model.safetensors")
        (True, False)
    """
    return bool(_VERTEX_FILE.fullmatch(file)) or file in (MEMBERS_FILE, SHARED_FILE)


@dataclass(frozen=True)
class Index:
    """A checked index of an ensemble.

    Attributes:
        weight_map: the safetensors file of each tensor, a plain file name.
        commit: the Hub commit that the index was read from; None for a folder.
        digests: the SHA-256 digest of each file's header; empty in an ensemble of version 0.1.0.

    Example:
        >>> Index({"vertices.0.head.weight": "vertex-00000.safetensors"}, commit=None).commit is None
        True
    """

    weight_map: dict[str, str]
    commit: str | None
    digests: dict[str, str] = field(default_factory=dict)


def parse_index(index_file: Path, commit: str | None) -> Index:
    """Read and check the file of an index.

    Args:
        index_file: the file.
        commit: the Hub commit that it is of; None for a folder.

    Raises:
        ValueError: the index is broken, names a file outside the folder, or names a tensor that no ensemble has.

    Example::

        parse_index(Path("ensemble/model.safetensors.index.json"), None).weight_map
    """
    try:
        index = read_json(index_file)
        weight_map = dict(index["weight_map"])
        if not weight_map or not isinstance(index["metadata"], dict):
            raise ValueError("no tensors or no metadata")
        digests = index["metadata"].get(DIGEST, {})
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise ValueError(f"metadata.{DIGEST} is no object of digests")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{index_file} is not an index of safetensors files ({error!r}). Restore or re-save it."
        ) from error
    for file in weight_map.values():
        check_file_name(file, index_file)
    for name in weight_map:
        if not _TENSOR_NAME.fullmatch(name):
            raise ValueError(
                f"{index_file} names the tensor {name!r}; expected vertices.<number>.<name>, or members, "
                "centroids or shared. This is the index of another kind of model, or broken: restore or re-save it."
            )
    if digests and digests.keys() != set(weight_map.values()):
        raise ValueError(
            f"{index_file} names other files in metadata.{DIGEST}, {sorted(digests)}, than in weight_map. Restore or "
            "re-save it."
        )
    return Index(weight_map, commit, digests)


def check_same_save(index: Index, weights_sha256: str | None, name_or_path: str | os.PathLike[str]) -> None:
    """Check that an index and a config.json were saved together, where both say so.

    Args:
        index: of the ensemble.
        weights_sha256: what config.json says of the weights that it was saved with.
        name_or_path: the folder or Hub id, for the error message.

    Raises:
        OSError: they are of different saves.

    Example:
        >>> check_same_save(Index({}, None, {}), None, "ensemble")
    """
    if weights_sha256 is not None and index.digests and weights_sha256 != digest_of_all(index.digests):
        raise OSError(
            f"config.json and {INDEX_NAME} of {name_or_path} are of different saves ({SAVE} is {weights_sha256!r}). "
            "If another process saves to it, load it again. Otherwise restore or re-save it."
        )


def check_file_name(file: object, index_file: str | os.PathLike[str]) -> None:
    """Check that an index names a safetensors file in its own folder.

    Raises:
        ValueError: `file` is not a plain file name that ends in .safetensors.

    Example:
        >>> check_file_name("vertex-00000.safetensors", "model.safetensors.index.json")
    """
    if not is_plain_name(file) or not str(file).endswith(".safetensors"):
        raise ValueError(
            f"{index_file} names {file!r}; expected the name of a .safetensors file in the same folder. "
            "Do not load this checkpoint: its index points elsewhere."
        )


def check_header_digest(path: str | os.PathLike[str], found: str, expected: str) -> None:
    """Check that a weight file is of the same save as the index.

    Args:
        path: of the file, for the error message.
        found: the digest of its header.
        expected: the digest in the index.

    Raises:
        OSError: it is of another save.

    Example:
        >>> check_header_digest("vertex-00000.safetensors", "0f3c", "0f3c")
    """
    if found != expected:
        raise OSError(
            f"{path} is of another save than {INDEX_NAME}: the {DIGEST} of its header is {found!r}, not {expected!r}. "
            "If another process saves to this folder, load it again. Otherwise restore or re-save the ensemble."
        )


def missing_index(name_or_path: str | os.PathLike[str]) -> FileNotFoundError:
    """Return the error of a folder or repository without an index.

    Example:
        >>> str(missing_index("pets"))[:43]
        'pets holds no model.safetensors.index.json '
    """
    if os.path.isfile(inner := os.path.join(name_or_path, _OF_A_RUN, INDEX_NAME)):
        return FileNotFoundError(
            f"{name_or_path} is the folder of a run, not of an ensemble. Its ensemble is {os.path.dirname(inner)}."
        )
    place = "" if os.path.isdir(name_or_path) else " (no such folder here, nor a repository in reach that has one)"
    return FileNotFoundError(
        f"{name_or_path} holds no {INDEX_NAME}{place}, so it is not an ensemble that save_pretrained wrote. A single "
        "model (model.safetensors) is loaded by SimplexForImageClassification.from_backbone."
    )


def missing_file(name_or_path: str | os.PathLike[str], file: str) -> FileNotFoundError:
    """Return the error of an index that names a file which is not there.

    Example:
        >>> str(missing_file("pets", "vertex-00000.safetensors"))[:35]
        'pets holds no vertex-00000.safetens'
    """
    return FileNotFoundError(f"{name_or_path} holds no {file}, which its index names. Restore or re-save it.")


def not_whole(path: str | os.PathLike[str], size: int, error: object) -> ValueError:
    """Return the error of a weight file that is empty, cut off or broken.

    Args:
        path: of the file.
        size: in bytes.
        error: what is wrong.

    Example:
        >>> str(not_whole("a.safetensors", 0, "header too small"))[:34]
        'a.safetensors (0 bytes) is empty o'
    """
    return ValueError(
        f"{path} ({size} bytes) is empty or not a whole safetensors file ({error}). Restore or re-save it."
    )


def foreign_weights(name_or_path: str | os.PathLike[str], path: object, consequence: str) -> ValueError:
    """Return the error of a folder or repository with other weights.

    Args:
        name_or_path: the folder or Hub id.
        path: of the file in it.
        consequence: from `FOREIGN_FILES`.

    Example:
        >>> str(foreign_weights("pets", "model.safetensors", FOREIGN_FILES["model.safetensors"]))[:30]
        'pets holds model.safetensors, '
    """
    return ValueError(f"{name_or_path} holds {path}, which {consequence}: remove that file, or give another folder.")
