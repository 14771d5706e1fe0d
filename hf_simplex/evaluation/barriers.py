"""Measures the barrier between modes: how far the loss on the line between two of them rises above their own."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..model.weight_space import Weights
from .surface_evaluation import classification, evaluate_points

__all__ = ["Barrier", "measure_barriers"]

NEGLIGIBLE = 0.02
"""Nats below which a barrier does not count, however sure it is."""

STANDARD_ERRORS = 2.0
"""Standard errors above 0 from which a barrier counts."""


@dataclass(frozen=True)
class Barrier:
    """The barrier between two modes.

    Attributes:
        modes: their indices.
        height: in nats; negative where the loss between the modes is below their own.
        standard_error: paired over the images, in nats.
        position: where it is highest: 0 at the first mode, 1 at the second.

    Example:
        >>> from hf_simplex.evaluation.barriers import Barrier
        >>> Barrier((0, 1), height=0.5, standard_error=0.1, position=0.5).is_real
        True
    """

    modes: tuple[int, int]
    height: float
    standard_error: float
    position: float

    @property
    def is_real(self) -> bool:
        """Whether the height exceeds both two standard errors and 0.02 nats.

        Example:
            >>> from hf_simplex.evaluation.barriers import Barrier
            >>> Barrier((0, 1), height=0.5, standard_error=0.3, position=0.5).is_real
            False
        """
        return self.height > max(STANDARD_ERRORS * self.standard_error, NEGLIGIBLE)


def measure_barriers(
    module: nn.Module,
    modes: Sequence[Weights],
    batches: Iterable[Any],
    *,
    batch_norm_batches: Iterable[Any] | None = None,
    positions: Sequence[float] = (0.25, 0.5, 0.75),
) -> list[Barrier]:
    r"""Measures the barrier on the line between each two modes, on validation images.

    .. math:: \max_t \frac{1}{n} \sum_i \ell_i(t) - (1 - t) \ell_i(0) - t \ell_i(1)

    for the loss of image i at position t, with BatchNorm statistics of its own at every position. With several labels
    an image, its loss is the sum of the binary cross-entropies of its labels.

    Args:
        module: a classifier of the modes' architecture; it is restored afterwards.
        modes: parameters of each mode by name.
        batches: mappings of `pixel_values` and `labels`, read once a point. They must be new to the modes: on training
            images, nearly any line looks like a barrier.
        batch_norm_batches: mappings of `pixel_values` of training images. Not needed without BatchNorm.
        positions: t of the points between two modes, above 0 and below 1.

    Returns:
        One barrier for each pair of modes.

    Raises:
        ValueError: there are fewer than 2 modes, no positions or one image only; a position is not between 0 and 1; or
            as `surface_evaluation.evaluate_points`.

    Source: Frankle et al. 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis, section 2 (error barrier).

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.barriers import measure_barriers
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1, image_size=32)).eval()
        >>> same = dict(vit.named_parameters())
        >>> batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
        >>> [barrier] = measure_barriers(vit, [same, same], [batch])
        >>> barrier.modes, barrier.is_real
        ((0, 1), False)
    """
    if len(modes) < 2 or not positions:
        raise ValueError(f"There are {len(modes)} modes and {len(positions)} positions: expected at least 2 and 1.")
    for position in positions:
        if not 0 < position < 1:
            raise ValueError(f"A position is {position}: expected a number between 0, the first mode, and 1.")
    pairs = list(itertools.combinations(range(len(modes)), 2))
    points = [[float(index == mode) for index in range(len(modes))] for mode in range(len(modes))]
    for first, second in pairs:
        for position in positions:
            point = [0.0] * len(modes)
            point[first], point[second] = 1 - position, position
            points.append(point)
    losses: list[Tensor] = []

    def measure(module: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        found, right = classification(module, batch)
        # The likelihood of independent labels is a product: an image of many rare labels has a small mean over them.
        labels = batch["labels"].shape[1] if batch["labels"].ndim == 2 else 1
        losses.append(labels * found.cpu().double())
        return found, right

    coordinates = torch.tensor(points, dtype=torch.float64)
    evaluate_points(module, modes, coordinates, batches, measure, batch_norm_batches=batch_norm_batches)
    table = torch.cat(losses).reshape(len(points), -1)
    if table.shape[1] < 2:
        raise ValueError("There is one image: a standard error needs at least 2.")
    barriers = []
    for pair, (first, second) in enumerate(pairs):
        between = table[len(modes) + pair * len(positions) :][: len(positions)]
        share = torch.tensor(positions, dtype=torch.float64)[:, None]
        excess = between - (1 - share) * table[first] - share * table[second]
        highest = int(excess.mean(dim=1).argmax())
        error = excess[highest].std() / excess.shape[1] ** 0.5
        height = float(excess[highest].mean())
        barriers.append(Barrier((first, second), height, float(error), float(positions[highest])))
    return barriers
