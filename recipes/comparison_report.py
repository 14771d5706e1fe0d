"""Tables and pictures of a comparison, over all its seeds.

    python recipes/comparison_report.py output/compare_fine_tuning recipes/results/comparison/fine_tuning

Reads what `compare_ensembles.py` left in the first folder and writes into the second: `seed-<s>.json`, the results of
each seed; `tables.md`; and the pictures `budget.png` (against training epochs), `forward_passes.png`,
`reliability.png`, where predictions are left, and, where images were corrupted, `shift.png`.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hf_simplex.evaluation.calibration import deep_ensemble_equivalent
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.plots.reliability import plot_reliability
from hf_simplex.plots.shift import plot_shift

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
NAMES = {
    "single": "single model",
    "deep_ensemble": "deep ensemble",
    "short_deep_ensemble": "deep ensemble, shorter modes",
    "recomputed_deep_ensemble": "deep ensemble, statistics recomputed",
    "uniform_soup": "uniform soup",
    "greedy_soup": "greedy soup",
    "swa": "SWA",
    "swag": "SWAG",
    "multi_swag": "multi-SWAG",
    "fge": "FGE",
    "mc_dropout": "MC dropout",
    "lora_ensemble": "LoRA-Ensemble",
    "espro_centroids": "ESPRO, centroids",
    "espro_members": "ESPRO, placed members",
    "espro_points": "ESPRO, random points",
    "espro_vertices": "ESPRO, vertices",
    "espro_centroids_and_vertices": "ESPRO, centroids and vertices",
}
RELIABILITY = ("single", "deep_ensemble", "espro_centroids", "espro_members", "espro_vertices")
# Of the corrupted images, the mean over all corruptions and severities.
SHIFT_METRICS = ("error", "nll", "calibrated_nll", "ece")
COLORS = {
    "single": "#000000",
    "deep_ensemble": "#0072b2",
    "short_deep_ensemble": "#56b4e9",
    "recomputed_deep_ensemble": "#004a73",
    "uniform_soup": "#999999",
    "greedy_soup": "#666666",
    "swa": "#cc79a7",
    "swag": "#e69f00",
    "multi_swag": "#8f6a00",
    "fge": "#f0c020",
    "mc_dropout": "#8b5a2b",
    "lora_ensemble": "#6a3d9a",
    "espro_centroids": "#d55e00",
    "espro_members": "#e34a6f",
    "espro_points": "#009e73",
    "espro_vertices": "#b15928",
    "espro_centroids_and_vertices": "#7a0403",
}

Results = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> str:
    """Write the report; returns its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="output_dir of compare_ensembles.py")
    parser.add_argument("report", type=Path, help="folder to write")
    arguments = parser.parse_args(argv)
    folders = sorted(arguments.comparison.glob("seed-*/results.json"))
    if not folders:
        parser.error(f"{arguments.comparison} holds no seed-*/results.json: run compare_ensembles.py first.")
    seeds = [json.loads(file.read_text("utf-8")) for file in folders]
    text = tables(seeds)
    with atomic_write(arguments.report) as aside:
        for seed in seeds:
            (aside / f"seed-{seed['seed']}.json").write_text(json.dumps(seed, indent=1) + "\n", "utf-8")
        (aside / "tables.md").write_text(text, "utf-8")
        draw(seeds, "training_epochs").savefig(aside / "budget.png", dpi=160)
        draw(seeds, "forward_passes").savefig(aside / "forward_passes.png", dpi=160)
        if figure := reliability(arguments.comparison):
            figure.savefig(aside / "reliability.png", dpi=160, bbox_inches="tight")
        if rows := shift_rows(seeds):
            plot_shift(rows).savefig(aside / "shift.png", dpi=160)
    print(text)
    return text


def shift_table(seeds: Sequence[Results], chosen: Sequence[tuple[str, str, int]]) -> list[str]:
    """The means over all corruptions and severities, and minus the deep ensemble's, as lines of Markdown."""
    networks = len(seeds[0]["methods"].get("deep_ensemble", []))
    base = corrupted_means(rows_of(seeds, "deep_ensemble", networks)) if networks else []
    lines = []
    for name, method, members in chosen:
        rows = corrupted_means(rows_of(seeds, method, members))
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
        lines.append(_row(cells))
    if not lines:
        return []
    head = ["method", "epochs", "passes"]
    for metric in SHIFT_METRICS:
        head += [METRICS[metric], f"minus the deep ensemble of {networks}"] if base else [METRICS[metric]]
    title = "Corrupted test images, mean over all corruptions and severities (* more than two standard errors):"
    return ["", title, "", _row(head), _row(["---"] * len(head)), *lines]


def corrupted_means(rows: Sequence[Results]) -> list[dict[str, float]]:
    """For each row the mean of each metric over what its corrupted images have; nothing where one has none."""
    if not all(row.get("corrupted") for row in rows):
        return []
    found = []
    for row in rows:
        corrupted = list(row["corrupted"].values())
        means = {metric: float(np.mean([own[metric] for own in corrupted])) for metric in corrupted[0]}
        found.append({**means, "training_epochs": row["training_epochs"]})
    return found


def value(row: Results, metric: str) -> float:
    """One metric of a row, the error in percent; NaN where it was not measured."""
    return 100 * (1 - row["accuracy"]) if metric == "error" else float(row.get(metric, math.nan))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error; the error is NaN for a single seed."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()), float(error)


def rows_of(seeds: Sequence[Results], method: str, members: int) -> list[Results]:
    """The results of a method with so many members, for each seed in which all seeds have it; else nothing."""
    found = [seed["methods"].get(method, []) for seed in seeds]
    return [rows[members - 1] for rows in found] if all(len(rows) >= members for rows in found) else []


def selection(seeds: Sequence[Results]) -> list[tuple[str, str, int]]:
    """The rows of the tables: how each is called, its method and its number of members."""
    counts = {method: len(rows) for method, rows in seeds[0]["methods"].items()}
    networks = counts.get("deep_ensemble", 1)
    chosen = [("one mode", "deep_ensemble", 1)] if "deep_ensemble" in counts else []
    chosen += [("one shorter mode", "short_deep_ensemble", 1)] if "short_deep_ensemble" in counts else []
    chosen += [(NAMES[m], m, 1) for m in ("single", "uniform_soup", "greedy_soup", "swa") if m in counts]
    if "espro_centroids" in counts:
        chosen.append(("ESPRO, one centroid", "espro_centroids", 1))
    several = ("fge", "swag", "multi_swag", "mc_dropout", "lora_ensemble")
    spread = ("espro_centroids", "espro_members", "espro_points")

    def fewest(method: str) -> int:
        """With one member these have a row of their own."""
        return 2 if method in ("deep_ensemble", "short_deep_ensemble", "espro_centroids") else 1

    # As many passes as the deep ensemble takes, and then all that there are.
    for method in (*several, "deep_ensemble", "recomputed_deep_ensemble", *spread):
        if (members := min(networks, counts.get(method, 0))) >= fewest(method):
            chosen.append((NAMES[method], method, members))
    for method in ("short_deep_ensemble", *several, *spread, "espro_vertices", "espro_centroids_and_vertices"):
        members = counts.get(method, 0)
        if members >= fewest(method) and (NAMES[method], method, members) not in chosen:
            chosen.append((NAMES[method], method, members))
    return chosen


def tables(seeds: Sequence[Results]) -> str:
    """All metrics, and the paired differences from the deep ensemble and from one mode, as Markdown."""
    chosen = selection(seeds)
    measured = [metric for metric in METRICS if any(not math.isnan(value(r, metric)) for r in _first_rows(seeds))]
    head = ["method", "epochs", "passes", *(METRICS[metric] for metric in measured), "deep-ensemble equivalent"]
    lines = [f"Mean and standard error over {len(seeds)} seeds.", "", _row(head), _row(["---"] * len(head))]
    for name, method, members in chosen:
        rows = rows_of(seeds, method, members)
        if rows:
            cells = [name, f"{rows[0]['training_epochs']:g}", str(members)]
            cells += [_cell(metric, [value(row, metric) for row in rows]) for metric in measured]
            lines.append(_row([*cells, equivalent(seeds, rows)]))
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
        lines += [_row(head), _row(["---"] * len(head))]
        for name, other, number in chosen:
            rows = rows_of(seeds, other, number)
            if rows and against(number) and (other, number) != (method, members):
                cells = [name, f"{rows[0]['training_epochs']:g}", str(number)]
                for metric in PAIRED:
                    pairs = zip(rows, base, strict=True)
                    cells.append(_cell(metric, [value(a, metric) - value(b, metric) for a, b in pairs], signed=True))
                lines.append(_row(cells))
    lines += shift_table(seeds, chosen)
    return "\n".join(lines) + "\n"


def equivalent(seeds: Sequence[Results], rows: Sequence[Results]) -> str:
    """The deep-ensemble equivalent of the mean calibrated log-likelihood over seeds."""
    networks = len(seeds[0]["methods"].get("deep_ensemble", []))
    if not networks:
        return ""

    def likelihood(found: Sequence[Results]) -> float:
        return -float(np.mean([row["calibrated_nll"] for row in found]))

    scale = {n: likelihood(rows_of(seeds, "deep_ensemble", n)) for n in range(1, networks + 1)}
    size = deep_ensemble_equivalent(likelihood(rows), scale)
    return f"> {networks}" if math.isinf(size) else f"{size:.1f}"


def _first_rows(seeds: Sequence[Results]) -> list[Results]:
    return [rows[0] for rows in seeds[0]["methods"].values()]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(metric: str, values: Sequence[float], signed: bool = False) -> str:
    mean, error = mean_and_error(values)
    if math.isnan(mean):
        return ""
    digits = 2 if metric == "error" else 4
    clear = "*" if signed and abs(mean) > 2 * error else ""
    return f"{mean:{'+' if signed else ''}.{digits}f} ± {error:.{digits}f}{clear}"


def draw(seeds: Sequence[Results], against: str) -> Figure:
    """Error, NLL and ECE of every method against training epochs or forward passes (the paper's figures 8 and 9)."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for axes, (metric, label) in zip(
        figure.subplots(1, 3), (("error", "test error (%)"), ("nll", "NLL (nats)"), ("ece", "ECE")), strict=True
    ):
        methods = [method for method in NAMES if all(method in seed["methods"] for seed in seeds)]
        means: list[list[float]] = []
        for number, method in enumerate(methods):
            members = range(1, len(seeds[0]["methods"][method]) + 1)
            rows = [found for found in (rows_of(seeds, method, count) for count in members) if found]
            if against == "training_epochs":
                # Of what costs the same epochs, the most members.
                rows = list({found[0][against]: found for found in rows}.values())
            points = [mean_and_error([value(row, metric) for row in found]) for found in rows]
            means.append([mean for mean, _ in points])
            axes.errorbar(
                [found[0][against] for found in rows],
                means[-1],
                [0 if math.isnan(error) else error for _, error in points],
                label=NAMES[method],
                color=COLORS[method],
                marker="os^vD*PX<"[number % 9],
                markersize=5,
                linewidth=1.5 if method.startswith(("espro", "deep")) else 0.9,
                capsize=2,
            )
        axes.set(xlabel=against.replace("_", " "), ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        _leave_out_far_points(axes, [mean for drawn in means for mean in drawn])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _leave_out_far_points(axes: Axes, means: Sequence[float]) -> None:
    """Where one method fails (a soup of modes from scratch), show the others, and say so."""
    far = 3 * float(np.median(means))
    shown = [mean for mean in means if mean <= far]
    if len(shown) < len(means):
        margin = 0.08 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + 2 * margin)
        axes.annotate(
            f"up to {max(means):.3g} off the scale", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top"
        )


def reliability(comparison: Path) -> Figure | None:
    """Accuracy against confidence, with the test images of all seeds pooled; None where no predictions are left."""
    found = {method: _pooled(comparison, method) for method in RELIABILITY}
    drawn = {NAMES[method]: pooled for method, pooled in found.items() if len(pooled[0])}
    return plot_reliability(drawn) if drawn else None


def _pooled(comparison: Path, method: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The probabilities of a method, all members, and the labels of the test images of all seeds."""
    probabilities, labels = [], []
    # A seed that is not done has no results yet.
    for folder in sorted(file.parent for file in comparison.glob("seed-*/results.json")):
        file = folder / "predictions" / f"{method}.safetensors"
        if file.exists():
            mean = load_file(file)["test"].astype(np.float64).mean(axis=0)
            probabilities.append(mean / mean.sum(axis=-1, keepdims=True))
            labels.append(load_file(folder / "labels.safetensors")["test"])
    if not probabilities:
        return np.empty((0, 1)), np.empty(0, np.int64)
    return np.concatenate(probabilities), np.concatenate(labels)


def shift_rows(seeds: Sequence[Results]) -> list[dict[str, Any]]:
    """The results under corruption as the rows that `plots.shift.plot_shift` draws, averaged over seeds."""
    rows = []
    counts = {method: len(found) for method, found in seeds[0]["methods"].items()}
    of_all = ["deep_ensemble", *(f"espro_{choice}" for choice in ("members", "vertices", "centroids_and_vertices"))]
    # With one component its centroid is all of them.
    of_all += ["espro_centroids"] if counts.get("espro_centroids", 0) > 1 else []
    for name, method, members in (
        ("single model", "single", 1),
        ("one centroid", "espro_centroids", 1),
        *((NAMES[method], method, counts.get(method, 0)) for method in of_all),
    ):
        found = rows_of(seeds, method, members) if members else []
        for key in found[0].get("corrupted", {}) if found else ():
            corruption, severity = key.split("/")
            metrics = found[0]["corrupted"][key]
            average = {m: float(np.mean([row["corrupted"][key][m] for row in found])) for m in metrics}
            rows.append({"method": name, "corruption": corruption, "severity": int(severity), **average})
    return rows


if __name__ == "__main__":
    main()
