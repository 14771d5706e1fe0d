"""The command `hf-simplex`.

The commands import torch and transformers themselves, because that takes seconds and `--help` needs neither.
"""

from typing import Annotated

import typer

from ..version import __version__
from .demo import demo
from .errors import OneLineErrors
from .evaluation import calibrate, evaluate
from .files import export, merge, push
from .inspection import inspect
from .prediction import predict

__all__ = ["app"]

app = typer.Typer(
    cls=OneLineErrors,
    help="Inspect, calibrate, evaluate, explore, export and publish ensembles of fine-tuned models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version of hf-simplex."),
    ] = False,
) -> None:
    pass


for command in (inspect, predict, evaluate, calibrate, export, merge, push, demo):
    app.command()(command)
