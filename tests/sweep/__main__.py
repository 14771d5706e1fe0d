"""Runs all kinds, or those that are named, and writes the table: `python -m sweep coat ViTForImageClassification`."""

import argparse
import dataclasses

import timm
import torch
import transformers

from sweep.backbones import kinds
from sweep.processes import run_all, silence
from sweep.table import PAGE, RESULTS, read, write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families or classes; the rows of others stay. Default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="of CPU time for a kind")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of memory for a kind")
    args = parser.parse_args()
    silence()
    found = kinds()
    if unknown := sorted(set(args.names) - {kind.name for kind in found}):
        parser.error(f"there is no {unknown[0]}; the kinds are {', '.join(kind.name for kind in found)}")
    named = [kind for name in args.names for kind in found if kind.name == name]
    chosen = named or found
    stored = read()["rows"] if args.names and RESULTS.exists() else []
    rows = {(row["library"], row["name"]): row for row in stored}
    versions = {module.__name__: module.__version__ for module in (timm, transformers, torch)}
    for outcome in run_all(chosen, args.processes, args.seconds, args.gigabytes):
        print(f"{outcome.name:50} {outcome.architecture:40} {outcome.seconds:5} s  {outcome.lives}", flush=True)
        rows[outcome.library, outcome.name] = dataclasses.asdict(outcome)
        write(list(rows.values()), versions)
    print(f"{len(chosen)} kinds: {PAGE}")
    failed = [row for row in rows.values() if set(row["lives"].values()) - {"passed"}]
    print(f"{len(failed)} have not passed all: {', '.join(row['name'] for row in failed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
