"""Chooses the members of an ensemble among points of its complex, on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .inputs import FloatArray, IntArray
from .label_kinds import LabelKind, label_kind
from .metrics import SMALLEST_PROBABILITY

__all__ = ["GREEDY", "CandidateResult", "Selection", "choose_members", "cross_fitted", "greedy_members"]

GREEDY = "greedy"
"""Name of the candidate that forward selection finds."""

FOLDS = 5
"""Folds of the cross-fitted probabilities."""

BEST_MODE_ERRORS = 2.0
"""Paired standard errors by which a candidate may be worse than the best single mode: these images chose that mode."""

TIE = 1e-3
"""Nats an image within which two candidates count as equal. The one of fewer forward passes wins."""


@dataclass(frozen=True)
class CandidateResult:
    """How a candidate does on the validation images.

    Attributes:
        name: of the candidate.
        forward_passes: of the backbone, an image.
        error: 0 to 1; of several labels an image, the Hamming error.
        nll: cross-fitted negative log-likelihood in nats, at a temperature fitted on other images.
        error_over_modes: error minus that of the ensemble of all modes.
        error_over_modes_se: paired standard error of that difference.
        error_over_best_mode: error minus that of the best single mode.
        error_over_best_mode_se: paired standard error of that difference.
        nll_over_modes: NLL minus that of the ensemble of all modes, in nats.
        nll_over_modes_se: paired standard error of that difference.
        eligible: whether the error exceeds that of the modes by at most one standard error, and that of the best mode
            by at most two. For the forward selection, this holds for the cross-fitted predictions and for the points
            that it keeps.

    Example:
        >>> from hf_simplex.evaluation.member_selection import CandidateResult
        >>> CandidateResult("modes", 2, 0.1, 0.3, 0.0, 0.0, -0.01, 0.005, 0.0, 0.0, True).eligible
        True
    """

    name: str
    forward_passes: int
    error: float
    nll: float
    error_over_modes: float
    error_over_modes_se: float
    error_over_best_mode: float
    error_over_best_mode_se: float
    nll_over_modes: float
    nll_over_modes_se: float
    eligible: bool


@dataclass(frozen=True)
class Selection:
    """The chosen members.

    Attributes:
        name: of the chosen candidate.
        points: indices of its points.
        guaranteed: whether the candidate is eligible: its error exceeds that of the ensemble of all modes by at most
            one paired standard error, and that of the best single mode by at most two.
        candidates: results of all candidates, lowest NLL first.

    Example:
        >>> from hf_simplex.evaluation.member_selection import Selection
        >>> Selection("modes", (0, 1), True, ()).to_json()["name"]
        'modes'
    """

    name: str
    points: tuple[int, ...]
    guaranteed: bool
    candidates: tuple[CandidateResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the selection as JSON values.

        Example:
            >>> from hf_simplex.evaluation.member_selection import Selection
            >>> Selection("modes", (0, 1), True, ()).to_json()["guaranteed"]
            True
        """
        candidates = [asdict(candidate) for candidate in self.candidates]
        return {"name": self.name, "guaranteed": self.guaranteed, "candidates": candidates}


def choose_members(
    probabilities: FloatArray,
    references: ArrayLike,
    candidates: Mapping[str, Sequence[int]],
    modes: Sequence[int],
    *,
    max_forward_passes: int | None = None,
    seed: int = 0,
) -> Selection:
    """Chooses members that beat the ensemble of all modes on validation images; else that ensemble itself.

    A candidate is eligible if its error exceeds that of the ensemble of all modes by at most one paired standard
    error, and that of the best single mode by at most two: the best mode is itself the luckiest on these images. An
    eligible candidate replaces the ensemble of the modes if its cross-fitted NLL is lower by more than one paired
    standard error. Of several such candidates the lowest NLL wins; within 0.001 nats, the fewest forward passes.

    Where the ensemble of the modes is not eligible, or has too many members, the eligible candidate of the lowest NLL
    is chosen. A single point never replaces an ensemble while an eligible one is left: among many points, the best one
    on a few hundred images is often the luckiest.

    A forward selection over all points competes. Each of its folds is selected without the images that it is measured
    on.

    Args:
        probabilities: [images, points, labels] of each point on validation images.
        references: [images] integer label ids, or [images, labels] of 0 and 1 for several labels an image. Then the
            error of an image is the share of its labels that are wrong, and its NLL the mean over its labels.
        candidates: indices of points, by name.
        modes: indices of the points that are modes.
        max_forward_passes: largest number of members; default: no limit.
        seed: of the folds.

    Returns:
        The selection. `guaranteed` is False where no candidate within `max_forward_passes` is eligible; then the one
        with the lowest error is chosen.

    Raises:
        ValueError: no candidate is within `max_forward_passes`, or as `metrics.accuracy`.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.member_selection import choose_members
        >>> right, wrong = [0.9, 0.1], [0.2, 0.8]
        >>> probabilities = np.array([[right, wrong], [right, right], [right, wrong]] * 4)
        >>> choose_members(probabilities, [0] * 12, {"first": [0], "both": [0, 1]}, modes=[0, 1]).name
        'both'
    """
    kind = label_kind(references)
    _, labels = kind.check(probabilities.mean(axis=1), references)
    limit = probabilities.shape[1] if max_forward_passes is None else max_forward_passes
    within = {name: tuple(points) for name, points in candidates.items() if len(points) <= limit}
    if not within:
        raise ValueError(
            f"max_forward_passes is {max_forward_passes}, but the smallest candidate needs "
            f"{min(map(len, candidates.values()))}: allow more forward passes."
        )
    folds = _folds(len(labels), seed)
    of_modes = kind.errors(probabilities[:, list(modes)].mean(axis=1), labels)
    singles = [kind.errors(probabilities[:, mode], labels) for mode in modes]
    of_best = min(singles, key=np.mean)
    predictions = {name: probabilities[:, list(points)].mean(axis=1) for name, points in within.items()}
    if GREEDY not in within:
        within[GREEDY] = tuple(greedy_members(probabilities, labels, limit))
        predictions[GREEDY] = _cross_selected(probabilities, labels, folds, limit)
    losses = {
        name: kind.losses(cross_fitted(prediction, labels, folds), labels) for name, prediction in predictions.items()
    }
    mode_losses = kind.losses(cross_fitted(probabilities[:, list(modes)].mean(axis=1), labels, folds), labels)
    results = []
    for name, points in within.items():
        wrong = kind.errors(predictions[name], labels)
        over_modes, over_best = _paired(wrong, of_modes), _paired(wrong, of_best)
        # The points that a forward selection keeps differ from those that predicted its folds.
        kept = kind.errors(probabilities[:, list(points)].mean(axis=1), labels)
        checks = [
            (over_modes, 1.0),
            (_paired(kept, of_modes), 1.0),
            (over_best, BEST_MODE_ERRORS),
            (_paired(kept, of_best), BEST_MODE_ERRORS),
        ]
        results.append(
            CandidateResult(
                name,
                len(points),
                float(wrong.mean()),
                float(losses[name].mean()),
                *over_modes,
                *over_best,
                *_paired(losses[name], mode_losses),
                eligible=all(mean <= number * standard_error for (mean, standard_error), number in checks),
            )
        )
    results.sort(key=lambda result: (result.nll, result.forward_passes))
    eligible = [result for result in results if result.eligible]
    if not eligible:
        chosen = min(results, key=lambda result: (result.error, result.nll))
        return Selection(chosen.name, within[chosen.name], False, tuple(results))
    of_all_modes = [result for result in eligible if set(within[result.name]) == set(modes)]
    if len(modes) > 1:
        eligible = [result for result in eligible if result.forward_passes > 1] or eligible
    better = [result for result in eligible if result.nll_over_modes < -result.nll_over_modes_se]
    tie = TIE / probabilities.shape[2] if kind.several else TIE
    chosen = _lowest(better or of_all_modes or eligible, tie)
    return Selection(chosen.name, within[chosen.name], True, tuple(results))


def greedy_members(probabilities: FloatArray, references: IntArray, max_members: int) -> list[int]:
    """Adds one point after another, each the one that lowers the NLL of the mean most.

    Args:
        probabilities: [images, points, labels].
        references: [images] integer label ids, or [images, labels] of 0 and 1.
        max_members: largest number of members.

    Returns:
        Indices of the points, without repeats, in the order of their selection. It ends where no point lowers the NLL.

    Source: Caruana et al. 2004, Ensemble selection from libraries of models.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.member_selection import greedy_members
        >>> greedy_members(np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.9, 0.1]]]), np.array([0, 0]), 2)
        [0, 1]
    """
    # Only the probabilities of the truth count.
    of_truth = label_kind(references).of_truth(probabilities, references)
    chosen: list[int] = []
    lowest, total = np.inf, np.zeros(len(of_truth))
    while len(chosen) < min(max_members, of_truth.shape[1]):
        means = (total[:, None] + of_truth) / (len(chosen) + 1)
        losses = -np.log(np.maximum(means, SMALLEST_PROBABILITY)).mean(axis=0)
        losses[chosen] = np.inf
        best = int(losses.argmin())
        if losses[best] >= lowest:
            break
        lowest, total = losses[best], total + of_truth[:, best]
        chosen.append(best)
    return chosen


def cross_fitted(probabilities: FloatArray, references: IntArray, folds: IntArray | None = None) -> FloatArray:
    """Scales the probabilities of each fold by the temperature of the others.

    Args:
        probabilities: [images, labels].
        references: [images] integer label ids, or [images, labels] of 0 and 1.
        folds: [images] fold of each image; default: five folds of seed 0.

    Returns:
        [images, labels] float64.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.member_selection import cross_fitted
        >>> cross_fitted(np.array([[0.8, 0.2]] * 6), np.array([0, 0, 1] * 2), np.array([0, 0, 0, 1, 1, 1]))[0].round(3)
        array([0.79, 0.21])
    """
    folds = _folds(len(references), 0) if folds is None else folds
    kind: LabelKind = label_kind(references)
    scaled = np.empty_like(probabilities)
    for fold in np.unique(folds):
        held = folds == fold
        temperature = kind.fit_temperature(probabilities[~held], references[~held])
        scaled[held] = kind.scale_temperature(probabilities[held], temperature)
    return scaled


def _lowest(results: Sequence[CandidateResult], tie: float) -> CandidateResult:
    """The lowest NLL; of those within so many nats, the fewest forward passes."""
    lowest = min(result.nll for result in results)
    ties = [result for result in results if result.nll <= lowest + tie]
    return min(ties, key=lambda result: (result.forward_passes, result.nll))


def _cross_selected(probabilities: FloatArray, references: IntArray, folds: IntArray, limit: int) -> FloatArray:
    """Forward selection whose every fold is predicted by points that the other folds selected."""
    predicted = np.empty((len(references), probabilities.shape[2]))
    for fold in np.unique(folds):
        held = folds == fold
        points = greedy_members(probabilities[~held], references[~held], limit)
        predicted[held] = probabilities[held][:, points].mean(axis=1)
    return predicted


def _folds(images: int, seed: int) -> IntArray:
    return np.random.default_rng(seed).permutation(images) % min(FOLDS, images)


def _paired(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Mean difference over the images, and its standard error."""
    difference = first - second
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
