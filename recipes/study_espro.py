"""Try many settings of ESPRO on one task, beside a deep ensemble of as many training epochs.

    python recipes/study_espro.py recipes/configs/compare_from_scratch.yaml --espro_components 2 \\
        --study recipes/configs/study_from_scratch.yaml

The study file names the settings, each with the arguments of `compare_ensembles.py` that it changes:

    volume-1e-4: {volume_weight: 1.0e-4, volume_weight_scaling: none}

Modes are trained once for all settings, and what is done is not done again. Written is `OUTPUT/study.jsonl`, a line a
setting and seed, appended as soon as it is known.
"""

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from compare_ensembles import CompareArguments, Repetition, check, component_epochs
from ensemble_results import ensemble_results
from recipe_arguments import parse_arguments
from train_espro import DataArguments, EsproArguments, hardware, versions


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
        repetition.run_deep_ensemble()
        for name, (changes, own_compare, own_args) in wanted.items():
            repetition.compare, repetition.args = own_compare, own_args
            repetition.run_espro()
            line = {
                "setting": name,
                "seed": seed,
                "changes": changes,
                "component_epochs": component_epochs(own_compare, own_args),
                "methods": measured(repetition, own_compare.espro_name),
                "versions": versions(),
                "hardware": hardware(),
            }
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
            added.append(line)
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
            if owner is None or key in ("budget", "num_train_epochs", "backbone", "seed", "seeds", "output_dir"):
                raise ValueError(f"{file}: setting {name} changes {key!r}, which is no argument of ESPRO's.")
            setattr(owner, key, value)
        own_compare.espro_name, own_compare.methods = name, ["espro"]
        own_args.__post_init__()
        check(own_compare, own_args)
        settings[name] = (changes or {}, own_compare, own_args)
    return settings


def measured(repetition: Repetition, name: str) -> dict[str, dict[str, Any]]:
    """The metrics of all members of each choice, of a deep ensemble of the same epochs, and what one member is."""
    labels, found = repetition.labels(), repetition.predictions()
    results = {}
    for choice in ("centroids", "points", "vertices"):
        arrays = found[f"{name}_{choice}"]
        members = len(arrays["training_epochs"])
        results[choice] = ensemble_results(arrays, labels, members)
        results[f"one_of_{choice}"] = ensemble_results(arrays, labels, 1)
    epochs = results["points"]["training_epochs"]
    deep = found["deep_ensemble"]
    affordable = max(i + 1 for i, spent in enumerate(deep["training_epochs"]) if i == 0 or spent <= epochs)
    results["deep_ensemble"] = ensemble_results(deep, labels, affordable)
    results["one_mode"] = ensemble_results(deep, labels, 1)
    return results


if __name__ == "__main__":
    main()
