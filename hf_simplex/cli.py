"""The command `hf-simplex`.

The commands import torch and transformers themselves, because that takes seconds and `--help` needs neither.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_simplex import SimplexForImageClassification


__all__ = ["app"]


class OneLineErrors(TyperGroup):
    """Reports a user's error in one line on stderr and exits with code 2.

    Example::

        app = typer.Typer(cls=OneLineErrors)
    """

    def invoke(self, ctx: Any) -> Any:
        """See `typer.core.TyperGroup.invoke`."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError) as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=OneLineErrors,
    help="Inspect, calibrate, evaluate, export and publish ensembles of fine-tuned models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Ensemble = Annotated[str, typer.Argument(metavar="ID", help="Hub id or folder of an ensemble.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Token = Annotated[str | None, typer.Option(help="Hub token; default: that of the logged-in account.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; default: a GPU, if available.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder, created if missing.")]


@app.command()
def inspect(ensemble: Ensemble, as_json: Json = False, revision: Revision = None, token: Token = None) -> None:
    """Show the structure, size, volumes and members of an ensemble.

    Volumes are natural logarithms, in units of the weights. A simplex with one vertex has volume 1.

    Example: hf-simplex inspect me/resnet50-simplex

    Example: hf-simplex inspect output/quickstart/ensemble --json
    """
    described = _describe(_load(ensemble, revision, token), ensemble)
    if as_json:
        _print_json(described)
        return
    summary = ("backbone", "labels", "parameters_per_vertex", "bytes", "sampling", "log_volume")
    _print_table(["", ""], [[name.replace("_", " "), described[name]] for name in summary])
    for part in ("vertices", "simplexes", "members"):
        rows = described[part]
        if rows:
            _print_table(list(rows[0]), [list(row.values()) for row in rows])


@app.command()
def predict(
    ensemble: Ensemble,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Paths or URLs of images.")],
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels per image.")] = 5,
    as_json: Json = False,
    batch_size: BatchSize = 1,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Classify images, and say which ones the ensemble is not sure of.

    A calibrated ensemble (hf-simplex calibrate) abstains below its threshold of confidence, gives a set of labels that
    holds the true one at the fitted rate, and compares the image with the validation images. --json adds entropy and
    mutual information in nats, and the share of the members that vote for the first label.

    Example: hf-simplex predict me/resnet50-simplex cat.png dog.png --top-k 3

    Example: hf-simplex predict output/quickstart/ensemble digit.png --json
    """
    from hf_simplex import SimplexImageClassificationPipeline
    from hf_simplex.evaluation.answers import answer_bars, answer_line

    model = _load(ensemble, revision, token)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor, device=device)
    results = classify(images, top_k=top_k, batch_size=batch_size)
    if as_json:
        _print_json([{"image": image, **result} for image, result in zip(images, results, strict=True)])
        return
    decisions = model.decisions
    goal = None if decisions is None or decisions.abstention is None else decisions.abstention.target_error
    for image, result in zip(images, results, strict=True):
        typer.echo(f"{image}: {answer_line(result, goal)}")
        for bar in answer_bars(result["labels"]):
            typer.echo(f"  {bar}")
        if result["prediction_set"] is not None:
            typer.echo(f"  set: {', '.join(result['prediction_set'])}")
        if result["more_uncertain_than"]:
            typer.echo(f"  more uncertain than {_unlike(result['more_uncertain_than'])} of the validation images")
    if decisions is None:
        typer.echo("Not calibrated: hf-simplex calibrate ID DATASET fits temperature and threshold.", err=True)


@app.command()
def evaluate(
    ensemble: Ensemble,
    data_set: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Hub id or folder of images, 'digits' or 'fashion_mnist'."),
    ],
    split: Annotated[str | None, typer.Option(help="Split to evaluate on; default: test, else validation.")] = None,
    max_examples: Annotated[int | None, typer.Option(min=1, help="Evaluate on a subset of this size.")] = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Evaluate an ensemble on the test images of a data set: accuracy, NLL (nats), ECE and Brier score.

    Example: hf-simplex evaluate output/quickstart/ensemble digits

    Example: hf-simplex evaluate me/fashion-simplex fashion_mnist --max-examples 1000 --json
    """
    from hf_simplex.data.image_data import load_image_data, load_image_split
    from hf_simplex.data.trained_images import count_trained

    model = _load(ensemble, revision, token)
    if split is None:
        data = load_image_data(data_set, max_test_examples=max_examples, token=token)
    else:
        data = load_image_split(data_set, split, max_examples=max_examples, token=token)
    if trained := count_trained(ensemble, data.test):
        typer.echo(
            f"warning: {trained} of {len(data.test)} images were trained on: the results are too good.", err=True
        )
    results = _metrics(model, data, batch_size, cpu)
    if as_json:
        _print_json({"ensemble": ensemble, "data_set": data_set, **results})
    else:
        _print_table(list(results), [list(results.values())])


@app.command()
def calibrate(
    ensemble: Ensemble,
    data_set: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Hub id or folder of images, 'digits' or 'fashion_mnist'."),
    ],
    split: Annotated[str | None, typer.Option(help="Split to fit on; default: validation.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to; default: the ensemble's own.")] = None,
    keep_members: Annotated[bool, typer.Option("--keep-members", help="Do not choose other members.")] = False,
    max_forward_passes: Annotated[int | None, typer.Option(min=1, help="Largest number of members.")] = None,
    target_error: Annotated[float, typer.Option(help="Largest acceptable error of the answers.")] = 0.05,
    coverage: Annotated[float, typer.Option(help="Rate at which a prediction set holds the true label.")] = 0.9,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Fit members, temperature, abstention threshold and prediction sets on validation images.

    The images must be new to the ensemble, and must not be its test images. config.json keeps what was fitted.

    Example: hf-simplex calibrate output/pets/ensemble pictures/ --split validation

    Example: hf-simplex calibrate me/pets-simplex me/pets --target-error 0.02 --output calibrated/
    """
    from hf_simplex.data.image_data import load_image_data, load_image_split
    from hf_simplex.data.image_transforms import collate
    from hf_simplex.data.trained_images import copy_trained_images, count_trained
    from hf_simplex.evaluation.calibrate import describe_decisions
    from hf_simplex.hub.existing_card import renew_card

    target = Path(ensemble) if output is None else output
    if output is None and not target.is_dir():
        raise ValueError(f"{ensemble} is not a folder, so give --output, the folder to write the ensemble to.")
    if output is not None:
        _check_free(output)
    model = _load(ensemble, revision, token)
    data = load_image_data(data_set, token=token) if split is None else load_image_split(data_set, split, token=token)
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
    copy_trained_images(ensemble, target)
    if renew_card(model, target):
        typer.echo("warning: the card has lost its results, which were of the former decisions.", err=True)
    if as_json:
        _print_json(decisions.to_json())
        return
    for line in describe_decisions(decisions):
        typer.echo(line)
    typer.echo(f"Written to {target}")


@app.command()
def export(
    ensemble: Ensemble,
    directory: Directory,
    centroid: Annotated[bool, typer.Option("--centroid", help="Export the centroid of a simplex.")] = False,
    simplex: Annotated[int, typer.Option(help="Index of the simplex, for --centroid.")] = 0,
    vertex: Annotated[int | None, typer.Option(help="Export a vertex, by index.")] = None,
    member: Annotated[int | None, typer.Option(help="Export a member, by index.")] = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Export one point of an ensemble as a plain checkpoint, which loads without hf-simplex.

    Example: hf-simplex export me/resnet50-simplex --centroid plain/

    Example: hf-simplex export me/resnet50-simplex --vertex 0 mode/

    Example: hf-simplex export me/resnet50-simplex --member 2 member/
    """
    if centroid + (vertex is not None) + (member is not None) != 1:
        raise typer.BadParameter("Give exactly one of --centroid, --vertex and --member.")
    _check_free(directory)
    model = _load(ensemble, revision, token)
    if vertex is not None:
        model.export_vertex(vertex, directory)
    elif member is not None:
        model.export_member(member, directory)
    else:
        model.export_centroid(directory, simplex)
    typer.echo(f"Written to {directory}")


@app.command()
def merge(
    ensembles: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Hub ids or folders of components.")],
    directory: Directory,
    token: Token = None,
) -> None:
    """Merge components, trained as separate jobs, into one ESPRO ensemble.

    Example: hf-simplex merge job-1/ensemble job-2/ensemble job-3/ensemble merged/
    """
    from hf_simplex import SimplexForImageClassification

    if len(ensembles) < 2:
        raise ValueError(
            f"There is only one ensemble to merge, {ensembles[0]}, and the output folder {directory}. Give at least "
            "two ensembles, then the output folder."
        )
    _check_free(directory)
    merged = SimplexForImageClassification.disjoint_union([_load(ensemble, None, token) for ensemble in ensembles])
    merged.save_pretrained(directory)
    config = merged.config
    typer.echo(
        f"Written to {directory}: {len(config.simplexes)} simplexes, {config.num_vertices} vertices, "
        f"{len(config.members)} members"
    )


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved ensemble.")],
    repository: Annotated[str, typer.Argument(metavar="ID", help="Repository on the Hub, such as me/my-ensemble.")],
    private: Annotated[bool | None, typer.Option(help="Visibility of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, created if missing; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request with the commit.")] = False,
    code: Annotated[bool, typer.Option(help="Publish the inference code, for users without hf-simplex.")] = True,
    commit_message: Annotated[str | None, typer.Option(help="Default: Upload ensemble.")] = None,
    token: Token = None,
) -> None:
    """Publish a saved ensemble with its card, in one commit. Files that the Hub already has are not sent again.

    Example: hf-simplex push output/quickstart/ensemble me/digits-simplex --private

    Example: hf-simplex push ensemble/ me/resnet50-simplex --create-pr --commit-message "Two more vertices"
    """
    from hf_simplex.hub.publishing import publish_folder

    commit = publish_folder(
        directory,
        repository,
        private=private,
        revision=revision,
        create_pr=create_pr,
        include_code=code,
        commit_message=commit_message,
        token=token,
    )
    typer.echo(commit.pr_url or commit.commit_url)


def _check_free(directory: Path) -> None:
    """Raises ValueError if a folder holds a model, which may be its only copy."""
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} already holds a model (config.json). Give another output folder.")


def _load(ensemble: str, revision: str | None, token: str | None) -> "SimplexForImageClassification":
    from transformers.utils import logging

    from hf_simplex import SimplexForImageClassification

    logging.disable_progress_bar()
    model: SimplexForImageClassification = SimplexForImageClassification.from_pretrained(
        ensemble, revision=revision, token=token
    )
    return model


def _describe(model: "SimplexForImageClassification", name: str) -> dict[str, Any]:
    """The output of `inspect`. The log volume of a degenerate simplex is None, since JSON has no infinity."""
    config: Any = model.config
    log_volumes = model.log_volumes()
    of_each = [None if volume == float("-inf") else volume for volume in log_volumes.tolist()]
    total = log_volumes.logsumexp(dim=0).item()
    epochs = {stage["vertex"]: stage.get("epochs") for stage in config.provenance.get("stages", [])}
    tensors = model.state_dict().values()
    return {
        "ensemble": name,
        "backbone": config.provenance.get("backbone") or config.backbone_config.model_type,
        "labels": config.num_labels,
        "parameters_per_vertex": sum(parameter.numel() for parameter in model.vertices[0].parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "sampling": config.sampling,
        "log_volume": None if total == float("-inf") else total,
        "vertices": [
            {
                "vertex": vertex,
                "role": role,
                "epochs": epochs.get(vertex),
                "simplexes": [number for number, simplex in enumerate(config.simplexes) if vertex in simplex],
            }
            for vertex, role in enumerate(config.roles)
        ],
        "simplexes": [
            {"simplex": number, "vertices": vertices, "log_volume": of_each[number]}
            for number, vertices in enumerate(config.simplexes)
        ],
        "members": [
            {"member": number, "coordinates": coordinates} for number, coordinates in enumerate(config.members)
        ],
    }


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


def _unlike(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.0f} % by {name.replace('_', ' ')}" for name, share in shares.items())


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


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _print_table(columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, because rich interprets square brackets in a string as markup.
    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    Console().print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
