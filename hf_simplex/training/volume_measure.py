"""Measures of volume: the weights as they are, or each tensor in units of its norm."""

import math
from collections.abc import Sequence

from ..model.weight_space import Weights

__all__ = ["VOLUME_MEASURES", "tensor_scales"]

VOLUME_MEASURES = ("weights", "normalized")

LEAST_SIZE = 1e-2
"""Floor for the root mean square of a tensor, relative to that of all weights."""


def tensor_scales(measure: str, reference: Weights, names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Return the norm of a reference, and the scale of each tensor in a measure.

    A layer before a normalization computes the same function at any scale of its weights. A simplex can thus gain
    volume by scale alone, without diversity. `"normalized"` divides each tensor by its norm in the reference, so that
    all tensors count alike. A common factor then restores the norm of the reference. `LEAST_SIZE` prevents tensors
    near 0, such as biases, from dominating.

    Args:
        measure: one of `VOLUME_MEASURES`; `"weights"` gives 1 for each tensor.
        reference: the weights of a vertex.
        names: the tensors that span the weight space.

    Returns:
        The norm of the reference, and the scales by name.

    Raises:
        ValueError: the reference is 0 everywhere.

    Example:
        >>> import torch
        >>> from hf_simplex.training.volume_measure import tensor_scales
        >>> tensor_scales("weights", {"w": torch.tensor([3.0, 4.0])}, ["w"])
        (5.0, {'w': 1.0})
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
