"""Notes what a load reads and writes outside its folder."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hf_simplex

__all__ = ["Audit"]

# Audit events with a path that is changed. "open" is read apart.
_WRITES = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "shutil.move", "shutil.rmtree", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind"}


class Audit:
    """An audit hook that is active within `watching`. A hook cannot be removed, so there is one for a process.

    Args:
        folder: whose files may be read.
        writes: they may be written as well.
    """

    def __init__(self, folder: Path, *, writes: bool = False) -> None:
        self.writes = writes
        self.folder = os.path.realpath(folder)
        installed = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path[1:]}
        own = Path(hf_simplex.__file__).parent
        self.readable = tuple(os.path.realpath(path) for path in (*filter(None, installed), own))
        self.offences: list[str] = []
        self.is_active = False
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Collect what is done outside the folder, and any write in it."""
        self.offences = []
        self.is_active = True
        try:
            yield self.offences
        finally:
            self.is_active = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_active:
            return
        if event == "open":
            self._check_open(*arguments)
        elif event in _NEVER or (event in _WRITES and not (self.writes and self._is_inside(arguments))):
            self.offences.append(f"{event} {arguments}")

    def _is_inside(self, arguments: tuple[Any, ...]) -> bool:
        """Whether all paths of an operation are in the folder. A link at the end of a path is not followed."""
        paths = [os.fsdecode(argument) for argument in arguments if isinstance(argument, str | bytes | os.PathLike)]
        return all(
            f"{os.path.realpath(os.path.dirname(path))}{os.sep}".startswith(self.folder + os.sep) for path in paths
        )

    def _check_open(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int):
            return
        place = os.path.realpath(os.fsdecode(path))
        is_write = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if is_write and flags & os.O_EXCL:
            # This follows no link at the end of a path.
            place = os.path.join(os.path.realpath(os.path.dirname(os.fsdecode(path))), os.path.basename(path))
        if is_write and not (self.writes and place.startswith(self.folder + os.sep)):
            self.offences.append(f"write {place}")
        elif not any(
            place == allowed or place.startswith(allowed + os.sep) for allowed in (self.folder, *self.readable)
        ):
            self.offences.append(f"read {place}")
