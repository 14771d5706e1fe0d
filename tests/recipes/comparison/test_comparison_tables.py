"""Tables and pictures: which rows they have, and what the numbers are."""

from pathlib import Path

import comparison_report
import numpy as np
import pytest
from comparison.pictures import draw, reliability
from comparison.store import read_results, read_run, write_results
from comparison.tables import mean_and_error, selection, shift_table


def test_the_report_has_tables_pictures_and_the_results_of_every_seed(compared: Path, tmp_path: Path) -> None:
    text = comparison_report.main([str(compared), str(tmp_path / "report")])
    assert "over 2 seeds" in text and "Minus the deep ensemble of 3" in text
    assert "Corrupted test images, mean over" in text
    for name in ("deep ensemble", "SWAG", "greedy soup", "ESPRO, one centroid", "ESPRO, random points"):
        assert f"| {name} |" in text
    written = {file.name for file in (tmp_path / "report").iterdir()}
    assert {
        "tables.md", "results.parquet", "budget.png", "forward_passes.png", "reliability.png", "shift.png"
    } == written  # fmt: skip


def test_a_report_is_written_again_from_its_parquet_file(compared: Path, tmp_path: Path) -> None:
    text = comparison_report.main([str(compared), str(tmp_path)])
    reliable = (tmp_path / "reliability.png").read_bytes()
    for file in ("tables.md", "reliability.png", "budget.png"):
        (tmp_path / file).unlink()
    assert comparison_report.main([str(tmp_path), "--pictures", "reliability", "shift"]) == text
    assert (tmp_path / "tables.md").read_text() == text and not (tmp_path / "budget.png").exists()
    assert (tmp_path / "reliability.png").read_bytes() == reliable
    one = comparison_report.main([str(tmp_path), str(tmp_path / "one"), "--seeds", "1", "--pictures"])
    assert "over 1 seeds" in one and {file.name for file in (tmp_path / "one").iterdir()} == {
        "tables.md", "results.parquet"
    }  # fmt: skip


def test_the_parquet_file_has_all_of_the_test_images_and_the_arguments_of_every_seed(
    compared: Path, tmp_path: Path
) -> None:
    run = read_run(compared)
    write_results(run, tmp_path / "results.parquet")
    again = read_results(tmp_path / "results.parquet")
    for expected, found in zip(run, again, strict=True):
        for name in ("seed", "arguments", "images", "versions", "hardware", "reliability"):
            assert found[name] == expected[name]
        for method, rows in expected["methods"].items():
            for row, same in zip(rows, found["methods"][method], strict=True):
                assert {k: v for k, v in row.items() if k != "corrupted"} == {
                    k: v for k, v in same.items() if k != "corrupted"
                }
            last = {name: rows[-1]["corrupted"]["brightness/5"][name] for name in ("accuracy", "nll", "ece")}
            assert last.items() <= found["methods"][method][-1]["corrupted"]["brightness/5"].items()


def test_the_bins_of_the_reliability_diagram_have_the_calibration_error(compared: Path) -> None:
    (seed, _) = read_run(compared)
    bins = {name: np.array(values) for name, values in seed["reliability"]["deep_ensemble"].items()}
    assert bins["images"].sum() == 60
    error = (bins["images"] / 60 * np.abs(bins["accuracy"] - bins["confidence"])).sum()
    assert error == pytest.approx(seed["methods"]["deep_ensemble"][-1]["ece"])
    assert reliability([{"methods": seed["methods"]}]) is None


def test_the_report_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        comparison_report.main([str(tmp_path), str(tmp_path / "report")])
    assert caught.value.code == 2


def test_methods_of_one_member_have_their_row() -> None:
    row = {"forward_passes": 1, "training_epochs": 2.0}
    methods = {name: [row] for name in ("deep_ensemble", "short_deep_ensemble", "fge", "espro_centroids")}
    found = selection([{"methods": methods}])
    assert [(method, members) for _, method, members in found] == [
        ("deep_ensemble", 1), ("short_deep_ensemble", 1), ("espro_centroids", 1), ("fge", 1),
    ]  # fmt: skip


def test_what_not_all_seeds_have_is_not_in_the_pictures() -> None:
    row = {"forward_passes": 1, "training_epochs": 2.0, "accuracy": 0.9, "nll": 0.3, "ece": 0.1}
    seeds = [{"methods": {"deep_ensemble": [row], "swag": [row]}}, {"methods": {"deep_ensemble": [row]}}]
    (legend,) = draw(seeds, "forward_passes").legends
    assert [text.get_text() for text in legend.get_texts()] == ["deep ensemble"]


def test_the_table_of_corrupted_images_has_their_means_and_differences() -> None:
    def row(*accuracies: float) -> dict[str, object]:
        corrupted = {
            f"fog/{severity}": {"accuracy": accuracy, "nll": 1 - accuracy, "calibrated_nll": 0.5, "ece": 0.1}
            for severity, accuracy in enumerate(accuracies, start=1)
        }
        return {"training_epochs": 2.0, "corrupted": corrupted}

    # Two seeds: errors of 20 and 40 % for the deep ensemble, 5 and 10 points less for SWAG.
    seeds = [
        {"methods": {"deep_ensemble": [row(0.9, 0.7)], "swag": [row(0.9, 0.8)], "single": [{"training_epochs": 2.0}]}},
        {"methods": {"deep_ensemble": [row(0.5, 0.7)], "swag": [row(0.6, 0.8)], "single": [{"training_epochs": 2.0}]}},
    ]
    chosen = [("DE", "deep_ensemble", 1), ("SWAG", "swag", 1), ("one", "single", 1)]
    lines = shift_table(seeds, chosen)
    assert [line.split(" | ")[:5] for line in lines[-2:]] == [
        ["| DE", "2", "1", "30.00 ± 10.00", ""],
        ["| SWAG", "2", "1", "22.50 ± 7.50", "-7.50 ± 2.50*"],
    ]
    assert shift_table(seeds, chosen[2:]) == []


def test_paired_differences_and_their_standard_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 4.5])
    assert mean == pytest.approx(2.5)
    assert error == pytest.approx(np.std([1.0, 2.0, 4.5], ddof=1) / np.sqrt(3))
