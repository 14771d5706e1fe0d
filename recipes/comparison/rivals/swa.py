"""Stochastic weight averaging of the snapshots of a cyclic run (Izmailov et al., UAI 2018)."""

from collections.abc import Iterable

from torch.optim.swa_utils import AveragedModel

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble
from comparison.snapshots import check_cycles, snapshots
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["Swa"]


class Swa(Ensemble[list[Weights]]):
    """One model: the average of the snapshots, with BatchNorm statistics recomputed."""

    name, label, color = "swa", "SWA", "#cc79a7"
    single_model = True

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        check_cycles(compare, args, 1)

    def epochs(self, run: Repetition) -> list[float]:
        return [run.compare.budget]

    def train(self, run: Repetition) -> list[Weights]:
        return snapshots(run)

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        average = AveragedModel(run.module)
        for weights in trained:
            average.update_parameters(run.at_mode(weights))
        yield run.predict(run.at(average.module, {}))
