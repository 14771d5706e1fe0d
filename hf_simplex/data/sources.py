"""Finds and reads a data set by name, with the splits that it has."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError

from .image_folders import METADATA, has_metadata
from .local_data_sets import FASHION_MNIST_DIRECTORY, read_digits, read_fashion_mnist
from .split_names import role_of, roles_in

__all__ = ["Source", "read_source"]

_TABLES = ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow")
_HUB_PREFIX = "hf://datasets/"
_FILE_ENDINGS = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".parquet", ".arrow", ".csv"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
)

_ACCEPTED_NAMES = (
    "a Hub id such as 'zalando-datasets/fashion_mnist', a folder written by `save_to_disk`, a folder of Parquet or "
    "Arrow files, a folder of images with one subfolder per class (optionally in train/ and test/), "
    "'digits' or 'fashion_mnist'"
)


@dataclass(frozen=True)
class Source:
    """A data set as it is stored.

    Args:
        name: of the data set, without the prefix `hf://datasets/`.
        splits: data set of each split, with all its columns; or the path of a folder of image files, which
            `image_folders` divides into splits.
        notes: what was left out, a sentence each.

    Example:
        >>> from hf_simplex.data.sources import read_source
        >>> sorted(read_source("digits").splits)
        ['test', 'train']
    """

    name: str
    splits: DatasetDict | Path
    notes: tuple[str, ...]


def read_source(
    name: str | os.PathLike[str],
    asked: Collection[str] = (),
    *,
    config_name: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    fashion_mnist_dir: str | os.PathLike[str] = FASHION_MNIST_DIRECTORY,
) -> Source:
    """Reads a data set with the splits that it has.

    Args:
        name: as in `image_data.load_image_data`.
        asked: names of folders in a local folder that are splits, beside the usual ones.
        config_name: configuration of a Hub data set.
        label_column: column of labels in a metadata file; default: `label` or `labels`.
        seed: of the split of `digits`.
        revision: branch, tag or commit of a Hub data set.
        token: Hub token for a private data set.
        cache_dir: cache folder of `datasets`; default: its usual one.
        fashion_mnist_dir: folder of the idx files of `fashion_mnist`.

    Returns:
        The data set.

    Raises:
        ValueError: the name is unknown, or the files of a folder cannot be told apart.
        FileNotFoundError: a folder or an idx file is missing.
        NotADirectoryError: the name is a file.
        ImportError: `digits` needs scikit-learn.

    Example:
        >>> from hf_simplex.data.sources import read_source
        >>> read_source("digits").splits["test"].num_rows
        797
    """
    name = os.fspath(name)
    notes: list[str] = []
    splits: DatasetDict | Path
    if name == "digits":
        splits = read_digits(seed)
    elif name == "fashion_mnist":
        splits = read_fashion_mnist(Path(fashion_mnist_dir))
    elif Path(name).expanduser().is_dir():
        splits = _local_folder(Path(name).expanduser().resolve(), asked, label_column, cache_dir, notes)
    else:
        if name.startswith(_HUB_PREFIX):
            name = name.removeprefix(_HUB_PREFIX)
        else:
            _check_hub_id(name)
        splits = _hub_data_set(name, config_name, revision, token, cache_dir)
    return Source(name, splits, tuple(notes))


def _local_folder(
    folder: Path,
    asked: Collection[str],
    label_column: str | None,
    cache_dir: str | os.PathLike[str] | None,
    notes: list[str],
) -> Path | DatasetDict:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        try:
            loaded = load_from_disk(str(folder))
        except IndexError as error:  # from `datasets`, for a split without files
            raise ValueError(f"The data set in {folder}, or one of its splits, is empty.") from error
        return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    cache = None if cache_dir is None else os.fspath(cache_dir)
    tables = [file for pattern in _TABLES for file in folder.glob(pattern) if file.name not in METADATA]
    if tables:
        loaded = load_dataset(str(folder), cache_dir=cache)
        said = set().union(*(roles_in(part) for file in tables for part in file.relative_to(folder).parts))
        if len(loaded) == 1 and len(said) > 1:
            # `datasets` knows names in lower case only.
            raise ValueError(
                f"The files in {folder} have names of splits ({', '.join(sorted(said))}), but `datasets` reads them "
                f"as one split {next(iter(loaded))!r}. Use lower case, such as train.parquet and test.parquet."
            )
        return loaded
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
            loaded = load_dataset("imagefolder", data_dir=str(folder), data_files=patterns, cache_dir=cache)
            if {label_column, "label", "labels"} & set(next(iter(loaded.values())).column_names):
                if described and (others := sorted(set(subfolders) - set(described))):
                    notes.append(f"left out the folders {', '.join(map(repr, others))}, which have no metadata file")
                return loaded
    return folder


def _hub_data_set(
    name: str,
    config_name: str | None,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
) -> DatasetDict:
    cache = None if cache_dir is None else os.fspath(cache_dir)
    try:
        return load_dataset(name, config_name, revision=revision, token=token, cache_dir=cache)
    except DatasetNotFoundError as error:
        raise ValueError(
            f"{name!r} is no folder, and no data set on the Hub that you may read: {error} Expected {_ACCEPTED_NAMES}."
        ) from error


def _check_hub_id(name: str) -> None:
    """Raises an error for a name that is a path or no Hub id."""
    path = Path(name).expanduser()
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; expected {_ACCEPTED_NAMES}. Unpack an archive first.")
    in_a_folder = name.count("/") == 1 and path.parent.is_dir()
    marks = name.startswith((".", "~", os.sep)) or name.endswith("/") or name.count("/") > 1 or "\\" in name
    if marks or in_a_folder or name.lower().endswith(_FILE_ENDINGS):
        raise FileNotFoundError(
            f"There is no file or folder {name} (looked for {path.absolute()}). Expected {_ACCEPTED_NAMES}."
            + (f" For the data set on the Hub, write {_HUB_PREFIX}{name}." if in_a_folder else "")
        )
    if name.count("/") != 1:
        raise ValueError(f"Unknown data set {name!r}. Expected {_ACCEPTED_NAMES}.")
