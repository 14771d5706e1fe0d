"""`hf-simplex evaluate` and `hf-simplex calibrate`: an ensemble on the images of a data set."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ensembles import check_free, load, load_config, warn_of_placeholders
from .options import OnImages, with_image_options
from .printing import print_json, print_table

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_simplex import SimplexForImageClassification
    from hf_simplex.data.split_records import DataRecord
    from hf_simplex.data.whole_split import ImageSplit
    from hf_simplex.evaluation.data_sets import LabelledInputs

__all__ = ["calibrate", "evaluate"]

_SHOWN = 3
"""Number of images that a warning names."""


@with_image_options
def evaluate(
    on: OnImages,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on; default: test, else validation, else the only one.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Evaluate on the test images of the run that trained the ensemble.")
    ] = False,
    max_examples: Annotated[
        int | None, typer.Option(min=1, help="Largest number of images; more are replaced by a stratified subset.")
    ] = None,
) -> None:
    """Evaluate an ensemble on one whole split of a data set: accuracy, NLL (nats), ECE and Brier score.

    A folder with one subfolder per class is evaluated whole. Labels are matched by name. A multi-label ensemble needs
    lists of labels, and gets F1, mean average precision, exact match and Hamming error in place of accuracy, over the
    labels that the data set names.

    Example: hf-simplex evaluate output/quickstart/ensemble digits

    Example: hf-simplex evaluate me/pets-simplex pictures/ --split train

    Example: hf-simplex evaluate output/pets/ensemble pictures/ --held-out

    Example: hf-simplex evaluate me/fashion-simplex fashion_mnist --max-examples 1000 --json
    """
    from hf_simplex.data.split_records import describe_split_off
    from hf_simplex.evaluation.data_sets import evaluate_images

    model = load(on.ensemble, on.revision, on.token)
    role = "test" if held_out else None
    loaded = _images(on, model, split, role, max_examples=max_examples)
    inputs = _inputs(model, loaded, on.labels_by_position)
    trained, share = _trained(on, model, loaded)
    if trained:
        typer.echo(f"warning: {_say_trained(loaded, trained, share)}: the results are too good.", err=True)
    said = None if held_out else describe_split_off(model.config.provenance, on.data_set, loaded.split)
    if said is not None:
        number = len(loaded.images)
        counted = f"all {number} images" if number == loaded.of else f"{number} of its {loaded.of} images"
        typer.echo(
            f"note: {said}, and these results are of {counted}. --held-out takes the images for testing alone.",
            err=True,
        )
    with _evaluation_arguments(on) as args:
        metrics = evaluate_images(model, inputs, args)
    results = {"split": loaded.split, "images": len(inputs), **metrics}
    if on.as_json:
        known = None if trained is None else len(trained)
        where = {"ensemble": on.ensemble, "data_set": on.data_set}
        # JSON has no NaN, which F1 and average precision are where no image has a label.
        finite = {name: None if value != value else value for name, value in results.items()}
        left_out = {"labels_left_out": inputs.left_out} if inputs.several else {}
        print_json({**where, **finite, **left_out, "held_out": held_out, "trained_images": known})
    elif inputs.several:
        # Too many for the columns of a terminal.
        print_table(["", "value"], [[name, value] for name, value in results.items()])
    else:
        print_table(list(results), [list(results.values())])


@with_image_options
def calibrate(
    on: OnImages,
    context: typer.Context,
    split: Annotated[str | None, typer.Option(help="Split to fit on; default: validation.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Fit on the validation images of the run that trained the ensemble.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to; default: the ensemble's own.")] = None,
    keep_members: Annotated[bool, typer.Option("--keep-members", help="Do not choose other members.")] = False,
    max_forward_passes: Annotated[int | None, typer.Option(min=1, help="Largest number of members.")] = None,
    target_error: Annotated[float, typer.Option(help="Largest acceptable error of the answers.")] = 0.05,
    coverage: Annotated[float, typer.Option(help="Rate at which a prediction set holds the true label.")] = 0.9,
) -> None:
    """Fit members, temperature, abstention threshold and prediction sets on validation images.

    The images must be new to the ensemble, and must not be its test images. config.json keeps what was fitted. A
    multi-label ensemble gets members and temperature alone, and --target-error and --coverage are refused. Labels that
    the data set does not name are left out.

    Example: hf-simplex calibrate output/pets/ensemble pictures/ --split validation

    Example: hf-simplex calibrate output/pets/ensemble pictures/ --held-out --target-error 0.01

    Example: hf-simplex calibrate me/pets-simplex me/pets --target-error 0.02 --output calibrated/
    """
    from hf_simplex.data.image_transforms import collate
    from hf_simplex.data.trained_images import copy_trained_images
    from hf_simplex.evaluation.calibrate import check_rates, describe_decisions
    from hf_simplex.hub.existing_card import renew_card

    target = Path(on.ensemble) if output is None else output
    if output is None and not target.is_dir():
        raise ValueError(f"{on.ensemble} is not a folder, so give --output, the folder to write the ensemble to.")
    if output is not None:
        check_free(output)
    rates = {"target_error": target_error, "coverage": coverage}
    # By its name, because some versions of typer bring a click of their own.
    sources = {name: context.get_parameter_source(name) for name in rates}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    check_rates(load_config(on.ensemble, on.revision, on.token), rates, given=given)
    model = load(on.ensemble, on.revision, on.token)
    role = "validation" if held_out else None
    loaded = _images(on, model, split, role, roles=("validation",), only_split=False)
    trained, share = _trained(on, model, loaded)
    if trained:
        message = _say_trained(loaded, trained, share)
        # A few duplicates in the data do no harm.
        if len(trained) > share * len(loaded.images) / 100:
            raise ValueError(f"{message}: what is fitted on them is too sure of itself. Give a split of new images.")
        typer.echo(f"warning: {message}.", err=True)
    inputs = _inputs(model, loaded, on.labels_by_position)
    with _evaluation_arguments(on) as args:
        decisions = model.calibrate(
            inputs,
            args=args,
            data_collator=collate,
            choose=not keep_members,
            max_forward_passes=max_forward_passes,
            data_set=loaded.name,
            **rates,
        )
    if decisions is None:
        raise ValueError(f"There are {len(inputs)} validation images, too few to fit anything.")
    model.save_pretrained(target)
    copy_trained_images(on.ensemble, target)
    if renew_card(model, target):
        typer.echo("warning: the card has lost its results, which were of the former decisions.", err=True)
    if on.as_json:
        print_json(decisions.to_json())
        return
    for line in describe_decisions(decisions):
        typer.echo(line)
    typer.echo(f"Written to {target}")


def _images(
    on: OnImages, model: "SimplexForImageClassification", split: str | None, held_out: str | None, **choice: Any
) -> "ImageSplit":
    """The images of a split, or of a role (`held_out`) in the run that trained the ensemble."""
    from hf_simplex.data.recorded_splits import load_recorded_split
    from hf_simplex.data.whole_split import load_split

    if held_out is None:
        return load_split(on.data_set, split, **choice, **_source_options(on))
    if split is not None:
        raise ValueError(f"--held-out and --split {split} contradict each other: give one of them.")
    if (record := _record(on, model)) is None:
        raise ValueError(
            f"{on.ensemble} has no record of a run on {on.data_set}, so its held-out images are unknown: give --split."
        )
    return load_recorded_split(
        on.data_set, record, held_out, max_examples=choice.get("max_examples"), **_source_options(on)
    )


def _source_options(on: OnImages) -> dict[str, Any]:
    return {
        "config_name": on.data_config,
        "image_column": on.image_column,
        "label_column": on.label_column,
        "revision": on.data_revision,
        "token": on.token,
    }


def _record(on: OnImages, model: "SimplexForImageClassification") -> "DataRecord | None":
    from hf_simplex.data.split_records import record_of_run

    return record_of_run(model.config.provenance, on.data_set)


def _inputs(
    model: "SimplexForImageClassification", loaded: "ImageSplit", labels_by_position: bool
) -> "LabelledInputs":
    from hf_simplex.evaluation.data_sets import LabelledInputs, label_names_of

    inputs = LabelledInputs(model, loaded.images, loaded.label_names, labels_by_position=labels_by_position)
    warn_of_placeholders(label_names_of(model), "they are matched by position.")
    # Of several labels, what evaluates or calibrates says which ones it leaves out.
    if not inputs.several and (own := len(loaded.label_names)) < (of := len(label_names_of(model))):
        typer.echo(f"note: the data set has {own} of the ensemble's {of} labels.", err=True)
    return inputs


def _trained(
    on: OnImages, model: "SimplexForImageClassification", loaded: "ImageSplit"
) -> tuple[list[int] | None, float]:
    """Rows of the images that were trained on, None if unknown, and the share of the training images that is known."""
    from hf_simplex.data.recorded_splits import find_recorded
    from hf_simplex.data.trained_images import MAX_IMAGES, find_trained

    rows = find_trained(on.ensemble, loaded.images)
    record = _record(on, model)
    # A published ensemble has no hashes. Do not download a training split for this alone.
    if rows is None and record is not None and (loaded.split or "train") == record.train.source:
        rows = find_recorded(loaded.images, on.data_set, record, **_source_options(on))
    share = 1.0 if record is None else min(1.0, MAX_IMAGES / record.train.images)
    return None if rows is None else rows.tolist(), share


def _say_trained(loaded: "ImageSplit", rows: list[int], share: float) -> str:
    named = ", ".join(loaded.files(rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    at_least = "At least " if share < 1 else ""
    return f"{at_least}{len(rows)} of {len(loaded.images)} images were trained on ({named})"


@contextmanager
def _evaluation_arguments(on: OnImages) -> Iterator["TrainingArguments"]:
    from transformers import TrainingArguments

    with tempfile.TemporaryDirectory() as directory:
        yield TrainingArguments(
            directory,
            per_device_eval_batch_size=on.batch_size,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=on.cpu,
        )
