"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

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
    "Revision",
    "Token",
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
