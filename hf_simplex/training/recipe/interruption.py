"""A recipe that a signal ends says in one line what to type next."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
from tqdm.auto import tqdm

from ..preemption import EXIT_CODE, INTERRUPTED, Preemption
from .progress import readable_progress

__all__ = ["Interruption", "as_recipe", "next_command"]

Main = TypeVar("Main", bound=Callable[..., Any])

_LAUNCHERS = ("accelerate", "torchrun", "torch.distributed")
_SECRETS = ("--token", "--hub_token")


class Interruption:
    """Ends a recipe on SIGTERM with exit code 143 and on Ctrl-C with 130, after one line that says what to type next.

    Only the first process of a distributed run prints the line.

    Args:
        argv: Command line without the program. None: `sys.argv[1:]`.

    Example::

        interruption = Interruption(argv)
        with interruption.told():
            run = prepare(argv)
            interruption.flag = "--resume"
            grow(run)
    """

    def __init__(self, argv: Sequence[str] | None) -> None:
        self.argv = argv
        self.flag: str | None = None
        """Flag that goes on with what the run saved. None: the same command does, or nothing was saved."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Heed both signals within the context.

        Raises:
            SystemExit: With `preemption.EXIT_CODE` or `preemption.INTERRUPTED`.

        Example::

            with Interruption(argv).told():
                run(argv)
        """
        try:
            with Preemption(lambda: False).heeded():
                yield
        except (KeyboardInterrupt, SystemExit) as error:
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else error.code
            if code not in (INTERRUPTED, EXIT_CODE):
                raise
            self._tell("Ctrl-C" if code == INTERRUPTED else "SIGTERM")
            raise SystemExit(code) from None

    def _tell(self, cause: str) -> None:
        if int(os.environ.get("RANK", "0")) == 0:
            then = "Start it again" if self.flag is None else "Go on"
            command = shlex.join(next_command(self.argv, self.flag))
            tqdm.write(f"Stopped by {cause}. {then} with: {command}", file=sys.stderr)


def as_recipe(main: Main) -> Main:
    """Decorate the main function of a recipe that the same command goes on with or begins anew.

    See `Interruption` and `progress.readable_progress`.

    Example::

        @as_recipe
        def main(argv: Sequence[str] | None = None) -> dict[str, float]: ...
    """

    @wraps(main)
    def told(argv: Sequence[str] | None = None) -> Any:
        with readable_progress(), Interruption(argv).told():
            return main(argv)

    return cast(Main, told)


def next_command(argv: Sequence[str] | None, flag: str | None) -> list[str]:
    """Return the command that started this process, with another flag. Tokens are masked.

    Args:
        argv: Command line without the program. None: that of the process, with its launcher if there is one.
        flag: Flag to add, if it is not there already.

    Example:
        >>> from hf_simplex.training.recipe.interruption import next_command
        >>> next_command(["my run.yaml", "--hub_token", "hf_secret"], "--resume")[2:]
        ['my run.yaml', '--hub_token', '***', '--resume']
    """
    words = _typed() if argv is None else ["python", sys.argv[0], *argv]
    for number, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in _SECRETS and equals:
            words[number] = f"{name}=***"
        elif name in _SECRETS and number + 1 < len(words):
            words[number + 1] = "***"
    return words if flag is None or flag in words else [*words, flag]


def _typed() -> list[str]:
    """The command line that started this process, or the launcher that did."""
    own = [*sys.orig_argv]
    if "RANK" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ):
        launcher = psutil.Process(os.getppid()).cmdline()
        script = next((number for number, word in enumerate(launcher) if word == sys.argv[0]), None)
        if script is not None and any(name in word for word in launcher[:script] for name in _LAUNCHERS):
            own = launcher
    # A script with a shebang runs as `python /path/to/script`.
    if len(own) > 1 and not own[1].startswith("-") and os.access(own[1], os.X_OK) and not own[1].endswith(".py"):
        own = own[1:]
    program = Path(own[0])
    found = shutil.which(program.name)
    if found is not None and Path(found).absolute() == program.absolute():
        own[0] = program.name
    return own
