"""Docstrings of the package: every public one has an example, and the `>>>` examples print what they say."""

import ast
import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hf_simplex

MODULES = ["hf_simplex", *(module.name for module in pkgutil.walk_packages(hf_simplex.__path__, "hf_simplex."))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert not result.failed, f"{result.failed} of {result.attempted} examples of {name} fail; see the output above"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_docstring_has_an_example(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    docstring = ast.get_docstring(tree) or ""
    wrong = []
    if not _starts_with_one_line(docstring):
        wrong.append("the module: its docstring must start with one line, a sentence")
    if not isinstance(getattr(module, "__all__", None), list):
        wrong.append("the module: it has no __all__")
    for path, node in _public(tree):
        docstring = ast.get_docstring(node) or ""
        if not _starts_with_one_line(docstring):
            wrong.append(f"{path}: its docstring must start with one line, a sentence")
        elif not re.search(r"^Example:", docstring, re.MULTILINE) and not _refers_to_base(module, path, docstring):
            wrong.append(f"{path}: its docstring has no Example")
    assert not wrong, f"{name}:\n" + "\n".join(wrong)


def _public(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and nodes of public classes, functions and methods. A setter has the docstring of its getter."""
    for child in node.body:
        is_class = isinstance(child, ast.ClassDef)
        if not (is_class or isinstance(child, ast.FunctionDef)) or child.name.startswith("_"):
            continue
        if any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in child.decorator_list):
            continue
        yield f"{prefix}{child.name}", child
        if is_class:
            yield from _public(child, f"{prefix}{child.name}.")


def _starts_with_one_line(docstring: str) -> bool:
    first, _, rest = docstring.partition("\n")
    return bool(re.search(r"[.:?]$", first)) and (not rest or rest.startswith("\n"))


def _refers_to_base(module: Any, path: str, docstring: str) -> bool:
    """Whether a method overrides one of another library, and its docstring sends readers there: "See `...`."."""
    class_name, _, method = path.rpartition(".")
    bases = getattr(module, class_name).__mro__ if class_name else ()
    overrides = any(method in vars(base) for base in bases if base.__module__.partition(".")[0] != "hf_simplex")
    return overrides and re.match(rf"See `[\w.]+\.{method}`\.", docstring) is not None
