"""Tables of a comparison, over all its seeds, as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comparison.registry import RIVALS, STYLES
from hf_simplex.evaluation.calibration import deep_ensemble_equivalent

__all__ = ["mean_and_error", "row_of", "rows_of", "selection", "tables", "value"]

METRICS = {
    "error": "error (%)",
    "nll": "NLL",
    "calibrated_nll": "NLL, calibrated",
    "ece": "ECE",
    "calibrated_ece": "ECE, calibrated",
    "brier": "Brier",
    "calibrated_brier": "Brier, calibrated",
    "misclassification_auroc": "AUROC wrong",
    "ood_auroc": "AUROC OOD",
}
PAIRED = ("error", "nll", "calibrated_nll", "ece", "brier")
# Means over all corruptions and severities.
SHIFT_METRICS = ("error", "nll", "calibrated_nll", "ece")
# These have rows of their own in `selection`.
DEEP_ENSEMBLES = ("deep_ensemble", "short_deep_ensemble", "recomputed_deep_ensemble")

Results = Mapping[str, Any]


def tables(seeds: Sequence[Results]) -> str:
    """All metrics, and differences from the deep ensemble, from one mode and from the single model, paired by seed.

    Args:
        seeds: results of every seed, as `store.read_results` returns them.

    Returns:
        Markdown.
    """
    chosen = selection(seeds)
    measured = [metric for metric in METRICS if any(not math.isnan(value(r, metric)) for r in _first_rows(seeds))]
    head = ["method", "epochs", "passes", *(METRICS[metric] for metric in measured), "deep-ensemble equivalent"]
    lines = [f"Mean and standard error over {len(seeds)} seeds.", "", row_of(head), row_of(["---"] * len(head))]
    for name, method, members in chosen:
        rows = rows_of(seeds, method, members)
        if rows:
            cells = [name, f"{rows[0]['training_epochs']:g}", str(members)]
            cells += [_cell(metric, [value(row, metric) for row in rows]) for metric in measured]
            lines.append(row_of([*cells, _equivalent(seeds, rows)]))
    networks = len(seeds[0]["methods"].get("deep_ensemble", []))
    for title, method, members, against in (
        (f"Minus the deep ensemble of {networks}", "deep_ensemble", networks, lambda members: members > 1),
        ("Minus one mode", "deep_ensemble", 1, lambda members: members == 1),
        ("Minus the single model of the whole budget", "single", 1, lambda members: members == 1),
    ):
        base = rows_of(seeds, method, members) if members else []
        if not base:
            continue
        lines += ["", f"{title}, seed by seed (below 0 is better; * more than two standard errors):", ""]
        head = ["method", "epochs", "passes", *(METRICS[metric] for metric in PAIRED)]
        lines += [row_of(head), row_of(["---"] * len(head))]
        for name, other, number in chosen:
            rows = rows_of(seeds, other, number)
            if rows and against(number) and (other, number) != (method, members):
                cells = [name, f"{rows[0]['training_epochs']:g}", str(number)]
                for metric in PAIRED:
                    pairs = zip(rows, base, strict=True)
                    cells.append(_cell(metric, [value(a, metric) - value(b, metric) for a, b in pairs], signed=True))
                lines.append(row_of(cells))
    lines += shift_table(seeds, chosen)
    return "\n".join(lines) + "\n"


def selection(seeds: Sequence[Results]) -> list[tuple[str, str, int]]:
    """The rows of the tables: label, method and number of members of each."""
    counts = {method: len(rows) for method, rows in seeds[0]["methods"].items()}
    networks = counts.get("deep_ensemble", 1)
    one_model = [rival.name for rival in RIVALS.values() if rival.single_model]
    several = [name for name in STYLES if name in RIVALS and name not in (*one_model, *DEEP_ENSEMBLES)]
    spread = ("espro_centroids", "espro_members", "espro_points")
    chosen = [("one mode", "deep_ensemble", 1)] if "deep_ensemble" in counts else []
    chosen += [("one shorter mode", "short_deep_ensemble", 1)] if "short_deep_ensemble" in counts else []
    chosen += [(STYLES[name].label, name, 1) for name in one_model if name in counts]
    if "espro_centroids" in counts:
        chosen.append(("ESPRO, one centroid", "espro_centroids", 1))

    def fewest(method: str) -> int:
        """With one member these have a row already."""
        return 2 if method in ("deep_ensemble", "short_deep_ensemble", "espro_centroids") else 1

    # As many passes as the deep ensemble takes, then all of them.
    for method in (*several, "deep_ensemble", "recomputed_deep_ensemble", *spread):
        if (members := min(networks, counts.get(method, 0))) >= fewest(method):
            chosen.append((STYLES[method].label, method, members))
    for method in ("short_deep_ensemble", *several, *spread, "espro_vertices", "espro_centroids_and_vertices"):
        row = (STYLES[method].label, method, counts.get(method, 0))
        if row[2] >= fewest(method) and row not in chosen:
            chosen.append(row)
    return chosen


def rows_of(seeds: Sequence[Results], method: str, members: int) -> list[Results]:
    """The results of a method with so many members: [seeds], or nothing where a seed lacks them."""
    found = [seed["methods"].get(method, []) for seed in seeds]
    return [rows[members - 1] for rows in found] if all(len(rows) >= members for rows in found) else []


def shift_table(seeds: Sequence[Results], chosen: Sequence[tuple[str, str, int]]) -> list[str]:
    """Means over all corruptions and severities, and differences from the deep ensemble, as lines of Markdown."""
    networks = len(seeds[0]["methods"].get("deep_ensemble", []))
    base = _corrupted_means(rows_of(seeds, "deep_ensemble", networks)) if networks else []
    lines = []
    for name, method, members in chosen:
        rows = _corrupted_means(rows_of(seeds, method, members))
        if not rows:
            continue
        cells = [name, f"{rows[0]['training_epochs']:g}", str(members)]
        for metric in SHIFT_METRICS:
            cells.append(_cell(metric, [value(row, metric) for row in rows]))
            if (method, members) == ("deep_ensemble", networks):
                cells.append("")
            elif base:
                pairs = zip(rows, base, strict=True)
                cells.append(_cell(metric, [value(a, metric) - value(b, metric) for a, b in pairs], signed=True))
        lines.append(row_of(cells))
    if not lines:
        return []
    head = ["method", "epochs", "passes"]
    for metric in SHIFT_METRICS:
        head += [METRICS[metric], f"minus the deep ensemble of {networks}"] if base else [METRICS[metric]]
    title = "Corrupted test images, mean over all corruptions and severities (* more than two standard errors):"
    return ["", title, "", row_of(head), row_of(["---"] * len(head)), *lines]


def _corrupted_means(rows: Sequence[Results]) -> list[dict[str, float]]:
    """The mean of each metric over all corruptions and severities: [seeds], or nothing where a seed has none."""
    if not all(row.get("corrupted") for row in rows):
        return []
    found = []
    for row in rows:
        corrupted = list(row["corrupted"].values())
        means = {metric: float(np.mean([own[metric] for own in corrupted])) for metric in corrupted[0]}
        found.append({**means, "training_epochs": row["training_epochs"]})
    return found


def _equivalent(seeds: Sequence[Results], rows: Sequence[Results]) -> str:
    """The deep-ensemble equivalent of the mean calibrated log-likelihood."""
    networks = len(seeds[0]["methods"].get("deep_ensemble", []))
    if not networks:
        return ""

    def likelihood(found: Sequence[Results]) -> float:
        return -float(np.mean([row["calibrated_nll"] for row in found]))

    scale = {n: likelihood(rows_of(seeds, "deep_ensemble", n)) for n in range(1, networks + 1)}
    size = deep_ensemble_equivalent(likelihood(rows), scale)
    return f"> {networks}" if math.isinf(size) else f"{size:.1f}"


def value(row: Results, metric: str) -> float:
    """A metric of a row, `error` in percent; NaN where it was not measured."""
    return 100 * (1 - row["accuracy"]) if metric == "error" else float(row.get(metric, math.nan))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error, NaN for a single seed.

    Example:
        >>> mean_and_error([1.0, 3.0])
        (2.0, 1.0)
    """
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()), float(error)


def row_of(cells: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def _first_rows(seeds: Sequence[Results]) -> list[Results]:
    return [rows[0] for rows in seeds[0]["methods"].values()]


def _cell(metric: str, values: Sequence[float], signed: bool = False) -> str:
    mean, error = mean_and_error(values)
    if math.isnan(mean):
        return ""
    digits = 2 if metric == "error" else 4
    clear = "*" if signed and abs(mean) > 2 * error else ""
    return f"{mean:{'+' if signed else ''}.{digits}f} ± {error:.{digits}f}{clear}"
