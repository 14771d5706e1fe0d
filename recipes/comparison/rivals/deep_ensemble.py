"""Independently trained modes, each for `num_train_epochs` (Lakshminarayanan et al., NeurIPS 2017)."""

from collections.abc import Iterable

from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble

__all__ = ["DeepEnsemble"]


class DeepEnsemble(Ensemble[list[Weights]]):
    """As many modes as the budget pays for."""

    name, label, color = "deep_ensemble", "deep ensemble", "#0072b2"

    def mode_epochs(self, run: Repetition) -> float:
        """Epochs of one mode."""
        return float(run.args.num_train_epochs)

    def epochs(self, run: Repetition) -> list[float]:
        return run.modes_epochs(self.mode_epochs(run))

    def train(self, run: Repetition) -> list[Weights]:
        return run.modes(self.mode_epochs(run))

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        return (run.predict(run.at_mode(weights)) for weights in trained)
