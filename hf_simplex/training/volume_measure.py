"""In what the volume of a simplex is measured: the weights themselves, or weights in units of each tensor's norm."""

import math
from collections.abc import Sequence

from ..model.weight_space import Weights

VOLUME_MEASURES = ("weights", "normalized")

LEAST_SIZE = 1e-2
"""The root mean square of a tensor's weights counts as at least this part of that of all weights."""


def tensor_scales(measure: str, reference: Weights, names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The factor of each tensor in a measure, and the norm of the reference, which no measure changes.

    A layer that is followed by a normalization computes the same function whatever the scale of its weights, so that
    a simplex can gain volume by scale alone, without becoming more diverse. `"normalized"` divides each tensor by its
    norm in the reference, so that all tensors count alike, and multiplies them by a common factor, so that lengths
    are comparable with those of the weights. Tensors that are 0 or nearly so in the reference, such as biases, would
    count for more than all others: see `LEAST_SIZE`.

    Args:
        measure: of `VOLUME_MEASURES`; `"weights"` gives 1 for each tensor.
        reference: the weights of a vertex.
        names: of the tensors that span the weight space.

    Returns:
        The norm of the reference, and the factors by name.

    Raises:
        ValueError: the reference is 0 everywhere, so that there is nothing to measure by.
    """
    squares = {name: float(reference[name].double().square().sum()) for name in names}
    total = sum(squares.values())
    if measure == "weights":
        return math.sqrt(total), dict.fromkeys(names, 1.0)
    if not total:
        raise ValueError("All weights of the first vertex are 0: choose the volume measure 'weights'.")
    elements = sum(reference[name].numel() for name in names)
    units = {
        name: max(math.sqrt(squares[name]), LEAST_SIZE * math.sqrt(total * reference[name].numel() / elements))
        for name in names
    }
    common = math.sqrt(total / sum(squares[name] / units[name] ** 2 for name in names))
    return math.sqrt(total), {name: common / unit for name, unit in units.items()}
