"""The benchmark of vertex choices: equal runs, paired differences, and learning rates from other seeds."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vertex_choices
from tiny import SIZE, backbone, batches, folder
from tiny_recipes import write_config

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import recompute_statistics

FLAGS = ["--seeds", "0", "1", "--rate_seeds", "--threads", "1", "--learning_rate", "1e-2", "--rank", "2"]


def tiny_config(path: Path) -> Path:
    return write_config(
        path,
        {
            "backbone": str(folder("vit", path / "backbone")),
            "data_set": "digits",
            "max_train_examples": 100,
            "max_test_examples": 40,
            "validation_fraction": 0.5,
            "horizontal_flip": 0.0,
            "image_size": SIZE,
            "strategy": "auto",
            "num_modes": 2,
            "num_vertices": 2,
            "num_train_epochs": 1,
            "connector_epochs": 1,
            "per_device_train_batch_size": 25,
            "per_device_eval_batch_size": 50,
        },
    )


def test_choices_are_compared_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "result.json"
    argv = [str(tiny_config(tmp_path)), *FLAGS, "--runs", str(tmp_path / "runs"), "--output", str(output)]
    argv += ["--choices", "full", "lora", "head", "--rate_factors", "1", "--full_rate_factors", "1"]
    result = vertex_choices.main(argv)
    assert json.loads(output.read_text("utf-8")) == json.loads(json.dumps(result))
    rows = {(row["choice"], row["members"]): row for row in result["rows"]}
    assert len(rows) == 3 * len(vertex_choices.MEMBERS)
    sizes = [rows[choice, "modes"]["vertex_bytes"] for choice in ("head", "lora", "full")]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert rows["lora", "one mode"]["forward_passes"] == 1 and rows["lora", "modes"]["forward_passes"] == 2

    runs = result["arguments"]["single_runs"]
    assert {run["images"]["validation"] for own in runs.values() for run in own} == {50}
    nll = {choice: [run["members"]["modes"]["nll"] for run in own] for choice, own in runs.items()}
    assert nll["full"][0] != nll["full"][1], "seeds differ"
    expected = sum(ours - theirs for ours, theirs in zip(nll["lora"], nll["full"], strict=True)) / 2
    assert rows["lora", "modes"]["nll_over_full"]["mean"] == pytest.approx(expected)
    assert "nll_over_full" not in rows["full", "modes"]

    def fail(*_: Any) -> None:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr(vertex_choices, "prepare", fail)
    assert vertex_choices.main(argv)["rows"] == result["rows"]
    with pytest.raises(SystemExit, match=r"rank 2, not 3: name another folder"):
        vertex_choices.main([*argv, "--rank", "3"])


def test_statistics_of_modes_are_recomputed_from_training_images() -> None:
    model = SimplexForImageClassification.from_backbone(backbone("resnet"))
    inputs = batches()
    (found,) = vertex_choices.recomputed_statistics(model, [[1.0]], inputs)
    own = model.vertex_statistics(0)
    assert found.keys() == own.keys() and any(not torch.equal(found[name], own[name]) for name in own)
    expected = backbone("resnet")
    recompute_statistics(expected, inputs)
    buffers = dict(expected.named_buffers())
    assert all(torch.allclose(tensor, buffers[name]) for name, tensor in found.items())
    vit = SimplexForImageClassification.from_backbone(backbone("vit"))
    assert vertex_choices.recomputed_statistics(vit, [[1.0]], inputs) == [{}]


def test_a_rate_is_trained_and_measured_on_validation_images(tmp_path: Path) -> None:
    args = argparse.Namespace(config=tiny_config(tmp_path), runs=tmp_path, rank=2, connector_factor=1, device="cpu")
    args.recipe_flags, args.last_block = [], "*layers.1,head"
    losses = [vertex_choices.rate_nll(args, "last_block", rate, 100)["nll"] for rate in (1e-2, 0.3)]
    assert losses[0] != losses[1] and all(0 < loss < 10 for loss in losses)


def test_the_rate_of_the_lowest_mean_loss_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(0.1, 100): 1.0, (0.1, 101): 3.0, (0.3, 100): 1.5, (0.3, 101): 1.7, (1.0, 100): 9.0, (1.0, 101): 0.5}
    monkeypatch.setattr(
        vertex_choices, "rate_nll", lambda args, choice, rate, seed: {"nll": found[round(rate, 3), seed]}
    )
    args = argparse.Namespace(runs=tmp_path, rate_factors=[1, 3, 10], rate_seeds=[100, 101], learning_rate=0.1)
    args.full_rate_factors = [1]
    rate, losses = vertex_choices.find_rate(args, "lora")
    assert rate == pytest.approx(0.3)
    assert losses == pytest.approx({"0.1": 2.0, "0.3": 1.6, "1": 4.75})
    assert vertex_choices.find_rate(args, "full") == (0.1, {}), "one factor leaves nothing to find"


def test_the_standard_error_is_that_of_paired_differences() -> None:
    assert vertex_choices.difference([1.0, 13.0], [0.0, 10.0]) == pytest.approx({"mean": 2.0, "standard_error": 1.0})
    assert vertex_choices.difference([1.0], [0.5]) == {"mean": 0.5, "standard_error": None}


def test_folders_of_a_machine_are_left_out_of_the_result() -> None:
    flags = ["--backbone=/home/me/backbones/vit", "--backbone=me/vit", "--image_size=32"]
    expected = ["--backbone=vit", *flags[1:]]
    assert [vertex_choices.without_folder(flag) for flag in flags] == expected


def test_a_run_without_validation_images_is_refused(tmp_path: Path) -> None:
    argv = [str(tiny_config(tmp_path)), *FLAGS, "--runs", str(tmp_path / "runs"), "--validation_fraction=0"]
    with pytest.raises(SystemExit, match="validation_fraction"):
        vertex_choices.main([*argv, "--rate_factors", "1", "--choices", "head", "--output", str(tmp_path / "r.json")])
