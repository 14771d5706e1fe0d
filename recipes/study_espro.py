"""Try many settings of ESPRO on one task, beside a deep ensemble of as many training epochs.

    python recipes/study_espro.py recipes/configs/compare_from_scratch.yaml --espro_components 2 \\
        --study recipes/configs/study_from_scratch.yaml

The study file names the settings, each with the arguments of `compare_ensembles.py` that it changes:

    volume-1e-4: {volume_weight: 1.0e-4, volume_weight_scaling: none}

Modes are trained once for all settings, and what is done is not done again. Images are not corrupted. Written is
`OUTPUT/study.jsonl`, a line a setting and seed, appended as soon as it is known, and `OUTPUT/study.md`: a table of the
means over seeds, and one of all lines.
"""

import copy
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from compare_ensembles import (
    MEMBER_CHOICES,
    SHARED_ARGUMENTS,
    CompareArguments,
    Repetition,
    check,
    component_epochs,
)
from comparison.metrics import Arrays, ensemble_results, paired_differences
from comparison_report import mean_and_error
from recipe_arguments import parse_arguments
from train_espro import DataArguments, EsproArguments, hardware, versions

from hf_simplex.model.checkpoint import atomic_write

# What a setting cannot change, since modes are trained once for all.
KEPT = {"budget", "num_train_epochs", "seed", "seeds", "output_dir"}.union(*SHARED_ARGUMENTS)


@dataclass
class StudyArguments:
    """Which settings are tried."""

    _argument_group_name = "study"

    study: str = field(default="", metadata={"help": "YAML file: for each setting the arguments that it changes."})


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the study; returns the lines of study.jsonl that it added."""
    try:
        study, compare, data_args, args = parse_arguments(
            (StudyArguments, CompareArguments, DataArguments, EsproArguments), argv
        )
        # The study is there to choose settings: what it chose is then measured under shift by compare_ensembles.py.
        compare.corruptions = None
        settings = read_settings(Path(study.study), compare, args)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    file = Path(args.output_dir) / "study.jsonl"
    known = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    done = {(line["setting"], line["seed"]) for line in known}
    added = []
    for seed in compare.seeds:
        wanted = {name: setting for name, setting in settings.items() if (name, seed) not in done}
        if not wanted:
            continue
        repetition = Repetition(compare, data_args, args, seed)
        repetition.run("deep_ensemble")
        for name, (changes, own_compare, own_args) in wanted.items():
            repetition.compare, repetition.args = own_compare, own_args
            repetition.run("espro")
            line = {
                "setting": name,
                "seed": seed,
                "changes": changes,
                "component_epochs": component_epochs(own_compare, own_args),
                "methods": measured(repetition, own_compare.espro_name),
                "versions": versions(),
                "hardware": hardware(),
            }
            with file.open("a", encoding="utf-8") as appended:
                appended.write(json.dumps(line) + "\n")
            added.append(line)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    with atomic_write(file.parent) as aside:
        (aside / "study.md").write_text(f"{means(lines)}\n{table(lines)}", "utf-8")
    return added


def read_settings(
    file: Path, compare: CompareArguments, args: EsproArguments
) -> dict[str, tuple[dict[str, Any], CompareArguments, EsproArguments]]:
    """The settings of a study: what each changes, and the arguments with these changes.

    Raises:
        ValueError: a setting changes what is no argument, or what is not ESPRO's own.
    """
    settings = {}
    for name, changes in yaml.safe_load(file.read_text("utf-8")).items():
        own_compare, own_args = copy.copy(compare), copy.copy(args)
        for key, value in (changes or {}).items():
            owner = next((a for a in (own_compare, own_args) if key in {f.name for f in fields(a)}), None)
            if owner is None or key in KEPT:
                raise ValueError(f"{file}: setting {name} changes {key!r}, which is no argument of ESPRO's.")
            setattr(owner, key, value)
        own_compare.espro_name, own_compare.methods = name, ["espro"]
        own_args.__post_init__()
        check(own_compare, own_args)
        settings[name] = (changes or {}, own_compare, own_args)
    return settings


def measured(repetition: Repetition, name: str) -> dict[str, dict[str, Any]]:
    """The metrics of each choice of members, of a deep ensemble of the same epochs, and of what one model is.

    Each choice also has its differences from that deep ensemble, and what one of it differs from one mode by.
    """
    labels, found = repetition.labels(), repetition.predictions()
    deep = found["deep_ensemble"]
    epochs = found[f"{name}_centroids"]["training_epochs"][-1]
    affordable = max(1, int((deep["training_epochs"] <= epochs).sum()))
    rivals = {"": first_members(deep, affordable), "one_of_": first_members(deep, 1)}
    results = {
        "deep_ensemble": ensemble_results(deep, labels, affordable),
        "one_mode": ensemble_results(deep, labels, 1),
    }
    for choice in MEMBER_CHOICES:
        # With points_a_component 0 there are no random points.
        if (arrays := found.get(f"{name}_{choice}")) is None:
            continue
        for prefix, members in (("", len(arrays["training_epochs"])), ("one_of_", 1)):
            results[f"{prefix}{choice}"] = {
                **ensemble_results(arrays, labels, members),
                "difference": paired_differences(first_members(arrays, members), rivals[prefix], labels),
            }
    return results


def first_members(arrays: Arrays, members: int) -> Arrays:
    """A method's predictions with its first members only."""
    return {split: array[:members] for split, array in arrays.items()}


def means(lines: Sequence[dict[str, Any]]) -> str:
    """What each setting gains, as Markdown: differences of the error (points) and NLL, paired by seed.

    Centroids, members and vertices are held against the deep ensemble of as many epochs, one centroid against one
    mode; means over seeds with their standard errors, below 0 is better.
    """
    compared = {
        "centroids": ("centroids", "deep_ensemble"),
        "members": ("members", "deep_ensemble"),
        "vertices": ("vertices", "deep_ensemble"),
        "centroids and vertices": ("centroids_and_vertices", "deep_ensemble"),
        "one centroid": ("one_of_centroids", "one_mode"),
    }
    head = ["setting", "seeds", *(f"{name}: {metric}" for name in compared for metric in ("error", "NLL"))]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line["methods"] for line in lines if line["setting"] == setting]
        cells = [setting, str(len(own))]
        for choice, rival in compared.values():
            if any(choice not in methods for methods in own):
                # Of an earlier version, which had no such choice.
                cells += ["", ""]
                continue
            errors = [100 * (methods[rival]["accuracy"] - methods[choice]["accuracy"]) for methods in own]
            likelihoods = [methods[choice]["nll"] - methods[rival]["nll"] for methods in own]
            for values, digits in ((errors, 2), (likelihoods, 3)):
                mean, spread = mean_and_error(values)
                cells.append(f"{mean:+.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}"))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The study as Markdown: for each setting and seed, error (%) / NLL / calibrated NLL, and what it differs by.

    Differences are those from the deep ensemble (one centroid: from one mode) on the same test images, with their
    standard error over these.
    """
    head = ["setting", "seed", "deep ensemble", "ESPRO, centroids", "ESPRO, random points", "one mode", "one centroid"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for line in lines:
        methods = line["methods"]
        cells = [line["setting"], str(line["seed"]), _metrics(methods["deep_ensemble"])]
        cells += [
            _metrics(methods[choice]) if choice in methods else ""
            for choice in ("centroids", "points", "one_mode", "one_of_centroids")
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _metrics(row: dict[str, Any]) -> str:
    values = f"{100 * (1 - row['accuracy']):.2f} / {row['nll']:.3f} / {row['calibrated_nll']:.3f}"
    if "difference" not in row:
        return f"{values}, {row['forward_passes']} passes"
    (error, its), (nll, nlls) = row["difference"]["error"], row["difference"]["calibrated_nll"]
    return f"{values} ({error:+.2f} ± {its:.2f}, calibrated {nll:+.4f} ± {nlls:.4f})"


if __name__ == "__main__":
    main()
