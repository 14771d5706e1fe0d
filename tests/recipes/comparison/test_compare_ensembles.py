"""The comparison at a size that takes seconds: its plumbing, not its science."""

import json
from pathlib import Path

import compare_ensembles
import numpy as np
import pytest
import tiny
from comparison.arguments import CompareArguments
from comparison.registry import RIVALS
from comparison.rivals.espro import MEMBER_CHOICES
from datasets import DatasetDict
from safetensors.numpy import load_file

from hf_simplex.data.image_data import load_image_data
from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments
from hf_simplex.training.recipe.parsing import parse_arguments

BASELINES = ("single", "deep_ensemble", "short_deep_ensemble", "uniform_soup", "greedy_soup", "swa", "swag", "fge")


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


def test_every_rival_is_named_once_and_has_a_style() -> None:
    assert [rival.name for rival in RIVALS.values()] == list(RIVALS)
    styles = [style for rival in RIVALS.values() for style in rival.styles.values()]
    assert len({style.label for style in styles}) == len({style.color for style in styles}) == len(styles)


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


def test_what_is_done_is_not_trained_again(
    flags_of_compared: list[str], compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("transformers.Trainer.train", refuse)
    before = (compared / "seed-0" / "results.json").read_text()
    compare_ensembles.main(flags_of_compared)
    again = json.loads((compared / "seed-0" / "results.json").read_text())
    assert again["methods"] == json.loads(before)["methods"]


def test_a_component_may_be_the_simplex_of_several_modes(small: list[str], tmp_path: Path) -> None:
    flags = ["--methods", "deep_ensemble", "espro", "--budget", "4", "--num_modes", "2", "--points_a_component", "0"]
    results = compare_ensembles.main([*small, "--output_dir", str(tmp_path), *flags])
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
        compare_ensembles.main([*small, "--output_dir", str(tmp_path), *flags, "--num_modes", "1"])


def test_multi_swag_draws_from_each_component_for_the_epochs_of_one(small: list[str], tmp_path: Path) -> None:
    flags = ["--methods", "multi_swag", "--budget", "6", "--connector_epochs", "2", "--forward_passes", "5"]
    results = compare_ensembles.main([*small, "--output_dir", str(tmp_path), *flags])
    rows = results[0]["methods"]["multi_swag"]
    # Two components of 1 + 2 epochs, two draws of each.
    assert [row["training_epochs"] for row in rows] == [3, 6, 6, 6]
    test = load_file(tmp_path / "seed-0" / "predictions" / "multi_swag.safetensors")["test"]
    apart = [np.abs(test[first] - test[second]).mean() for first, second in ((0, 2), (0, 1))]
    assert 0 < apart[0] < apart[1]


def test_predictions_of_other_epochs_are_not_taken_for_these(small: list[str], tmp_path: Path) -> None:
    found = []
    for epochs in ("1", "0.5"):
        flags = ["--methods", "short_deep_ensemble", "--budget", "1", "--espro_mode_epochs", "0.5"]
        results = compare_ensembles.main(
            [*small, "--output_dir", str(tmp_path), *flags, "--short_mode_epochs", epochs]
        )
        found.append([row["training_epochs"] for row in results[0]["methods"]["short_deep_ensemble"]])
    assert found == [[1], [0.5, 1]]


def test_components_that_were_grown_otherwise_are_not_taken_for_these(small: list[str], tmp_path: Path) -> None:
    flags = ["--methods", "espro", "--budget", "1.5", "--points_a_component", "0"]
    compare_ensembles.main([*small, "--output_dir", str(tmp_path), *flags])
    assert not (tmp_path / "seed-0" / "predictions" / "espro_points.safetensors").exists()
    with pytest.raises(ValueError, match=r"made with connector_epochs 0\.5, not 0\.25: give another"):
        compare_ensembles.main([*small, "--output_dir", str(tmp_path), *flags, "--connector_epochs", "0.25"])
    compare_ensembles.main(
        [*small, "--output_dir", str(tmp_path), *flags, "--connector_epochs", "0.25", "--espro_name", "short"]
    )


def test_models_may_begin_with_the_same_head_and_are_not_taken_for_others(training: list[str], tmp_path: Path) -> None:
    backbone = tiny.folder("vit", tmp_path / "vit")
    flags = [*training, "--backbone", str(backbone), "--seeds", "0", "--methods", "deep_ensemble", "--budget", "2"]
    # Nothing has been learned at this rate: what differs between two models is where they began.
    flags += ["--learning_rate", "1e-12", "--output_dir"]
    disagreements = []
    for shared in ("false", "true"):
        (results,) = compare_ensembles.main([*flags, str(tmp_path / shared), "--shared_head", shared]).values()
        disagreements.append(results["methods"]["deep_ensemble"][1]["disagreement"])
    assert disagreements[0] > 0 == disagreements[1]
    with pytest.raises(ValueError, match="made with shared_head True, not False: give another output_dir"):
        compare_ensembles.main([*flags, str(tmp_path / "true")])


def test_models_of_unknown_arguments_are_not_taken_for_these(small: list[str], tmp_path: Path) -> None:
    compare_ensembles.main([*small, "--output_dir", str(tmp_path), "--methods", "single", "--budget", "1"])
    (tmp_path / "seed-0" / "arguments.json").unlink()
    with pytest.raises(ValueError, match="holds models whose arguments are not known: give another output_dir"):
        compare_ensembles.main([*small, "--output_dir", str(tmp_path), "--methods", "single", "--budget", "1"])


def test_multi_swag_needs_epochs_for_its_snapshots(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main(
            [*small, "--output_dir", str(tmp_path), "--methods", "multi_swag", "--num_vertices", "1"]
        )
    assert caught.value.code == 2 and "multi_swag takes its snapshots" in capsys.readouterr().err


def test_a_flag_takes_the_corruptions_of_a_configuration_back() -> None:
    config = Path(compare_ensembles.__file__).parent / "configs" / "compare_digits.yaml"
    found = [
        parse_arguments((CompareArguments, DataArguments, EsproArguments), flags)[0]
        for flags in ([str(config)], [str(config), "--corruptions", "none"])
    ]
    assert len(found[0].corruptions) == 15 and found[1].corruptions is None


def test_transformers_have_mc_dropout_and_lora_ensembles(training: list[str], tmp_path: Path) -> None:
    backbone = tiny.folder("vit", tmp_path / "vit")
    results = compare_ensembles.main(
        [*training, "--backbone", str(backbone), "--output_dir", str(tmp_path / "out"), "--seeds", "0",
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
        (["--mode_start", "first_mode"], "mode_start is 'first_mode', but the modes of a comparison"),
        (["--espro_components", "3"], "pays for 2 components of 1.5 epochs"),
        (["--budget", "2"], "no room for 2 cycles of 1"),
        (["--short_mode_epochs", "0"], "short_mode_epochs is 0: expected more than 0 and at most the budget of 3"),
        (["--short_mode_epochs", "4"], "short_mode_epochs is 4: expected more than 0 and at most the budget of 3"),
        (["--corruptions", "drizzle"], "Unknown corruption 'drizzle'"),
        (["--corruptions", "fog", "--severities", "6"], "The severity is 6"),
        (["--validation_fraction", "0"], "no validation images"),
        (["--seeds", "1", "1"], "seeds is [1, 1]"),
        (["--shared_head", "true"], "shared_head with from_scratch"),
        (["--probe_head", "true"], "probe_head with from_scratch: random features say nothing of the labels"),
        (["--leaf_epochs", "0.5"], "leaf_epochs is 0.5, but methods has no leaves"),
        (["--methods", "mc_dropout"], "has no dropout"),
        (["--methods", "lora_ensemble"], "LoRA-Ensemble is for transformers"),
        (["--out_of_distribution", "clouds"], "Unknown data set 'clouds'"),
    ],
)
def test_a_mistake_ends_the_comparison_with_one_line(
    small: list[str], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main([*small, "--output_dir", str(tmp_path / "out"), *flags])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in error and message in error
    assert not (tmp_path / "out" / "seed-0").exists()


def test_validation_images_that_are_test_images_are_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_image_data("digits", max_train_examples=80, max_test_examples=60)
    some = data.test.select(range(30))
    DatasetDict({"train": data.train, "validation": some, "test": data.test}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(SystemExit) as caught:
        compare_ensembles.main(
            [
                *small,
                "--output_dir",
                str(tmp_path / "out"),
                "--data_set",
                str(tmp_path / "data"),
                "--validation_fraction",
                "0",
            ]
        )
    assert caught.value.code == 2
    assert "30 of the 30 validation images" in capsys.readouterr().err
