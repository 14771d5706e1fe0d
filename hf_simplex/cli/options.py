"""Arguments and options that several commands have."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "BatchSize",
    "Cpu",
    "DataConfig",
    "DataRevision",
    "DataSet",
    "Device",
    "Directory",
    "Ensemble",
    "ImageColumn",
    "Json",
    "LabelColumn",
    "LabelsByPosition",
    "OnImages",
    "Revision",
    "Token",
    "with_image_options",
]

Ensemble = Annotated[str, typer.Argument(metavar="ID", help="Hub id or folder of an ensemble.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the ensemble on the Hub.")]
Token = Annotated[str | None, typer.Option(help="Hub token; default: that of the logged-in account.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")]
DataSet = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Hub id or folder of images, 'digits' or 'fashion_mnist'."),
]
DataConfig = Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")]
DataRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a data set on the Hub.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of images; default: the only one.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of labels; default: the only one, label or labels.")]
LabelsByPosition = Annotated[
    bool,
    typer.Option("--labels-by-position", help="Match labels by position instead of name."),
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; default: a GPU, if available.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder, created if missing.")]


@dataclass(frozen=True)
class OnImages:
    """Arguments and options of the commands that run an ensemble on the labelled images of a data set.

    Example:
        >>> OnImages("me/pets-simplex", "pictures/").batch_size
        32
    """

    ensemble: Ensemble
    data_set: DataSet
    image_column: ImageColumn = None
    label_column: LabelColumn = None
    labels_by_position: LabelsByPosition = False
    data_config: DataConfig = None
    data_revision: DataRevision = None
    as_json: Json = False
    batch_size: BatchSize = 32
    cpu: Cpu = False
    revision: Revision = None
    token: Token = None


def with_image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and options of `OnImages`, beside its own.

    Args:
        command: takes an `OnImages` first, and its own options after that.

    Returns:
        A function with all of them as parameters, as typer reads them.

    Example::

        @app.command()
        @with_image_options
        def evaluate(on: OnImages, split: str | None = None) -> None:
            print(on.data_set, split)
    """
    shared = inspect.signature(OnImages).parameters
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = sorted([*own, *shared.values()], key=lambda parameter: parameter.default is not parameter.empty)

    def call(**given: Any) -> None:
        command(OnImages(**{name: given.pop(name) for name in shared}), **given)

    call.__name__, call.__doc__, call.__module__ = command.__name__, command.__doc__, command.__module__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call
