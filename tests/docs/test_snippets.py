"""Every snippet of the README and the documentation runs as it is printed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import shell
import world
from huggingface_hub import HfFileSystem
from loopback_hub import LoopbackHub
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```\{?([\w-]+)", re.MULTILINE)
CHECKED = {"python", "sh"}
NO_CODE = {"text", "json", "bibtex", "math"} | {"toctree", "include", "figure", "eval-rst"}


def run_shell(example: Example) -> None:
    for words in shell.commands(example.parsed):
        shell.check(words)


SYBIL = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=run_shell), SkipParser()],
)


def examples(page: Path) -> list[Example]:
    return list(SYBIL.parse(page).examples())


def generated(page: Path) -> bool:
    """Whether the documentation's build wrote the page from docstrings."""
    return page.parent.name == "api" and page.name != "index.md"


@pytest.fixture
def in_the_world(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    HfFileSystem.clear_instance_cache()
    directory = tmp_path / "here"
    directory.mkdir()
    world.furnish(hub, directory)
    monkeypatch.chdir(directory)
    yield


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if not generated(page) and examples(page)],
)
@pytest.mark.usefixtures("in_the_world")
def test_every_snippet_runs(page: Path) -> None:
    for example in examples(page):
        example.evaluate()


@pytest.mark.parametrize("page", [page for page in PAGES if not generated(page)], ids=lambda page: page.name)
def test_every_code_block_is_in_a_language_that_is_checked(page: Path) -> None:
    languages = set(FENCE.findall(page.read_text("utf-8")))
    assert languages <= CHECKED | NO_CODE, languages - CHECKED - NO_CODE


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
