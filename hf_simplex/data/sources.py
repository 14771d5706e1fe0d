"""Finds a data set by name, with the splits that it has. They are read once they are chosen."""

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import datasets.config
import pyarrow as pa
from datasets import DatasetDict, Image, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from huggingface_hub.errors import RepositoryNotFoundError

from ..model.local_paths import looks_like_path
from .label_advice import label_advice
from .local_data_sets import FASHION_MNIST_DIRECTORY, read_digits, read_fashion_mnist
from .message_words import quoted
from .metadata_folders import METADATA, MetadataFolder, has_metadata, metadata_files
from .split_names import role_of, roles_in

__all__ = ["Source", "SourceOptions", "StoredSplits", "read_source"]

_TABLES = ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")
_HUB_PREFIX = "hf://datasets/"
_LOCAL_NAMES = ("digits", "fashion_mnist")
_FILE_ENDINGS = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".parquet", ".arrow", ".csv"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
)

_ACCEPTED_NAMES = (
    "a Hub id such as 'zalando-datasets/fashion_mnist', a folder written by `save_to_disk`, a folder of Parquet or "
    "Arrow files, a folder of images with one subfolder per class (optionally in train/ and test/), "
    "'digits' or 'fashion_mnist'"
)


class SourceOptions(TypedDict, total=False):
    """Where a data set is read from.

    Args:
        config_name: configuration of a Hub data set.
        revision: branch, tag or commit of a Hub data set.
        token: Hub token for a private data set.
        cache_dir: cache folder of `datasets`; default: its usual one.
        fashion_mnist_dir: folder of the idx files of `fashion_mnist`.

    Example:
        >>> from hf_simplex.data.sources import SourceOptions
        >>> SourceOptions(revision="v1")
        {'revision': 'v1'}
    """

    config_name: str | None
    revision: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    fashion_mnist_dir: str | os.PathLike[str]


@dataclass(frozen=True)
class StoredSplits:
    """The splits of a data set, not read yet.

    Args:
        names: of all splits.
        load: reads some of them, with all their columns. Other splits are neither downloaded nor converted, unless
            the data set is one of the Hub in class folders without features in its card.
        revision: commit of a data set on the Hub; None for any other, and offline.
        metadata: the folder of images that metadata files describe; None for any other data set.

    Example:
        >>> from hf_simplex.data.sources import read_source
        >>> read_source("digits").splits.load(["test"]).num_rows
        {'test': 797}
    """

    names: tuple[str, ...]
    load: Callable[[Collection[str]], DatasetDict]
    revision: str | None = None
    metadata: MetadataFolder | None = None

    @property
    def undivided(self) -> bool:
        """Whether the images are in no split. They have the name `train`.

        Example:
            >>> from hf_simplex.data.sources import read_source
            >>> read_source("digits").splits.undivided
            False
        """
        return self.metadata is not None and not self.metadata.splits


@dataclass(frozen=True)
class Source:
    """A data set as it is stored.

    Args:
        name: of the data set, without the prefix `hf://datasets/`.
        splits: the splits; or the path of a folder of image files, which `image_folders` divides into splits.
        notes: what was left out, a sentence each.
        unlabelled: what the metadata files of a folder hold, if they hold no labels, for a message.

    Example:
        >>> from hf_simplex.data.sources import read_source
        >>> sorted(read_source("digits").splits.names)
        ['test', 'train']
    """

    name: str
    splits: StoredSplits | Path
    notes: tuple[str, ...]
    unlabelled: str | None = None


def read_source(
    name: str | os.PathLike[str],
    asked: Collection[str] = (),
    *,
    label_column: str | None = None,
    seed: int = 0,
    **options: Unpack[SourceOptions],
) -> Source:
    """Finds a data set and the splits that it has.

    Args:
        name: as in `image_data.load_image_data`.
        asked: names of folders in a local folder that are splits, beside the usual ones.
        label_column: column of labels in a metadata file; default: `label` or `labels`.
        seed: of the split of `digits`.
        **options: see `SourceOptions`.

    Returns:
        The data set. `load` of its splits raises ValueError or OSError for files that cannot be read.

    Raises:
        ValueError: the name is empty or unknown, a configuration or revision is given for a data set without any, the
            files of a folder cannot be told apart, or a file is broken.
        OSError: a folder or file is missing or broken, the name is a file, or the Hub does not answer.
        ImportError: `digits` needs scikit-learn.

    Example:
        >>> from hf_simplex.data.sources import read_source
        >>> read_source("digits", seed=1).splits.load(["train"])["train"].num_rows
        1000
    """
    name = os.fspath(name)
    if not name:
        # Path("") is the working folder.
        raise ValueError(f"The name of the data set is empty. Expected {_ACCEPTED_NAMES}.")
    cache_dir = options.get("cache_dir")
    cache = None if cache_dir is None else os.fspath(cache_dir)
    notes: list[str] = []
    splits: StoredSplits | Path
    unlabelled: str | None = None
    is_folder = Path(name).expanduser().is_dir()
    if name in _LOCAL_NAMES or is_folder:
        _check_not_given("revision", options.get("revision"), name)
    if name in _LOCAL_NAMES:
        _check_not_given("config_name", options.get("config_name"), name)
    if name == "digits":
        splits = _in_memory(read_digits(seed))
    elif name == "fashion_mnist":
        splits = _in_memory(read_fashion_mnist(Path(options.get("fashion_mnist_dir", FASHION_MNIST_DIRECTORY))))
    elif is_folder:
        splits, unlabelled = _local_folder(
            Path(name).expanduser().resolve(), asked, label_column, options.get("config_name"), cache, notes
        )
    else:
        if name.startswith(_HUB_PREFIX):
            name = name.removeprefix(_HUB_PREFIX)
        else:
            _check_hub_id(name)
        splits = _hub_data_set(
            name,
            options.get("config_name"),
            revision=options.get("revision"),
            token=options.get("token"),
            cache_dir=cache,
        )
    return Source(name, splits, tuple(notes), unlabelled)


def _in_memory(splits: DatasetDict) -> StoredSplits:
    return StoredSplits(tuple(splits), partial(_some_of, splits))


def _some_of(splits: DatasetDict, chosen: Collection[str]) -> DatasetDict:
    return DatasetDict({split: splits[split] for split in chosen})


def _local_folder(
    folder: Path,
    asked: Collection[str],
    label_column: str | None,
    config_name: str | None,
    cache: str | None,
    notes: list[str],
) -> tuple[Path | StoredSplits, str | None]:
    """The data set, and what metadata files without labels hold."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        _check_not_given("config_name", config_name, str(folder))
        return _saved_splits(folder), None
    tables = [file for pattern in _TABLES for file in folder.glob(pattern) if file.name not in METADATA]
    if tables:
        splits = _splits_of_files(str(folder), config_name, cache_dir=cache)
        said = set().union(*(roles_in(part) for file in tables for part in file.relative_to(folder).parts))
        if len(splits.names) == 1 and len(said) > 1:
            # `datasets` knows names in lower case only.
            raise ValueError(
                f"The files in {folder} have names of splits ({', '.join(sorted(said))}), but `datasets` reads them "
                f"as one split {splits.names[0]!r}. Use lower case, such as train.parquet and test.parquet."
            )
        return splits, None
    _check_not_given("config_name", config_name, str(folder))
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    metadata = has_metadata(folder)
    if not subfolders and not metadata:
        raise ValueError(f"The folder {folder} holds no data set. Expected {_ACCEPTED_NAMES}.")
    if metadata:
        named = [name for name in subfolders if role_of(name) or name in asked]
        described = [name for name in named if has_metadata(folder / name)]
        if described or not named:
            # By default, `datasets` takes a file or class with "test" in its name for a test split and drops all
            # others.
            patterns = {split: f"{split}/**" for split in described} or {"train": "**"}
            loaded = _load("imagefolder", None, data_dir=str(folder), data_files=patterns, cache_dir=cache)
            first = next(iter(loaded.values()))
            if {label_column, "label", "labels"} & set(first.column_names):
                if described and (others := sorted(set(subfolders) - set(described))):
                    notes.append(f"left out the folders {', '.join(map(repr, others))}, which have no metadata file")
                return replace(_in_memory(loaded), metadata=MetadataFolder(folder, tuple(described))), None
            file = metadata_files(folder / described[0] if described else folder)[0]
            columns = quoted([column for column, kind in first.features.items() if not isinstance(kind, Image)])
            wanted = "'label' or 'labels'" if label_column is None else repr(label_column)
            unlabelled = (
                f"{file} has {f'the columns {columns}' if columns else 'no column'} beside the file names, and none "
                f"is {wanted}. {label_advice(first, file)}"
            )
            if label_column not in (None, "label"):
                raise ValueError(unlabelled)
            return folder, unlabelled
    return folder, None


def _saved_splits(folder: Path) -> StoredSplits:
    """The splits that `save_to_disk` wrote. A data set without splits is the split `train`."""
    if not (file := folder / "dataset_dict.json").exists():
        return StoredSplits(("train",), lambda chosen: DatasetDict({split: _saved_split(folder) for split in chosen}))
    try:
        names = tuple(map(str, json.loads(file.read_text("utf-8"))["splits"]))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} lists no splits ({error}). Save the data set again.") from error
    return StoredSplits(names, lambda chosen: DatasetDict({split: _saved_split(folder / split) for split in chosen}))


def _saved_split(folder: Path) -> Any:
    try:
        return load_from_disk(str(folder))
    except IndexError as error:  # from `datasets`, for a split without files
        raise ValueError(f"The data set in {folder}, or one of its splits, is empty.") from error
    except (LookupError, TypeError, AttributeError) as error:  # for a file that is no such JSON
        raise ValueError(f"The data set in {folder} is broken ({error!r}). Save it again.") from error


def _splits_of_files(path: str, config_name: str | None, **options: Any) -> StoredSplits:
    """The splits of a folder or Hub repository of files that `datasets` reads."""
    builder = load_dataset_builder(path, config_name, **options)
    features = builder.info.features
    if builder.config.data_files is None:  # offline, from the cache
        return _in_memory(_load(path, config_name, **options))
    files = {str(split): own for split, own in builder.config.data_files.items()}
    # Class folders have to be seen all: their names are the labels.
    divisible = features is not None or not isinstance(builder, FolderBasedBuilder)

    def load(chosen: Collection[str]) -> DatasetDict:
        # By default, `datasets` downloads and converts all splits, also with `split`.
        some: dict[str, Any] = {}
        if divisible and set(chosen) != set(files):
            some = {
                "data_files": {split: files[split] for split in chosen},
                "features": features,
                "verification_mode": "no_checks",  # of the number of splits
            }
        return _some_of(_load(path, config_name, **some, **options), chosen)

    commit = builder.hash if builder.repo_id is not None else None
    return StoredSplits(tuple(files), load, commit)


def _load(path: str, config_name: str | None, **options: Any) -> DatasetDict:
    try:
        return load_dataset(path, config_name, **options)
    except (DatasetsError, pa.ArrowException, ValueError, OSError) as error:
        # OSError: of the network, or of a broken Parquet file. ValueError: for an empty split, too.
        kind = OSError if isinstance(error, OSError) else ValueError
        reason = " ".join(str(each) for each in (error, error.__cause__) if each is not None)
        raise kind(f"{options.get('data_dir', path)} cannot be read: {reason}") from error


def _hub_data_set(name: str, config_name: str | None, **options: Any) -> StoredSplits:
    try:
        return _splits_of_files(name, config_name, **options)
    except (DatasetNotFoundError, RepositoryNotFoundError) as error:
        raise ValueError(
            f"{name!r} is no folder, and no data set on the Hub that you may read: {error} Expected {_ACCEPTED_NAMES}."
        ) from error
    except ValueError as error:
        if not datasets.config.HF_HUB_OFFLINE:
            raise
        raise ValueError(
            f"{name!r} is not in the cache of `datasets` with all its splits, and the Hub is offline ({error}). Load "
            f"it once online: datasets.load_dataset({name!r})."
        ) from error


def _check_not_given(option: str, value: str | None, name: str) -> None:
    if value is not None:
        raise ValueError(f"{option} is {value!r}, but {name} is not from the Hub and has no {option}: leave it out.")


def _check_hub_id(name: str) -> None:
    """Raises an error for a name that is a path or no Hub id."""
    path = Path(name).expanduser()
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; expected {_ACCEPTED_NAMES}. Unpack an archive first.")
    in_a_folder = name.count("/") == 1 and path.parent.is_dir()
    if looks_like_path(name) or in_a_folder or name.lower().endswith(_FILE_ENDINGS):
        raise FileNotFoundError(
            f"There is no file or folder {name} (looked for {path.absolute()}). Expected {_ACCEPTED_NAMES}."
            + (f" For the data set on the Hub, write {_HUB_PREFIX}{name}." if in_a_folder else "")
        )
    if name.count("/") != 1:
        raise ValueError(f"Unknown data set {name!r}. Expected {_ACCEPTED_NAMES}.")
