"""Evidence of a run about an ensemble: results, predictions, a loss surface, arguments, hardware."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from numpy.typing import ArrayLike

from ..evaluation.comparison import Result, error_of
from ..evaluation.surfaces import Surface

__all__ = ["DRAWN_PARTS", "PARTS", "Evidence", "describe_hardware", "without_repeats"]

PARTS = {
    "backbone": "backbone",
    "deep_ensemble": "deep ensemble",
    "centroid": "centroid",
    "simplex": "one simplex",
    "espro": "ESPRO",
}
"""The parts that `evaluation.comparison.predict_parts` evaluates, and their names on a card."""

DRAWN_PARTS = ("backbone", "deep_ensemble", "centroid", "espro")
"""The parts in the reliability diagram."""

# With a single simplex, both parts of a pair are the same model.
_TWINS = {"deep_ensemble": "backbone", "simplex": "espro"}


@dataclass(frozen=True)
class Evidence:
    """Evidence of a run about an ensemble, beyond the configuration. Every field is optional.

    Args:
        data_set: name of the data set, as the user gave it.
        test_images: number of images behind `results`.
        results: metrics and costs by part, from `evaluation.comparison.results_of`.
        predictions: by part, probabilities [images, labels] and references for the reliability diagram.
        calibrated: whether `predictions` are at temperatures fitted on validation images.
        surface: loss surface on a plane, from `surface_points.plane_points` and `surface_evaluation.model_surface`.
        surface_images: number of images behind `surface`.
        arguments: training arguments by name, as YAML values.
        hardware: one sentence on the machine and the duration.

    Example:
        >>> from hf_simplex.hub.evidence import Evidence
        >>> Evidence(data_set="digits", arguments={"learning_rate": 1e-3}).data_set
        'digits'
    """

    data_set: str | None = None
    test_images: int | None = None
    results: Mapping[str, Result] = field(default_factory=dict)
    predictions: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    calibrated: bool = False
    surface: Surface | None = None
    surface_images: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = ""


def without_repeats(evidence: Evidence) -> Evidence:
    """Drops the parts with the same results as their twin, so that a card shows each model once.

    Args:
        evidence: evidence of a run.

    Returns:
        The evidence without the repeated `results` and `predictions`.

    Example:
        >>> from hf_simplex.hub.evidence import Evidence, without_repeats
        >>> result = dict(accuracy=0.9, nll=0.3, ece=0.1, brier=0.2, training_epochs=4.0, forward_passes=1)
        >>> list(without_repeats(Evidence(results={"backbone": result, "deep_ensemble": result})).results)
        ['backbone']
    """
    results = evidence.results
    repeats = {part for part, twin in _TWINS.items() if part in results and _equal(results[part], results.get(twin))}
    return replace(
        evidence,
        results={part: result for part, result in results.items() if part not in repeats},
        predictions={part: found for part, found in evidence.predictions.items() if part not in repeats},
    )


def _equal(result: Result, twin: Result | None) -> bool:
    """Whether metrics and cost are equal; one part may know more about itself, such as differences to its twin."""
    measured = ("nll", "ece", "brier", "training_epochs", "forward_passes")
    return (
        twin is not None
        and error_of(result) == error_of(twin)
        and all(result[name] == twin[name] for name in measured)  # type: ignore[literal-required]
    )


def describe_hardware(seconds: float | None = None) -> str:
    """Describes the machine of this process in one sentence.

    Args:
        seconds: duration of the run; None leaves it out.

    Returns:
        The sentence, with cores, GPUs, duration and library versions.

    Example:
        >>> from hf_simplex.hub.evidence import describe_hardware
        >>> describe_hardware(120).startswith("Hardware: ")
        True
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cores = os.cpu_count() or 1
    machine = f"{cores} {'core' if cores == 1 else 'cores'} ({platform.machine()}), {', '.join(gpus) or 'no GPU'}"
    duration = "" if seconds is None else f", {seconds / 60:.1f} minutes in all"
    return f"Hardware: {machine}{duration}; torch {torch.__version__}, transformers {transformers.__version__}."
