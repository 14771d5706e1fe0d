"""The lock of a folder: one process at a time saves to it."""

import json
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOCK_FILE", "is_locked", "save_lock"]

LOCK_FILE = ".save-lock"
# Seconds to wait for another saver, and the age of a lock whose owner counts as dead wherever it runs. A living owner
# renews its lock many times in a lifetime.
_PATIENCE, _LIFETIME, _RENEWALS = 600.0, 3600.0, 60
# An unreadable lock is one that its owner has just created, or that a crash left.
_WRITING = 10.0
# The lock of a dead owner while it is removed.
_ASIDE = re.compile(rf"{re.escape(LOCK_FILE)}-[0-9a-f]{{16}}")
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
def save_lock(directory: Path, patience: float | None = None) -> Iterator[Callable[[], None]]:
    """Hold the lock of a folder within the context. The lock of a dead process is taken over.

    The lock file names its owner, who renews it every minute. An owner is dead if its process no longer runs on this
    host, or has not renewed its lock for an hour.

    Args:
        directory: an existing folder.
        patience: seconds to wait for another owner; default: ten minutes.

    Yields:
        A function that raises OSError if the lock was lost: another process takes it from a process that was
        suspended for an hour.

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
    ended = threading.Event()
    try:
        threading.Thread(target=_renew, args=(path, token, ended), daemon=True).start()
        _remove_leftovers(directory)
        yield lambda: _check_held(path, token)
    finally:
        ended.set()
        _held.discard(token)
        if _is_held(path, token):
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
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
    except BaseException:
        # The disk is full: an empty lock would keep the next saver waiting.
        _held.discard(token)
        path.unlink(missing_ok=True)
        raise
    return True


def _renew(path: Path, token: str, ended: threading.Event) -> None:
    """Give a lock the present time again and again, until its owner has ended or lost it."""
    while not ended.wait(_LIFETIME / _RENEWALS) and _is_held(path, token):
        with suppress(OSError):
            os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)


def _is_held(path: Path, token: str) -> bool:
    owner = _owner(path)
    return owner is not None and owner.token == token


def _check_held(path: Path, token: str) -> None:
    if not _is_held(path, token):
        raise OSError(
            f"This process has lost {path}: it did not run for an hour, and another process may have saved meanwhile. "
            "Save again."
        )


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


def _remove_leftovers(directory: Path) -> None:
    """Remove what processes left that were killed while they removed the lock of a dead owner."""
    for name in os.listdir(directory):
        if _ASIDE.fullmatch(name):
            owner = _owner(directory / name)
            # The lock of a living owner is put back by the process that took it by mistake.
            if owner is not None and not owner.is_alive():
                (directory / name).unlink(missing_ok=True)
