"""Fits the decisions of an ensemble on validation images: members, temperature, abstention and prediction sets."""

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.data.data_collator import DataCollator
from transformers.utils import logging

from ..data.image_data import MIN_VALIDATION_IMAGES
from ..model.batch_norm import batch_norm_statistics, copy_statistics, recompute_statistics
from ..model.configuration_simplex import MODE
from ..model.coordinates import centroid_coordinates, vertex_coordinates
from ..model.decisions import PERCENTILES, Abstention, Decisions, PredictionSets
from ..model.members import place_members
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.problem_types import refuse_several
from ..model.uncertainty import mutual_information
from .comparison import MemberPredictions, predict_members
from .data_sets import evaluated_labels
from .inputs import FloatArray, IntArray
from .label_kinds import label_kind
from .label_names import listed
from .member_selection import GREEDY, choose_members, cross_fitted
from .prediction_sets import conformal_quantile, conformity_scores
from .selective import guaranteed_threshold

__all__ = ["CandidatePoints", "calibrate", "candidate_points", "check_rates", "describe_decisions", "fit_decisions"]

logger = logging.get_logger(__name__)

NEARLY_UNIFORM = 5.0
"""Temperature from which on probabilities are nearly uniform: of two labels, 0.99 becomes 0.71."""

PRESENT = "present members"
"""Name of the rule that keeps the members."""

RATES = {"target_error": 0.05, "confidence_level": 0.95, "coverage": 0.9, "set_method": "lac"}
"""Default rates of threshold and prediction sets."""

ONE_LABEL_ONLY = (
    "Abstention threshold and prediction sets rest on one label an image: they are not fitted, since problem_type is "
    "'multi_label_classification'. Members and temperature are."
)
"""What a multi-label ensemble goes without."""

RECOMPUTED = "modes with recomputed statistics"
"""Name of the rule of the modes whose BatchNorm statistics are recomputed on training images."""


@dataclass(frozen=True)
class CandidatePoints:
    """Points that may become members, and the rules that choose among them.

    Attributes:
        coordinates: [points, vertices] barycentric coordinates.
        statistics: BatchNorm statistics of each point by buffer name; empty dictionaries without BatchNorm.
        rules: indices of points by the name of a rule.
        modes: indices of the points that are modes.
        centroids: [simplexes] index of each centroid.

    Example::

        candidate_points(model).rules["modes"]   # (0, 1)
    """

    coordinates: list[list[float]]
    statistics: list[Mapping[str, Tensor]]
    rules: dict[str, tuple[int, ...]]
    modes: tuple[int, ...]
    centroids: tuple[int, ...]


def calibrate(
    model: SimplexForImageClassification,
    validation: Dataset,
    *,
    args: TrainingArguments | None = None,
    data_collator: DataCollator | None = None,
    batches: Iterable[Any] | None = None,
    choose: bool = True,
    max_forward_passes: int | None = None,
    target_error: float = 0.05,
    confidence_level: float = 0.95,
    coverage: float = 0.9,
    set_method: str = "lac",
    data_set: str | None = None,
) -> Decisions | None:
    """Chooses the members, and fits temperature, abstention and prediction sets.

    Threshold and prediction sets are fitted to cross-fitted probabilities: each image is scaled by a temperature that
    was fitted on other images.

    A multi-label ensemble gets members and one temperature, by binary cross-entropy. Threshold and prediction sets
    rest on one label an image: they are not fitted, and a warning says so. Labels that `data_sets.LabelledInputs`
    leaves out count neither for the members nor for the temperature, which scales them nevertheless.

    Args:
        model: an ensemble whose members are drawn. Members and `decisions` change in place.
        validation: images with labels, as the trainer takes them. They must be new to the model, and no test images.
        args: batch size, precision and data loader workers; default: transformers' own, on the model's device.
        data_collator: default: transformers' own.
        batches: inputs of training images for the BatchNorm statistics of points between vertices. Without them, a
            backbone with BatchNorm has the vertices, the centroids and the present members as candidates.
        choose: choose the members; otherwise keep the present ones.
        max_forward_passes: largest number of members; default: no limit.
        target_error: largest acceptable error among the answers, between 0 and 1.
        confidence_level: probability with which the error stays below the target, between 0 and 1.
        coverage: rate at which prediction sets hold the true label, between 0 and 1.
        set_method: `"lac"` or `"aps"`, see `prediction_sets`.
        data_set: name of the data set, for the record.

    Returns:
        The decisions, which the model keeps. With fewer than 50 images nothing is fitted and the result is None.

    Raises:
        ValueError: the data set has no labels, or one that the model does not know; a rate is not between 0 and 1; no
            candidate is within `max_forward_passes`; or a rate or method of threshold and sets is given for a
            multi-label ensemble.
        RuntimeError: the members are not drawn yet.

    Example::

        calibrate(model, validation_images, target_error=0.02).abstention
        model.save_pretrained("ensemble")
    """
    if not model.config.members:
        raise RuntimeError("The ensemble has no members yet: call model.draw_members first.")
    rates: dict[str, Any] = {
        "target_error": target_error,
        "confidence_level": confidence_level,
        "coverage": coverage,
        "set_method": set_method,
    }
    check_rates(model.config, rates)
    number = len(validation)  # type: ignore[arg-type]
    if number < MIN_VALIDATION_IMAGES:
        logger.warning(
            f"There are {number} validation images, and at least {MIN_VALIDATION_IMAGES} are needed: members, "
            "temperature, abstention and prediction sets are not fitted."
        )
        return None
    labels = evaluated_labels(validation)
    points = candidate_points(model, batches if choose else None, present_only=not choose)
    with tempfile.TemporaryDirectory() as directory:
        if args is None:
            args = TrainingArguments(
                directory,
                use_cpu=model.device.type == "cpu",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            )
        on_points = model.with_members(points.coordinates, points.statistics)
        predicted = predict_members(on_points, validation, args, data_collator)
    _warn_of_missing_labels(model, predicted, labels)
    if not choose:
        chosen, selection = points.rules[PRESENT], {"name": PRESENT}
    else:
        known = predicted if labels is None else predicted.of_labels(labels)
        selected = choose_members(
            known.probabilities,
            known.references,
            points.rules,
            points.modes,
            max_forward_passes=max_forward_passes,
        )
        chosen, selection = selected.points, selected.to_json()
    decisions = fit_decisions(
        MemberPredictions(
            predicted.probabilities[:, list(chosen)], predicted.energies[:, list(chosen)], predicted.references
        ),
        [predicted.probabilities[:, point] for point in points.centroids],
        labels=labels,
        selection=selection,
        fitted_on={"data_set": data_set, "images": number, **_left_out(model, labels)},
        **rates,
    )
    # Only now: a mistake in the arguments leaves the model as it was.
    if choose:
        model.config.decisions = None
        model.choose_members(
            [points.coordinates[point] for point in chosen], [points.statistics[point] for point in chosen]
        )
    model.decisions = decisions
    return decisions


def check_rates(config: Any, rates: Mapping[str, Any], *, given: Collection[str] = ()) -> None:
    """Checks that a multi-label ensemble is not asked for a threshold or prediction sets.

    Args:
        config: of the ensemble.
        rates: some of `RATES` by name. The default of one asks for nothing, unless it is `given`.
        given: names of rates that a user asks for, whatever their value.

    Raises:
        ValueError: the ensemble is multi-label, and a rate is given or is not the default.

    Example:
        >>> from hf_simplex.evaluation.calibrate import check_rates
        >>> from hf_simplex import SimplexConfig
        >>> check_rates(SimplexConfig(problem_type="multi_label_classification"), {"coverage": 0.9})
    """
    for name, value in rates.items():
        if name in given or value != RATES[name]:
            refuse_several(
                config,
                f"{name} is {value!r}, for abstention and prediction sets, which rest on",
                f"Leave {name} out: members and temperature are fitted without it.",
            )


def candidate_points(
    model: SimplexForImageClassification, batches: Iterable[Any] | None = None, *, present_only: bool = False
) -> CandidatePoints:
    """Lays out the points that may become members: modes, vertices, centroids, placed points and present members.

    After a short training, the BatchNorm statistics of a mode are partly those of the pretraining. So modes with
    recomputed statistics are candidates too.

    Args:
        model: an ensemble whose members are drawn.
        batches: inputs of training images, for the BatchNorm statistics of placed points and of recomputed modes.
        present_only: the present members are the only rule.

    Returns:
        The points, each once, and modes once more with recomputed statistics.

    Example::

        candidate_points(model, batches=[{"pixel_values": images}]).coordinates
    """
    config, structure = model.config, model.config.complex
    coordinates: list[list[float]] = []
    statistics: list[Mapping[str, Tensor]] = []

    def index(point: Sequence[float], found: Mapping[str, Tensor]) -> int:
        listed = list(point)
        for number, other in enumerate(coordinates):
            if other == listed and _equal(statistics[number], found):
                return number
        coordinates.append(listed)
        statistics.append(found)
        return len(coordinates) - 1

    vertices = tuple(
        index(vertex_coordinates(structure, vertex).tolist(), model.vertex_statistics(vertex))
        for vertex in range(0 if present_only else config.num_vertices)
    )
    trees: list[Any] = list(model.centroids) or [None] * len(config.simplexes)
    centroids = tuple(
        index(centroid_coordinates(structure, simplex).tolist(), {} if tree is None else tree.tensors())
        for simplex, tree in enumerate(trees)
    )
    trees = list(model.members) or [None] * len(config.members)
    present = tuple(
        index(member, {} if tree is None else tree.tensors())
        for member, tree in zip(config.members, trees, strict=True)
    )
    if present_only:
        return CandidatePoints(coordinates, statistics, {PRESENT: present}, (), centroids)
    modes = tuple(vertices[vertex] for vertex, role in enumerate(config.roles) if role == MODE)
    # The first vertex stands for the mode of a simplex without one.
    modes = modes or tuple(vertices[simplex[0]] for simplex in config.simplexes)
    rules: dict[str, tuple[int, ...]] = {f"mode {vertex}": (vertex,) for vertex in modes}
    rules |= {"modes": modes, "vertices": vertices, "centroids": centroids}
    rules["vertices and centroids"] = tuple(dict.fromkeys((*vertices, *centroids)))
    if batches is not None or not model.vertex_statistics(0):
        placed = place_members(structure, "symmetric")
        found = model.point_statistics(placed, batches)
        rules["placed points"] = tuple(index(point, own) for point, own in zip(placed, found, strict=True))
    if batches is not None and model.vertex_statistics(0):
        points = [coordinates[mode] for mode in modes]
        rules[RECOMPUTED] = tuple(index(point, _recomputed_statistics(model, point, batches)) for point in points)
    rules[PRESENT] = present
    # Two rules may name the same points: the first stays.
    distinct: dict[tuple[int, ...], str] = {}
    for name, chosen in rules.items():
        distinct.setdefault(tuple(sorted(set(chosen))), name)
    rules = {name: rules[name] for name in distinct.values()}
    return CandidatePoints(coordinates, statistics, rules, modes, centroids)


def _recomputed_statistics(
    model: SimplexForImageClassification, vertex: Sequence[float], batches: Iterable[Any]
) -> dict[str, Tensor]:
    backbone = model.backbone_at(vertex)
    recompute_statistics(backbone, batches, f"the vertex {list(vertex)}")
    return {name: tensor.cpu() for name, tensor in copy_statistics(batch_norm_statistics(backbone)).items()}


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two points have the same statistics, on whatever devices."""
    return first.keys() == second.keys() and all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)


def fit_decisions(
    predicted: MemberPredictions,
    centroids: Sequence[FloatArray] = (),
    *,
    labels: Sequence[int] | None = None,
    target_error: float = 0.05,
    confidence_level: float = 0.95,
    coverage: float = 0.9,
    set_method: str = "lac",
    selection: Mapping[str, Any] | None = None,
    fitted_on: Mapping[str, Any] | None = None,
) -> Decisions:
    """Fits decisions to the predictions of the members on validation images.

    Args:
        predicted: of the chosen members.
        centroids: [simplexes] probabilities [images, labels] of each centroid.
        labels: ids of a multi-label ensemble's labels that the references speak of; default: all.
        target_error, confidence_level, coverage, set_method: see `calibrate`.
        selection: how the members were chosen, as JSON values.
        fitted_on: data set and settings, as JSON values.

    Returns:
        The decisions.

    Raises:
        ValueError: as `metrics.accuracy`, or a rate is not between 0 and 1.

    Source: Guo et al. 2017 (temperature); Geifman and El-Yaniv 2017 (abstention); Sadinle et al. 2019 and Romano et
    al. 2020 (prediction sets).

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.calibrate import fit_decisions
        >>> from hf_simplex.evaluation.comparison import MemberPredictions
        >>> probabilities = np.tile([[[0.8, 0.2]]], (300, 1, 1))
        >>> predicted = MemberPredictions(probabilities, np.zeros((300, 1)), np.array([0, 0, 1] * 100))
        >>> round(fit_decisions(predicted).temperature, 3)
        1.718
    """
    known = predicted if labels is None else predicted.of_labels(labels)
    mean, references = known.probabilities.mean(axis=1), known.references
    kind = label_kind(references)
    if not kind.errors(mean, references).any():
        logger.warning(
            f"All {len(references)} validation images are classified correctly: they hold no information about "
            "overconfidence, and the temperature rests on how sure the right answers are."
        )
    abstention = prediction_sets = None
    if kind.several:
        logger.warning(ONE_LABEL_ONLY)
    else:
        scaled = cross_fitted(mean, references)
        abstention = _abstention(scaled, references, target_error, confidence_level)
        quantile = conformal_quantile(conformity_scores(scaled, references, method=set_method), coverage)
        prediction_sets = PredictionSets(set_method, coverage, quantile if math.isfinite(quantile) else None)
    # An image of few labels has a high joint energy by nature: its rank would say nothing else.
    uncertainties = {} if kind.several else {"energy": predicted.energies.mean(axis=1)}
    if predicted.probabilities.shape[1] > 1:
        # A single member cannot disagree: no image would look more uncertain than another. All labels count here.
        members = torch.from_numpy(predicted.probabilities)
        information = mutual_information(members, independent=kind.several).numpy()
        uncertainties = {"mutual_information": information, **uncertainties}
    return Decisions(
        temperature=kind.fit_temperature(mean, references),
        centroid_temperatures=[
            kind.fit_temperature(of_centroid if labels is None else of_centroid[:, list(labels)], references)
            for of_centroid in centroids
        ],
        abstention=abstention,
        prediction_sets=prediction_sets,
        uncertainty_quantiles={name: _percentiles(values) for name, values in uncertainties.items()},
        selection=selection or {},
        fitted_on=fitted_on or {},
    )


def _abstention(scaled: FloatArray, references: IntArray, target_error: float, confidence_level: float) -> Abstention:
    """The threshold for one label an image, from cross-fitted probabilities."""
    found = guaranteed_threshold(
        scaled.max(axis=1),
        scaled.argmax(axis=1) == references,
        target_error=target_error,
        confidence_level=confidence_level,
    )
    if found.threshold is None:
        logger.warning(f"{found} The ensemble does not abstain.")
    return Abstention(target_error, confidence_level, found.threshold, found.coverage, found.error)


def describe_decisions(decisions: Decisions) -> list[str]:
    """Says in plain words what was fitted, a sentence each.

    Args:
        decisions: of `calibrate`.

    Example:
        >>> from hf_simplex.evaluation.calibrate import describe_decisions
        >>> from hf_simplex.model.decisions import Decisions
        >>> describe_decisions(Decisions(temperature=1.25))
        ['The temperature is 1.25: the members alone are overconfident.']
    """
    lines = []
    if name := decisions.selection.get("name"):
        rows = {row["name"]: row for row in decisions.selection.get("candidates", [])}
        row = rows.get(name)
        details = ""
        if row:
            passes = f"{row['forward_passes']} forward pass" + ("" if row["forward_passes"] == 1 else "es")
            details = f" ({passes}, validation NLL {row['nll']:.3f})"
        if name == GREEDY:
            lines.append(f"The members were chosen one by one{details}.")
        elif name.startswith("mode "):
            lines.append(f"The only member is {name}{details}.")
        else:
            lines.append(f"The members are the {name}{details}.")
        if not decisions.selection.get("guaranteed", True):
            lines.append("Within the allowed forward passes, no members are as accurate as the ensemble of the modes.")
    tendency = "overconfident" if decisions.temperature > 1 else "underconfident"
    shown = f"{decisions.temperature:.3g}"
    if decisions.temperature >= NEARLY_UNIFORM:
        lines.append(f"The temperature is {shown}: how sure the members are says next to nothing.")
    else:
        lines.append(f"The temperature is {shown}" + ("." if shown == "1" else f": the members alone are {tendency}."))
    if isinstance(left_out := decisions.fitted_on.get("labels_left_out"), list):
        lines.append(f"The validation data does not name all labels: fitted without {listed(left_out)}.")
    if (abstention := decisions.abstention) is not None:
        goal = (
            f"an error below {100 * abstention.target_error:.1f} % at a confidence level of "
            f"{100 * abstention.confidence_level:.0f} %"
        )
        if abstention.threshold is None or abstention.coverage is None:
            lines.append(f"No threshold of confidence reaches {goal}.")
        else:
            lines.append(
                f"For {goal}, answer where the confidence is at least {abstention.threshold:.3f}: "
                f"{_share(abstention.coverage)} of the validation images."
            )
    if (sets := decisions.prediction_sets) is not None:
        what = (
            "need more validation images: they hold all labels"
            if sets.quantile is None
            else f"hold the true label for {100 * sets.coverage:.0f} % of the images ({sets.method.upper()})"
        )
        lines.append(f"Prediction sets {what}.")
    return lines


def _share(share: float) -> str:
    """A share in percent; 99.5 % of the images are not shown as all of them."""
    digits = 0 if round(100 * share) not in (0, 100) or share in (0, 1) else 1
    return f"{100 * share:.{digits}f} %"


def _percentiles(values: FloatArray) -> list[float]:
    return [float(value) for value in np.quantile(values, np.linspace(0, 1, PERCENTILES))]


def _left_out(model: SimplexForImageClassification, labels: Sequence[int] | None) -> dict[str, list[str]]:
    """The names of the labels that the fit leaves out, for its record."""
    names: Any = model.config.id2label
    return {} if labels is None else {"labels_left_out": [names[label] for label in names if label not in labels]}


def _warn_of_missing_labels(
    model: SimplexForImageClassification, predicted: MemberPredictions, labels: Sequence[int] | None
) -> None:
    names: Any = model.config.id2label
    if label_kind(predicted.references).several:
        present = set(np.flatnonzero(predicted.references.any(axis=0)).tolist())
    else:
        present = set(predicted.references.tolist())
    if unknown := sorted(present - set(range(len(names)))):
        raise ValueError(
            f"The validation images have the label {unknown[0]}; expected 0 to {len(names) - 1}, the model's labels."
        )
    known = set(range(len(names))) if labels is None else set(labels)
    if missing := sorted(known - present):
        shown = listed([names[label] for label in missing])
        several = label_kind(predicted.references).several
        verb, them = ("has", "it") if len(missing) == 1 else ("have", "them")
        fitted = (
            f"the temperature rests on images without {them}"
            if several
            else f"threshold and prediction sets say nothing about {them}"
        )
        logger.warning(f"{len(missing)} of {len(known)} labels {verb} no validation image ({shown}): {fitted}.")
