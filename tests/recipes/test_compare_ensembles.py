"""The comparison at a size that takes seconds: its plumbing, not its science."""

import json
from pathlib import Path

import compare_ensembles
import comparison_report
import numpy as np
import pytest
import study_espro
import tiny
from compare_ensembles import MEMBER_CHOICES
from datasets import DatasetDict
from ensemble_results import disagreement, ensemble_results, paired_differences
from safetensors.numpy import load_file
from train_espro import DataArguments, EsproArguments

from hf_simplex.data.image_data import load_image_data

BASELINES = ("single", "deep_ensemble", "short_deep_ensemble", "uniform_soup", "greedy_soup", "swa", "swag", "fge")
COMMON = [
    "--data_set", "digits", "--max_train_examples", "80", "--max_test_examples", "60", "--validation_fraction", "0.25",
    "--image_size", "16", "--augment", "none", "--budget", "3", "--num_train_epochs", "1", "--learning_rate", "5e-3",
    "--per_device_train_batch_size", "20", "--per_device_eval_batch_size", "60", "--batch_norm_images", "60",
    "--cycle_epochs", "1", "--forward_passes", "3", "--connector_epochs", "0.5", "--num_vertices", "2",
    "--volume_weight", "0", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true",
]  # fmt: skip
SMALL = ["--from_scratch", "true", "--width", "4"]


def arguments(output: Path, *more: str) -> list[str]:
    return [*COMMON, *SMALL, "--output_dir", str(output), "--seeds", "0", *more]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compared")
    # The digits are their own out-of-distribution images here: that needs no further data set.
    compare_ensembles.main(
        [*COMMON, *SMALL, "--output_dir", str(output), "--seeds", "0", "1", "--out_of_distribution", "digits",
         "--corruptions", "brightness", "--severities", "1", "5", "--max_corrupted_examples", "10"]
    )  # fmt: skip
    return output


def test_every_method_predicts_probabilities_within_the_budget(compared: Path) -> None:
    for seed in (0, 1):
        results = json.loads((compared / f"seed-{seed}" / "results.json").read_text())
        assert set(results["methods"]) == {*BASELINES, *(f"espro_{choice}" for choice in MEMBER_CHOICES)}
        assert results["seed"] == seed and results["versions"]["torch"]
        for method, rows in results["methods"].items():
            predicted = load_file(compared / f"seed-{seed}" / "predictions" / f"{method}.safetensors")
            assert predicted["test"].shape == (len(rows), 60, 10)
            assert predicted["validation"].shape == (len(rows), 20, 10)
            assert predicted["corrupted/brightness/5"].shape == (len(rows), 10, 10)
            np.testing.assert_allclose(predicted["test"].sum(axis=-1), 1, atol=1e-5)
            assert [row["forward_passes"] for row in rows] == list(range(1, len(rows) + 1))
            assert all(0 < row["training_epochs"] <= 3 for row in rows)
            assert {"ood_auroc", "misclassification_auroc", "calibrated_nll", "calibrated_ece"} <= set(rows[0])
            assert set(rows[0]["corrupted"]) == {"brightness/1", "brightness/5"}


def test_seeds_have_other_images_and_other_models(compared: Path) -> None:
    first, second = (load_file(compared / f"seed-{seed}" / "labels.safetensors")["test"] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_the_first_vertex_of_a_component_is_its_mode_and_the_centroid_is_another_model(compared: Path) -> None:
    folder = compared / "seed-0" / "predictions"
    vertices, modes = (load_file(folder / f"{m}.safetensors")["test"] for m in ("espro_vertices", "deep_ensemble"))
    # Two components, the first vertex of each, then the second of each; modes of ESPRO train as long as these here.
    np.testing.assert_allclose(vertices[:2], modes[:2], atol=1e-5)
    centroids = load_file(folder / "espro_centroids.safetensors")["test"]
    assert np.abs(centroids[0] - vertices[0]).max() > 1e-4 and np.abs(centroids[0] - vertices[2]).max() > 1e-4


def test_what_is_done_is_not_trained_again(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("transformers.Trainer.train", refuse)
    before = (compared / "seed-0" / "results.json").read_text()
    compare_ensembles.main(
        [*COMMON, *SMALL, "--output_dir", str(compared), "--seeds", "0", "1", "--out_of_distribution", "digits",
         "--corruptions", "brightness", "--severities", "1", "5", "--max_corrupted_examples", "10"]
    )  # fmt: skip
    again = json.loads((compared / "seed-0" / "results.json").read_text())
    assert again["methods"] == json.loads(before)["methods"]


def test_the_report_has_tables_pictures_and_the_results_of_every_seed(compared: Path, tmp_path: Path) -> None:
    text = comparison_report.main([str(compared), str(tmp_path / "report")])
    assert "over 2 seeds" in text and "Minus the deep ensemble of 3" in text
    assert "Corrupted test images, mean over" in text
    for name in ("deep ensemble", "SWAG", "greedy soup", "ESPRO, one centroid", "ESPRO, random points"):
        assert f"| {name} |" in text
    written = {file.name for file in (tmp_path / "report").iterdir()}
    assert {
        "tables.md", "seed-0.json", "seed-1.json", "budget.png", "forward_passes.png", "reliability.png", "shift.png"
    } == written  # fmt: skip


def test_a_component_may_be_the_simplex_of_several_modes(tmp_path: Path) -> None:
    flags = ["--methods", "deep_ensemble", "espro", "--budget", "4", "--num_modes", "2", "--points_a_component", "0"]
    results = compare_ensembles.main(arguments(tmp_path, *flags))
    methods = results[0]["methods"]
    # Two simplexes of two modes of one epoch each, and no connector.
    assert [row["training_epochs"] for row in methods["espro_vertices"]] == [2, 4, 4, 4]
    assert [row["training_epochs"] for row in methods["espro_centroids_and_vertices"]] == [2, 4, 4, 4, 4, 4]
    folder = tmp_path / "seed-0" / "predictions"
    found = {
        method: load_file(folder / f"{method}.safetensors")["test"]
        for method in ("deep_ensemble", "espro_centroids", "espro_vertices", "espro_centroids_and_vertices")
    }
    # The first vertex of each simplex, then the second of each.
    np.testing.assert_allclose(found["espro_vertices"][[0, 2, 1, 3]], found["deep_ensemble"], atol=1e-5)
    np.testing.assert_array_equal(found["espro_centroids_and_vertices"][:2], found["espro_centroids"])
    np.testing.assert_array_equal(found["espro_centroids_and_vertices"][2:], found["espro_vertices"])
    flags[flags.index("4")] = "2"
    with pytest.raises(ValueError, match="made with num_modes 2, not 1"):
        compare_ensembles.main(arguments(tmp_path, *flags, "--num_modes", "1"))


def test_multi_swag_draws_from_each_component_for_the_epochs_of_one(tmp_path: Path) -> None:
    flags = ["--methods", "multi_swag", "--budget", "6", "--connector_epochs", "2", "--forward_passes", "5"]
    results = compare_ensembles.main(arguments(tmp_path, *flags))
    rows = results[0]["methods"]["multi_swag"]
    # Two components of 1 + 2 epochs, two draws of each.
    assert [row["training_epochs"] for row in rows] == [3, 6, 6, 6]
    test = load_file(tmp_path / "seed-0" / "predictions" / "multi_swag.safetensors")["test"]
    apart = [np.abs(test[first] - test[second]).mean() for first, second in ((0, 2), (0, 1))]
    assert 0 < apart[0] < apart[1]


def test_predictions_of_other_epochs_are_not_taken_for_these(tmp_path: Path) -> None:
    found = []
    for epochs in ("1", "0.5"):
        flags = ["--methods", "short_deep_ensemble", "--budget", "1", "--espro_mode_epochs", "0.5"]
        results = compare_ensembles.main(arguments(tmp_path, *flags, "--short_mode_epochs", epochs))
        found.append([row["training_epochs"] for row in results[0]["methods"]["short_deep_ensemble"]])
    assert found == [[1], [0.5, 1]]


def test_components_that_were_grown_otherwise_are_not_taken_for_these(tmp_path: Path) -> None:
    flags = ["--methods", "espro", "--budget", "1.5", "--points_a_component", "0"]
    compare_ensembles.main(arguments(tmp_path, *flags))
    assert not (tmp_path / "seed-0" / "predictions" / "espro_points.safetensors").exists()
    with pytest.raises(ValueError, match=r"made with connector_epochs 0\.5, not 0\.25: give another"):
        compare_ensembles.main(arguments(tmp_path, *flags, "--connector_epochs", "0.25"))
    compare_ensembles.main(arguments(tmp_path, *flags, "--connector_epochs", "0.25", "--espro_name", "short"))


def test_models_may_begin_with_the_same_head_and_are_not_taken_for_others(tmp_path: Path) -> None:
    backbone = tiny.folder("vit", tmp_path / "vit")
    flags = [*COMMON, "--backbone", str(backbone), "--seeds", "0", "--methods", "deep_ensemble", "--budget", "2"]
    # Nothing has been learned at this rate: what differs between two models is where they began.
    flags += ["--learning_rate", "1e-12", "--output_dir"]
    disagreements = []
    for shared in ("false", "true"):
        (results,) = compare_ensembles.main([*flags, str(tmp_path / shared), "--shared_head", shared]).values()
        disagreements.append(results["methods"]["deep_ensemble"][1]["disagreement"])
    assert disagreements[0] > 0 == disagreements[1]
    with pytest.raises(ValueError, match="made with shared_head True, not False: give another output_dir"):
        compare_ensembles.main([*flags, str(tmp_path / "true")])


def test_models_of_unknown_arguments_are_not_taken_for_these(tmp_path: Path) -> None:
    compare_ensembles.main(arguments(tmp_path, "--methods", "single", "--budget", "1"))
    (tmp_path / "seed-0" / "arguments.json").unlink()
    with pytest.raises(ValueError, match="holds models whose arguments are not known: give another output_dir"):
        compare_ensembles.main(arguments(tmp_path, "--methods", "single", "--budget", "1"))


def test_methods_of_one_member_have_their_row() -> None:
    row = {"forward_passes": 1, "training_epochs": 2.0}
    methods = {name: [row] for name in ("deep_ensemble", "short_deep_ensemble", "fge", "espro_centroids")}
    found = comparison_report.selection([{"methods": methods}])
    assert [(method, members) for _, method, members in found] == [
        ("deep_ensemble", 1), ("short_deep_ensemble", 1), ("espro_centroids", 1), ("fge", 1),
    ]  # fmt: skip


def test_what_not_all_seeds_have_is_not_in_the_pictures() -> None:
    row = {"forward_passes": 1, "training_epochs": 2.0, "accuracy": 0.9, "nll": 0.3, "ece": 0.1}
    seeds = [{"methods": {"deep_ensemble": [row], "swag": [row]}}, {"methods": {"deep_ensemble": [row]}}]
    (legend,) = comparison_report.draw(seeds, "forward_passes").legends
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
    lines = comparison_report.shift_table(seeds, chosen)
    assert [line.split(" | ")[:5] for line in lines[-2:]] == [
        ["| DE", "2", "1", "30.00 ± 10.00", ""],
        ["| SWAG", "2", "1", "22.50 ± 7.50", "-7.50 ± 2.50*"],
    ]
    assert comparison_report.shift_table(seeds, chosen[2:]) == []


def test_multi_swag_needs_epochs_for_its_snapshots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main(arguments(tmp_path, "--methods", "multi_swag", "--num_vertices", "1"))
    assert caught.value.code == 2 and "multi_swag takes its snapshots" in capsys.readouterr().err


def test_a_flag_takes_the_corruptions_of_a_configuration_back() -> None:
    config = Path(compare_ensembles.__file__).parent / "configs" / "compare_digits.yaml"
    found = [
        compare_ensembles.parse_arguments((compare_ensembles.CompareArguments, DataArguments, EsproArguments), flags)[
            0
        ]
        for flags in ([str(config)], [str(config), "--corruptions", "none"])
    ]
    assert len(found[0].corruptions) == 15 and found[1].corruptions is None


def test_paired_differences_and_their_standard_error() -> None:
    mean, error = comparison_report.mean_and_error([1.0, 2.0, 4.5])
    assert mean == pytest.approx(2.5)
    assert error == pytest.approx(np.std([1.0, 2.0, 4.5], ddof=1) / np.sqrt(3))


def test_a_study_reuses_the_modes_and_appends_a_line_a_setting(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("plain: {}\nloud: {start_jitter: 0.5, connector_learning_rate: 1.0e-2}\n")
    flags = [*arguments(tmp_path / "out"), "--study", str(study), "--budget", "2", "--points_a_component", "1"]
    added = study_espro.main(flags)
    assert [line["setting"] for line in added] == ["plain", "loud"]
    assert added[0]["methods"]["centroids"] != added[1]["methods"]["centroids"]
    assert added[0]["methods"]["deep_ensemble"] == added[1]["methods"]["deep_ensemble"]
    assert study_espro.main(flags) == []
    means, lines = (tmp_path / "out" / "study.md").read_text().split("\n\n")
    # A head, and a row for each setting.
    assert means.count("\n| ") == 3 and lines.count("\n| ") == 3
    of_plain = added[0]["methods"]
    gained = 100 * (of_plain["one_mode"]["accuracy"] - of_plain["one_of_centroids"]["accuracy"])
    assert f"| {gained:+.2f} |" in next(line for line in means.splitlines() if line.startswith("| plain | 1 |"))
    assert len((tmp_path / "out" / "study.jsonl").read_text().splitlines()) == 2
    study.write_text("wrong: {num_train_epochs: 9}\n")
    with pytest.raises(SystemExit) as caught:
        study_espro.main(flags)
    assert caught.value.code == 2


def test_transformers_have_mc_dropout_and_lora_ensembles(tmp_path: Path) -> None:
    backbone = tiny.folder("vit", tmp_path / "vit")
    results = compare_ensembles.main(
        [*COMMON, "--backbone", str(backbone), "--output_dir", str(tmp_path / "out"), "--seeds", "0",
         "--methods", "mc_dropout", "lora_ensemble", "--budget", "2"]
    )  # fmt: skip
    methods = results[0]["methods"]
    assert len(methods["lora_ensemble"]) == 2 and methods["lora_ensemble"][1]["disagreement"] > 0
    assert len(methods["mc_dropout"]) == 3 and methods["mc_dropout"][0]["nll"] != methods["mc_dropout"][1]["nll"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "deep_ensemble", "boosting"], "methods has 'boosting'"),
        (["--budget", "0.5"], "budget is 0.5 epochs and one mode takes 1"),
        (["--espro_mode_epochs", "9"], "pays for 0 components of 9.5 epochs"),
        (["--espro_components", "3"], "pays for 2 components of 1.5 epochs"),
        (["--budget", "2"], "no room for 2 cycles of 1"),
        (["--short_mode_epochs", "0"], "short_mode_epochs is 0: expected more than 0 and at most the budget of 3"),
        (["--short_mode_epochs", "4"], "short_mode_epochs is 4: expected more than 0 and at most the budget of 3"),
        (["--corruptions", "drizzle"], "Unknown corruption 'drizzle'"),
        (["--corruptions", "fog", "--severities", "6"], "The severity is 6"),
        (["--validation_fraction", "0"], "no validation images"),
        (["--seeds", "1", "1"], "seeds is [1, 1]"),
        (["--shared_head", "true"], "shared_head with from_scratch"),
        (["--methods", "mc_dropout"], "has no dropout"),
        (["--methods", "lora_ensemble"], "LoRA-Ensemble is for transformers"),
        (["--out_of_distribution", "clouds"], "Unknown data set 'clouds'"),
    ],
)
def test_a_mistake_ends_the_comparison_with_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main([*arguments(tmp_path / "out"), *flags])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in error and message in error
    assert not (tmp_path / "out" / "seed-0").exists()


def test_validation_images_that_are_test_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_image_data("digits", max_train_examples=80, max_test_examples=60)
    some = data.test.select(range(30))
    DatasetDict({"train": data.train, "validation": some, "test": data.test}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main(
            [*arguments(tmp_path / "out"), "--data_set", str(tmp_path / "data"), "--validation_fraction", "0"]
        )
    assert caught.value.code == 2
    assert "30 of the 30 validation images" in capsys.readouterr().err


def test_the_report_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        comparison_report.main([str(tmp_path), str(tmp_path / "report")])
    assert caught.value.code == 2


def test_metrics_are_those_of_the_mean_of_the_first_members() -> None:
    labels = {"test": np.array([0, 1, 1, 0]), "validation": np.array([0, 1, 0, 1])}
    first = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    second = np.array([[0.6, 0.4], [0.1, 0.9], [0.1, 0.9], [0.8, 0.2]])
    arrays = {
        "test": np.stack([first, second]),
        "validation": np.full((2, 4, 2), 0.5) + np.array([0.2, -0.2]),
        "training_epochs": np.array([1.0, 2.0]),
    }
    one, two = (ensemble_results(arrays, labels, members) for members in (1, 2))
    assert (one["accuracy"], two["accuracy"]) == (0.75, 1.0)
    mean = (first + second) / 2
    assert two["nll"] == pytest.approx(-np.mean(np.log(mean[np.arange(4), labels["test"]])))
    assert two["disagreement"] == pytest.approx(0.25) == disagreement(arrays["test"])
    assert (one["training_epochs"], two["training_epochs"]) == (1.0, 2.0)
    # The validation images are right half of the time at a probability of 0.7: much too sure.
    assert two["temperature"] > 10 and two["calibrated_nll"] > two["nll"]


def test_paired_differences_are_those_of_the_losses_of_the_same_images() -> None:
    labels = {"test": np.array([0, 1, 1, 0]), "validation": np.array([0, 1])}
    right, wrong = np.array([[[0.8, 0.2], [0.2, 0.8], [0.2, 0.8], [0.8, 0.2]]]), np.full((1, 4, 2), [0.6, 0.4])
    first = {"test": right, "validation": right[:, :2], "training_epochs": np.ones(1)}
    second = {"test": wrong, "validation": right[:, :2], "training_epochs": np.ones(1)}
    found = paired_differences(first, second, labels)
    differences = np.array([0.0, -100.0, -100.0, 0.0])
    assert found["error"] == pytest.approx((differences.mean(), differences.std(ddof=1) / 2))
    nll = -np.log(0.8) + np.log([0.6, 0.4, 0.4, 0.6])
    assert found["nll"] == pytest.approx((nll.mean(), nll.std(ddof=1) / 2))
    assert paired_differences(first, first, labels)["calibrated_nll"] == (0.0, 0.0)
