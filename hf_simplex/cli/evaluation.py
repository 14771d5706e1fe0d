"""`hf-simplex evaluate` and `hf-simplex calibrate`: an ensemble on the images of a data set."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .ensembles import check_free, load, warn_of_placeholders
from .options import (
    BatchSize,
    Cpu,
    DataConfig,
    DataRevision,
    DataSet,
    Ensemble,
    ImageColumn,
    Json,
    LabelColumn,
    LabelsByPosition,
    Revision,
    Token,
)
from .printing import print_json, print_table

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_simplex import SimplexForImageClassification
    from hf_simplex.data.whole_split import ImageSplit
    from hf_simplex.evaluation.data_sets import LabelledInputs

__all__ = ["calibrate", "evaluate"]

_SHOWN = 3
"""Number of images that a warning names."""


def evaluate(
    ensemble: Ensemble,
    data_set: DataSet,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on; default: test, else validation, else the only one.")
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option(min=1, help="Largest number of images; more are replaced by a stratified subset.")
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    labels_by_position: LabelsByPosition = False,
    data_config: DataConfig = None,
    data_revision: DataRevision = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Evaluate an ensemble on one whole split of a data set: accuracy, NLL (nats), ECE and Brier score.

    A folder with one subfolder per class is evaluated whole. Labels are matched by name.

    Example: hf-simplex evaluate output/quickstart/ensemble digits

    Example: hf-simplex evaluate me/pets-simplex pictures/ --split train

    Example: hf-simplex evaluate me/fashion-simplex fashion_mnist --max-examples 1000 --json
    """
    from hf_simplex.data.split_records import describe_split_off
    from hf_simplex.data.whole_split import load_split
    from hf_simplex.evaluation.data_sets import evaluate_images

    model = load(ensemble, revision, token)
    loaded = load_split(
        data_set,
        split,
        max_examples=max_examples,
        image_column=image_column,
        label_column=label_column,
        config_name=data_config,
        revision=data_revision,
        token=token,
    )
    inputs = _inputs(model, loaded, labels_by_position)
    trained = _trained(ensemble, loaded)
    if trained:
        typer.echo(f"warning: {_say_trained(loaded, trained)}: the results are too good.", err=True)
    if said := describe_split_off(model.config.provenance, data_set, loaded.split):
        typer.echo(f"note: {said}, and these results are of {len(loaded.images)} of all {loaded.of}.", err=True)
    with _evaluation_arguments(batch_size, cpu) as args:
        metrics = evaluate_images(model, inputs, args)
    results = {"split": loaded.split, "images": len(inputs), **metrics}
    if as_json:
        known = None if trained is None else len(trained)
        print_json({"ensemble": ensemble, "data_set": data_set, **results, "trained_images": known})
    else:
        print_table(list(results), [list(results.values())])


def calibrate(
    ensemble: Ensemble,
    data_set: DataSet,
    split: Annotated[str | None, typer.Option(help="Split to fit on; default: validation.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to; default: the ensemble's own.")] = None,
    keep_members: Annotated[bool, typer.Option("--keep-members", help="Do not choose other members.")] = False,
    max_forward_passes: Annotated[int | None, typer.Option(min=1, help="Largest number of members.")] = None,
    target_error: Annotated[float, typer.Option(help="Largest acceptable error of the answers.")] = 0.05,
    coverage: Annotated[float, typer.Option(help="Rate at which a prediction set holds the true label.")] = 0.9,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    labels_by_position: LabelsByPosition = False,
    data_config: DataConfig = None,
    data_revision: DataRevision = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Fit members, temperature, abstention threshold and prediction sets on validation images.

    The images must be new to the ensemble, and must not be its test images. config.json keeps what was fitted.

    Example: hf-simplex calibrate output/pets/ensemble pictures/ --split validation

    Example: hf-simplex calibrate me/pets-simplex me/pets --target-error 0.02 --output calibrated/
    """
    from hf_simplex.data.image_transforms import collate
    from hf_simplex.data.trained_images import copy_trained_images
    from hf_simplex.data.whole_split import load_split
    from hf_simplex.evaluation.calibrate import describe_decisions
    from hf_simplex.hub.existing_card import renew_card

    target = Path(ensemble) if output is None else output
    if output is None and not target.is_dir():
        raise ValueError(f"{ensemble} is not a folder, so give --output, the folder to write the ensemble to.")
    if output is not None:
        check_free(output)
    model = load(ensemble, revision, token)
    loaded = load_split(
        data_set,
        split,
        roles=("validation",),
        only_split=False,
        image_column=image_column,
        label_column=label_column,
        config_name=data_config,
        revision=data_revision,
        token=token,
    )
    trained = _trained(ensemble, loaded)
    if trained:
        message = _say_trained(loaded, trained)
        # A few duplicates in the data do no harm.
        if len(trained) > len(loaded.images) // 100:
            raise ValueError(f"{message}: what is fitted on them is too sure of itself. Give a split of new images.")
        typer.echo(f"warning: {message}.", err=True)
    inputs = _inputs(model, loaded, labels_by_position)
    with _evaluation_arguments(batch_size, cpu) as args:
        decisions = model.calibrate(
            inputs,
            args=args,
            data_collator=collate,
            choose=not keep_members,
            max_forward_passes=max_forward_passes,
            target_error=target_error,
            coverage=coverage,
            data_set=loaded.name,
        )
    if decisions is None:
        raise ValueError(f"There are {len(inputs)} validation images, too few to fit anything.")
    model.save_pretrained(target)
    copy_trained_images(ensemble, target)
    if renew_card(model, target):
        typer.echo("warning: the card has lost its results, which were of the former decisions.", err=True)
    if as_json:
        print_json(decisions.to_json())
        return
    for line in describe_decisions(decisions):
        typer.echo(line)
    typer.echo(f"Written to {target}")


def _inputs(
    model: "SimplexForImageClassification", loaded: "ImageSplit", labels_by_position: bool
) -> "LabelledInputs":
    from hf_simplex.evaluation.data_sets import LabelledInputs, label_names_of

    inputs = LabelledInputs(model, loaded.images, loaded.label_names, labels_by_position=labels_by_position)
    warn_of_placeholders(model, "they are matched by position.")
    if (own := len(loaded.label_names)) < (of := len(label_names_of(model))):
        typer.echo(f"note: the data set has {own} of the ensemble's {of} labels.", err=True)
    return inputs


def _trained(ensemble: str, loaded: "ImageSplit") -> list[int] | None:
    from hf_simplex.data.trained_images import find_trained

    rows = find_trained(ensemble, loaded.images)
    return None if rows is None else rows.tolist()


def _say_trained(loaded: "ImageSplit", rows: list[int]) -> str:
    named = ", ".join(loaded.files(rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    return f"{len(rows)} of {len(loaded.images)} images were trained on ({named})"


@contextmanager
def _evaluation_arguments(batch_size: int, cpu: bool) -> Iterator["TrainingArguments"]:
    from transformers import TrainingArguments

    with tempfile.TemporaryDirectory() as directory:
        yield TrainingArguments(
            directory,
            per_device_eval_batch_size=batch_size,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=cpu,
        )
