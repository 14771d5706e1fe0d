"""A release says one version everywhere, and the workflows run what anybody can run."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import hf_simplex

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_changelog_and_citation_are_of_this_version() -> None:
    newest = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert newest is not None
    assert newest[1] == citation["version"] == hf_simplex.__version__
    assert newest[2] == str(citation["date-released"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=[file.stem for file in WORKFLOWS])
def test_a_workflow_runs_what_anybody_can_run(file: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    jobs = yaml.safe_load(file.read_text("utf-8"))["jobs"]
    commands = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    ours = [words for words in commands if words != ["pip", "install", "uv"]]
    assert ours
    for words in ours:
        assert words == [".ci/run"] or (words[0] == "make" and words[1] in targets), words


def test_the_gate_checks_archives_and_lowest_versions() -> None:
    steps = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert steps == ["lint", "docs", "release", "lowest", "test"]


def test_every_dependency_has_a_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    without = [str(one) for one in requirements if one.name != project["name"] and not one.specifier]
    assert without == []
