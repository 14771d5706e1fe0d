"""The results as a page of the documentation."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweep.backbones import kinds
from sweep.steps import CHOICES

__all__ = ["PAGE", "RESULTS", "page", "read", "write"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes" / "results" / "backbones.json"
PAGE = ROOT / "docs" / "backbones.md"

HEAD = """# Backbones

`make sweep` takes one backbone of every kind through the life of an ensemble: wrap, coordinates e_i, one step of a
connector, members, save, load, equal outputs, export, plain load. It does so for three choices of
`vertex_parameters`: all parameters, the head, and low-rank adapters. The backbones have random weights. Of each
family of timm it takes the architecture with the fewest parameters, with fewer layers where an argument allows, at
the smallest image size that works. Of transformers it takes every image classifier, in a tiny configuration.

The logits at e_0 equal those of the given backbone bit for bit. So do the logits of the loaded ensemble those of the
saved one. The logits of the exported vertex, loaded without hf_simplex, may differ by 1e-5 in float64, relative to the
largest logit where that is above 1. Merging adapters into the weights may change logits in float64 by as much.
"""


def read(path: Path = RESULTS) -> dict[str, Any]:
    """The results in a file: `versions` of the libraries, and a row for each kind in `rows`."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> None:
    """Write the results and the page. Kinds without a row are named as not run."""
    run = {(row["library"], row["name"]) for row in rows}
    not_run = [kind.name for kind in kinds() if (kind.library, kind.name) not in run]
    ordered = sorted(rows, key=lambda row: (row["library"], row["name"]))
    RESULTS.write_text(json.dumps({"versions": dict(versions), "not_run": not_run, "rows": ordered}, indent=1) + "\n")
    PAGE.write_text(page(read()))


def page(results: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    rows, versions = results["rows"], results["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        HEAD,
        f"With {libraries}:",
        "",
        "| | kinds | passed all | refused | not built | failed |",
        "|---|" + "---|" * 5,
    ]
    for library in ("timm", "transformers"):
        of_library = [row for row in rows if row["library"] == library]
        counts = Counter(_state(row) for row in of_library)
        cells = [counts[state] for state in ("passed", "refused", "not built", "failed")]
        lines.append(f"| {library} | {len(of_library)} | " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "A kind is refused if an error names the reason before anything is trained, for all choices or for one.",
    ]
    if not_run := results.get("not_run"):
        lines += ["", f"{len(not_run)} kinds have not been run yet: {', '.join(not_run)}."]
    lines += _reasons(rows)
    for library, first in (("timm", "family | smallest member"), ("transformers", "class")):
        lines += ["", f"## {library}", "", f"| {first} | parameters | pixels | " + " | ".join(CHOICES) + " |"]
        lines.append("|---|" + "---|" * (first.count("|") + 2 + len(CHOICES)))
        for row in rows:
            if row["library"] == library:
                names = [row["name"], row["architecture"]] if library == "timm" else [row["name"]]
                cells = [f"{row['parameters']:,}", str(row["image_size"])] if row["parameters"] else ["", ""]
                lives = [row["lives"][choice].partition(":")[0] for choice in CHOICES]
                lines.append(f"| {' | '.join([*names, *cells, *lives])} |")
    return "\n".join(lines) + "\n"


def _state(row: Mapping[str, Any]) -> str:
    lives = set(row["lives"].values())
    kinds = {life.partition(":")[0] for life in lives}
    if kinds == {"passed"}:
        return "passed"
    if kinds == {"not built"}:
        return "not built"
    return "refused" if kinds <= {"passed", "refused"} else "failed"


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands behind every life that did not pass, once for equal ones of a kind."""
    lines = []
    for row in rows:
        by_life: dict[str, list[str]] = {}
        for choice in CHOICES:
            if row["lives"][choice] != "passed":
                by_life.setdefault(row["lives"][choice], []).append(choice)
        for life, choices in by_life.items():
            which = "" if len(choices) == len(CHOICES) else f" ({', '.join(choices)})"
            lines.append(f"- {row['name']}{which}: {_code(life)}")
    return ["", "## Not passed", "", *lines] if lines else []


def _code(life: str) -> str:
    state, _, why = life.partition(": ")
    return f"{state}: `{why.replace('`', chr(39))}`" if why else state
