"""What vertices vary, as a flag and as a line of a configuration."""

from pathlib import Path
from typing import Any

import pytest

from hf_simplex.training.recipe.arguments import BackboneArguments
from hf_simplex.training.recipe.parsing import parse_arguments


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "all"),
        (["--vertex_parameters", "lora"], "lora"),
        (["--vertex_parameters=*layers.3,head"], "*layers.3,head"),
    ],
)
def test_a_flag_is_text(flags: list[str], expected: str) -> None:
    (arguments,) = parse_arguments((BackboneArguments,), ["--backbone", "any", *flags])
    assert arguments.vertex_parameters == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("{r: 8}", {"r": 8}), ("[head, '*layers.3']", ["head", "*layers.3"]), ("lora", "lora"), ("", "all")],
)
def test_a_line_holds_any_of_them(tmp_path: Path, line: str, expected: Any) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"vertex_parameters: {line}\n", "utf-8")
    (arguments,) = parse_arguments((BackboneArguments,), [str(config)])
    assert arguments.vertex_parameters == expected
