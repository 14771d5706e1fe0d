"""Arguments of a recipe: a YAML file whose every line is an argument, and flags that win over it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage, several pages of it here, and exit.
        raise ValueError(message)


def parse_arguments(dataclasses: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill argument dataclasses from `[CONFIG.yaml] [--flag value ...]`.

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
    parser = _Parser(dataclasses)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        file = Path(arguments.pop(0))
        try:
            settings = yaml.safe_load(file.read_text("utf-8")) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{file} holds {type(settings).__name__}; expected lines of the form `argument: value`.")
        known = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"{file} names {unknown[0]!r}, which is no argument of this recipe (see --help).")
        for name, value in settings.items():
            # As text, so that argparse converts it as it does a flag's value (YAML reads 1e-3 as text too).
            parser.set_defaults(**{name: str(value) if isinstance(value, (int, float)) else value})
            known[name].required = False
    return tuple(parser.parse_args_into_dataclasses(args=arguments, look_for_args_file=False))
