"""Fast geometric ensembling: the snapshots of a cyclic run as members (Garipov et al., NeurIPS 2018)."""

from collections.abc import Iterable

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble
from comparison.snapshots import check_cycles, number_of_cycles, snapshots
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["FastGeometricEnsemble"]


class FastGeometricEnsemble(Ensemble[list[Weights]]):
    """The last `forward_passes` snapshots, which are the farthest apart."""

    name, label, color = "fge", "FGE", "#f0c020"

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        check_cycles(compare, args, 1)

    def epochs(self, run: Repetition) -> list[float]:
        cycles = range(1, number_of_cycles(run.compare, run.args) + 1)
        epochs = [run.args.num_train_epochs + run.compare.cycle_epochs * cycle for cycle in cycles]
        return epochs[-run.compare.forward_passes :]

    def train(self, run: Repetition) -> list[Weights]:
        return snapshots(run)[-run.compare.forward_passes :]

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        return (run.predict(run.at_mode(weights)) for weights in trained)
