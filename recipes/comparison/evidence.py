"""The report of several comparisons: who wins at 1, 2, 4 and 8 forward passes, task by task."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from matplotlib.figure import Figure

from comparison.contenders import PASSES
from comparison.passes import Row, by_seed, differences, means
from comparison.tables import mean_and_error, row_of

__all__ = ["PROPOSALS", "Winner", "passes_figure", "report_text", "winner"]

Key = tuple[str, int]
"""A contender: its name and its number of forward passes."""

HEADLINES = {
    "error": "error (%)",
    "nll": "NLL",
    "calibrated_nll": "NLL, calibrated",
    "corrupted_error": "error under corruption (%)",
    "corrupted_calibrated_nll": "NLL under corruption, calibrated",
}
COLUMNS = {**HEADLINES, "ece": "ECE", "corrupted_nll": "NLL under corruption"}
# What is compared with the best rival of each task without choosing by the results: forward passes and contender.
PROPOSALS = (
    (1, "centroid of leaves"),
    (2, "two modes and points, chosen"),
    (2, "varied modes and points, chosen"),
    (4, "leaves and points, chosen"),
)
# The target: one pass against the single model, several passes against the better deep ensemble of plain modes.
TARGET = (
    (1, "centroid of leaves of a long trunk"),
    (2, "leaves of a long trunk"),
    (4, "leaves of a long trunk"),
)
SINGLE = ("single model",)
DEEP_ENSEMBLES = ("deep ensemble", "deep ensemble, statistics recomputed", "deep ensemble of shorter modes")
# With fewer seeds a standard error says little.
SEEDS_FOR_A_VERDICT = 3
LINES = {
    "single model": "#000000",
    "deep ensemble": "#0072b2",
    "deep ensemble of shorter modes": "#56b4e9",
    "leaves": "#e69f00",
    "leaves of a long trunk": "#d55e00",
    "centroid of leaves of a long trunk": "#7a0403",
    "varied modes": "#009e73",
}
MARKERS = "osD^vP*"


def report_text(rows: Sequence[Row]) -> str:
    """The tables of the report: the proposals, who wins by each measure, and the contenders of each task."""
    tasks = _tasks(rows)
    parts = [
        "# Tables",
        _seeds(rows, tasks),
        "## The target",
        _target_table(rows, tasks),
        "## Proposals minus the best rival",
        _proposal_table(rows, tasks),
    ]
    for measure, title in HEADLINES.items():
        parts += [f"## Best at equal training: {title}", _winners_table(rows, tasks, measure)]
    for task in tasks:
        parts += [f"## {task}", _task_table(rows, task)]
    return "\n\n".join(parts) + "\n"


class Winner(NamedTuple):
    """The best contender and the best rival within a number of passes, by their means.

    Attributes:
        ours: Best contender that is no rival, and its passes.
        rival: Best rival, and its passes.
        value: Mean of `ours`.
        rival_value: Mean of `rival`.
        differences: [seeds] `ours` minus `rival`.
    """

    ours: Key
    rival: Key
    value: float
    rival_value: float
    differences: list[float]


def winner(rows: Sequence[Row], task: str, passes: int, measure: str) -> Winner | None:
    """Compare the best contender with the best rival of at most so many passes; None where one of them is missing.

    Contenders that ran with fewer seeds of the task than others are left out: their means are of other images.
    """
    rivals = {row["contender"] for row in rows if row["is_rival"]}
    found = {key: values for key, values in by_seed(rows, task, measure).items() if key[1] <= passes}
    seeds = max((set(values) for values in by_seed(rows, task, measure).values()), key=len, default=set())
    ours = _best({key: values for key, values in found.items() if key[0] not in rivals}, seeds)
    theirs = _best({key: values for key, values in found.items() if key[0] in rivals}, seeds)
    if ours is None or theirs is None:
        return None
    (best, value), (rival, rival_value) = ours, theirs
    return Winner(best, rival, value, rival_value, differences(rows, task, measure, best, rival))


def _best(found: Mapping[Key, Mapping[int, float]], seeds: Set[int]) -> tuple[Key, float] | None:
    """The contender with the lowest mean over the seeds, and this mean. It must have run with all of them."""
    values = {key: sum(own[seed] for seed in seeds) / len(seeds) for key, own in found.items() if seeds <= own.keys()}
    return min(values.items(), key=lambda item: item[1]) if values else None


def _winners_table(rows: Sequence[Row], tasks: Sequence[str], measure: str) -> str:
    """One line for each task and number of passes: best contender, best rival, and their difference."""
    head = ["task", "passes", "best here", "best rival", HEADLINES[measure], "difference", "who wins"]
    lines = [row_of(head), row_of(["---"] * len(head))]
    for task in tasks:
        for passes in PASSES:
            found = winner(rows, task, passes, measure)
            if found is not None:
                values = f"{_number(measure, found.value)} against {_number(measure, found.rival_value)}"
                names = [f"{name} ({own})" for name, own in (found.ours, found.rival)]
                own = found.differences
                lines.append(row_of([task, str(passes), *names, values, _signed(measure, own), _verdict(own)]))
    return "\n".join(lines)


def _proposal_table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """The proposals against the best rival of at most as many passes: every measure, task by task."""
    head = ["task", "passes", "proposal", *HEADLINES.values()]
    lines = [row_of(head), row_of(["---"] * len(head))]
    for task in tasks:
        for passes, name in PROPOSALS:
            cells = [task, str(passes), name]
            for measure in HEADLINES:
                best = winner(rows, task, passes, measure)
                own = [] if best is None else differences(rows, task, measure, (name, passes), best.rival)
                cells.append(_signed(measure, own) if own else "")
            lines.append(row_of(cells))
    return "\n".join(lines)


def _target_table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Leaves of a long trunk against the single model and against deep ensembles of at most as many passes."""
    head = ["task", "passes", "proposal", "against", *HEADLINES.values()]
    lines = [row_of(head), row_of(["---"] * len(head))]
    for task in tasks:
        for passes, name in TARGET:
            rivals = SINGLE if passes == 1 else DEEP_ENSEMBLES
            cells = [task, str(passes), name, "the single model" if passes == 1 else "the best deep ensemble"]
            for measure in HEADLINES:
                found = by_seed(rows, task, measure)
                theirs = {key: own for key, own in found.items() if key[0] in rivals and key[1] <= passes}
                # On the seeds that the proposal has.
                best = _best(theirs, found[name, passes].keys()) if (name, passes) in found else None
                own = [] if best is None else differences(rows, task, measure, (name, passes), best[0])
                cells.append(_signed(measure, own) if own else "")
            lines.append(row_of(cells))
    return "\n".join(lines)


def _task_table(rows: Sequence[Row], task: str) -> str:
    """All contenders of a task."""
    head = ["contender", "passes", "epochs", "seeds", *COLUMNS.values()]
    lines = [row_of(head), row_of(["---"] * len(head))]
    for passes in PASSES:
        found = {measure: means(rows, task, passes, measure) for measure in COLUMNS}
        for name in found["error"]:
            own = [row for row in rows if (row["task"], row["passes"], row["contender"]) == (task, passes, name)]
            used = sum(row["used_passes"] for row in own) / len(own)
            cells = [
                name,
                str(passes) if used == passes else f"{passes} ({used:.1f} used)",
                f"{own[0]['epochs']:g}",
                str(len(own)),
            ]
            for measure in COLUMNS:
                mean, error = found[measure].get(name, (math.nan, math.nan))
                cells.append("" if math.isnan(mean) else _with_error(measure, mean, error))
            lines.append(row_of(cells))
    return "\n".join(lines)


def passes_figure(rows: Sequence[Row]) -> Figure:
    """Error, calibrated NLL and error under corruption against forward passes, one column for each task."""
    tasks = _tasks(rows)
    measures = ("error", "calibrated_nll", "corrupted_error")
    figure = Figure(figsize=(3.4 * len(tasks), 2.6 * len(measures)), layout="constrained")
    axes = figure.subplots(len(measures), len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for line, measure in enumerate(measures):
            own = axes[line][column]
            for (name, color), marker in zip(LINES.items(), MARKERS, strict=True):
                points = [
                    (k, *means(rows, task, k, measure)[name]) for k in PASSES if name in means(rows, task, k, measure)
                ]
                if points:
                    passes, values, errors = zip(*points, strict=True)
                    own.errorbar(passes, values, errors, color=color, marker=marker, label=name, capsize=2)
            own.set_xscale("log", base=2, subs=[])
            own.set_xticks(PASSES, [str(k) for k in PASSES])
            own.set_ylabel(HEADLINES[measure] if column == 0 else "")
            own.set_title(task.replace("_", " ") if line == 0 else "")
            own.set_xlabel("forward passes" if line == len(measures) - 1 else "")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in rows))


def _seeds(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    lines = []
    for task in tasks:
        seeds = sorted({row["seed"] for row in rows if row["task"] == task})
        lines.append(f"- {task}: {len(seeds)} seeds ({', '.join(map(str, seeds))})")
    return "\n".join(lines)


def _verdict(differences: Sequence[float]) -> str:
    if len(differences) < SEEDS_FOR_A_VERDICT:
        return "too few seeds"
    mean, error = mean_and_error(differences)
    if abs(mean) <= 2 * error:
        return "tie"
    return "**here**" if mean < 0 else "rival"


def _number(measure: str, value: float) -> str:
    return f"{value:.2f}" if measure.endswith("error") else f"{value:.4f}"


def _with_error(measure: str, mean: float, error: float) -> str:
    return _number(measure, mean) + ("" if math.isnan(error) else f" ± {_number(measure, error)}")


def _signed(measure: str, differences: Sequence[float]) -> str:
    mean, error = mean_and_error(differences)
    text = f"{'+' if mean >= 0 else ''}{_number(measure, mean)}"
    text = text if math.isnan(error) else f"{text} ± {_number(measure, error)}"
    return f"**{text}**" if len(differences) >= SEEDS_FOR_A_VERDICT and mean < -2 * error else text
