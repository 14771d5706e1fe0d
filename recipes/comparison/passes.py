"""Error and NLL of every contender at 1, 2, 4 and 8 forward passes, seed by seed, and who wins."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from comparison.contenders import CONTENDERS, PASSES, Contender, chosen_members
from comparison.metrics import Arrays
from comparison.tables import mean_and_error
from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.metrics import classification_metrics

__all__ = ["MEASURES", "Row", "by_seed", "differences", "means", "measure_folder", "read_rows", "write_rows"]

MEASURES = ("error", "nll", "calibrated_nll", "ece", "corrupted_error", "corrupted_nll", "corrupted_calibrated_nll")
"""What is measured: error in percent, the rest in nats; means over corruptions and severities."""

Row = dict[str, Any]


def measure_folder(folder: Path) -> list[Row]:
    """Measure every contender on every finished seed of a comparison.

    Args:
        folder: output_dir of `compare_ensembles.py`.

    Returns:
        A row for each seed, contender and number of passes.
    """
    rows = []
    for file in sorted(folder.glob("seed-*/labels.safetensors")):
        predictions = {path.stem: load_file(path) for path in sorted(file.parent.glob("predictions/*.safetensors"))}
        seed = json.loads((file.parent / "results.json").read_text("utf-8"))["seed"]
        rows += [{"task": folder.name, "seed": seed, **row} for row in _measured(predictions, load_file(file))]
    return rows


def _measured(predictions: Mapping[str, Arrays], labels: Arrays) -> Iterator[Row]:
    for contender in CONTENDERS:
        if not contender.is_predicted(predictions):
            continue
        for passes in PASSES:
            members = chosen_members(contender, predictions, labels["validation"], passes)
            if members is not None:
                found = _metrics(contender, predictions, labels, members)
                # A choice costs the training of all its points.
                epochs = contender.epochs(predictions, None if contender.rules else members)
                yield {
                    "contender": contender.name,
                    "is_rival": contender.is_rival,
                    "passes": passes,
                    "used_passes": contender.passes(len(members)),
                    "epochs": epochs,
                    **found,
                }


def _metrics(
    contender: Contender, predictions: Mapping[str, Arrays], labels: Arrays, members: Sequence[int]
) -> dict[str, float]:
    def mean(split: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = contender.probabilities(predictions, split)[list(members)].mean(axis=0)
        return found

    temperature = fit_temperature(mean("validation"), labels["validation"])
    clean = _both(mean("test"), labels["test"], temperature)
    splits = [split for split in labels if split.startswith("corrupted/")]
    # Corrupted images are not mirrored.
    corrupted = [] if len(contender.views) > 1 else [_both(mean(s), labels[s], temperature) for s in splits]
    shift = {
        f"corrupted_{name}": float(np.mean([own[name] for own in corrupted])) if corrupted else math.nan
        for name in ("error", "nll", "calibrated_nll")
    }
    return {**clean, **shift}


def _both(probabilities: NDArray[np.float64], references: NDArray[Any], temperature: float) -> dict[str, float]:
    raw = classification_metrics(probabilities, references)
    scaled = classification_metrics(scale_temperature(probabilities, temperature), references)
    return {
        "error": 100 * (1 - raw["accuracy"]),
        "nll": raw["nll"],
        "calibrated_nll": scaled["nll"],
        "ece": raw["ece"],
    }


def write_rows(rows: Sequence[Row], file: Path) -> None:
    """Write rows as a Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), file, compression="zstd", compression_level=19)


def read_rows(file: Path) -> list[Row]:
    """Read rows that `write_rows` wrote."""
    found: list[Row] = pq.read_table(file).to_pylist()
    return found


def means(rows: Sequence[Row], task: str, passes: int, measure: str) -> dict[str, tuple[float, float]]:
    """Mean and standard error over seeds of each contender at a number of passes."""
    return {
        name: mean_and_error(list(values.values()))
        for (name, own), values in by_seed(rows, task, measure).items()
        if own == passes
    }


def differences(
    rows: Sequence[Row], task: str, measure: str, first: tuple[str, int], second: tuple[str, int]
) -> list[float]:
    """Differences of two contenders, first minus second, seed by seed.

    Args:
        rows: As `measure_folder` returns them.
        task: Of the rows.
        measure: One of `MEASURES`.
        first, second: Name and number of passes of a contender.

    Returns:
        [seeds] those that both have.
    """
    found = by_seed(rows, task, measure)
    one, other = found.get(first, {}), found.get(second, {})
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def by_seed(rows: Sequence[Row], task: str, measure: str) -> dict[tuple[str, int], dict[int, float]]:
    """The values of a measure by contender and number of passes, and then by seed."""
    found: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        if row["task"] == task and not math.isnan(row[measure]):
            found.setdefault((row["contender"], row["passes"]), {})[row["seed"]] = row[measure]
    return found
