"""The command `hf-simplex`, beside the package because importing that takes seconds, which `--help` need not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from hf_simplex import SimplexForImageClassification


class OneLineErrors(TyperGroup):
    """Commands that end a user's mistake with one line on the error output and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError) as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=OneLineErrors,
    help="Ensembles of fine-tuned models, as simplexes of their weights: look at them, ask them, pass them on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Ensemble = Annotated[str, typer.Argument(metavar="ID", help="Hub id or folder of an ensemble.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Token = Annotated[str | None, typer.Option(help="Hub token; default: of the account that is logged in.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that pass through the members together.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; default: a GPU if there is one.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; created if it is not there.")]


@app.command()
def inspect(ensemble: Ensemble, as_json: Json = False, revision: Revision = None, token: Token = None) -> None:
    """Show structure, sizes, volumes and members of an ensemble.

    Volumes are natural logarithms, in the units of the weights; a simplex of one vertex has the volume 1.

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
    top_k: Annotated[int, typer.Option(min=1, help="Labels to show for each image.")] = 5,
    as_json: Json = False,
    batch_size: BatchSize = 1,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Classify images, and say how sure the ensemble is.

    Entropy is all of the uncertainty, mutual information the part that the members disagree on, both in nats; the vote
    share is the part of the members that choose the first label, the standard deviation that over the members.

    Example: hf-simplex predict me/resnet50-simplex cat.png dog.png --top-k 3

    Example: hf-simplex predict output/quickstart/ensemble digit.png --json
    """
    from hf_simplex import SimplexImageClassificationPipeline

    model = _load(ensemble, revision, token)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor, device=device)
    results = classify(images, top_k=top_k, batch_size=batch_size)
    if as_json:
        _print_json([{"image": image, **result} for image, result in zip(images, results, strict=True)])
        return
    for image, result in zip(images, results, strict=True):
        typer.echo(
            f"{image}: entropy {result['predictive_entropy_nats']:.4f} nats, mutual information "
            f"{result['mutual_information_nats']:.4f} nats, vote share {result['vote_share']:.4f}"
        )
        _print_table(list(result["labels"][0]), [list(entry.values()) for entry in result["labels"]])


@app.command()
def evaluate(
    ensemble: Ensemble,
    data_set: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Hub id or folder of images, 'digits' or 'fashion_mnist'."),
    ],
    split: Annotated[str | None, typer.Option(help="Default: test, else validation.")] = None,
    max_examples: Annotated[int | None, typer.Option(min=1, help="Use only so many images.")] = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    cpu: Annotated[bool, typer.Option("--cpu", help="Use no GPU, even if there is one.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Measure accuracy, NLL (nats), ECE and Brier score of an ensemble on the test images of a data set.

    Example: hf-simplex evaluate output/quickstart/ensemble digits

    Example: hf-simplex evaluate me/fashion-simplex fashion_mnist --max-examples 1000 --json
    """
    from hf_simplex.data.image_data import load_image_data

    model = _load(ensemble, revision, token)
    data = load_image_data(data_set, test_split=split, max_test_examples=max_examples, token=token)
    results = _metrics(model, data, batch_size, cpu)
    if as_json:
        _print_json({"ensemble": ensemble, "data_set": data_set, **results})
    else:
        _print_table(list(results), [list(results.values())])


@app.command()
def export(
    ensemble: Ensemble,
    directory: Directory,
    centroid: Annotated[bool, typer.Option("--centroid", help="The centroid of a simplex.")] = False,
    simplex: Annotated[int, typer.Option(help="Which simplex --centroid is of.")] = 0,
    vertex: Annotated[int | None, typer.Option(help="A vertex, by its index.")] = None,
    member: Annotated[int | None, typer.Option(help="A member, by its index.")] = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Write one point of an ensemble as an ordinary checkpoint, which loads without hf-simplex.

    Example: hf-simplex export me/resnet50-simplex --centroid plain/

    Example: hf-simplex export me/resnet50-simplex --vertex 0 mode/

    Example: hf-simplex export me/resnet50-simplex --member 2 member/
    """
    if centroid + (vertex is not None) + (member is not None) != 1:
        raise typer.BadParameter("give one of --centroid, --vertex and --member.")
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
    """Unite components that were trained as separate jobs into one ESPRO ensemble.

    Example: hf-simplex merge job-1/ensemble job-2/ensemble job-3/ensemble united/
    """
    from hf_simplex import SimplexForImageClassification

    if len(ensembles) < 2:
        raise ValueError(
            f"Only {ensembles[0]} would be united and written to {directory}: give at least two ensembles, then the "
            "folder to write to."
        )
    _check_free(directory)
    united = SimplexForImageClassification.disjoint_union([_load(ensemble, None, token) for ensemble in ensembles])
    united.save_pretrained(directory)
    config = united.config
    typer.echo(
        f"Written to {directory}: {len(config.simplexes)} simplexes, {config.num_vertices} vertices, "
        f"{len(config.members)} members"
    )


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved ensemble.")],
    repository: Annotated[str, typer.Argument(metavar="ID", help="Repository on the Hub, such as me/my-ensemble.")],
    private: Annotated[bool | None, typer.Option(help="Whether a repository that is created is private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, created if it is not there; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request with the commit.")] = False,
    code: Annotated[bool, typer.Option(help="Publish the inference code too, for those without hf-simplex.")] = True,
    commit_message: Annotated[str | None, typer.Option(help="Default: Upload ensemble.")] = None,
    token: Token = None,
) -> None:
    """Publish a saved ensemble with its card, in one commit; what the Hub has already is not sent again.

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
    """Raise ValueError where a model is already: it may be the only copy, and none of what is to be written."""
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} holds a model already (config.json): give another folder to write to.")


def _load(ensemble: str, revision: str | None, token: str | None) -> "SimplexForImageClassification":
    from transformers.utils import logging

    from hf_simplex import SimplexForImageClassification

    logging.disable_progress_bar()
    model: SimplexForImageClassification = SimplexForImageClassification.from_pretrained(
        ensemble, revision=revision, token=token
    )
    return model


def _describe(model: "SimplexForImageClassification", name: str) -> dict[str, Any]:
    """What `inspect` prints; volumes that are 0 have the logarithm None."""
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
    import tempfile

    from transformers import TrainingArguments

    from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
    from hf_simplex.evaluation.comparison import member_probabilities
    from hf_simplex.evaluation.metrics import classification_metrics

    if model.image_processor is None:
        raise ValueError("The ensemble has no image processor, so images cannot be prepared for it.")
    names: Any = model.config.id2label
    order = _label_order([names[label] for label in sorted(names)], data.label_names)
    _, transform = build_transforms(model.image_processor)
    with tempfile.TemporaryDirectory() as directory:
        args = TrainingArguments(
            directory,
            per_device_eval_batch_size=batch_size,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=cpu,
        )
        members, references = member_probabilities(model, with_pixel_values(data.test, transform), args, collate)
    metrics = classification_metrics(members.mean(axis=1)[:, order], references)
    return {"images": len(references), **metrics}


def _label_order(of_model: list[str], of_data: tuple[str, ...]) -> list[int]:
    """For each label of the data set the one of the model that bears its name."""
    if of_model == list(of_data):
        return list(range(len(of_model)))
    if sorted(of_model) == sorted(of_data):
        # ImageNet has two labels named "crane", which only their places tell apart.
        if repeated := sorted({name for name in of_model if of_model.count(name) > 1}):
            raise ValueError(
                f"Several labels are named {repeated[0]!r}, and the ensemble and the data set have their labels in "
                "different orders: give a data set with the labels in the ensemble's order, or names that differ."
            )
        return [of_model.index(name) for name in of_data]
    if len(of_model) == len(of_data) and of_model == [f"LABEL_{label}" for label in range(len(of_model))]:
        return list(range(len(of_model)))
    raise ValueError(
        f"The ensemble tells {len(of_model)} labels apart ({', '.join(of_model[:5])}, ...), the data set has "
        f"{len(of_data)} others ({', '.join(of_data[:5])}, ...): give a data set with the ensemble's labels."
    )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _print_table(columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, because rich would take what is in square brackets for markup.
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
