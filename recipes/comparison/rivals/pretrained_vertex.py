"""The weights before fine-tuning as a vertex beside the modes (WiSE-FT).

Source: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
"""

from collections.abc import Sequence

from comparison.arguments import CompareArguments
from comparison.repetition import Repetition, Weights
from comparison.rivals.points import Points
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["PRETRAINED_SHARES", "PretrainedVertex"]

PRETRAINED_SHARES = (0.2, 0.4)
"""Coordinates of the pretrained vertex."""


class PretrainedVertex(Points):
    """Between the first mode and the pretrained weights; then between the centroid of the modes and these."""

    name, label, color = "pretrained_vertex", "pretrained weights as a vertex", "#117733"

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        if not (compare.probe_head or compare.shared_head):
            raise ValueError(
                "pretrained_vertex lies between modes and the weights that they began with, so they must begin alike: "
                "give shared_head or probe_head."
            )

    def epochs(self, run: Repetition) -> list[float]:
        modes = run.modes_epochs(float(run.args.num_train_epochs))
        return [modes[0]] * len(PRETRAINED_SHARES) + [modes[-1]] * len(PRETRAINED_SHARES)

    def train(self, run: Repetition) -> list[Weights]:
        return [*run.modes(float(run.args.num_train_epochs)), run.start(0).state_dict()]

    def coordinates(self, run: Repetition) -> Sequence[Sequence[float]]:
        modes = len(run.modes_epochs(float(run.args.num_train_epochs)))
        first = [[1 - share, *([0.0] * (modes - 1)), share] for share in PRETRAINED_SHARES]
        return first + [[*([(1 - share) / modes] * modes), share] for share in PRETRAINED_SHARES]
