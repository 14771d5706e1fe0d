"""Runs many cases on several processes: `python -m fuzz --cases 100000 --processes 2`."""

import argparse
import multiprocessing
import tempfile
import time

from fuzz.harness import Report
from fuzz.processes import run, start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    report, began = Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(args.processes, start, (directory,)) as pool:
            for outcome in pool.imap_unordered(run, range(args.first, args.first + args.cases), chunksize=100):
                report.add(outcome)
                if outcome.fault is not None:
                    print(f"case {outcome.number}, {outcome.file}: {outcome.fault}", flush=True)
    for (file, result), count in sorted(report.counts.items()):
        print(f"{file:35} {result:20} {count}")
    print(
        f"{args.cases} cases from {args.first} in {time.monotonic() - began:.0f} s, {report.seconds:.0f} s of a "
        f"processor, at most {report.longest:.2f} s for one; {len(report.faults)} faults"
    )
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
