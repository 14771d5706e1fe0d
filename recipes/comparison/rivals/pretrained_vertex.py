"""The weights before fine-tuning as a vertex beside the modes (WiSE-FT).

Source: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
"""

from collections.abc import Sequence

from comparison.repetition import Repetition, Weights
from comparison.rivals.points import Points

__all__ = ["PRETRAINED_SHARES", "PretrainedVertex"]

PRETRAINED_SHARES = (0.2, 0.4)
"""Coordinates of the pretrained vertex."""


class PretrainedVertex(Points):
    """Between the first mode and its start; then between the centroid of the modes and that of their starts."""

    name, label, color = "pretrained_vertex", "pretrained weights as a vertex", "#117733"

    def epochs(self, run: Repetition) -> list[float]:
        modes = run.modes_epochs(float(run.args.num_train_epochs))
        return [modes[0]] * len(PRETRAINED_SHARES) + [modes[-1]] * len(PRETRAINED_SHARES)

    def train(self, run: Repetition) -> list[Weights]:
        modes = run.modes(float(run.args.num_train_epochs))
        # Each mode began with a head of its own, unless all began with the same one.
        return [*modes, *(run.start(mode).state_dict() for mode in range(len(modes)))]

    def coordinates(self, run: Repetition) -> Sequence[Sequence[float]]:
        modes = len(run.modes_epochs(float(run.args.num_train_epochs)))
        rest = [0.0] * (modes - 1)
        first = [[1 - share, *rest, share, *rest] for share in PRETRAINED_SHARES]
        return first + [[(1 - share) / modes] * modes + [share / modes] * modes for share in PRETRAINED_SHARES]
