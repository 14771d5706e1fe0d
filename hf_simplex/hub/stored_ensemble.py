"""What an ensemble consists of, from config.json, the index and the headers of its weight files.

Nothing here needs torch.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.complexes import SimplicialComplex
from ..model.counts import check_counts, check_stored_counts
from ..model.index_file import (
    FOREIGN_FILES,
    INDEX_NAME,
    SAVE,
    SHARED,
    Index,
    check_header_digest,
    check_same_save,
    foreign_weights,
    missing_index,
    parse_index,
)
from ..model.json_files import read_json
from ..model.local_paths import check_folder
from ..model.one_save import read_one_save
from ..model.points import check_point
from ..model.problem_types import MULTI_LABEL
from ..model.recorded_volumes import RecordedVolumes, find_volumes
from ..model.structure_checks import (
    PRETRAINED,
    add_missing_labels,
    as_lists,
    check_decisions,
    check_label_counts,
    check_model_type,
    check_number_of_points,
    check_provenance,
    check_structure,
    check_timm_arguments,
    complete_labels,
)
from ..model.vertex_parameters import ALL
from .ensemble_files import EnsembleFiles, FolderFiles, HubFiles
from .weight_headers import FLOATING, StoredTensor, WeightHeader

__all__ = ["StoredEnsemble", "StoredStructure", "read_ensemble"]

_MODEL_TYPE = "simplex"
# transformers' number of labels where a configuration names none.
_DEFAULT_LABELS = 2


@dataclass(frozen=True)
class StoredStructure:
    """The content of config.json, checked as far as that needs neither torch nor the backbone.

    Attributes:
        backbone: the content of `backbone_config`.
        simplexes, roles, members, sampling, provenance: see `SimplexConfig`.
        labels: their names.
        dtype: of the weights; None where it is missing.

    Example::

        read_ensemble("ensemble").structure.roles   # ["mode", "connector"]
    """

    backbone: Mapping[str, Any]
    simplexes: Sequence[Sequence[int]]
    roles: Sequence[str]
    members: Sequence[Sequence[float]]
    sampling: str
    provenance: Mapping[str, Any]
    labels: Sequence[str]
    dtype: str | None


@dataclass(frozen=True)
class StoredEnsemble:
    """An ensemble as it is stored, without its weights.

    Attributes:
        structure: from config.json.
        tensors: those that the index names, by name.
        file_bytes: size of each weight file.
        volumes: what the save recorded; None where nothing was recorded of these weights.

    Example::

        read_ensemble("ensemble").volumes.log_volumes   # [2.5]
    """

    structure: StoredStructure
    tensors: Mapping[str, StoredTensor]
    file_bytes: Mapping[str, int]
    volumes: RecordedVolumes | None


def read_ensemble(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
) -> StoredEnsemble:
    """Read what an ensemble consists of, without weights, torch or transformers.

    The checks are those of `from_pretrained`, but for those that build the backbone: whether the installed
    transformers knows it, and whether the weights have the shapes that it asks for.

    Args:
        name_or_path: a folder or a Hub id. Of a repository, config.json and the index are downloaded, and of weight
            files that are not in the cache the headers are read.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: that of the logged-in account.

    Raises:
        OSError: the repository or revision does not exist, or the token has no access to it; or files are of different
            saves.
        FileNotFoundError: the folder or repository is not an ensemble, or a file of its index is missing.
        ValueError: a file is broken, the index names a file outside the folder, config.json contradicts itself or the
            weight files, or another model's weights lie in the folder.

    Example::

        read_ensemble("me/resnet50-simplex").structure.simplexes   # [[0, 1, 2]]
    """
    check_folder(name_or_path, "ensemble")
    if not os.path.isdir(name_or_path):
        return _read(HubFiles(os.fspath(name_or_path), revision, token))
    folder = Path(name_or_path)
    with ExitStack() as stack:
        return read_one_save(folder, lambda _: _read(FolderFiles(folder)), stack)


def _read(files: EnsembleFiles) -> StoredEnsemble:
    index_file = files.find(INDEX_NAME)
    if index_file is None:
        raise missing_index(files.name)
    index = parse_index(index_file, files.commit)
    for file, consequence in FOREIGN_FILES.items():
        if files.holds(file):
            raise foreign_weights(files.name, file, consequence)
    config_file = files.find("config.json")
    if config_file is None:
        raise FileNotFoundError(f"{files.name} holds no config.json. Restore or re-save the ensemble.")
    content = read_json(config_file)
    check_stored_counts(index, content, files.name)
    try:
        structure = _structure(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"config.json of {files.name} cannot be read. {error}") from error
    check_same_save(index, content.get(SAVE), files.name)
    check_counts(
        index,
        files.name,
        vertices=len(structure.roles),
        members=len(structure.members),
        simplexes=len(structure.simplexes),
        backbone=structure.backbone,
    )
    headers = {}
    for file in sorted(set(index.weight_map.values())):
        headers[file] = files.header(file)
        if index.digests:
            check_header_digest(f"{file} of {files.name}", headers[file].digest, index.digests[file])
    tensors = _tensors(index, headers, files.name)
    _check_dtypes(tensors, index, structure.dtype)
    sizes = {file: header.file_bytes for file, header in headers.items()}
    return StoredEnsemble(structure, tensors, sizes, find_volumes(content, index))


def _structure(content: Mapping[str, Any]) -> StoredStructure:
    check_model_type(content, _MODEL_TYPE)
    check_label_counts(content)
    backbone = content.get("backbone_config")
    if not isinstance(backbone, dict):
        raise ValueError("There is no backbone_config; expected the backbone's configuration, as a dictionary.")
    check_timm_arguments(backbone)
    simplexes, roles, members = as_lists(
        content.get("simplexes", [[0]]), content.get("roles", [PRETRAINED]), content.get("members", [])
    )
    provenance, sampling = content.get("provenance"), content.get("sampling", "equal")
    check_provenance(provenance)
    check_structure(
        roles=roles,
        sampling=sampling,
        provenance=provenance or {},
        vertex_parameters=content.get("vertex_parameters", ALL),
    )
    check_number_of_points(len(members))
    complex = SimplicialComplex(len(roles), tuple(tuple(simplex) for simplex in simplexes))
    for number, member in enumerate(members):
        if len(member) != len(roles):
            raise ValueError(f"Every point needs {len(roles)} coordinates, one for each vertex: {member}.")
        check_point(number, member, complex)
    several = any(found.get("problem_type") == MULTI_LABEL for found in (content, backbone))
    check_decisions(content.get("decisions"), len(simplexes), one_label=not several)
    labels = _labels(content, backbone)
    dtype = content.get("dtype")
    if not isinstance(dtype, str | None):
        raise ValueError(f"dtype is {dtype!r}; expected a name such as 'float32'.")
    return StoredStructure(backbone, simplexes, roles, members, sampling, provenance or {}, labels, dtype)


def _labels(content: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[str]:
    given = {name: content[name] for name in ("id2label", "label2id", "num_labels") if content.get(name) is not None}
    add_missing_labels(given)
    if not given and backbone.get("id2label") is not None:
        given["id2label"] = backbone["id2label"]
    complete_labels(given)
    expected = _number_of_labels(backbone)
    if (id2label := given.get("id2label")) is None:
        names = [f"LABEL_{label}" for label in range(given.get("num_labels", expected))]
    else:
        names = [id2label[label] for label in sorted(id2label, key=int)]
    if len(names) != expected:
        raise ValueError(f"The ensemble was trained for {expected} labels and cannot have {len(names)}.")
    return names


def _number_of_labels(backbone: Mapping[str, Any]) -> int:
    # In a configuration of timm, num_classes decides.
    if isinstance(count := backbone.get("num_classes"), int):
        return count
    if names := backbone.get("id2label") or backbone.get("label2id"):
        return len(names)
    count = backbone.get("num_labels")
    return count if isinstance(count, int) else _DEFAULT_LABELS


def _tensors(index: Index, headers: Mapping[str, WeightHeader], name_or_path: str) -> dict[str, StoredTensor]:
    """The tensors of the index, which are in their files and of the same shape in all vertices."""
    missing = [name for name, file in index.weight_map.items() if name not in headers[file].tensors]
    found = {
        name: headers[file].tensors[name] for name, file in index.weight_map.items() if name in headers[file].tensors
    }
    mismatched = []
    firsts: dict[tuple[str, str], StoredTensor] = {}
    for name, tensor in sorted(found.items()):
        if name.startswith(f"{SHARED}."):
            continue
        # The same parameter of the first vertex, or the same statistic of the first member.
        kind, _number, rest = name.split(".", 2)
        first = firsts.setdefault((kind, rest), tensor)
        if tensor.shape != first.shape or (tensor.floating is None) != (first.floating is None):
            mismatched.append(name)
    for problem, names in (("missing", missing), ("mismatched", mismatched)):
        if names:
            raise ValueError(
                f"{name_or_path}: {len(names)} {problem} keys, {min(names)} among them. Its shape is "
                f"{list(found[min(names)].shape) if min(names) in found else None} in the weight files. Restore or "
                "re-save the checkpoint."
            )
    return found


def _check_dtypes(tensors: Mapping[str, StoredTensor], index: Index, stored: str | None) -> None:
    """Raise ValueError for weights of another dtype than config.json's, which are other numbers than was meant."""
    if stored not in FLOATING.values():
        return
    for name, tensor in sorted(tensors.items()):
        if tensor.floating not in (None, stored, "float32"):
            raise ValueError(
                f"{index.weight_map[name]} says that {name} is of dtype {tensor.floating}, but config.json makes it "
                f"{stored}: the numbers would be misread. Restore or re-save the checkpoint."
            )
