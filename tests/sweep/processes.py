"""Runs each kind in a process of its own, with limits, so that a crash ends one life only."""

import logging
import multiprocessing
import resource
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers

from sweep.backbones import Kind
from sweep.steps import CHOICES, Outcome, run

__all__ = ["run_all", "silence"]

GRACE = 10
"""Wall time over CPU time that a process may take: the machine may be busy."""


def silence() -> None:
    """One thread, and no progress bars or warnings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()


def _child(kind: Kind, connection: Connection, seconds: int, gigabytes: float) -> None:
    silence()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
    connection.send(run(kind))


def _run_apart(context: Any, kind: Kind, seconds: int, gigabytes: float) -> Outcome:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(kind, sender, seconds, gigabytes))
    process.start()
    sender.close()
    try:
        if receiver.poll(GRACE * seconds):
            return receiver.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()
    code = process.exitcode or 0
    why = {-signal.SIGXCPU: f"took more than {seconds} s", -signal.SIGKILL: f"took more than {seconds} s"}
    return Outcome(
        kind.library, kind.name, kind.name, lives=dict.fromkeys(CHOICES, why.get(code, f"ended with exit code {code}"))
    )


def run_all(kinds: Sequence[Kind], processes: int, seconds: int, gigabytes: float) -> Iterator[Outcome]:
    """Run kinds, and yield what became of each as it ends.

    Args:
        kinds: to run.
        processes: at a time.
        seconds: of CPU time for a kind.
        gigabytes: of memory for a kind.
    """
    context = multiprocessing.get_context("forkserver")
    # Imports take longer than most lives.
    context.set_forkserver_preload(["sweep.steps"])
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(_run_apart, context, kind, seconds, gigabytes) for kind in kinds]
        for future in as_completed(futures):
            yield future.result()
