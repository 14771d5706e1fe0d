"""Results of a comparison or of a study as one long-form Parquet file.

A row is one number, in the columns `seed`, `method`, `members` (how many predict together), `images` (`test`, or
`<corruption>/<severity>`), `metric` and `value`; a study also has the column `setting`. Arguments, versions and
hardware of every run are JSON in the metadata of the file, under the key `runs`.

A comparison keeps every number of members on the test images. On corrupted images it keeps one member, as many as the
deep ensemble has, and all of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hf_simplex.evaluation.metrics import reliability_bins

__all__ = ["RESULTS_FILE", "STUDY_FILE", "read_results", "read_run", "read_study", "write_results", "write_study"]

RESULTS_FILE, STUDY_FILE = "results.parquet", "study.parquet"
# Metrics on corrupted images that tables and pictures need.
CORRUPTION_METRICS = ("accuracy", "nll", "ece", "calibrated_nll")
RELIABILITY = "reliability"
DIFFERENCE = "difference"

Results = Mapping[str, Any]
Row = tuple[int, str, int, str, str, float]
COLUMNS = {
    "seed": pa.int32(),
    "method": pa.dictionary(pa.int8(), pa.string()),
    "members": pa.int16(),
    "images": pa.dictionary(pa.int16(), pa.string()),
    "metric": pa.dictionary(pa.int16(), pa.string()),
    "value": pa.float64(),
}
STUDY_COLUMNS = {"setting": pa.dictionary(pa.int16(), pa.string()), **COLUMNS}


def read_run(folder: Path) -> list[dict[str, Any]]:
    """Read the results of every seed that `compare_ensembles.py` finished.

    Args:
        folder: its output_dir.

    Returns:
        [seeds] what results.json holds, and `reliability`: for each method whose predictions are there the
        reliability bins of all its members on the test images.
    """
    seeds = []
    for file in sorted(folder.glob("seed-*/results.json")):
        results = json.loads(file.read_text("utf-8"))
        predictions = sorted(file.parent.glob("predictions/*.safetensors"))
        if predictions:
            labels = load_file(file.parent / "labels.safetensors")["test"]
            results[RELIABILITY] = {path.stem: _bins(load_file(path)["test"], labels) for path in predictions}
        seeds.append(results)
    return seeds


def _bins(members: NDArray[Any], labels: NDArray[Any]) -> dict[str, list[float]]:
    """Images, mean confidence and accuracy of each bin."""
    mean = members.astype(np.float64).mean(axis=0)
    bins = reliability_bins(mean / mean.sum(axis=-1, keepdims=True), labels)
    return {
        "images": (bins.shares * len(labels)).round().tolist(),
        "confidence": np.nan_to_num(bins.confidences).tolist(),
        "accuracy": np.nan_to_num(bins.accuracies).tolist(),
    }


def write_results(seeds: Sequence[Results], file: Path) -> None:
    """Write the results of all seeds of one comparison.

    Args:
        seeds: as `read_run` or `read_results` returns them.
        file: the Parquet file.
    """
    rows = [row for results in seeds for row in _rows(results)]
    _write(rows, COLUMNS, [{k: v for k, v in s.items() if k not in ("methods", RELIABILITY)} for s in seeds], file)


def _rows(results: Results) -> Iterator[Row]:
    seed, methods = results["seed"], results["methods"]
    deep = len(methods.get("deep_ensemble", ()))
    for method, counts in methods.items():
        for members, found in enumerate(counts, start=1):
            for metric, value in found.items():
                if metric not in ("corrupted", "forward_passes"):
                    yield seed, method, members, "test", metric, value
            if members in (1, deep, len(counts)):
                for images, metrics in found.get("corrupted", {}).items():
                    for metric in CORRUPTION_METRICS:
                        yield seed, method, members, images, metric, metrics[metric]
    for method, bins in results.get(RELIABILITY, {}).items():
        for quantity, values in bins.items():
            for number, value in enumerate(values):
                yield seed, method, len(methods[method]), "test", f"{RELIABILITY}/{quantity}/{number}", value


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read the results of all seeds of one comparison, in the form that `read_run` returns."""
    by_seed = {run["seed"]: run | {"methods": {}} for run in _read_runs(file)}
    for seed, method, members, images, metric, value in _records(file, COLUMNS):
        results = by_seed[seed]
        if metric.startswith(f"{RELIABILITY}/"):
            _, quantity, _ = metric.split("/")
            bins = results.setdefault(RELIABILITY, {}).setdefault(method, {})
            bins.setdefault(quantity, []).append(value)
            continue
        counts = results["methods"].setdefault(method, [])
        if len(counts) < members:
            counts.append({"forward_passes": members})
        found = counts[members - 1]
        if images != "test":
            found = found.setdefault("corrupted", {}).setdefault(images, {})
        found[metric] = value
    return list(by_seed.values())


def write_study(lines: Sequence[Results], file: Path) -> None:
    """Write the lines of study.jsonl, one for each setting and seed."""
    rows = [row for line in lines for row in _study_rows(line)]
    _write(rows, STUDY_COLUMNS, [{k: v for k, v in line.items() if k != "methods"} for line in lines], file)


def _study_rows(line: Results) -> Iterator[tuple[str, *Row]]:
    for choice, metrics in line["methods"].items():
        key = line["setting"], line["seed"], choice, metrics["forward_passes"], "test"
        for metric, value in metrics.items():
            if metric == DIFFERENCE:
                for name, (mean, error) in value.items():
                    yield *key, f"{DIFFERENCE}/{name}", mean
                    yield *key, f"{DIFFERENCE}/{name}/error", error
            elif metric != "forward_passes":
                yield *key, metric, value


def read_study(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a study, as `study.jsonl` has them."""
    lines = {(run["setting"], run["seed"]): run | {"methods": {}} for run in _read_runs(file)}
    for setting, seed, choice, members, _, metric, value in _records(file, STUDY_COLUMNS):
        found = lines[setting, seed]["methods"].setdefault(choice, {"forward_passes": members})
        if metric.startswith(f"{DIFFERENCE}/"):
            # The mean comes first, its standard error second.
            found.setdefault(DIFFERENCE, {}).setdefault(metric.split("/")[1], []).append(value)
        else:
            found[metric] = value
    return list(lines.values())


def _write(rows: Sequence[tuple[Any, ...]], columns: Mapping[str, Any], runs: Sequence[Results], file: Path) -> None:
    arrays = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(columns.values())]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(list(columns.items())))
    dictionaries = [name for name, kind in columns.items() if pa.types.is_dictionary(kind)]
    # Metadata of the file, not of the Arrow schema, which Parquet holds twice.
    with pq.ParquetWriter(
        file, table.schema, compression="zstd", compression_level=19, use_dictionary=dictionaries, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"runs": json.dumps(_factor(runs), default=str)})


def _records(file: Path, columns: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    table = pq.read_table(file)
    return zip(*(table.column(name).to_pylist() for name in columns), strict=True)


def _factor(runs: Sequence[Results]) -> dict[str, Any]:
    """What all runs have in common, and what each has of its own, by dotted names."""
    flat = [dict(_flatten(run)) for run in runs]
    common = {name: value for name, value in flat[0].items() if all(run.get(name, _ABSENT) == value for run in flat)}
    return {"common": common, "own": [{k: v for k, v in run.items() if k not in common} for run in flat]}


def _read_runs(file: Path) -> list[dict[str, Any]]:
    found = json.loads(pq.read_metadata(file).metadata[b"runs"])
    return [_nest(found["common"] | own) for own in found["own"]]


_ABSENT = object()


def _flatten(run: Results, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in run.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nest(flat: Results) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested
