"""Tables and pictures of a comparison or of a study, over all its seeds, and its results as one Parquet file.

    python recipes/comparison_report.py output/compare_fine_tuning recipes/results/comparison/fine_tuning
    python recipes/comparison_report.py recipes/results/comparison/fine_tuning

The first argument is what `compare_ensembles.py` or `study_espro.py` left, or a report, whose Parquet file is read.
The second is the folder to write, by default the report itself. For a comparison that folder gets `results.parquet`,
`tables.md` and pictures: `budget.png` (against training epochs), `forward_passes.png`, `reliability.png` (from
predictions) and `shift.png` (from corrupted images). For a study it gets `study.parquet` and `study.md`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from comparison.pictures import PICTURES
from comparison.store import RESULTS_FILE, STUDY_FILE, read_results, read_run, read_study, write_results, write_study
from comparison.study import read_lines, study_tables
from comparison.tables import tables

from hf_simplex.model.checkpoint import atomic_write


def main(argv: Sequence[str] | None = None) -> str:
    """Write the report; returns its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="output_dir of compare_ensembles.py or study_espro.py, or a report")
    parser.add_argument("report", type=Path, nargs="?", help="folder to write; default: the source")
    parser.add_argument("--pictures", nargs="*", choices=list(PICTURES), default=list(PICTURES), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these; default: all")
    arguments = parser.parse_args(argv)
    source = arguments.source
    report = source if arguments.report is None else arguments.report
    if (source / STUDY_FILE).exists() or (source / "study.jsonl").exists():
        return report_study(source, report)
    seeds = read_results(source / RESULTS_FILE) if (source / RESULTS_FILE).exists() else read_run(source)
    seeds = [seed for seed in seeds if arguments.seeds is None or seed["seed"] in arguments.seeds]
    if not seeds:
        parser.error(f"{source} holds no {RESULTS_FILE} and no seed-*/results.json: run compare_ensembles.py first.")
    text = tables(seeds)
    with atomic_write(report) as aside:
        write_results(seeds, aside / RESULTS_FILE)
        (aside / "tables.md").write_text(text, "utf-8")
        for name in arguments.pictures:
            if figure := PICTURES[name](seeds):
                figure.savefig(aside / f"{name}.png", dpi=120, pil_kwargs={"optimize": True})
    print(text)
    return text


def report_study(source: Path, report: Path) -> str:
    """Write the report of a study; returns its tables."""
    lines = read_study(source / STUDY_FILE) if (source / STUDY_FILE).exists() else read_lines(source / "study.jsonl")
    text = study_tables(lines)
    with atomic_write(report) as aside:
        write_study(lines, aside / STUDY_FILE)
        (aside / "study.md").write_text(text, "utf-8")
    print(text)
    return text


if __name__ == "__main__":
    main()
