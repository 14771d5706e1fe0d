"""Evaluates a run on its test images: raw and calibrated figures, paired differences, and the decisions."""

import math
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from ...evaluation.calibration import deep_ensemble_equivalent
from ...evaluation.comparison import Prediction, Result, predict_members, predict_parts, results_of
from ...evaluation.decision_metrics import decision_metrics
from ...evaluation.inputs import IntArray
from ...evaluation.label_kinds import label_kind
from ...evaluation.paired import paired_differences
from ...model.configuration_simplex import MODE
from ...model.modeling_simplex import SimplexForImageClassification
from .arguments import EsproArguments

__all__ = ["RIVALS", "Assessment", "assess"]

RIVALS = ("backbone", "deep_ensemble")
"""Parts that the others are compared with: one model, and the plain ensemble of the modes."""


@dataclass(frozen=True)
class Assessment:
    """What a run measured on its test images.

    Attributes:
        results: metrics and cost by part. With validation images, each has `calibrated`; each but the rival itself has
            `differences` to it; `espro` has `decisions` and `deep_ensemble_equivalent`.
        predictions: of each part, at the temperature fitted on validation images if there are any.
        references: [images] label ids; of several labels an image [images, labels], 0 and 1.

    Example::

        assess(ensemble, test, args, validation=validation).results["espro"]["calibrated"]["nll"]
    """

    results: dict[str, Result]
    predictions: dict[str, Prediction]
    references: IntArray


def assess(
    model: SimplexForImageClassification,
    test: Dataset,
    args: EsproArguments,
    *,
    validation: Dataset | None = None,
    unfamiliar: Dataset | None = None,
    given_mode_epochs: float = 0.0,
    data_collator: Any = None,
) -> Assessment:
    """Evaluate an ensemble and its parts. All processes of a distributed run call this together.

    Args:
        model: the ensemble.
        test: test images with labels.
        args: batch size and precision.
        validation: images that temperatures are fitted on; default: none, and no calibrated figures.
        unfamiliar: images out of the distribution, with any known label.
        given_mode_epochs: epochs of modes that were loaded.
        data_collator: of the images.

    Returns:
        The assessment.

    Raises:
        ValueError: see `evaluation.comparison.predict_parts`.

    Example::

        assess(ensemble, test, args, data_collator=collate).results["espro"]["nll"]
    """
    options: Any = {"given_mode_epochs": given_mode_epochs, "data_collator": data_collator}
    predictions, references = predict_parts(model, test, args, **options)
    results, kind = results_of(predictions, references), label_kind(references)
    if validation is not None:
        fitted, labels = predict_parts(model, validation, args, **options)
        for part, result in results.items():
            measured, of_validation = predictions[part].probabilities, fitted[part].probabilities
            found = kind.calibrated_metrics(measured, references, of_validation, labels)
            result["calibrated"] = {name: found[name] for name in ("nll", "ece", "brier", "temperature")}
            temperature = kind.fit_temperature(of_validation, labels)
            scaled = kind.scale_temperature(measured, temperature)
            predictions[part] = predictions[part]._replace(probabilities=scaled)
    for part, result in results.items():
        result["differences"] = {
            rival: paired_differences(predictions[part].probabilities, predictions[rival].probabilities, references)
            for rival in RIVALS
            if rival != part
        }
    if (decisions := model.decisions) is not None:
        members = predict_members(model, test, args, data_collator)
        strange = None if unfamiliar is None else predict_members(model, unfamiliar, args, data_collator)
        results["espro"]["decisions"] = decision_metrics(decisions, members, strange)
    modes = model.config.roles.count(MODE)
    if validation is not None and modes > 1:
        equivalent = deep_ensemble_equivalent(
            -results["espro"]["calibrated"]["nll"],
            {1: -results["backbone"]["calibrated"]["nll"], modes: -results["deep_ensemble"]["calibrated"]["nll"]},
        )
        # JSON has no infinity: None means more than the modes.
        results["espro"]["deep_ensemble_equivalent"] = equivalent if math.isfinite(equivalent) else None
    return Assessment(results, predictions, references)
