"""Preemption: on SIGTERM or Ctrl-C a run saves a checkpoint and ends, with exit code 143 or 130."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import torch
from tqdm.auto import tqdm

from ..model.processes import any_rank

__all__ = ["EXIT_CODE", "INTERRUPTED", "Preemption"]

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code of a run that SIGTERM ended, as the shell reports it. Start such a run again with `--resume`."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a recipe that Ctrl-C ended, as the shell reports it."""

_SAME_CTRL_C = 1.0
"""Seconds. Launchers pass on the SIGINT of a terminal, which their processes have received already."""


class Preemption:
    """Records SIGTERM and Ctrl-C, and ends the run once it is safe.

    SIGTERM ends with `SystemExit(EXIT_CODE)`, Ctrl-C with `KeyboardInterrupt`. A second Ctrl-C ends at once.

    Args:
        is_busy: Returns whether the process must finish something before it may end. If not, a signal ends it at once.

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
        self._interrupted: float | None = None
        """Time of the first Ctrl-C."""

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Handle both signals within the context. No effect outside the main thread, since only that gets signals.

        Example::

            with preemption.heeded():
                trainer.train()
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self._note))
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted is not None:
                if now - self._interrupted < _SAME_CTRL_C:
                    return
                raise KeyboardInterrupt
            self._interrupted = now
        self.requested = True
        if not self._is_busy():
            self.end()
        elif number == signal.SIGINT:
            tqdm.write("Ctrl-C: the run saves and ends after this step. Again: it ends at once.", file=sys.stderr)

    def agreed(self, device: torch.device) -> bool:
        """Return whether any process has received a signal. All processes of a distributed run call this together.

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
        """Worker init function of a data loader: ignore SIGTERM and SIGINT, then call `init`.

        Clusters and terminals signal all processes at once. The training process needs its workers until the step is
        finished.

        Args:
            init: Another worker init function, or None.
            worker: Index of the worker.

        Example::

            DataLoader(dataset, num_workers=2, worker_init_fn=partial(Preemption.begin_worker, None))
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if init is not None:
            init(worker)

    def end(self) -> None:
        """End the run.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: Otherwise, with `EXIT_CODE`.

        Example:
            >>> Preemption(is_busy=lambda: False).end()
            Traceback (most recent call last):
            SystemExit: 143
        """
        if self._interrupted is not None:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_CODE)
