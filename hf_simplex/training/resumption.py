"""Resumption of a growth: whether a folder holds the same run, and what of an earlier run it holds."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..model.atomic_saves import finish_saves
from ..model.configuration_simplex import PRETRAINED
from ..model.modeling_simplex import SimplexForImageClassification
from .arguments import SimplexTrainingArguments
from .growth_record import RECORD, GrowthRecord, differ, weights_digest

__all__ = ["check_same_run", "clear_stages", "holds_ensemble"]

logger = logging.get_logger(__name__)


def check_same_run(
    args: SimplexTrainingArguments,
    model: SimplexForImageClassification,
    given: GrowthRecord,
    barrier: Callable[[], None],
) -> GrowthRecord | None:
    """Check that the run in `args.output_dir` was started with what is given now.

    The main process compares; all processes of a distributed run call this together.

    Args:
        args: Arguments of the growth.
        model: The model that is given.
        given: Record of what is given.
        barrier: Waits for all processes.

    Returns:
        The record to write with the next checkpoint; None for a folder of an older version, whose arguments are
        unknown.

    Raises:
        ValueError: The run was started with something else. The message names each difference.

    Example::

        check_same_run(args, model, record, accelerator.wait_for_everyone)
    """
    found: list[tuple[str | None, GrowthRecord | None]] = [(None, None)]
    if args.process_index == 0:
        finish_saves(args.output_dir)
        try:
            found = [(None, _compared(Path(args.output_dir), model, given))]
        except ValueError as error:
            found = [(str(error), None)]
    # All processes must raise together. If one raised alone, the others would wait for it.
    broadcast_object_list(found)
    barrier()
    message, record = found[0]
    if message is not None:
        raise ValueError(message)
    return record


def _compared(folder: Path, model: SimplexForImageClassification, given: GrowthRecord) -> GrowthRecord | None:
    stored = GrowthRecord.read(folder)
    if not (holds_ensemble(folder) or any(folder.glob(f"vertex-*/{PREFIX_CHECKPOINT_DIR}-*"))):
        return given
    if stored is None:
        logger.warning(
            f"{folder} has no {RECORD}, so an older version wrote it. It is resumed without a check that arguments, "
            "backbone, data and number of processes are those that it was started with."
        )
        return None
    if differ(stored.weights, given.weights) and holds_ensemble(folder):
        # A run may also be resumed with the ensemble that it left.
        left = SimplexForImageClassification.from_pretrained(folder)
        if weights_digest(left, like=model) == given.weights:
            given = replace(given, weights=stored.weights)
    if differences := stored.differences(given):
        raise ValueError(
            f"The run in {folder} cannot be resumed, since it was started with something else: "
            f"{'; '.join(differences)}. Give what it was started with, or start another run in another output_dir."
        )
    return given


def holds_ensemble(folder: str | Path) -> bool:
    """Return whether a folder holds an ensemble of the run that it records, and not one of an earlier run.

    Example::

        holds_ensemble("out")
    """
    configuration = Path(folder) / "config.json"
    if not configuration.is_file():
        return False
    stored = GrowthRecord.read(folder)
    return stored is None or not stored.supersedes(configuration)


def clear_stages(args: SimplexTrainingArguments, roles: Sequence[str], barrier: Callable[[], None]) -> None:
    """Delete the checkpoints of an earlier run's stages, so that none is taken for one of the new run.

    The checkpoints of vertices that the model has trained stay.

    Args:
        args: Arguments of the growth.
        roles: Role of each vertex of the model.
        barrier: Waits for all processes.

    Example::

        clear_stages(args, model.config.roles, accelerator.wait_for_everyone)
    """
    if args.should_save:
        for stage in Path(args.output_dir).glob("vertex-*"):
            number = re.fullmatch(r"vertex-(\d{5,})", stage.name)
            if number is None or (int(number[1]) < len(roles) and roles[int(number[1])] != PRETRAINED):
                continue
            for checkpoint in stage.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
    barrier()
