"""A study of ESPRO: many settings on one task, beside a deep ensemble of as many training epochs."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from comparison.arguments import SHARED_ARGUMENTS, CompareArguments
from comparison.budget import component_epochs
from comparison.metrics import Arrays, ensemble_results, paired_differences
from comparison.repetition import Repetition
from comparison.rivals.espro import MEMBER_CHOICES
from comparison.run import check, run_rival
from comparison.tables import mean_and_error, row_of
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments
from hf_simplex.training.recipe.run_record import hardware, versions

__all__ = ["read_lines", "read_settings", "run_study", "study_tables"]

# Not for a setting to change: all settings share their modes.
KEPT = {"budget", "num_train_epochs", "seed", "seeds", "output_dir"}.union(*SHARED_ARGUMENTS)

Setting = tuple[dict[str, Any], CompareArguments, EsproArguments]


def run_study(
    settings: dict[str, Setting], compare: CompareArguments, data_args: DataArguments, args: EsproArguments
) -> list[dict[str, Any]]:
    """Run every setting with every seed, and write study.jsonl and study.md; returns the lines that were added."""
    file = Path(args.output_dir) / "study.jsonl"
    done = {(line["setting"], line["seed"]) for line in read_lines(file)}
    added = []
    for seed in compare.seeds:
        wanted = {name: setting for name, setting in settings.items() if (name, seed) not in done}
        if not wanted:
            continue
        repetition = Repetition(compare, data_args, args, seed)
        run_rival(repetition, "deep_ensemble")
        for name, (changes, own_compare, own_args) in wanted.items():
            repetition.compare, repetition.args = own_compare, own_args
            run_rival(repetition, "espro")
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
    with atomic_write(file.parent) as aside:
        (aside / "study.md").write_text(study_tables(read_lines(file)), "utf-8")
    return added


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the lines of study.jsonl; none where there is no file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def read_settings(file: Path, compare: CompareArguments, args: EsproArguments) -> dict[str, Setting]:
    """Read the settings of a study.

    Args:
        file: YAML; for each setting the arguments that it changes.
        compare, args: arguments without these changes.

    Returns:
        For each setting its changes, and the arguments with these changes.

    Raises:
        ValueError: a setting changes an unknown argument, or one that is not ESPRO's own.
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
    """Metrics of each choice of members, of a deep ensemble of the same epochs, and of one mode.

    A choice also has its differences from that deep ensemble; `one_of_<choice>` is its first member, with its
    differences from one mode.
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
    """The predictions of a method's first members."""
    return {split: array[:members] for split, array in arrays.items()}


def study_tables(lines: Sequence[dict[str, Any]]) -> str:
    """Two tables as Markdown: means over seeds of each setting, and all lines."""
    return f"{_means(lines)}\n{_lines(lines)}"


def _means(lines: Sequence[dict[str, Any]]) -> str:
    """Differences in error (points) and NLL, paired by seed: means and standard errors; below 0 is better.

    Centroids, members and vertices are compared with the deep ensemble of as many epochs, one centroid with one mode.
    """
    compared = {
        "centroids": ("centroids", "deep_ensemble"),
        "members": ("members", "deep_ensemble"),
        "vertices": ("vertices", "deep_ensemble"),
        "centroids and vertices": ("centroids_and_vertices", "deep_ensemble"),
        "one centroid": ("one_of_centroids", "one_mode"),
    }
    head = ["setting", "seeds", *(f"{name}: {metric}" for name in compared for metric in ("error", "NLL"))]
    rows = [row_of(head), "|" + " --- |" * len(head)]
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line["methods"] for line in lines if line["setting"] == setting]
        cells = [setting, str(len(own))]
        for choice, rival in compared.values():
            if any(choice not in methods for methods in own):
                # An earlier version had no such choice.
                cells += ["", ""]
                continue
            errors = [100 * (methods[rival]["accuracy"] - methods[choice]["accuracy"]) for methods in own]
            likelihoods = [methods[choice]["nll"] - methods[rival]["nll"] for methods in own]
            for values, digits in ((errors, 2), (likelihoods, 3)):
                mean, spread = mean_and_error(values)
                cells.append(f"{mean:+.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}"))
        rows.append(row_of(cells))
    return "\n".join(rows) + "\n"


def _lines(lines: Sequence[dict[str, Any]]) -> str:
    """For each setting and seed error (%) / NLL / calibrated NLL, and differences on the same test images.

    Differences are from the deep ensemble (one centroid: from one mode), with their standard error over the images.
    """
    head = ["setting", "seed", "deep ensemble", "ESPRO, centroids", "ESPRO, random points", "one mode", "one centroid"]
    rows = [row_of(head), "|" + " --- |" * len(head)]
    for line in lines:
        methods = line["methods"]
        cells = [line["setting"], str(line["seed"]), _triple(methods["deep_ensemble"])]
        cells += [
            _triple(methods[choice]) if choice in methods else ""
            for choice in ("centroids", "points", "one_mode", "one_of_centroids")
        ]
        rows.append(row_of(cells))
    return "\n".join(rows) + "\n"


def _triple(row: dict[str, Any]) -> str:
    values = f"{100 * (1 - row['accuracy']):.2f} / {row['nll']:.3f} / {row['calibrated_nll']:.3f}"
    if "difference" not in row:
        return f"{values}, {row['forward_passes']} passes"
    (error, its), (nll, nlls) = row["difference"]["error"], row["difference"]["calibrated_nll"]
    return f"{values} ({error:+.2f} ± {its:.2f}, calibrated {nll:+.4f} ± {nlls:.4f})"
