"""Checks the lines of a shell snippet: `hf-simplex` runs, a recipe parses its arguments, the rest is looked up."""

import argparse
import importlib
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from hf_simplex.cli import app

ROOT = Path(__file__).parents[2]


def commands(snippet: str) -> list[list[str]]:
    """The words of each command, without comments, prompts and continued lines."""
    lines = snippet.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


def check(words: Sequence[str]) -> None:
    """Run a command, or check what can be checked without running it.

    Raises:
        AssertionError: the command fails, or nothing is known about it.
    """
    program, *arguments = words
    checks: dict[str, Callable[[list[str]], None]] = {
        "hf-simplex": _check_command,
        "make": _check_make,
        "pip": _check_pip,
        "cd": lambda _: None,
        "accelerate": _check_launcher,
        "torchrun": _check_launcher,
        "python": _check_recipe,
        "sbatch": _check_script,
        "bash": _check_script,
        "cffconvert": lambda _: None,
    }
    assert program in checks, f"nothing checks {program!r}: teach {Path(__file__).name}"
    checks[program](arguments)


def _check_command(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if arguments[0] == "demo":
            # It would serve until somebody ends it.
            patch.setattr("hf_simplex.explorer.app.launch", lambda blocks, **options: None)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"hf-simplex {shlex.join(arguments)}\n{result.output}"


def _check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in (argument for argument in arguments if "=" not in argument):
        assert target in targets, f"the Makefile has no target {target!r}"


def _check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    for argument in arguments[1:]:
        if not argument.startswith("-"):
            extras = Requirement(re.sub(r"^\.(?=\[|$)", "hf-simplex", argument)).extras
            declared = (ROOT / "pyproject.toml").read_text("utf-8")
            assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras), argument


def _check_launcher(arguments: list[str]) -> None:
    """The launcher's own flags come first, in front of the recipe."""
    (script,) = (index for index, argument in enumerate(arguments) if argument.endswith(".py"))
    for flag, value in itertools.pairwise(arguments[:script]):
        if flag == "--config_file":
            assert (ROOT / value).is_file(), f"there is no {value}"
    _check_recipe(arguments[script:])


def _check_script(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"


class _ParsedError(Exception):
    """The arguments fit the recipe's parser."""


def _check_recipe(arguments: list[str]) -> None:
    """Start a recipe and stop it as soon as its arguments are parsed."""
    script, *flags = arguments
    assert (ROOT / script).is_file(), f"there is no {script}"
    flags = [str(ROOT / flag) if flag.startswith("recipes/") else flag for flag in flags]

    def stops(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
        def parsed(*given: Any, **named: Any) -> NoReturn:
            parse(*given, **named)
            raise _ParsedError

        return parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *flags])
        patch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
        parsing = importlib.import_module("hf_simplex.training.recipe.parsing")
        patch.setattr(parsing, "parse_arguments", stops(parsing.parse_arguments))
        # HfArgumentParser has methods of its own: this stops the recipes that use argparse plainly.
        patch.setattr(argparse.ArgumentParser, "parse_args", stops(argparse.ArgumentParser.parse_args))
        # A benchmark of processes takes no arguments.
        patch.setattr("torch.distributed.init_process_group", stops(lambda *_, **__: None))
        # A module imported before holds the function itself.
        for module in list(sys.modules.values()):
            if vars(module).get("parse_arguments") and module.__name__ != parsing.__name__:
                patch.setattr(module, "parse_arguments", parsing.parse_arguments)
        with pytest.raises(_ParsedError):
            runpy.run_path(str(ROOT / script), run_name="__main__")
