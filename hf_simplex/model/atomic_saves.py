"""Saves that happen wholly or not at all: files are written to a folder aside, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_write", "clear_saves", "finish_saves"]

# Prefixes of a save's temporary folder, before and after the save is committed.
_UNFINISHED, _COMMITTED = ".saving-", ".saved-"


@contextmanager
def atomic_write(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those in `directory` when the context ends without an error.

    A crash or a full disk leaves the old files whole. One rename of the temporary folder commits the save. A process
    killed before it has saved nothing. After it, `finish_saves` moves the remaining files at the next save or load.

    Example:
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with atomic_write(directory) as aside:
        ...         _ = (aside / "config.json").write_text("{}")
        ...     os.listdir(directory)
        ['config.json']
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    finish_saves(target)
    aside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=target))
    try:
        yield aside
        os.replace(aside, target / aside.name.replace(_UNFINISHED, _COMMITTED))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    finish_saves(target)


def finish_saves(directory: str | os.PathLike[str]) -> None:
    """Complete the saves that were killed after their commit: move their remaining files.

    Example:
        >>> finish_saves(tempfile.gettempdir())
    """
    for committed in Path(directory).glob(f"{_COMMITTED}*"):
        for file in committed.iterdir():
            # Another process may move the file first.
            with suppress(FileNotFoundError):
                os.replace(file, Path(directory) / file.name)
        with suppress(FileNotFoundError):
            committed.rmdir()


def clear_saves(directory: str | os.PathLike[str]) -> None:
    """Remove the temporary folders of saves that were killed before their commit.

    No other process may save to `directory` meanwhile.

    Example:
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     clear_saves(directory)
    """
    for unfinished in Path(directory).glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished)
