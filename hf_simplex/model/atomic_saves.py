"""Saves that happen wholly or not at all: files are written to a folder aside, then renamed."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .save_lock import save_lock

__all__ = ["atomic_write", "committed_saves", "finish_saves", "is_plain_name", "is_regular_file"]

# A save's temporary folder is renamed from the first name to the second when the save is committed.
_FOLDER = re.compile(r"\.(saving|saved)-[0-9a-f]{16}")
# The first file in it says that it is ours, the last one what to move and what to remove. They are not the same: a
# process can be killed within a write.
_MARK, _MANIFEST = ".saving.json", ".save.json"
_FORMAT = "hf-simplex save 1"
# The system names no file where a write to an open one fails.
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


@contextmanager
def atomic_write(
    directory: str | os.PathLike[str],
    listed: Callable[[Path], set[str]] | None = None,
    *,
    last: str | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those in `directory` when the context ends without an error.

    A crash or a full disk leaves the old files whole. One rename of the temporary folder commits the save. A process
    killed before it has saved nothing, and the next save removes what it left. After it, the next save moves the
    remaining files, and loading reads them where they are. Savers exclude each other. Files get the permissions of
    the umask. A folder that was created for a save that fails is removed.

    Args:
        directory: created if it does not exist.
        listed: returns the file names that belong to a folder's content. The save removes those of the former content
            that the new one does not list.
        last: name of the file without which nobody reads the others. The former one is removed before the other files
            move, and the new one moves last. A folder that is read without `committed_saves` then never holds
            files of both saves that pass for one.

    Raises:
        OSError: the disk is full, or another process has been saving to `directory` for ten minutes.
        ValueError: the context made something other than regular files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with atomic_write(directory) as aside:
        ...         _ = (aside / "config.json").write_text("{}")
        ...     os.listdir(directory)
        ['config.json']
    """
    target = Path(directory)
    created = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    try:
        with _named_errors(target), save_lock(target) as check_lock:
            _finish(target)
            aside = target / f".saving-{secrets.token_hex(8)}"
            # Not tempfile.mkdtemp: this folder has the permissions that the umask says.
            aside.mkdir()
            try:
                (aside / _MARK).write_text(json.dumps({"format": _FORMAT}), "utf-8")
                yield aside
                check_lock()
                _commit(aside, target, listed(target) - listed(aside) if listed else set(), last)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            _finish(target)
    except BaseException:
        for folder in created:
            # Not empty where another process uses it too.
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _named_errors(target: Path) -> Iterator[None]:
    """Name the folder in errors of a disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            raise OSError(error.errno, error.strerror, os.fspath(target)) from error
        raise
    except SafetensorError as error:
        if "I/O error" in str(error):
            raise OSError(f"The weights could not be saved to {target}: {error}") from error
        raise


def finish_saves(directory: str | os.PathLike[str]) -> None:
    """Complete the saves to a folder that were killed after their commit, and remove what others left.

    Links, and folders that `atomic_write` did not make, stay as they are.

    Example:
        >>> finish_saves("no-such-folder")
    """
    target = Path(directory)
    if next(_own_folders(target), None) is not None:
        with save_lock(target):
            _finish(target)


def committed_saves(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of committed saves whose files are still to be moved: mostly none. Nothing is written.

    Example:
        >>> committed_saves("no-such-folder")
        []
    """
    return [folder for folder in _own_folders(Path(directory)) if _is_committed(folder) and _manifest(folder)]


def is_regular_file(path: Path) -> bool:
    """Return whether a path is a file and not a link to one.

    Example:
        >>> is_regular_file(Path("no-such-file"))
        False
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_plain_name(name: object) -> bool:
    """Return whether a value is the name of a file in the same folder, on any system.

    Example:
        >>> is_plain_name("config.json"), is_plain_name("../config.json"), is_plain_name(".")
        (True, False, False)
    """
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\:\x00]", name)


def _own_folders(target: Path) -> Iterator[Path]:
    """The temporary folders in `target` that `atomic_write` made."""
    try:
        entries = sorted(entry.name for entry in os.scandir(target) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in entries:
        if _FOLDER.fullmatch(name) and _is_own(target / name):
            yield target / name


def _is_own(folder: Path) -> bool:
    if _manifest(folder) or (not _is_committed(folder) and _has_mark(folder)):
        return True
    try:
        # A process was killed before it had written the mark, or when it had removed all else.
        return all(name in (_MARK, _MANIFEST) and is_regular_file(folder / name) for name in os.listdir(folder))
    except OSError:
        # The saver has just renamed or removed it.
        return False


def _is_committed(folder: Path) -> bool:
    return folder.name.startswith(".saved-")


def _manifest(folder: Path) -> dict[str, Any] | None:
    content = _read_own(folder / _MANIFEST)
    try:
        return content if content and all(map(is_plain_name, [*content["files"], *content["removed"]])) else None
    except (KeyError, TypeError):
        return None


def _has_mark(folder: Path) -> bool:
    return _read_own(folder / _MARK) is not None


def _read_own(file: Path) -> dict[str, Any] | None:
    """The content of a file that `atomic_write` wrote; None for any other, or a part of one."""
    if not is_regular_file(file):
        return None
    try:
        content = json.loads(file.read_text("utf-8"))
        return dict(content) if content["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _commit(aside: Path, target: Path, removed: set[str], last: str | None) -> None:
    """Decide the save: from here on it happens. What it needs is on the disk before."""
    mode = stat.S_IMODE(aside.stat().st_mode) & 0o666
    files = sorted(entry.name for entry in aside.iterdir() if entry.name not in (_MARK, _MANIFEST))
    if others := [name for name in files if not (is_plain_name(name) and is_regular_file(aside / name))]:
        raise ValueError(f"{others[0]} in a save to {target} is no regular file with a plain name: write only those.")
    content = {"format": _FORMAT, "files": files, "removed": sorted(removed), "last": last}
    (aside / _MANIFEST).write_text(json.dumps(content), "utf-8")
    for name in (*files, _MANIFEST):
        # safetensors and tempfile write files that only their owner reads.
        os.chmod(aside / name, mode)
        _synchronize(aside / name)
    _synchronize(aside)
    os.replace(aside, target / aside.name.replace(".saving-", ".saved-"))
    _synchronize(target)


def _finish(target: Path) -> None:
    """Move the files of committed saves, and remove the folders of the others. The caller holds the lock."""
    for folder in _own_folders(target):
        manifest = _manifest(folder)
        if manifest is not None and _is_committed(folder):
            last = str(manifest.get("last"))
            if last in manifest["files"] and is_regular_file(folder / last):
                (target / last).unlink(missing_ok=True)
            for name in sorted(manifest["files"], key=lambda name: str(name) == last):
                if is_regular_file(folder / name):
                    os.replace(folder / name, target / name)
            for name in manifest["removed"]:
                (target / name).unlink(missing_ok=True)
            _synchronize(target)
        for name in os.listdir(folder):
            if name not in (_MARK, _MANIFEST):
                _remove(folder / name)
        # Last: without them the folder would be nobody's after a kill.
        (folder / _MARK).unlink(missing_ok=True)
        (folder / _MANIFEST).unlink(missing_ok=True)
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _synchronize(path: Path) -> None:
    """Write a file, or the entries of a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folders.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
