"""Results in git: their tables come from their Parquet files, and they stay small."""

import re
from pathlib import Path

import compare_ensembles
import pytest
from comparison.evidence import report_text
from comparison.passes import read_rows
from comparison.store import read_results, read_study
from comparison.study import study_tables
from comparison.tables import tables

RESULTS = Path(compare_ensembles.__file__).parent / "results"
REPORTS = sorted(file.parent for file in RESULTS.rglob("results.parquet"))
EVIDENCE = sorted(file.parent for file in RESULTS.rglob("rows.parquet"))
STUDIES = sorted(file.parent for file in RESULTS.rglob("study.parquet"))


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_the_tables_of_a_comparison_are_those_of_its_parquet_file(report: Path) -> None:
    assert tables(read_results(report / "results.parquet")) == (report / "tables.md").read_text("utf-8")


@pytest.mark.parametrize("report", STUDIES, ids=lambda report: report.name)
def test_the_tables_of_a_study_are_those_of_its_parquet_file(report: Path) -> None:
    assert study_tables(read_study(report / "study.parquet")) == (report / "study.md").read_text("utf-8")


@pytest.mark.parametrize("report", EVIDENCE, ids=lambda report: report.name)
def test_the_tables_of_the_evidence_are_those_of_its_parquet_file(report: Path) -> None:
    assert report_text(read_rows(report / "rows.parquet")) == (report / "evidence.md").read_text("utf-8")


def test_all_tables_have_their_data() -> None:
    assert len(REPORTS) == len(list(RESULTS.rglob("tables.md"))) > 0
    assert len(STUDIES) == len(list(RESULTS.rglob("study.md"))) > 0
    assert len(EVIDENCE) == len(list(RESULTS.rglob("evidence.md"))) > 0


def test_data_stay_below_2_megabytes_and_a_picture_below_300_kilobytes() -> None:
    data = [file for file in RESULTS.rglob("*") if file.suffix in (".json", ".jsonl", ".csv", ".parquet")]
    assert sum(file.stat().st_size for file in data) < 2e6
    assert all(file.stat().st_size < 300_000 for file in RESULTS.rglob("*.png"))


def test_all_pictures_and_links_of_the_report_are_there() -> None:
    report = RESULTS / "comparison" / "REPORT.md"
    links = re.findall(r"\]\(([^)#]+)", report.read_text("utf-8"))
    assert links and all((report.parent / link).exists() for link in links)
    shown = {(report.parent / link).resolve() for link in links if link.endswith(".png")}
    assert shown == {file.resolve() for file in report.parent.rglob("*.png")}
