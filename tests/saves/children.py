"""Runs a save in a child process that dies, or whose disk is full, at a chosen operation."""

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["KILLED", "Ended", "fail_at", "kill_at", "kill_beyond_size", "limit_size", "run"]

KILLED = 99
# Audit events of operations that change a folder. Removals need no space.
_CHANGES = {"os.rename", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
_REMOVALS = {"os.remove", "os.rmdir"}
_OTHERS = {"os.chmod", "os.utime"}


@dataclass(frozen=True)
class Ended:
    """How a child process ended.

    Attributes:
        status: exit status: 0, 1 after an exception, KILLED, or a negative signal.
        error: type of the exception; empty without one.
        message: its text.
        seconds: wall time.
    """

    status: int
    error: str
    message: str
    seconds: float


def run(
    action: Callable[[], Any], prepare: Callable[[], Any] = lambda: None, kill_after: float | None = None
) -> Ended:
    """Run an action in a fork of this process, which has the imports done and the models in memory.

    Args:
        action: what the child does.
        prepare: what it does before, such as `kill_at(3)`.
        kill_after: seconds until SIGKILL.
    """
    began = time.monotonic()
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if not process:
        status, text = 0, ""
        try:
            os.close(reading)
            prepare()
            action()
        except BaseException as error:
            name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
            documented = "OSError" if isinstance(error, OSError) else name
            status, text = 1, f"{documented}\n{error}"
        try:
            os.write(writing, text.encode("utf-8", "replace")[:4000])
        finally:
            os._exit(status)
    os.close(writing)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    with open(reading, "rb") as pipe:
        error, _, message = pipe.read().decode("utf-8", "replace").partition("\n")
    _, code = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(code), error, message, time.monotonic() - began)


def _on_operations(act: Callable[[int, str, Any], None], kinds: set[str]) -> None:
    """Call `act` with number, kind and path before each operation on files of this process."""
    number, is_acting = 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number, is_acting
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_acting or not (is_write or event in kinds):
            return
        number, is_acting = number + 1, True
        try:
            act(number, event, arguments[0] if arguments else None)
        finally:
            is_acting = False

    def audited(descriptor: int) -> None:
        sys.audit("os.fsync", descriptor)
        synchronize(descriptor)

    synchronize = os.fsync
    # Python audits all of these but this one.
    os.fsync = audited  # type: ignore[assignment]
    sys.addaudithook(hook)


def kill_at(operation: int) -> Callable[[], None]:
    """Die before this operation on files, counted from 1."""

    def act(number: int, event: str, path: Any) -> None:
        if number == operation:
            os._exit(KILLED)

    return lambda: _on_operations(act, _CHANGES | _REMOVALS | _OTHERS | {"os.fsync"})


def fail_at(operation: int, *, for_good: bool, code: int = errno.ENOSPC) -> Callable[[], None]:
    """The disk is full at this operation that takes space, and from then on or for once."""

    def act(number: int, event: str, path: Any) -> None:
        if number == operation or (for_good and number > operation):
            # As the system does: without a name for an open file.
            raise OSError(code, os.strerror(code), *([] if isinstance(path, int) else [os.fsdecode(path)]))

    return lambda: _on_operations(act, _CHANGES | {"os.fsync"})


def limit_size(size: int) -> Callable[[], None]:
    """No file can grow beyond this size: the system says so as it does for a full disk, with EFBIG."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return prepare


def kill_beyond_size(size: int) -> Callable[[], None]:
    """Die within the write that makes a file larger than this, with that write half done."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return prepare
