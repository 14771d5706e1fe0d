"""The average of shorter modes: the centroid of their simplex."""

from collections.abc import Sequence

from comparison.repetition import Repetition, Weights
from comparison.rivals.points import Points
from comparison.rivals.short_deep_ensemble import ShortDeepEnsemble

__all__ = ["ShortSoup"]


class ShortSoup(Points):
    """The centroid of the modes of `short_deep_ensemble`."""

    name, label, color = "short_soup", "uniform soup of shorter modes", "#bbbbbb"
    single_model = True

    def epochs(self, run: Repetition) -> list[float]:
        return ShortDeepEnsemble().epochs(run)[-1:]

    def train(self, run: Repetition) -> list[Weights]:
        return ShortDeepEnsemble().train(run)

    def coordinates(self, run: Repetition) -> Sequence[Sequence[float]]:
        number = len(ShortDeepEnsemble().epochs(run))
        return [[1 / number] * number]
