"""Prints JSON and tables."""

import json
from typing import Any

import typer

__all__ = ["print_json", "print_table"]


def print_json(value: Any) -> None:
    """Print JSON, indented.

    Example:
        >>> print_json({"images": 20})
        {
          "images": 20
        }
    """
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table. Its columns have no header if no name is given.

    Args:
        columns: names; underscores are shown as spaces.
        rows: a value for each column. None is shown as a dash, a float with four digits.

    Example::

        print_table(["accuracy", "nll"], [[0.9, 0.31]])
    """
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
