"""What competes at a number of forward passes: members of fixed rivals, or members chosen among points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparison.metrics import Arrays
from hf_simplex.evaluation.member_selection import choose_members

__all__ = ["CONTENDERS", "PASSES", "Contender", "chosen_members"]

PASSES = (1, 2, 4, 8)
"""Numbers of forward passes that are compared."""

Part = tuple[str, int]


@dataclass(frozen=True)
class Contender:
    """Points that may be members.

    Attributes:
        name: In tables.
        points: File of predictions and index of the member, for each point.
        rules: Candidates of a choice on validation images, as indices of points. The first is the ensemble of the
            modes, which the choice must not be worse than. Without rules, the first points predict.
        is_rival: Whether it is a single model or a deep ensemble of modes with the same settings.
        views: Images of each point: `("",)`, or `("", "mirrored/")` for test-time augmentation.

    Example::

        Contender("deep ensemble", (("deep_ensemble", 0), ("deep_ensemble", 1)), is_rival=True)
    """

    name: str
    points: tuple[Part, ...]
    rules: tuple[tuple[int, ...], ...] = ()
    is_rival: bool = False
    views: tuple[str, ...] = ("",)

    def is_predicted(self, predictions: Mapping[str, Arrays]) -> bool:
        """Whether all of its points and views are there."""
        return all(
            method in predictions
            and all(index < len(predictions[method].get(f"{view}test", ())) for view in self.views)
            for method, index in self.points
        )

    def passes(self, members: int) -> int:
        """Forward passes of so many members."""
        return members * len(self.views)

    def epochs(self, predictions: Mapping[str, Arrays], members: Sequence[int] | None = None) -> float:
        """Training epochs of the points; for the first members of a rival, theirs only."""
        used = self.points if members is None else [self.points[member] for member in members]
        return max(float(predictions[method]["training_epochs"][index]) for method, index in used)

    def probabilities(self, predictions: Mapping[str, Arrays], split: str) -> NDArray[np.float64]:
        """Mean over the views: [points, images, labels]."""
        views = [
            np.stack([predictions[method][view + split][index] for method, index in self.points])
            for view in self.views
        ]
        mean: NDArray[np.float64] = np.mean(views, axis=0, dtype=np.float64)
        return mean / mean.sum(axis=-1, keepdims=True)


def chosen_members(
    contender: Contender, predictions: Mapping[str, Arrays], labels: NDArray[np.int64], passes: int
) -> list[int] | None:
    """The points that predict within a number of forward passes; None where it is too small or there are too few.

    Args:
        contender: Its points.
        predictions: By file of predictions.
        labels: [images] of the validation images.
        passes: Largest number of forward passes.

    Returns:
        Indices of points.
    """
    limit = min(passes // len(contender.views), len(contender.points))
    if not limit:
        return None
    if not contender.rules:
        return list(range(limit)) if contender.passes(limit) == passes else None
    probabilities = contender.probabilities(predictions, "validation").transpose(1, 0, 2)
    rules: dict[str, tuple[int, ...]] = {f"point {point}": (point,) for point in range(len(contender.points))}
    rules |= {f"rule {number}": rule for number, rule in enumerate(contender.rules)}
    return list(choose_members(probabilities, labels, rules, contender.rules[0], max_forward_passes=limit).points)


def _members(method: str, number: int) -> tuple[Part, ...]:
    return tuple((method, index) for index in range(number))


# As `calibrate` lays them out: modes, modes with recomputed statistics, centroid, symmetric points.
_TWO_MODES = (
    *_members("deep_ensemble", 2),
    *_members("recomputed_deep_ensemble", 2),
    ("uniform_soup", 0),
    *_members("joined_modes", 2),
)
_TWO_MODES_RULES = ((0, 1), (2, 3), (0, 1, 4), (2, 3, 4), (5, 6))
_LEAVES = (*_members("leaves_x2", 4), ("leaves_x2_centroid", 0), ("recomputed_deep_ensemble", 0))
_LEAVES_RULES = ((0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 3, 5), (4, 5))
_VARIED = (*_members("varied_modes", 2), ("varied_centroid", 0))
_VARIED_RULES = ((0, 1), (0, 1, 2))
_LATE = (*_members("late_leaves_x0.5", 4), ("late_leaves_x0.5_centroid", 0), ("late_trunk", 0))
_LATE_RULES = ((0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 3, 5), (4, 5))
_MIRRORED = ("", "mirrored/")

CONTENDERS = (
    Contender("single model", (("single", 0),), is_rival=True),
    Contender("deep ensemble", _members("deep_ensemble", 2), is_rival=True),
    Contender("deep ensemble, statistics recomputed", _members("recomputed_deep_ensemble", 2), is_rival=True),
    Contender("deep ensemble of shorter modes", _members("short_deep_ensemble", 4), is_rival=True),
    Contender("single model, mirrored", (("single", 0),), is_rival=True, views=_MIRRORED),
    Contender("deep ensemble, mirrored", _members("deep_ensemble", 2), is_rival=True, views=_MIRRORED),
    Contender("shorter modes, mirrored", _members("short_deep_ensemble", 4), is_rival=True, views=_MIRRORED),
    Contender("single model, linear probe first", (("probed_single", 0),), is_rival=True),
    Contender("deep ensemble, linear probe first", _members("probed_modes", 2), is_rival=True),
    # A deep ensemble of varied modes: hyper-deep ensembles are made so.
    Contender("varied modes", _members("varied_modes", 2)),
    Contender("centroid of two modes", (("uniform_soup", 0),)),
    Contender("centroid of shorter modes", (("short_soup", 0),)),
    Contender("centroid of leaves", (("leaves_x2_centroid", 0),)),
    Contender("modes joined, symmetric", _members("joined_modes", 2)),
    Contender("leaves", _members("leaves_x2", 4)),
    Contender("centroid of leaves, trunk", (("leaves_x2_centroid", 0), ("recomputed_deep_ensemble", 0))),
    Contender("long trunk", (("late_trunk", 0),)),
    Contender("leaves of a long trunk", _members("late_leaves_x0.5", 4)),
    Contender("centroid of leaves of a long trunk", (("late_leaves_x0.5_centroid", 0),)),
    Contender("leaves of a long trunk and points, chosen", _LATE, _LATE_RULES),
    Contender("all vertices at once", _members("learned_subspace", 4)),
    Contender("all vertices at once, centroid", (("subspace_centroid", 0),)),
    Contender("two modes and points, chosen", _TWO_MODES, _TWO_MODES_RULES),
    Contender("leaves and points, chosen", _LEAVES, _LEAVES_RULES),
    Contender("varied modes and points, chosen", _VARIED, _VARIED_RULES),
    Contender(
        "two modes, points, pretrained vertex, chosen",
        (*_TWO_MODES, *_members("pretrained_vertex", 4)),
        _TWO_MODES_RULES,
    ),
    Contender("pretrained vertex 0.2 and centroid", (("pretrained_vertex", 2),)),
    Contender("pretrained vertex 0.4 and centroid", (("pretrained_vertex", 3),)),
    Contender("centroid of leaves, mirrored", (("leaves_x2_centroid", 0),), views=_MIRRORED),
    Contender("leaves, mirrored", _members("leaves_x2", 4), views=_MIRRORED),
)
"""All contenders; those whose predictions a comparison lacks are left out."""
