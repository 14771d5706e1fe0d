"""Who wins at 1, 2, 4 and 8 forward passes: the report of several comparisons.

    python recipes/evidence_report.py recipes/results/evidence output/evidence/*
    python recipes/evidence_report.py recipes/results/evidence

The first argument is the folder of the report. It gets `rows.parquet` (every contender, seed and number of passes),
`evidence.md` and `passes.png`. Further arguments are the output_dirs of `compare_ensembles.py`, one for each task.
Their seeds and contenders are added to those of the report, or replace them. Without them, tables and picture are
written again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from comparison.contenders import CONTENDERS
from comparison.evidence import passes_figure, report_text
from comparison.passes import Row, measure_folder, read_rows, write_rows

from hf_simplex.model.checkpoint import atomic_write

ROWS = "rows.parquet"


def main(argv: Sequence[str] | None = None) -> str:
    """Write the report; returns its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder of the report")
    parser.add_argument("folders", type=Path, nargs="*", help="output_dirs of compare_ensembles.py")
    arguments = parser.parse_args(argv)
    known = arguments.report / ROWS
    if not arguments.folders and not known.exists():
        parser.error(f"{arguments.report} holds no {ROWS}: name the output_dirs of compare_ensembles.py.")
    rows = read_rows(known) if known.exists() else []
    for folder in arguments.folders:
        measured = measure_folder(folder)
        if not measured:
            parser.error(f"{folder} holds no finished seed: run compare_ensembles.py first.")
        replaced = {_key(row) for row in measured}
        rows = [row for row in rows if _key(row) not in replaced] + measured
    order = [contender.name for contender in CONTENDERS]
    rows.sort(key=lambda row: (row["task"], row["seed"], order.index(row["contender"]), row["passes"]))
    text = report_text(rows)
    with atomic_write(arguments.report) as aside:
        write_rows(rows, aside / ROWS)
        (aside / "evidence.md").write_text(text, "utf-8")
        passes_figure(rows).savefig(aside / "passes.png", dpi=90, pil_kwargs={"optimize": True})
    print(text)
    return text


def _key(row: Row) -> tuple[str, int, str, int]:
    return row["task"], row["seed"], row["contender"], row["passes"]


if __name__ == "__main__":
    main()
