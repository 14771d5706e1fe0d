"""A recipe is a script over the package: no script imports another script."""

import ast
from pathlib import Path

import pytest
from tiny_recipes import RECIPES

# Shared by the benchmarks; not scripts.
HELPERS = {"measure", "workloads"}
FILES = sorted(RECIPES.rglob("*.py"))


def is_script(file: Path) -> bool:
    return any(ast.unparse(node).startswith("if __name__ == '__main__'") for node in ast.parse(file.read_text()).body)


def imported(file: Path) -> set[str]:
    """Top-level names of the imported modules, but for hf_simplex."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} - {"hf_simplex"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES)))
def test_no_script_is_imported(file: Path) -> None:
    scripts = {script.stem for script in FILES if is_script(script)}
    assert imported(file).isdisjoint(scripts)


def test_files_beside_the_recipes_are_scripts_and_the_helpers_of_benchmarks_are_named() -> None:
    assert all(is_script(file) for file in RECIPES.glob("*.py"))
    assert {file.stem for file in RECIPES.glob("benchmarks/*.py") if not is_script(file)} == HELPERS
