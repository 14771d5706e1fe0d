"""Decisions: what is fitted on validation images and kept in config.json, and how it applies to a prediction.

To read decisions needs no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SET_METHODS", "Abstention", "Decisions", "PredictionSets", "label_scores", "scale_log_probabilities"]

SET_METHODS = ("lac", "aps")
"""Scores of prediction sets: see `label_scores`."""

PERCENTILES = 101
"""Quantiles of an uncertainty, at 0 %, 1 %, ..., 100 % of the validation images."""


@dataclass(frozen=True)
class Abstention:
    """The confidence below which the ensemble does not answer.

    Attributes:
        target_error: largest acceptable error among the answers, between 0 and 1.
        confidence_level: probability with which the error stays below the target, between 0 and 1.
        threshold: smallest probability of an answer, 0 to 1; None if no threshold reaches the target.
        coverage: share of the validation images that are answered, 0 to 1; None without a threshold.
        error: error among them, 0 to 1; None without a threshold.

    Example:
        >>> Abstention(0.05, 0.95, threshold=0.8).threshold
        0.8
    """

    target_error: float
    confidence_level: float
    threshold: float | None = None
    coverage: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class PredictionSets:
    """The quantile of the sets of labels that hold the true label at a chosen rate.

    Attributes:
        method: `"lac"` or `"aps"`.
        coverage: the rate, between 0 and 1.
        quantile: largest score of a label in the set; None if there were too few images, so that a set holds all
            labels.

    Example:
        >>> PredictionSets("lac", 0.9, quantile=0.7).method
        'lac'
    """

    method: str
    coverage: float
    quantile: float | None = None


@dataclass(frozen=True)
class Decisions:
    """What `calibrate` fits on validation images.

    Attributes:
        temperature: T of the ensemble: its probabilities are softmax(log p / T), of a multi-label ensemble
            sigmoid(logit p / T). Above 0.
        centroid_temperatures: [simplexes] T of each centroid as a model of its own; empty if unknown.
        abstention: when to keep silent; None if it is not fitted.
        prediction_sets: the quantile of prediction sets; None if it is not fitted.
        uncertainty_quantiles: by name of an uncertainty, its 101 quantiles over the validation images, ascending. Of a
            multi-label ensemble, those of `energy` are not used.
        selection: how the members were chosen, as JSON values.
        fitted_on: data set, number of images and settings of the fit, as JSON values.

    Raises:
        ValueError: a value is not a number or out of its range.

    Example:
        >>> import torch
        >>> decisions = Decisions(temperature=1.5, abstention=Abstention(0.05, 0.95, threshold=0.8))
        >>> decisions.abstains(torch.tensor([0.7, 0.3]))
        True
        >>> Decisions(temperature=1.5, uncertainty_quantiles={"energy": [0.0] * 101})
        Decisions(temperature=1.5, abstention=None, prediction_sets=None, uncertainty_quantiles=<101 of energy>)
    """

    temperature: float = 1.0
    centroid_temperatures: Sequence[float] = field(default_factory=list)
    abstention: Abstention | None = None
    prediction_sets: PredictionSets | None = None
    uncertainty_quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, above=0.0)
        if not isinstance(self.centroid_temperatures, Sequence):
            raise ValueError(f"decisions: centroid_temperatures is {self.centroid_temperatures!r}; expected a list.")
        for temperature in self.centroid_temperatures:
            _check_number("centroid_temperatures", temperature, above=0.0)
        if self.abstention is not None:
            _check_number("target_error", self.abstention.target_error, above=0.0, below=1.0)
            _check_number("confidence_level", self.abstention.confidence_level, above=0.0, below=1.0)
            for name in ("threshold", "coverage", "error"):
                _check_number(name, getattr(self.abstention, name), least=0.0, most=1.0, optional=True)
        if self.prediction_sets is not None:
            if self.prediction_sets.method not in SET_METHODS:
                raise ValueError(
                    f"decisions: the method of prediction_sets is {self.prediction_sets.method!r}; expected one of "
                    f"{', '.join(SET_METHODS)}."
                )
            _check_number("coverage", self.prediction_sets.coverage, above=0.0, below=1.0)
            _check_number("quantile", self.prediction_sets.quantile, least=0.0, most=1.0, optional=True)
        if not isinstance(self.uncertainty_quantiles, Mapping):
            raise ValueError(
                f"decisions: uncertainty_quantiles is {self.uncertainty_quantiles!r}; expected a dictionary of lists."
            )
        for name, quantiles in self.uncertainty_quantiles.items():
            _check_quantiles(name, quantiles)
        for name in ("selection", "fitted_on"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"decisions: {name} is {getattr(self, name)!r}; expected a dictionary.")

    def __repr__(self) -> str:
        """Temperature, threshold, sets and the number of quantiles; `to_json` has everything."""
        quantiles = ", ".join(f"{len(values)} of {name}" for name, values in self.uncertainty_quantiles.items())
        return (
            f"{type(self).__name__}(temperature={self.temperature!r}, abstention={self.abstention!r}, "
            f"prediction_sets={self.prediction_sets!r}, uncertainty_quantiles=<{quantiles or 'none'}>)"
        )

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Build decisions from the dictionary in config.json.

        Raises:
            ValueError: `values` is not a dictionary, has unknown or missing entries, or a value is out of its range.

        Example:
            >>> Decisions.from_json({"temperature": 2.0}).temperature
            2.0
        """
        values = dict(_check_entries("decisions", values, cls))
        for name, kind in (("abstention", Abstention), ("prediction_sets", PredictionSets)):
            if values.get(name) is not None:
                try:
                    values[name] = kind(**_check_entries(name, values[name], kind))
                except TypeError as error:
                    raise ValueError(f"decisions: an entry of {name} is missing in {values[name]!r}.") from error
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the dictionary for config.json.

        Example:
            >>> Decisions(temperature=2.0).to_json()["temperature"]
            2.0
        """
        return asdict(self)

    def abstains(self, probabilities: "Tensor") -> bool | None:
        """Whether the ensemble keeps silent on an image.

        Args:
            probabilities: [labels] calibrated probabilities of any floating dtype.

        Returns:
            True or False; None where no threshold was fitted or none reaches the target error.

        Example:
            >>> import torch
            >>> print(Decisions().abstains(torch.tensor([0.7, 0.3])))
            None
        """
        if self.abstention is None or self.abstention.threshold is None:
            return None
        return bool(probabilities.double().max() < self.abstention.threshold)

    def prediction_set(self, probabilities: "Tensor") -> list[int] | None:
        """The labels that hold the true one at the fitted rate, most probable first.

        The most probable label is in every set.

        Args:
            probabilities: [labels] calibrated probabilities of any floating dtype.

        Returns:
            Label ids; None where no sets were fitted.

        Example:
            >>> import torch
            >>> sets = PredictionSets("lac", 0.9, quantile=0.75)
            >>> Decisions(prediction_sets=sets).prediction_set(torch.tensor([0.125, 0.5, 0.375]))
            [1, 2]
        """
        if self.prediction_sets is None:
            return None
        quantile = math.inf if self.prediction_sets.quantile is None else self.prediction_sets.quantile
        probabilities = probabilities.double()
        scores = label_scores(probabilities, self.prediction_sets.method).tolist()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return [label for rank, label in enumerate(order) if rank == 0 or scores[label] <= quantile]

    def more_uncertain_than(self, name: str, value: float) -> float | None:
        """The share of the validation images that look more certain than an image.

        Args:
            name: of the uncertainty, such as `"mutual_information"`.
            value: of the image, in the unit of the quantiles.

        Returns:
            0 to 1, exact to 0.01; None where no quantiles were fitted.

        Example:
            >>> quantiles = [i / 100 for i in range(101)]
            >>> Decisions(uncertainty_quantiles={"energy": quantiles}).more_uncertain_than("energy", 0.905)
            0.9
        """
        if (quantiles := self.uncertainty_quantiles.get(name)) is None:
            return None
        below = sum(quantile < value for quantile in quantiles)
        return max(below - 1, 0) / (PERCENTILES - 1)


def scale_log_probabilities(log_probabilities: "Tensor", temperature: float) -> "Tensor":
    """Return log probabilities at another temperature: log softmax(log p / T).

    Args:
        log_probabilities: [..., labels] of any floating dtype.
        temperature: T, above 0.

    Returns:
        [..., labels] of the same dtype.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Example:
        >>> import torch
        >>> scale_log_probabilities(torch.tensor([0.8, 0.2]).log(), 2.0).exp()
        tensor([0.6667, 0.3333])
    """
    if temperature == 1:
        return log_probabilities
    # A probability of 0 has the logarithm -inf, which stays -inf.
    return (log_probabilities / temperature).log_softmax(dim=-1)


def label_scores(probabilities: "Tensor", method: str) -> "Tensor":
    r"""Conformity scores of labels: larger for labels that agree less with the prediction.

    .. math:: s_\text{LAC}(y) = 1 - p_y \qquad s_\text{APS}(y) = \sum_{j : p_j \ge p_y} p_j

    The first label wins a tie.

    Args:
        probabilities: [..., labels] float64.
        method: `"lac"` or `"aps"`.

    Returns:
        [..., labels] float64, 0 to 1.

    Raises:
        ValueError: the method is unknown.

    Source: Sadinle, Lei and Wasserman 2019 (LAC); Romano, Sesia and Candès 2020 (APS, not randomized).

    Example:
        >>> import torch
        >>> label_scores(torch.tensor([0.5, 0.375, 0.125], dtype=torch.float64), "aps")
        tensor([0.5000, 0.8750, 1.0000], dtype=torch.float64)
    """
    if method == "lac":
        return 1 - probabilities
    if method == "aps":
        order = probabilities.argsort(dim=-1, descending=True, stable=True)
        mass = probabilities.gather(-1, order).cumsum(dim=-1)
        # Sums may exceed 1 by rounding.
        return mass.new_empty(mass.shape).scatter_(-1, order, mass.clamp(max=1.0))
    raise ValueError(f"method is {method!r}: expected 'lac' or 'aps'.")


def _check_entries(name: str, values: Any, kind: type) -> Mapping[str, Any]:
    known = [entry.name for entry in fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {values!r}; expected a dictionary of {', '.join(known)}.")
    if unknown := [entry for entry in values if entry not in known]:
        raise ValueError(f"{name} has the unknown entry {unknown[0]!r}; expected {', '.join(known)}.")
    return values


def _check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    optional: bool = False,
) -> None:
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not (above < value < below and least <= value <= most)
    ):
        low = f"above {above:g}" if math.isfinite(above) else f"of at least {least:g}"
        high = f" and below {below:g}" if math.isfinite(below) else f" and at most {most:g}"
        bounds = low + (high if min(below, most) < math.inf else "")
        raise ValueError(f"decisions: {name} is {value!r}; expected a finite number {bounds}.")


def _check_quantiles(name: str, quantiles: Any) -> None:
    if not isinstance(quantiles, Sequence) or isinstance(quantiles, str) or len(quantiles) != PERCENTILES:
        raise ValueError(f"decisions: the quantiles of {name} are {quantiles!r}; expected {PERCENTILES} numbers.")
    for quantile in quantiles:
        _check_number(f"a quantile of {name}", quantile, least=-math.inf)
    if any(after < before for before, after in pairwise(quantiles)):
        raise ValueError(f"decisions: the quantiles of {name} are not ascending.")
