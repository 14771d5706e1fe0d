"""Command line of a recipe: a YAML file with one argument per line, and flags that override it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

__all__ = ["exit_on_mistake", "parse_arguments"]


MISTAKES = (ValueError, TypeError, OSError, ImportError)


@contextmanager
def exit_on_mistake(kinds: tuple[type[Exception], ...] = MISTAKES) -> Iterator[None]:
    """Exit with code 2 and one line on stderr if the block raises an error that a user can correct.

    Args:
        kinds: Types of such errors.

    Example:
        >>> from hf_simplex.training.recipe.parsing import exit_on_mistake
        >>> with exit_on_mistake():
        ...     raise ValueError("num_components is 0: expected at least 1.")
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        yield
    except kinds as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def parse_arguments(dataclasses: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse `[CONFIG.yaml] [--flag value ...]` into argument dataclasses.

    A value in the file is checked and converted like the value of a flag. A line without a value keeps the default.

    Args:
        dataclasses: argument classes, as for `HfArgumentParser`.
        argv: command line without the program. Default: `sys.argv[1:]`.

    Returns:
        One instance of each dataclass, in the given order.

    Raises:
        FileNotFoundError: the YAML file does not exist.
        ValueError: the file is not a YAML mapping, an argument is unknown, or a value has the wrong type.

    Example:
        >>> from hf_simplex.training.recipe.arguments import DataArguments
        >>> from hf_simplex.training.recipe.parsing import parse_arguments
        >>> (data_args,) = parse_arguments((DataArguments,), ["--data_set", "digits", "--image_size", "64"])
        >>> data_args.image_size
        64
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # An abbreviated flag would become ambiguous as soon as another argument is added.
    parser = _Parser(dataclasses, usage="%(prog)s [CONFIG.yaml] [--argument value ...]", allow_abbrev=False)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments = [*_flags(Path(arguments[0]), parser), *arguments[1:]]
    *filled, unknown = parser.parse_args_into_dataclasses(
        args=arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        hint = "" if unknown[0].startswith("-") else " The name of a configuration comes first and ends in .yaml."
        raise ValueError(f"{unknown[0]!r} is not an argument of this recipe (see --help).{hint}")
    return tuple(filled)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse prints the whole usage, several pages here, and exits.
        raise ValueError(message)


def _flags(file: Path, parser: HfArgumentParser) -> list[str]:
    """Convert the lines of a YAML file to flags."""
    try:
        settings = yaml.safe_load(file.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds {type(settings).__name__}; expected lines of the form `argument: value`.")
    known = {action.dest: action for action in parser._actions if f"--{action.dest}" in action.option_strings}
    hints = {name: hint for kind in parser.dataclass_types for name, hint in get_type_hints(kind).items()}
    flags: list[str] = []
    for name, value in settings.items():
        if name not in known or name == "help":
            raise ValueError(f"{file} names {name!r}, which is not an argument of this recipe (see --help).")
        if isinstance(value, (list, dict)) and not (value and _accepts(hints[name], type(value))):
            raise ValueError(f"{file} has {name}: {value}; expected {'one value' if value else 'a value'}.")
        if isinstance(value, list) and known[name].nargs == "+":
            # Put lists first. The next flag then ends the list, and no positional argument joins it.
            flags = [f"--{name}", *map(str, value), *flags]
        elif isinstance(value, (list, dict)):
            # HfArgumentParser has no flag for such a value.
            parser.set_defaults(**{name: value})
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def _accepts(hint: Any, kind: type) -> bool:
    return any(kind in (option, get_origin(option)) for option in (hint, *get_args(hint)))
