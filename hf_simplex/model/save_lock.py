"""The lock of a folder: one process at a time saves to it."""

import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOCK_FILE", "is_locked", "save_lock"]

LOCK_FILE = ".save-lock"
# Seconds to wait for another saver, and the age of a lock whose owner counts as dead wherever it runs.
_PATIENCE, _LIFETIME = 600.0, 3600.0
# An unreadable lock is one that its owner has just created, or that a crash left.
_WRITING = 10.0
_held: set[str] = set()


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock: a process of a host. `file` identifies the lock file, `age` is in seconds."""

    host: str
    process: int
    token: str
    age: float
    file: tuple[int, int]

    def is_alive(self) -> bool:
        if self.age > (_LIFETIME if self.token else _WRITING):
            return False
        if not self.token or self.host != socket.gethostname():
            return True
        if self.process == os.getpid():
            # A container that starts again gives the same numbers to its processes.
            return self.token in _held
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True


@contextmanager
def save_lock(directory: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder within the context. The lock of a dead process is taken over.

    The lock file names its owner. An owner is dead if its process no longer runs on this host, or after an hour.

    Args:
        directory: an existing folder.
        patience: seconds to wait for another owner; default: ten minutes.

    Raises:
        OSError: another process still holds the lock.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name, save_lock(Path(name)):
        ...     os.listdir(name)
        ['.save-lock']
    """
    token, path = secrets.token_hex(8), directory / LOCK_FILE
    end = time.monotonic() + (_PATIENCE if patience is None else patience)
    while not _create(path, token):
        owner = _owner(path)
        if owner is None:
            continue
        if not owner.is_alive():
            _remove_dead(path, owner)
        elif time.monotonic() > end:
            raise OSError(
                f"Process {owner.process} on {owner.host or 'an unknown host'} has been saving to {directory} for "
                f"{owner.age:.0f} s. Save again when it has finished. If it does not run any more, remove {path}."
            )
        else:
            time.sleep(0.02)
    try:
        yield
    finally:
        _held.discard(token)
        current = _owner(path)
        if current is not None and current.token == token:
            with suppress(FileNotFoundError):
                path.unlink()


def is_locked(directory: Path) -> bool:
    """Return whether a living process saves to a folder.

    Example:
        >>> is_locked(Path("no-such-folder"))
        False
    """
    owner = _owner(directory / LOCK_FILE)
    return owner is not None and owner.is_alive()


def _create(path: Path, token: str) -> bool:
    try:
        # O_EXCL also refuses a link.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    _held.add(token)
    content = {"host": socket.gethostname(), "process": os.getpid(), "token": token}
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return True


def _owner(path: Path) -> _Owner | None:
    """The owner of a lock; without a token if the file is not a whole lock; None without a file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    age, file = time.time() - found.st_mtime, (found.st_dev, found.st_ino)
    unknown = _Owner("", 0, "", age, file)
    if not stat.S_ISREG(found.st_mode) or found.st_size > 10_000:
        return unknown
    try:
        content = json.loads(path.read_text("utf-8"))
        return _Owner(str(content["host"]), int(content["process"]), str(content["token"]), age, file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return unknown


def _remove_dead(path: Path, owner: _Owner) -> None:
    """Remove the lock of a dead owner, but not the one that another waiting process has put in its place."""
    aside = path.with_name(f"{LOCK_FILE}-{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        found = aside.lstat()
        if (found.st_dev, found.st_ino) != owner.file:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
