"""Leaves, varied modes and other points of a comparison, and the report of who wins at how many passes."""

from pathlib import Path

import compare_ensembles
import evidence_report
import numpy as np
import pytest
import tiny
import torch
from comparison.contenders import CONTENDERS, PASSES, Contender, chosen_members
from comparison.evidence import passes_figure, report_text, winner
from comparison.passes import MEASURES, differences, measure_folder, read_rows
from comparison.rivals.learned_subspace import Subspace
from comparison.rivals.varied_modes import VARIATIONS, variation
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from hf_simplex.model.sampling import sample_simplex
from hf_simplex.model.weight_space import write_point

METHODS = [
    "deep_ensemble", "recomputed_deep_ensemble", "uniform_soup", "joined_modes", "leaves", "pretrained_vertex",
    "short_deep_ensemble", "short_soup", "varied_modes", "single", "late_leaves", "learned_subspace",
]  # fmt: skip

BATCH = {"pixel_values": tiny.images(), "labels": torch.arange(6) % tiny.LABELS}


@pytest.fixture(scope="module")
def evidence(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with every contender, of one seed."""
    folder = tmp_path_factory.mktemp("evidence") / "digits"
    flags = ["--output_dir", str(folder), "--budget", "2", "--short_mode_epochs", "0.5", "--leaf_epochs", "0.25"]
    rates = ["--mirrored", "true", "--leaf_rates", "0.5", "2"]
    compare_ensembles.main([*small, *flags, *rates, "--methods", *METHODS])
    return folder


def test_leaves_start_from_the_trunk_and_end_elsewhere(evidence: Path) -> None:
    weights = {file.stem: load_tensors(file) for file in (evidence / "seed-0" / "weights").glob("*.safetensors")}
    leaves = [weights[f"leaf-{leaf}-of-1-epochs-0.25-rate-2"] for leaf in (1, 2, 3, 4)]
    name = next(name for name in leaves[0] if name.endswith("weight"))

    def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
        return float((first[name] - second[name]).norm())

    trunk, other = weights["mode-0-epochs-1"], weights["mode-1-epochs-1"]
    assert all(0 < distance(leaf, trunk) < 0.5 * distance(other, trunk) for leaf in leaves)
    assert distance(leaves[0], leaves[1]) > 0
    predicted = load_file(evidence / "seed-0" / "predictions" / "leaves_x2.safetensors")
    assert predicted["training_epochs"].tolist() == [1.25, 1.5, 1.75, 2.0]


def test_late_leaves_take_their_share_of_the_budget_from_the_trunk(evidence: Path) -> None:
    folder = evidence / "seed-0"
    leaves = load_file(folder / "predictions" / "late_leaves_x0.5.safetensors")
    assert leaves["training_epochs"].tolist() == [1.625, 1.75, 1.875, 2.0]
    assert load_file(folder / "predictions" / "late_trunk.safetensors")["training_epochs"].tolist() == [1.5]
    assert (folder / "weights" / "leaf-4-of-1.5-epochs-0.125-rate-0.5.safetensors").exists()


def test_a_step_of_a_subspace_moves_every_vertex_by_its_coordinate() -> None:
    starts = [tiny.backbone("resnet", seed=seed) for seed in (0, 1, 2)]
    subspace = Subspace(starts, apart=0.0, seed=3).train()
    coordinates = sample_simplex(3, 1, torch.Generator().manual_seed(3))[0]
    subspace(**BATCH).loss.backward()
    gradients = [[own.grad for own in vertex] for vertex in subspace.vertices]
    largest = max(range(len(subspace.names)), key=lambda index: float(gradients[0][index].abs().max()))
    for vertex in (1, 2):
        expected = gradients[0][largest] * coordinates[vertex] / coordinates[0]
        torch.testing.assert_close(gradients[vertex][largest], expected)
    # The loss is that of the plain backbone at the point.
    plain = tiny.backbone("resnet", seed=0).train()
    write_point(plain, subspace.weights(), coordinates.tolist())
    other = Subspace([tiny.backbone("resnet", seed=seed) for seed in (0, 1, 2)], apart=0.0, seed=3).train()
    torch.testing.assert_close(other(**BATCH).loss, plain(**BATCH).loss)


def test_the_squared_cosine_keeps_the_vertices_of_a_subspace_apart() -> None:
    def cosine(apart: float) -> float:
        subspace = Subspace([tiny.backbone("resnet", seed=0) for _ in range(2)], apart=apart, seed=0).train()
        optimizer = torch.optim.Adam(subspace.parameters(), lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            subspace(**BATCH).loss.backward()
            optimizer.step()
        first, second = (
            torch.cat([(own - start).flatten() for own, start in zip(vertex, starts, strict=True)])
            for vertex, starts in zip(subspace.vertices, subspace.starts, strict=True)
        )
        return float(torch.cosine_similarity(first, second, dim=0).detach())

    assert abs(cosine(10.0)) < 0.5 < cosine(0.0)


def test_a_subspace_of_one_vertex_is_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--methods", "learned_subspace", "--subspace_vertices", "1", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        compare_ensembles.main([*small, *flags])
    assert "subspace_vertices is 1: expected at least two vertices" in capsys.readouterr().err


def test_probed_modes_start_from_the_fitted_head(training: list[str], tmp_path: Path) -> None:
    backbone, out = tiny.folder("resnet", tmp_path / "resnet"), tmp_path / "digits"
    flags = ["--backbone", str(backbone), "--seeds", "0", "--methods", "probed_modes", "deep_ensemble"]
    compare_ensembles.main([*training, *flags, "--budget", "2", "--output_dir", str(out)])
    weights = {file.stem: load_tensors(file) for file in (out / "seed-0" / "weights").glob("*.safetensors")}
    (name,) = (name for name in weights["probed-head"] if name.endswith("weight"))

    def distance(model: str) -> float:
        return float((weights[model][name] - weights["probed-head"][name]).norm())

    assert distance("probed-0-epochs-1") < 0.5 * distance("mode-0-epochs-1")
    rows = measure_folder(out)
    assert {row["contender"] for row in rows if row["epochs"] == 2 and row["passes"] == 2} == {
        "deep ensemble", "deep ensemble, linear probe first"
    }  # fmt: skip


def test_contenders_with_fewer_seeds_do_not_win() -> None:
    rows = [
        {"task": "t", "seed": seed, "contender": name, "is_rival": name == "deep", "passes": 1, "error": error}
        for name, errors in (("deep", (3.0, 3.0)), ("ours", (4.0, 4.0)), ("lucky", (1.0,)))
        for seed, error in enumerate(errors)
    ]
    found = winner(rows, "t", 1, "error")
    assert found is not None and found.ours == ("ours", 1)


def test_the_centroid_of_the_leaves_is_the_model_at_their_mean(evidence: Path) -> None:
    folder = evidence / "seed-0" / "predictions"
    leaves, centroid = (load_file(folder / f"leaves_x2{end}.safetensors")["test"] for end in ("", "_centroid"))
    assert centroid.shape == (1, *leaves.shape[1:])
    assert 1e-5 < np.abs(centroid[0] - leaves[0]).max() < 1


def test_varied_modes_share_the_first_and_draw_the_others(evidence: Path) -> None:
    varied, modes = (
        load_file(evidence / "seed-0" / "predictions" / f"{name}.safetensors")["test"]
        for name in ("varied_modes", "recomputed_deep_ensemble")
    )
    np.testing.assert_allclose(varied[0], modes[0], atol=1e-6)
    assert np.abs(varied[1] - modes[1]).max() > 1e-4
    plain = {name: values[0] for name, values in VARIATIONS.items()}
    drawn = [variation(seed) for seed in range(30)]
    assert plain not in drawn and len({tuple(own.values()) for own in drawn}) == 7


def test_every_contender_is_measured_within_its_passes_and_the_budget(evidence: Path) -> None:
    rows = measure_folder(evidence)
    probed = {"single model, linear probe first", "deep ensemble, linear probe first"}
    assert {row["contender"] for row in rows} == {contender.name for contender in CONTENDERS} - probed
    assert all(row["used_passes"] <= row["passes"] and row["epochs"] <= 2 for row in rows)
    assert {row["passes"] for row in rows if row["contender"] == "leaves"} == {1, 2, 4}
    labels = load_file(evidence / "seed-0" / "labels.safetensors")["test"]
    predicted = load_file(evidence / "seed-0" / "predictions" / "deep_ensemble.safetensors")["test"].mean(axis=0)
    (two,) = [row for row in rows if (row["contender"], row["passes"]) == ("deep ensemble", 2)]
    assert two["error"] == pytest.approx(100 * float((predicted.argmax(axis=-1) != labels).mean()))


def test_mirrored_views_are_averaged_and_cost_a_pass_each(evidence: Path) -> None:
    predictions = {
        file.stem: load_file(file) for file in (evidence / "seed-0" / "predictions").glob("deep_ensemble.safetensors")
    }
    contender = Contender("mirrored", (("deep_ensemble", 0),), views=("", "mirrored/"))
    one = predictions["deep_ensemble"]
    expected = (one["test"][0].astype(np.float64) + one["mirrored/test"][0]) / 2
    np.testing.assert_allclose(contender.probabilities(predictions, "test")[0], expected, atol=1e-6)
    assert contender.passes(1) == 2
    assert chosen_members(contender, predictions, np.zeros(20, np.int64), 1) is None


def test_members_are_chosen_by_validation_images_alone() -> None:
    truth = np.arange(60) % 2
    good = np.where(truth[:, None] == np.arange(2), 0.8, 0.2)
    noise = np.full((60, 2), 0.5)
    arrays = {"validation": np.stack([noise, good, noise]), "test": np.stack([good, noise, good])}
    contender = Contender("points", tuple(("file", index) for index in range(3)), rules=((0,),))
    assert chosen_members(contender, {"file": arrays}, truth, 1) == [1]


def test_the_report_says_who_wins_and_is_written_again_from_its_rows(evidence: Path, tmp_path: Path) -> None:
    text = evidence_report.main([str(tmp_path / "report"), str(evidence)])
    assert "## Best at equal training: error (%)" in text and "- digits: 1 seeds (0)" in text
    assert (tmp_path / "report" / "passes.png").exists()
    assert evidence_report.main([str(tmp_path / "report")]) == text
    read, measured = read_rows(tmp_path / "report" / "rows.parquet"), measure_folder(evidence)
    assert [row["contender"] for row in read] == [row["contender"] for row in measured]
    assert [row["nll"] for row in read] == [row["nll"] for row in measured]


def test_a_report_keeps_the_seeds_of_former_runs(evidence: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    evidence_report.main([str(report), str(evidence)])
    other = tmp_path / "clip_art"
    (other / "seed-5").mkdir(parents=True)
    for name in ("labels.safetensors", "predictions"):
        (other / "seed-5" / name).symlink_to(evidence / "seed-0" / name)
    (other / "seed-5" / "results.json").write_text('{"seed": 5}')
    text = evidence_report.main([str(report), str(other)])
    assert "- clip_art: 1 seeds (5)" in text and "- digits: 1 seeds (0)" in text
    assert evidence_report.main([str(report), str(other)]) == text
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        evidence_report.main([str(report), str(tmp_path / "empty")])


def test_differences_are_paired_by_seed() -> None:
    def row(contender: str, seed: int, error: float) -> dict[str, object]:
        return {"task": "t", "seed": seed, "contender": contender, "is_rival": contender == "deep", "passes": 2} | {
            "error": error
        }

    rows = [row("ours", 0, 9.0), row("ours", 1, 19.0), row("deep", 0, 10.0), row("deep", 1, 22.0), row("deep", 2, 0.0)]
    assert differences(rows, "t", "error", ("ours", 2), ("deep", 2)) == [-1.0, -3.0]
    rows.pop()
    found = winner(rows, "t", 2, "error")
    assert found is not None and (found.ours, found.rival) == (("ours", 2), ("deep", 2))
    assert (found.value, found.differences) == (14.0, [-1.0, -3.0])
    # A budget of more passes may be left unused, one of fewer has no contender.
    assert winner(rows, "t", 4, "error") == found and winner(rows, "t", 1, "error") is None


def test_a_verdict_needs_three_seeds_and_two_standard_errors() -> None:
    def rows(*errors: float) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for seed, error in enumerate(errors):
            for contender, value in (("ours", error), ("deep", 10.0)):
                values = dict.fromkeys(MEASURES, value)
                found.append(
                    {"task": "t", "seed": seed, "contender": contender, "passes": 2, "used_passes": 2, "epochs": 1.0}
                    | {"is_rival": contender == "deep", **values}
                )
        return found

    for errors, verdict in (((9, 9), "too few seeds"), ((9, 9, 9.1), "**here**"), ((9, 12, 8), "tie")):
        assert f"| {verdict} |" in report_text(rows(*errors))
    assert "| rival |" in report_text(rows(12, 12, 12.1))


def test_the_picture_has_a_column_for_each_task(evidence: Path) -> None:
    figure = passes_figure(measure_folder(evidence))
    assert [axis.get_title() for axis in figure.axes] == ["digits", "", ""]
    assert set(figure.axes[0].get_xticks()) == set(PASSES)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--leaf_rates", "3"], "leaf_rates has 3: choose from 0.5, 1, 2, 4"),
        (["--leaf_epochs", "1"], "at most 3 epochs (budget) with the trunk, not 5"),
        (["--methods", "late_leaves", "--late_leaf_share", "0.25"], "num_leaves is 4 and late_leaf_share 0.25"),
    ],
)
def test_leaves_that_do_not_fit_are_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        compare_ensembles.main([*small, "--output_dir", str(tmp_path / "out"), "--methods", "leaves", *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
