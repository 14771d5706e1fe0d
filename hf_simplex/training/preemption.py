"""SIGTERM, which a cluster sends before it takes a machine away: the run saves and ends with a code of its own."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ..model.processes import any_rank

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, try again (with what was saved)."""


class Preemption:
    """Whether SIGTERM has arrived, and the end of the process where that is safe.

    Args:
        is_busy: whether the process is within something that has to come to its own end first.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self.requested = False
        self._is_busy = is_busy

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While the context lasts SIGTERM is noted, or ends the process at once where it is not busy.

        Python delivers signals to the main thread alone: in another one the context has no effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._is_busy():
            self.end()

    def agreed(self, device: torch.device) -> bool:
        """Whether SIGTERM has arrived at any process; all processes of a distributed run must ask this together."""
        self.requested = any_rank(self.requested, device)
        return self.requested

    @staticmethod
    def begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
        """The beginning of a data loader's worker, which leaves SIGTERM to the process that it works for.

        A cluster sends the signal to all processes at once, and without its workers the run could not finish its step.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if begin is not None:
            begin(worker)

    def end(self) -> None:
        """Leave the process with `EXIT_CODE`."""
        raise SystemExit(EXIT_CODE)
