"""Preemption: on SIGTERM a run saves a checkpoint and exits with code 75."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ..model.processes import any_rank

__all__ = ["EXIT_CODE", "Preemption"]

EXIT_CODE = 75
"""Exit code of a preempted run (EX_TEMPFAIL of sysexits.h). Start such a run again with `--resume`."""


class Preemption:
    """Records SIGTERM, and exits once it is safe.

    Args:
        is_busy: Returns whether the process must finish something before it may exit. If not, SIGTERM exits at once.

    Example:
        >>> from hf_simplex.training.preemption import Preemption
        >>> preemption = Preemption(is_busy=lambda: True)
        >>> with preemption.heeded():
        ...     pass  # train
        >>> preemption.requested
        False
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self.requested = False
        self._is_busy = is_busy

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Handle SIGTERM within the context. No effect outside the main thread, since only that gets signals.

        Example::

            with preemption.heeded():
                trainer.train()
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
        """Return whether any process has received SIGTERM. All processes of a distributed run call this together.

        Args:
            device: Device of the communication.

        Example::

            if preemption.agreed(device):
                control.should_save = control.should_training_stop = True
        """
        self.requested = any_rank(self.requested, device)
        return self.requested

    @staticmethod
    def begin_worker(init: Callable[[int], None] | None, worker: int) -> None:
        """Worker init function of a data loader: ignore SIGTERM, then call `init`.

        A cluster signals all processes at once. The training process needs its workers until the step is finished.

        Args:
            init: Another worker init function, or None.
            worker: Index of the worker.

        Example::

            DataLoader(dataset, num_workers=2, worker_init_fn=partial(Preemption.begin_worker, None))
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if init is not None:
            init(worker)

    def end(self) -> None:
        """Exit with `EXIT_CODE`.

        Raises:
            SystemExit: always.

        Example:
            >>> Preemption(is_busy=lambda: False).end()
            Traceback (most recent call last):
            SystemExit: 75
        """
        raise SystemExit(EXIT_CODE)
