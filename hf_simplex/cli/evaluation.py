"""`hf-simplex evaluate` and `hf-simplex calibrate`: an ensemble on the images of a data set."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ensembles import check_free, load
from .options import BatchSize, Cpu, DataSet, Ensemble, Json, Revision, Token
from .printing import print_json, print_table

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_simplex import SimplexForImageClassification

__all__ = ["calibrate", "evaluate"]


def evaluate(
    ensemble: Ensemble,
    data_set: DataSet,
    split: Annotated[str | None, typer.Option(help="Split to evaluate on; default: test, else validation.")] = None,
    max_examples: Annotated[int | None, typer.Option(min=1, help="Evaluate on a subset of this size.")] = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Evaluate an ensemble on the test images of a data set: accuracy, NLL (nats), ECE and Brier score.

    Example: hf-simplex evaluate output/quickstart/ensemble digits

    Example: hf-simplex evaluate me/fashion-simplex fashion_mnist --max-examples 1000 --json
    """
    from hf_simplex.data.image_data import load_image_data
    from hf_simplex.data.trained_images import count_trained

    model = load(ensemble, revision, token)
    data = load_image_data(data_set, test_split=split, max_test_examples=max_examples, token=token)
    if trained := count_trained(ensemble, data.test):
        typer.echo(
            f"warning: {trained} of {len(data.test)} images were trained on: the results are too good.", err=True
        )
    results = _metrics(model, data, batch_size, cpu)
    if as_json:
        print_json({"ensemble": ensemble, "data_set": data_set, **results})
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
    from hf_simplex.data.image_data import load_image_data
    from hf_simplex.data.image_transforms import collate
    from hf_simplex.data.trained_images import count_trained
    from hf_simplex.evaluation.calibrate import describe_decisions

    target = Path(ensemble) if output is None else output
    if output is None and not target.is_dir():
        raise ValueError(f"{ensemble} is not a folder, so give --output, the folder to write the ensemble to.")
    if output is not None:
        check_free(output)
    model = load(ensemble, revision, token)
    data = load_image_data(data_set, test_split=split, token=token)
    images = data.validation if split is None else data.test
    if images is None:
        raise ValueError(
            f"{data_set} has no validation split. Name one with --split: its images must be new to the ensemble, and "
            "no test images."
        )
    if trained := count_trained(ensemble, images):
        message = f"{trained} of {len(images)} images were trained on"
        # A few duplicates in the data do no harm.
        if trained > len(images) // 100:
            raise ValueError(f"{message}: what is fitted on them is too sure of itself. Give a split of new images.")
        typer.echo(f"warning: {message}.", err=True)
    inputs, order = _inputs(model, images, data.label_names)
    with _evaluation_arguments(batch_size, cpu) as args:
        decisions = model.calibrate(
            _Relabeled(inputs, order),
            args=args,
            data_collator=collate,
            choose=not keep_members,
            max_forward_passes=max_forward_passes,
            target_error=target_error,
            coverage=coverage,
            data_set=data.name,
        )
    if decisions is None:
        raise ValueError(f"There are {len(images)} validation images, too few to fit anything.")
    model.save_pretrained(target)
    if as_json:
        print_json(decisions.to_json())
        return
    for line in describe_decisions(decisions):
        typer.echo(line)
    typer.echo(f"Written to {target}")


def _metrics(model: "SimplexForImageClassification", data: Any, batch_size: int, cpu: bool) -> dict[str, float]:
    from hf_simplex.data.image_transforms import collate
    from hf_simplex.evaluation.calibration import scale_temperature
    from hf_simplex.evaluation.comparison import predict_members
    from hf_simplex.evaluation.metrics import classification_metrics

    inputs, order = _inputs(model, data.test, data.label_names)
    with _evaluation_arguments(batch_size, cpu) as args:
        predicted = predict_members(model, inputs, args, collate)
    probabilities = predicted.probabilities.mean(axis=1)
    if (decisions := model.decisions) is not None:
        probabilities = scale_temperature(probabilities, decisions.temperature)
    metrics = classification_metrics(probabilities[:, order], predicted.references)
    return {"images": len(predicted.references), **metrics}


def _inputs(
    model: "SimplexForImageClassification", images: Any, label_names: tuple[str, ...]
) -> tuple[Any, list[int]]:
    """The model's inputs of a split, and the model's label of each label of the data."""
    from hf_simplex.data.image_transforms import build_transforms, with_pixel_values

    if model.image_processor is None:
        raise ValueError("The ensemble has no image processor. Save it with one: set `model.image_processor`.")
    names: Any = model.config.id2label
    order = _label_order([names[label] for label in sorted(names)], label_names)
    _, transform = build_transforms(model.image_processor)
    return with_pixel_values(images, transform), order


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


class _Relabeled:
    """Inputs with the labels of the model instead of those of the data."""

    def __init__(self, inputs: Any, order: list[int]) -> None:
        self.inputs, self.order = inputs, order

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.inputs[index]
        return {**row, "labels": self.order[int(row["labels"])]}


def _label_order(of_model: list[str], of_data: tuple[str, ...]) -> list[int]:
    """Maps the labels of a data set to those of a model, by name."""
    if of_model == list(of_data):
        return list(range(len(of_model)))
    if sorted(of_model) == sorted(of_data):
        # ImageNet has two labels named "crane".
        if repeated := sorted({name for name in of_model if of_model.count(name) > 1}):
            raise ValueError(
                f"Several labels are named {repeated[0]!r}, and the ensemble and the data set order their labels "
                "differently. Give a data set with unique names, or with the labels in the ensemble's order."
            )
        return [of_model.index(name) for name in of_data]
    if len(of_model) == len(of_data) and of_model == [f"LABEL_{label}" for label in range(len(of_model))]:
        return list(range(len(of_model)))
    raise ValueError(
        f"The ensemble has {len(of_model)} labels ({', '.join(of_model[:5])}, ...), the data set has {len(of_data)} "
        f"other ones ({', '.join(of_data[:5])}, ...). Give a data set with the ensemble's labels."
    )
