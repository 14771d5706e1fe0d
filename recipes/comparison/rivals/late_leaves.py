"""A long trunk and short leaves: most of the budget trains one model, the rest its leaves."""

from collections.abc import Mapping
from typing import ClassVar

from comparison.arguments import CompareArguments
from comparison.repetition import Repetition
from comparison.rivals.leaves import Leaves
from comparison.rivals.rival import Style
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["LateLeaves"]


class LateLeaves(Leaves):
    """Leaves of `late_leaf_share` of the budget each; `late_trunk` is their trunk, with statistics recomputed."""

    name, label, color = "late_leaves", "long trunk and short leaves", "#8c2d04"
    further_styles: ClassVar[Mapping[str, Style]] = {"late_trunk": Style("long trunk", "#5c1a00")}
    rates: ClassVar[Mapping[float, tuple[str, str]]] = {
        0.5: ("#dadaeb", "#9e9ac8"),
        1.0: ("#bcbddc", "#756bb1"),
        2.0: ("#807dba", "#54278f"),
        4.0: ("#6a51a3", "#3f007d"),
    }

    def leaf_epochs(self, compare: CompareArguments, args: EsproArguments) -> float:
        return compare.late_leaf_share * compare.budget

    def trunk_epochs(self, compare: CompareArguments, args: EsproArguments) -> float:
        return compare.budget * (1 - compare.num_leaves * compare.late_leaf_share)

    def _check_epochs(self, compare: CompareArguments, args: EsproArguments) -> None:
        if not 0 < compare.num_leaves * compare.late_leaf_share < 1:
            raise ValueError(
                f"num_leaves is {compare.num_leaves} and late_leaf_share {compare.late_leaf_share:g}: expected leaves "
                "that take more than nothing and less than the whole budget."
            )

    def run(self, run: Repetition) -> None:
        super().run(run)
        epochs = self.trunk_epochs(run.compare, run.args)
        run.predicted("late_trunk", [epochs], lambda: [run.predict(run.at(run.module, run.mode(0, epochs)))])
