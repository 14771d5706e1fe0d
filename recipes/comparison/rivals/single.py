"""One model trained for the whole budget."""

from collections.abc import Iterable

from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble

__all__ = ["Single"]


class Single(Ensemble[Weights]):
    """One model trained for the whole budget."""

    name, label, color = "single", "single model", "#000000"
    single_model = True

    def epochs(self, run: Repetition) -> list[float]:
        return [run.compare.budget]

    def train(self, run: Repetition) -> Weights:
        return run.mode(0, run.compare.budget)

    def predict(self, run: Repetition, trained: Weights) -> Iterable[Probabilities]:
        yield run.predict(run.at_mode(trained))
