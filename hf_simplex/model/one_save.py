"""Reads the files of a folder so that all are of one save, whoever saves meanwhile. Nothing here needs torch."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from .atomic_saves import committed_saves
from .index_file import INDEX_NAME, is_weight_file
from .save_lock import is_locked

__all__ = ["read_one_save"]

Read = TypeVar("Read")

# Opening takes milliseconds, as does the moment in which a saver renames its files.
_ATTEMPTS, _PAUSE = 100, 0.02
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json", INDEX_NAME)


def read_one_save(folder: Path, read: Callable[[ExitStack], Read], stack: ExitStack) -> Read:
    """Read files of a folder, again and again until none was replaced meanwhile.

    Args:
        folder: of the ensemble.
        read: opens the files, and enters them into the stack that it is given. Its errors are raised if no file was
            replaced meanwhile.
        stack: receives the files of the attempt that counts.

    Raises:
        OSError: another process saves without a pause.

    Example:
        >>> with ExitStack() as stack:
        ...     read_one_save(Path("no-such-folder"), lambda opened: 1, stack)
        1
    """
    for _ in range(_ATTEMPTS):
        before, failure, attempt = _state_of(folder), None, ExitStack()
        try:
            found = read(attempt)
        except (OSError, ValueError, RuntimeError) as error:
            failure = error
        if before is not None and before == _state_of(folder):
            if failure is not None:
                raise failure
            stack.push(attempt)
            return found
        attempt.close()
        time.sleep(_PAUSE)
    raise OSError(
        f"The files of {folder} changed while they were opened, {_ATTEMPTS} times: another process saves to it. Load "
        "it again when that process has finished."
    ) from failure


def _state_of(folder: Path) -> tuple[Any, ...] | None:
    """The identity of the ensemble's files in a folder; None while a save moves them."""
    committed = committed_saves(folder)
    if committed and is_locked(folder):
        return None
    found = []
    for place in (folder, *committed):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in _SETTINGS or is_weight_file(entry.name):
                        status = entry.stat()
                        found.append((entry.path, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            # The file was renamed at this moment, or the folder does not exist: opening says so.
            found.append((str(place), 0, 0, 0))
    return tuple(sorted(found))
