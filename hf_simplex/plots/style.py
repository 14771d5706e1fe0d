"""The look of all pictures: size, colours, ticks.

The colours can be distinguished with every common colour blindness: cividis, and the palette of Okabe and Ito (Color
Universal Design, 2008).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FILLS", "LINES", "few_ticks", "hide_frame", "new_figure"]

FILLS = ("#56B4E9", "#D55E00", "#F0E442", "#009E73", "#E69F00", "#0072B2", "#CC79A7", "#999999")
"""Colours of areas; neighbours differ in brightness."""

LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#000000", (0, (5, 1, 1, 1))))
"""Colours and styles of lines."""


def new_figure(width: float, height: float) -> "Figure":
    """Creates an empty figure without a window.

    Args:
        width: inches.
        height: inches.

    Returns:
        A matplotlib figure of 200 dots per inch.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hf_simplex.plots.style import new_figure
        >>> new_figure(4.0, 3.0).get_size_inches().tolist()
        [4.0, 3.0]
    """
    try:
        # matplotlib is optional, and slow to import.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "hf-simplex[plots]".') from error
    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def few_ticks(number: int) -> Any:
    """Returns a tick locator of at most `number` intervals.

    Example:
        >>> from hf_simplex.plots.style import few_ticks
        >>> few_ticks(2).tick_values(0.0, 10.0).tolist()
        [0.0, 5.0, 10.0]
    """
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(number)


def hide_frame(axes: Any) -> None:
    """Hides the upper and the right side of the frame of `axes`.

    Example:
        >>> from hf_simplex.plots.style import hide_frame, new_figure
        >>> axes = new_figure(4.0, 3.0).add_subplot()
        >>> hide_frame(axes)
        >>> axes.spines["top"].get_visible()
        False
    """
    axes.spines[["top", "right"]].set_visible(False)
