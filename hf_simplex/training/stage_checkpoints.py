"""Checkpoints of one stage: written aside, then renamed, so that a killed run never leaves half a checkpoint."""

import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from ..model.json_files import read_json
from ..model.processes import map_over_ranks

__all__ = ["StageCheckpoints", "checkpoint_problem"]

logger = logging.get_logger(__name__)

_ASIDE, _FORMER = ".saving", "former-"


class StageCheckpoints:
    """The checkpoints of one stage, in `args.output_dir`.

    A checkpoint is written to `.saving/checkpoint-<step>` and renamed to `checkpoint-<step>`. If the step was saved
    before, the former checkpoint first moves to `.saving/former-checkpoint-<step>`. `resume` finishes that move.

    All processes of a distributed run call each public method together.

    Args:
        args: Arguments of the stage. Its `save_total_limit` is ignored.
        barrier: Waits for all processes, such as `accelerator.wait_for_everyone`.
        limit: Number of checkpoints to keep. Default: all.

    Example::

        checkpoints = StageCheckpoints(args, accelerator.wait_for_everyone, limit=2)
        start_from = checkpoints.resume()
        with checkpoints.writing_aside(state):
            ...  # write to args.output_dir/checkpoint-<state.global_step>
    """

    def __init__(self, args: TrainingArguments, barrier: Callable[[], None], limit: int | None = None) -> None:
        self.args = args
        self.folder = Path(str(args.output_dir))
        self.limit = limit
        self._barrier = barrier

    def last(self) -> str | None:
        """Return the path of the last checkpoint, or None if there is none.

        Example::

            checkpoints.last()   # "out/vertex-00001/checkpoint-500"
        """
        return get_last_checkpoint(str(self.folder)) if self.folder.is_dir() else None

    def resume(self) -> str | None:
        """Return the path of the last whole checkpoint of an interrupted run, or None if there is none.

        A warning names each later checkpoint of which a piece is missing or cut, and the one that is taken instead.

        Example::

            trainer.train(resume_from_checkpoint=checkpoints.resume())
        """
        self._once_per_file_system(self._finish_move)
        found = sorted(self.folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step, reverse=True)
        # Each process looks at its own random state, and all must start from the same checkpoint.
        mine = {path.name: checkpoint_problem(path, self.args) for path in found}
        problems = map_over_ranks(range(self.args.world_size), lambda _: mine)
        for index, path in enumerate(found):
            broken = [own for own in (named.get(path.name, "it is missing") for named in problems) if own is not None]
            if not broken:
                return str(path)
            following = found[index + 1] if index + 1 < len(found) else None
            logger.warning(
                f"{path} is not whole: {broken[0]}. "
                + (f"{following} is taken instead." if following else f"{self.folder.name} is trained anew.")
            )
        return None

    def clear(self) -> None:
        """Delete the checkpoints of an earlier run.

        Example::

            checkpoints.clear()
        """
        if self.args.should_save:
            for checkpoint in self.folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
        self._barrier()

    @contextmanager
    def writing_aside(self, state: TrainerState) -> Iterator[None]:
        """Set `args.output_dir` to a temporary folder within the context, then move the checkpoint into place.

        Every machine moves its files. Without a shared file system, each holds a part of the checkpoint.

        Args:
            state: State of the stage's Trainer. Its step names the checkpoint.

        Example::

            with checkpoints.writing_aside(trainer.state):
                ...  # write to args.output_dir/checkpoint-<state.global_step>
        """
        name, aside = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", self.folder / _ASIDE
        if self.args.should_save:
            if aside.is_symlink():
                aside.unlink()
            shutil.rmtree(aside, ignore_errors=True)
        self._barrier()
        self.args.output_dir = str(aside)
        try:
            yield
        finally:
            self.args.output_dir = str(self.folder)
        self._barrier()
        if state.best_global_step:
            best = self.folder / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if best.name == name or best.is_dir():
                state.best_model_checkpoint = str(best)
        if self.args.should_save:
            state.save_to_json(str(aside / name / TRAINER_STATE_NAME))
        self._once_per_file_system(partial(self.put_in_place, name, state.best_model_checkpoint))

    def put_in_place(self, name: str, best: str | None = None) -> None:
        """Move a checkpoint from the temporary folder into place and delete old ones. Call it in one process.

        Args:
            name: Name of the checkpoint, such as "checkpoint-3". No effect if it was moved already.
            best: Path of the best checkpoint, which is kept.

        Example::

            checkpoints.put_in_place("checkpoint-3")
        """
        aside, place = self.folder / _ASIDE, self.folder / name
        if not (aside / name).is_dir() or aside.is_symlink():
            return
        _apply_umask(aside / name)
        if place.is_dir():
            os.replace(place, aside / f"{_FORMER}{name}")
        os.replace(aside / name, place)
        shutil.rmtree(aside)
        rotate_checkpoints(output_dir=str(self.folder), save_total_limit=self.limit, best_model_checkpoint=best)

    def _finish_move(self) -> None:
        """Move the new checkpoint into place if the run was killed after it had moved the former one away."""
        if (self.folder / _ASIDE).is_symlink():
            return
        for former in (self.folder / _ASIDE).glob(f"{_FORMER}*"):
            name = former.name.removeprefix(_FORMER)
            if not (self.folder / name).exists():
                os.replace(self.folder / _ASIDE / name, self.folder / name)

    def _once_per_file_system(self, work: Callable[[], None]) -> None:
        """Run `work` on the main process, then on the first process of each other machine.

        The other machines may share the file system of the main process, so `work` must have no effect when repeated.
        """
        if self.args.should_save:
            work()
        self._barrier()
        if self.args.local_process_index == 0 and not self.args.should_save:
            work()
        self._barrier()


def _step(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


def checkpoint_problem(checkpoint: Path, args: TrainingArguments) -> str | None:
    """Describe what a checkpoint of Trainer lacks to continue a run exactly; None if it is whole.

    Engines that write folders (FSDP, DeepSpeed) have weights and optimizer of their own, which are not looked at.

    Args:
        checkpoint: Folder of the checkpoint.
        args: Arguments of the stage, for the number of processes and the index of this one.

    Example::

        checkpoint_problem(Path("out/vertex-00001/checkpoint-500"), args)   # "optimizer.pt is missing"
    """
    rng_state = "rng_state.pth" if args.world_size <= 1 else f"rng_state_{args.process_index}.pth"
    archives = [SCHEDULER_NAME, rng_state]
    if not any(path.is_dir() for path in checkpoint.glob("*")):
        archives.insert(0, OPTIMIZER_NAME)
        if (problem := _weights_problem(checkpoint)) is not None:
            return problem
    try:
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE_NAME} cannot be read ({error})"
    for name in archives:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if not zipfile.is_zipfile(checkpoint / name):
            return f"{name} is cut"
    return None


def _weights_problem(checkpoint: Path) -> str | None:
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        return "the weights are missing"
    try:
        for index in checkpoint.glob("*.safetensors.index.json"):
            named = set(read_json(index)["weight_map"].values())
            if missing := named - {file.name for file in files}:
                return f"{min(missing)} is missing"
        for file in files:
            with safe_open(file, "pt"):
                pass
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"the weights are cut or cannot be read ({error})"
    return None


def _apply_umask(folder: Path) -> None:
    """Give files the permissions of the umask, which their folder has: safetensors writes for the owner only."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.chmod(path, mode)
