"""The two recipes on plain modules: points of a grown simplex fit the data alike and differ where there are none."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import regression_uncertainty
import two_spirals
from matplotlib.image import imread

SPIRALS = [
    "--width",
    "24",
    "--examples",
    "60",
    "--mode_steps",
    "700",
    "--connector_steps",
    "150",
    "--num_members",
    "4",
]
SPIRALS += ["--num_vertices", "3", "--points_per_step", "3", "--num_points", "20", "--resolution", "60"]
REGRESSION = ["--width", "30", "--mode_steps", "500", "--connector_steps", "100", "--num_components", "2"]
REGRESSION += ["--num_vertices", "3", "--points_per_step", "3", "--num_points", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def spirals(folder: Path) -> dict[str, Any]:
    return two_spirals.main(["--output_dir", str(folder / "spirals"), *SPIRALS])


@pytest.fixture(scope="module")
def regression(folder: Path) -> dict[str, Any]:
    return regression_uncertainty.main(["--output_dir", str(folder / "regression"), *REGRESSION])


def test_points_between_the_vertices_tell_the_spirals_apart_as_well_as_the_mode_does(spirals: dict[str, Any]) -> None:
    mode = spirals["simplex"]["vertex_losses"][0]
    # Always answering 1/2 costs log 2 = 0.69.
    assert mode < 0.1
    assert spirals["simplex"]["point_losses"]["worst"] < mode + 0.1


def test_decisions_of_the_points_differ_away_from_the_spirals_more_than_near(spirals: dict[str, Any]) -> None:
    simplex = spirals["simplex"]
    assert simplex["disagreement_away_from_data"] > 2 * simplex["disagreement_near_data"]
    assert simplex["disagreement_away_from_data"] > 0.005
    assert simplex["spread_away_from_data"] > 2 * simplex["spread_near_data"]


def test_points_between_the_vertices_fit_the_curve_as_well_as_the_modes_do(regression: dict[str, Any]) -> None:
    modes = regression["deep_ensemble"]["point_losses"]
    # The true function costs 1/2 on average: squared errors of the noise's own size.
    assert modes["worst"] < 0.6
    assert regression["simplex"]["point_losses"]["worst"] < modes["worst"] + 0.1
    assert regression["espro"]["point_losses"]["worst"] < modes["worst"] + 0.1


@pytest.mark.parametrize("ensemble", ["simplex", "espro"])
def test_predictions_of_the_points_spread_in_the_gaps_more_than_at_the_data(
    regression: dict[str, Any], ensemble: str
) -> None:
    assert regression[ensemble]["spread_away_from_data"] > 2 * regression[ensemble]["spread_near_data"]


def test_several_simplexes_spread_more_in_the_gaps_than_one(regression: dict[str, Any]) -> None:
    assert regression["espro"]["spread_away_from_data"] > regression["simplex"]["spread_away_from_data"]


def test_every_simplex_has_a_volume(spirals: dict[str, Any], regression: dict[str, Any]) -> None:
    assert len(spirals["simplex"]["log_volumes"]) == 2
    assert len(regression["espro"]["log_volumes"]) == 2
    for log_volume in spirals["simplex"]["log_volumes"] + regression["espro"]["log_volumes"]:
        assert math.isfinite(log_volume)


def test_results_and_picture_are_written(folder: Path, spirals: dict[str, Any], regression: dict[str, Any]) -> None:
    for name, results in (("spirals", spirals), ("regression", regression)):
        written = json.loads((folder / name / "results.json").read_text("utf-8"))
        assert "torch" in written.pop("versions")
        assert written == results
        height, width = imread(folder / name / "figure.png").shape[:2]
        assert width == 2400 and height > 500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_vertices", "1"], "num_vertices is 1: expected at least 2"),
        (["--volume_weight", "-1"], "volume_weight is -1.0: expected 0 or more"),
        (["--num_points", "1"], "num_points is 1: expected at least 2"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        regression_uncertainty.main(["--output_dir", str(tmp_path), *flags])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_old_results_are_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SystemExit):
        two_spirals.main(["--output_dir", str(tmp_path), *SPIRALS])
    assert "holds results already" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "{}"
