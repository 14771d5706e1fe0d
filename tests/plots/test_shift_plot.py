"""Pictures of dataset shift: a box over the corruptions for each method at each severity."""

from typing import Any

import pytest
from rendering import legend, renders

from hf_simplex.plots.shift import plot_shift


def shift_row(method: str, severity: int, corruption: int, value: float) -> dict[str, Any]:
    metrics = {"accuracy": value / 100, "nll": value, "ece": value, "calibrated_nll": -1, "calibrated_ece": -2}
    return {"method": method, "corruption": str(corruption), "severity": severity, **metrics}


def test_shift_shows_a_box_over_the_corruptions_for_each_method_at_each_severity() -> None:
    rows = [shift_row(method, 0, 0, 50.0) for method in ("one", "two")]
    rows += [
        shift_row(method, severity, corruption, start + severity * corruption)
        for method, start in (("one", 10.0), ("two", 20.0))
        for severity in (1, 5)
        for corruption in range(5)
    ]
    figure = plot_shift(rows)
    labels = ["accuracy (%)", "negative log-likelihood (nats)", "expected calibration error"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    for axes in figure.axes:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "1", "5"]
        # Each box is a patch; its lines are two whiskers, two caps and the median, here the third of five values.
        assert len(axes.patches) == 6
        medians = [line.get_ydata().tolist() for line in axes.lines if line.get_linewidth() == 1.4]
        assert medians == [[50, 50], [12, 12], [20, 20], [50, 50], [22, 22], [30, 30]]
        assert len({patch.get_facecolor() for patch in axes.patches}) == 2
        assert axes.get_ylim()[1] > 40
    assert legend(figure) == ["one", "two"]
    assert renders(figure)
    scaled = [line for line in plot_shift(rows, calibrated=True).axes[1].lines if line.get_linewidth() == 1.4]
    assert scaled[0].get_ydata().tolist() == [-1, -1]


def test_the_legend_of_many_long_names_fits_the_picture() -> None:
    figure = plot_shift([shift_row(f"an ensemble of the {n}th kind", 1, 0, 1.0) for n in range(8)])
    assert renders(figure)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height


def test_shift_without_methods_or_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="There are 0 methods"):
        plot_shift([])
    with pytest.raises(ValueError, match="There are 9 methods to draw: give 1 to 8"):
        plot_shift([shift_row(str(index), 0, 0, 1.0) for index in range(9)])
    row = shift_row("one", 0, 0, 1.0)
    del row["calibrated_nll"]
    with pytest.raises(ValueError, match="'one', 0 0 has no 'calibrated_nll'"):
        plot_shift([row], calibrated=True)
