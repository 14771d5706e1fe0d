"""The deep ensemble with recomputed BatchNorm statistics, as ESPRO's members have: the control for these."""

from collections.abc import Iterable

from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.deep_ensemble import DeepEnsemble

__all__ = ["RecomputedDeepEnsemble"]


class RecomputedDeepEnsemble(DeepEnsemble):
    """The modes of the deep ensemble, with BatchNorm statistics recomputed."""

    name, label, color = "recomputed_deep_ensemble", "deep ensemble, statistics recomputed", "#004a73"

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        return (run.predict(run.at(run.module, weights)) for weights in trained)
