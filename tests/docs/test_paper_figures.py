"""The page that puts the paper's figures beside ours quotes ours as the files have them."""

import json
import re
from pathlib import Path

import pytest
from comparison.store import read_results
from comparison.tables import mean_and_error

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/paper_figures.md"
RESULTS = ROOT / "recipes/results"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first line starts with `heading`."""
    lines = PAGE.read_text("utf-8").split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith(heading))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_the_differences_of_figure_8_are_those_of_its_readings() -> None:
    figure = rows("| components | deep ensemble")
    assert [int(row[0]) for row in figure] == [1, 2, 3, 6, 8]
    for _, ensemble, simplexes, difference in figure:
        assert float(difference) == pytest.approx(float(simplexes) - float(ensemble), abs=1e-9)


def test_our_differences_are_those_of_the_tables_of_the_comparison() -> None:
    ours = rows("| components | the paper")
    assert len(ours) == 6
    for components, _, centroids, vertices, _, seeds, file in ours:
        text = (RESULTS / "comparison" / file.strip("`")).read_text("utf-8")
        assert f"Mean and standard error over {seeds} seeds." in text
        passes = int(components)
        rival = "Minus one mode," if passes == 1 else f"Minus the deep ensemble of {passes},"
        differences = text.split(rival)[1].split("\nMinus ")[0]
        name = "ESPRO, one centroid" if passes == 1 else "ESPRO, centroids"
        for method, figure in ((name, centroids), ("ESPRO, vertices", vertices)):
            if figure:
                assert re.search(
                    rf"^\| {method} \| \d+ \| \d+ \| {re.escape(figure)}\*? \|", differences, re.MULTILINE
                )


def test_random_members_have_the_error_and_nll_of_the_benchmark() -> None:
    table = rows("| task | mode | 25 random points")
    assert len(table) == 2
    for _, mode, random, file in table:
        found = json.loads((RESULTS / "benchmarks" / file.strip("`")).read_text("utf-8"))["rows"]
        for name, passes, cell in (("first mode", 1, mode), ("random", 25, random)):
            row = next(row for row in found if (row["members"], row["forward_passes"]) == (name, passes))
            assert cell == f"{100 * (1 - row['accuracy']):.2f} / {row['nll']:.3f}"


def test_the_differences_in_the_papers_regime_are_those_of_the_seeds() -> None:
    table = rows("| components | the paper (error)")
    assert [int(row[0]) for row in table] == list(range(1, 9))
    for name, column in (("long_modes_tenth", 2), ("long_modes_thirtieth", 4)):
        seeds = [run["methods"] for run in read_results(RESULTS / "comparison" / name / "results.parquet")]
        assert len(seeds) == 3
        for row in table:
            members = int(row[0]) - 1
            pairs = [(own["espro_centroids"][members], own["deep_ensemble"][members]) for own in seeds]
            errors = [100 * (deep["accuracy"] - simplexes["accuracy"]) for simplexes, deep in pairs]
            likelihoods = [simplexes["nll"] - deep["nll"] for simplexes, deep in pairs]
            for values, digits, cell in ((errors, 2, row[column]), (likelihoods, 3, row[column + 1])):
                mean, error = mean_and_error(values)
                assert cell.strip("*") == f"{mean:+.{digits}f} ± {error:.{digits}f}"
                assert cell.startswith("**") == (mean < -2 * error)
