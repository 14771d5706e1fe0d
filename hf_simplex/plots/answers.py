"""Images with what an ensemble says of them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.answers import answer_line
from .style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_answers"]

COLUMNS = 4


def plot_answers(
    images: Sequence[Any],
    results: Sequence[Mapping[str, Any]],
    truths: Sequence[str] = (),
    *,
    several: bool = False,
) -> "Figure":
    """Draws images in a grid, each with the ensemble's answer below it.

    Args:
        images: PIL images, at least one.
        results: of the pipeline `simplex-image-classification`: `labels` and `abstain`.
        truths: name of the true label of each image; default: not shown.
        several: whether an image has several labels, see `answer_line`.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no images, or not as many results.

    Example:
        >>> from PIL import Image
        >>> from hf_simplex.plots.answers import plot_answers
        >>> result = {"labels": [{"label": "dog", "score": 0.93}], "abstain": False}
        >>> plot_answers([Image.new("RGB", (8, 8))], [result]).axes[0].get_title()
        'dog 93 %, sure'
    """
    if not images or len(images) != len(results) or (truths and len(truths) != len(images)):
        raise ValueError(
            f"There are {len(images)} images, {len(results)} results and {len(truths)} true labels: expected as many "
            "of each, and at least one."
        )
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(2.1 * columns, 2.4 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
        # Titles of a row are level, whatever the shapes of its images.
        axes.set_anchor("N")
    for axes, number in zip(grid, range(len(images)), strict=False):
        axes.imshow(images[number], cmap="gray", interpolation="nearest")
        line = answer_line(results[number], several=several).replace("; ", "\n").replace(": ", ":\n")
        truth = f"\ntrue: {truths[number]}" if truths else ""
        # A label may hold a dollar sign, which would start a formula.
        axes.set_title((line + truth).replace("$", r"\$"), fontsize=8)
    return figure
