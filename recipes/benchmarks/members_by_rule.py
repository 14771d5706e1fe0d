"""Compare the members that calibration chose with every rule that it chose among, on the test images of runs.

    python recipes/benchmarks/members_by_rule.py output/pets-seed-1 output/pets-seed-2 output/pets-seed-3

Each folder is the output of train_espro.py with validation images. Every rule gets a temperature of its own, fitted on
the validation images. Differences are to the plain ensemble of the modes on the same images: the mean over the runs,
with the standard error of that mean from the paired standard errors of the runs.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from measure import parser, report, start
from transformers import TrainingArguments

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.calibrate import CandidatePoints, candidate_points, fit_decisions
from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.comparison import MemberPredictions, predict_members
from hf_simplex.evaluation.decision_metrics import decision_metrics
from hf_simplex.evaluation.member_selection import choose_members
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.paired import paired_differences
from hf_simplex.training.batch_norm_images import batch_norm_batches
from hf_simplex.training.recipe.arguments import DataArguments
from hf_simplex.training.recipe.images import load_data_with_validation

CHOSEN = "chosen"


def predict_run(
    folder: Path, args: argparse.Namespace
) -> tuple[CandidatePoints, MemberPredictions, MemberPredictions]:
    """The candidates of one run for members, and their predictions of its validation and of its test images."""
    recorded = json.loads((folder / "run.json").read_text("utf-8"))["arguments"]
    names = {entry.name for entry in fields(DataArguments)}
    data_args = DataArguments(**{name: value for name, value in recorded["data"].items() if name in names})
    data = load_data_with_validation(data_args, None, recorded["calibration"]["validation_fraction"])
    model = SimplexForImageClassification.from_pretrained(folder / "ensemble")
    assert data.validation is not None and model.image_processor is not None
    _, plain = build_transforms(model.image_processor)
    batches = batch_norm_batches(
        with_pixel_values(data.train, plain),
        images=args.batch_norm_images,
        batch_size=args.batch_size,
        collate=collate,
    )
    points = candidate_points(model, batches)
    training_args = TrainingArguments(
        str(args.output.parent / "predictions"),
        per_device_eval_batch_size=args.batch_size,
        use_cpu=args.device == "cpu",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    on_points = model.with_members(points.coordinates, points.statistics)
    validation, test = (
        predict_members(on_points, with_pixel_values(split, plain), training_args, collate)
        for split in (data.validation, data.test)
    )
    return points, validation, test


def measure_run(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Evaluate every rule on the test images of one run."""
    points, validation, test = predict_run(folder, args)
    rules = dict(points.rules)
    selection = choose_members(validation.probabilities, validation.references, points.rules, points.modes)
    own = list(selection.points)
    rules[CHOSEN] = selection.points

    def calibrated(which: Sequence[int]) -> np.ndarray[Any, Any]:
        fitted = validation.probabilities[:, list(which)].mean(axis=1)
        mean = test.probabilities[:, list(which)].mean(axis=1)
        return scale_temperature(mean, fit_temperature(fitted, validation.references))

    modes = calibrated(points.modes)
    found: dict[str, dict[str, Any]] = {}
    for name, which in rules.items():
        probabilities = calibrated(which)
        raw = classification_metrics(test.probabilities[:, list(which)].mean(axis=1), test.references)
        found[name] = {
            "forward_passes": len(which),
            "error": 1 - raw["accuracy"],
            "nll": raw["nll"],
            "ece": raw["ece"],
            **{
                f"calibrated_{key}": value
                for key, value in classification_metrics(probabilities, test.references).items()
                if key in ("nll", "ece")
            },
            "over_modes": paired_differences(probabilities, modes, test.references),
        }
    on_validation, on_test = (
        MemberPredictions(split.probabilities[:, own], split.energies[:, own], split.references)
        for split in (validation, test)
    )
    decisions = fit_decisions(on_validation)
    found[CHOSEN] |= {
        "rule": selection.name,
        "decisions": decision_metrics(decisions, on_test),
        "threshold": None if decisions.abstention is None else decisions.abstention.threshold,
        "validation_images": len(validation.references),
        "test_images": len(test.references),
    }
    return found


def summarize(runs: Sequence[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average each rule over the runs that have it."""
    rows = []
    for name in dict.fromkeys(rule for run in runs for rule in run):
        own = [run[name] for run in runs if name in run]
        if len(own) < len(runs):
            continue
        row: dict[str, Any] = {
            "members": name,
            "forward_passes": float(np.mean([one["forward_passes"] for one in own])),
        }
        for key in ("error", "nll", "ece", "calibrated_nll", "calibrated_ece"):
            row[key] = float(np.mean([one[key] for one in own]))
        for key in ("error", "nll"):
            differences = [one["over_modes"][key] for one in own]
            row[f"{key}_over_modes"] = float(np.mean([one["mean"] for one in differences]))
            errors = [one["standard_error"] for one in differences]
            row[f"{key}_standard_error"] = float(np.sqrt(np.sum(np.square(errors))) / len(own))
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "members_by_rule")
    found.add_argument("runs", type=Path, nargs="+", help="Output folders of train_espro.py.")
    found.add_argument("--batch_size", type=int, default=128)
    found.add_argument("--batch_norm_images", type=int, default=1024)
    args = found.parse_args(argv)
    device = start(args)
    runs = [measure_run(folder, args) for folder in args.runs]
    rows = summarize(runs)
    args.chosen = [run[CHOSEN] for run in runs]
    args.runs = [folder.name for folder in args.runs]
    return report(args, device, rows)


if __name__ == "__main__":
    main()
