"""A mistake and an interruption end with one line on stderr."""

from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["OneLineErrors"]


class OneLineErrors(TyperGroup):
    """Reports a user's error in one line on stderr and exits with code 2, or 130 after Ctrl-C.

    Example::

        app = typer.Typer(cls=OneLineErrors)
    """

    def invoke(self, ctx: Any) -> Any:
        """See `typer.core.TyperGroup.invoke`."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            # Typer ends quietly where the reader of a pipe has gone, such as `head`.
            raise
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError) as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
