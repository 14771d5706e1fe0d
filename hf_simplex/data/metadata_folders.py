"""Folders of images whose labels are in metadata files that `datasets` reads, a line for each image."""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Image

from .image_walk import walk_images
from .message_words import counted, quoted

__all__ = ["METADATA", "MetadataFolder", "has_metadata", "metadata_files", "metadata_notes"]

logger = logging.getLogger(__name__)

_LINES = 3

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files that `datasets` reads labels from."""


@dataclass(frozen=True)
class MetadataFolder:
    """A folder of images with metadata files.

    Args:
        folder: of the images.
        splits: names of the subfolders that are splits; empty where the images are in no split.

    Example:
        >>> from pathlib import Path
        >>> from hf_simplex.data.metadata_folders import MetadataFolder
        >>> MetadataFolder(Path("pets"), ("train", "test")).splits
        ('train', 'test')
    """

    folder: Path
    splits: tuple[str, ...] = ()


def has_metadata(folder: Path) -> bool:
    """Returns whether a folder or its subfolders hold a file of labels that `datasets` reads.

    Example:
        >>> from pathlib import Path
        >>> from hf_simplex.data.metadata_folders import has_metadata
        >>> has_metadata(Path("hf_simplex"))
        False
    """
    return any(next(folder.rglob(name), None) is not None for name in METADATA)


def metadata_files(folder: Path) -> list[Path]:
    """Lists the metadata files in a folder and its subfolders.

    Example:
        >>> from pathlib import Path
        >>> from hf_simplex.data.metadata_folders import metadata_files
        >>> metadata_files(Path("hf_simplex"))
        []
    """
    return sorted(file for name in METADATA for file in folder.rglob(name))


def metadata_notes(found: MetadataFolder, splits: Mapping[str, Dataset], image_column: str | None = None) -> list[str]:
    """Checks that no image has two lines, and says how many images have none.

    The log names the first of them. What is returned is published with an ensemble, and names no image.

    Args:
        found: the folder.
        splits: its splits by their own names, with all columns. Images in no split are the split `train`.
        image_column: column of images that is used; default: the only one.

    Returns:
        What was left out, a sentence each.

    Raises:
        ValueError: an image has several lines. The message names the lines.

    Example::

        metadata_notes(MetadataFolder(Path("pets")), {"train": dataset})
    """
    files = walk_images(found.folder)[0]
    notes = []
    for split, dataset in splits.items():
        folder = found.folder / split if found.splits else found.folder
        described = [_relative(file, found.folder) for file in metadata_files(folder)]
        columns = [column for column, feature in dataset.features.items() if isinstance(feature, Image)]
        paths = {column: _paths(dataset, column) for column in columns}
        for column, own in paths.items():
            if image_column == column or (image_column is None and len(columns) == 1):
                _check_named_once(own, column, folder, found.folder)
        named = set().union(*paths.values())
        unnamed = [
            _relative(file.path, found.folder)
            for file in files
            if (not found.splits or file.parts[:1] == (split,)) and file.path not in named
        ]
        if unnamed:
            lines = f"line of {described[0]}" if len(described) == 1 else "line of a metadata file"
            notes.append(f"left out {counted(len(unnamed), 'image')} that no {lines} names")
            logger.warning("%s: images that no %s names: %s.", found.folder, lines, quoted(unnamed))
    beside = [_relative(file.path, found.folder) for file in files if found.splits and not file.parts]
    if beside:
        notes.append(f"left out {counted(len(beside), 'image')} beside the folders of the splits")
        logger.warning("%s: images beside the folders of the splits: %s.", found.folder, quoted(beside))
    return notes


def _relative(path: str | Path, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _paths(dataset: Dataset, column: str) -> list[str]:
    stored: pa.ChunkedArray = dataset.select_columns(column).with_format("arrow")[:][column]
    return [os.path.normpath(path) for path in pc.struct_field(stored, "path").to_pylist() if path is not None]


def _check_named_once(paths: Sequence[str], column: str, folder: Path, root: Path) -> None:
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if not repeated:
        return
    first = _relative(repeated[0], root)
    # The column of images is what `datasets` makes of `file_name`.
    keys = (f"{column}_file_name", *(("file_name",) if column == "image" else ()))
    lines = [
        f"line {line} of {_relative(file, root)}"
        for file in metadata_files(folder)
        for line, name in _named(file, keys)
        if os.path.normpath(file.parent / name.replace("\\", "/")) == repeated[0]
    ]
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"{len(lines) - _LINES} more"]
    where = ": " + " and ".join([", ".join(lines[:-1]), lines[-1]]) if len(lines) > 1 else ""
    more = f", and so have {counted(len(repeated) - 1, 'other image')}" if len(repeated) > 1 else ""
    raise ValueError(
        f"The image {first!r} in {root} has several lines of metadata{where}{more}. Keep one line for each image."
    )


def _named(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The line and the image of each row of a metadata file. Of Parquet, lines are rows, from 1."""
    for line, row in _rows(file):
        for key in keys:
            if isinstance(name := row.get(key), str):
                yield line, name


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if file.suffix == ".parquet":
        yield from enumerate(pq.read_table(file).to_pylist(), 1)
    elif file.suffix == ".jsonl":
        # A string of JSON may hold other characters that `splitlines` takes for the end of a line.
        for line, text in enumerate(file.read_text("utf-8").split("\n"), 1):
            if text.strip():
                yield line, json.loads(text)
    else:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader, line = csv.DictReader(stream), 2
            for row in reader:
                yield line, row
                # A cell in quotes may have several lines.
                line = reader.line_num + 1
