"""Multi-SWAG: SWAG around several modes (Wilson and Izmailov, NeurIPS 2020)."""

from collections.abc import Iterable

from comparison.arguments import CompareArguments
from comparison.budget import component_epochs, espro_components, espro_mode_epochs, modes_epochs
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble
from comparison.rivals.swag import draws
from comparison.snapshots import snapshots
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["MultiSwag"]

# Fewer deviations than these do not span a subspace.
_SNAPSHOTS = 4


class MultiSwag(Ensemble[list[list[Weights]]]):
    """SWAG around as many modes as ESPRO has, with snapshots in the epochs of its connectors.

    Source: Wilson and Izmailov, Bayesian Deep Learning and a Probabilistic Perspective of Generalization, 2020.
    """

    name, label, color = "multi_swag", "multi-SWAG", "#8f6a00"

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        espro_components(compare, args)
        if component_epochs(compare, args) <= modes_epochs(compare, args):
            raise ValueError(
                "multi_swag takes its snapshots in the epochs of a component's connectors, and there are none: give "
                "num_vertices above num_modes and connector_epochs above 0."
            )

    def epochs(self, run: Repetition) -> list[float]:
        cost, modes = self._cost(run), self._modes(run)
        return [cost * min(i + 1, modes) for i in range(modes * self._draws(run))]

    def train(self, run: Repetition) -> list[list[Weights]]:
        mode_epochs = espro_mode_epochs(run.compare, run.args)
        left = self._cost(run) - mode_epochs
        cycles = max(_SNAPSHOTS, int(left / run.compare.cycle_epochs))
        return [snapshots(run, i, mode_epochs, left / cycles, cycles) for i in range(self._modes(run))]

    def predict(self, run: Repetition, trained: list[list[Weights]]) -> Iterable[Probabilities]:
        number = self._draws(run)
        of_each = [list(draws(run, i, own, number)) for i, own in enumerate(trained)]
        # One of each mode, then the second of each.
        return [drawn[i] for i in range(number) for drawn in of_each]

    def _cost(self, run: Repetition) -> float:
        return component_epochs(run.compare, run.args) / run.args.num_modes

    def _modes(self, run: Repetition) -> int:
        return espro_components(run.compare, run.args) * run.args.num_modes

    def _draws(self, run: Repetition) -> int:
        return max(1, run.compare.forward_passes // self._modes(run))
