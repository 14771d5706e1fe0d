"""Every test that docs/robustness.md names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def named_in(cell: str) -> list[tuple[str, str]]:
    """File and test of each `file::test` in a line; `::test` is in the file before it."""
    named, file = [], ""
    for path, test in re.findall(r"`([\w/]*(?:\.py)?)::(test_\w+)`", cell):
        file = path or file
        named.append((file, test))
    return named


NAMED = [pair for line in (ROOT / "docs/robustness.md").read_text("utf-8").splitlines() for pair in named_in(line)]


def test_a_name_without_a_file_is_of_the_file_before() -> None:
    line = "| a | `tests/a.py::test_one`, `::test_two` | `tests/b.py::test_three` |"
    assert named_in(line) == [("tests/a.py", "test_one"), ("tests/a.py", "test_two"), ("tests/b.py", "test_three")]


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_named_test_is_there(file: str) -> None:
    there = {
        node.name for node in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
    }
    assert {test for named, test in NAMED if named == file} <= there


def test_every_row_of_a_table_names_a_test() -> None:
    before_harnesses = (ROOT / "docs/robustness.md").read_text("utf-8").split("## Harnesses")[0]
    rows = [line for line in before_harnesses.splitlines() if re.match(r"\| (?!what is brought)", line)]
    assert len(rows) > 60
    assert [row for row in rows if not named_in(row)] == []
