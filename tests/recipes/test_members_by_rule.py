"""The benchmark of member rules agrees with what the run itself says of its ensemble."""

import json
from pathlib import Path

import members_by_rule
import pytest
import train_espro
from tiny import folder
from tiny_recipes import DIGITS, config


def test_the_chosen_members_have_the_error_that_the_run_reports(tmp_path: Path) -> None:
    settings = {**DIGITS, "max_train_examples": 200, "validation_fraction": 0.3, "num_train_epochs": 1}
    settings |= {"num_components": 1, "num_modes": 2, "num_vertices": 2, "num_members": None, "data_split_seed": 1}
    backbone = str(folder("resnet", tmp_path / "backbone"))
    train_espro.main([str(config(tmp_path, backbone=backbone, **settings))])
    run, output = tmp_path / "output", tmp_path / "result.json"
    found = members_by_rule.main([str(run), "--batch_norm_images", "20", "--threads", "1", "--output", str(output)])
    assert json.loads(output.read_text("utf-8")) == json.loads(json.dumps(found))

    rows = {row["members"]: row for row in found["rows"]}
    results = json.loads((run / "results.json").read_text("utf-8"))
    assert rows["chosen"]["error"] == pytest.approx(1 - results["espro"]["accuracy"])
    assert rows["chosen"]["nll"] == pytest.approx(results["espro"]["nll"], rel=1e-4)
    assert rows["modes"]["forward_passes"] == 2 and rows["modes"]["nll_over_modes"] == 0
    (chosen,) = found["arguments"]["chosen"]
    assert (chosen["validation_images"], chosen["test_images"]) == (60, 60) and chosen["rule"] in rows
    assert found["arguments"]["runs"] == ["output"]
