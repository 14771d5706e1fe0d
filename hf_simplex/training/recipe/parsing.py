"""Arguments of a recipe: a YAML file whose every line is an argument, and flags that win over it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage, several pages of it here, and exit.
        raise ValueError(message)


def parse_arguments(dataclasses: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill argument dataclasses from `[CONFIG.yaml] [--flag value ...]`.

    A value of the file is checked and converted as that of a flag is; a line without a value leaves the default.

    Args:
        dataclasses: the kinds of arguments, as `HfArgumentParser` takes them.
        argv: the command line without the program; default: the process's own.

    Returns:
        One instance of each dataclass, in their order.

    Raises:
        FileNotFoundError: the YAML file is not there.
        ValueError: the file is not a YAML mapping, an argument does not exist, or a value does not fit it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A shortened flag could mean another argument once there are more of them.
    parser = _Parser(dataclasses, usage="%(prog)s [CONFIG.yaml] [--argument value ...]", allow_abbrev=False)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments = [*_flags(Path(arguments[0]), parser), *arguments[1:]]
    *filled, unknown = parser.parse_args_into_dataclasses(
        args=arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no argument of this recipe (see --help).")
    return tuple(filled)


def _flags(file: Path, parser: HfArgumentParser) -> list[str]:
    """The lines of a YAML file as the flags that say the same."""
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
            raise ValueError(f"{file} names {name!r}, which is no argument of this recipe (see --help).")
        if isinstance(value, (list, dict)) and not (value and _takes(hints[name], type(value))):
            raise ValueError(f"{file} has {name}: {value}; expected {'one value' if value else 'a value'}.")
        if isinstance(value, list) and known[name].nargs == "+":
            # In front, so that another flag ends the values and not what the command line goes on with.
            flags = [f"--{name}", *map(str, value), *flags]
        elif isinstance(value, (list, dict)):
            # transformers' parser has no flag that says this.
            parser.set_defaults(**{name: value})
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def _takes(hint: Any, kind: type) -> bool:
    return any(kind in (option, get_origin(option)) for option in (hint, *get_args(hint)))
