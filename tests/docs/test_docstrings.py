"""The `>>>` examples in docstrings of the package run and print what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import hf_simplex

MODULES = [module.name for module in pkgutil.walk_packages(hf_simplex.__path__, "hf_simplex.")]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert not result.failed, f"{result.failed} of {result.attempted} examples of {name} fail; see the output above"
