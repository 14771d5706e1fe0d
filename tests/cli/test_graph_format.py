"""`hf-simplex export --format`: points and ensembles as graphs, and mistakes in one line."""

import json
from pathlib import Path

import pytest
import torch
from command import invoke, mistake, run, save
from tiny import contents, ensemble, images

from hf_simplex.model.decisions import Decisions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ensemble("vit", members=2)
    model.decisions = Decisions(temperature=1.7, centroid_temperatures=[0.6])
    return save(model, tmp_path_factory.mktemp("command") / "ensemble")


def test_a_graph_is_of_the_ensemble_unless_a_point_is_given(folder: Path, tmp_path: Path) -> None:
    assert "model.pt2: temperature 1.7, within" in run("export", folder, "--format", "torch", tmp_path / "whole")
    printed = run("export", folder, "--format", "onnx", "--centroid", tmp_path / "centroid")
    assert "model.onnx: temperature 0.6, within" in printed
    assert "no temperature" in run("export", folder, "--format", "torch", "--vertex", "1", tmp_path / "vertex")
    program = torch.export.load(tmp_path / "whole" / "model.pt2").module()
    assert program(images(5))["member_probabilities"].shape == (5, 2, 3)
    described = json.loads((tmp_path / "vertex" / "config.json").read_text())["hf_simplex"]
    assert described["exported"] == "vertex 1" and described["temperature"] is None


def test_mistakes_write_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "graph"
    for arguments, message in {
        ("--vertex", "9", "--format", "torch"): "There is no vertex 9",
        ("--format", "torch", "--quantize", "int8"): "choose the format onnx",
        ("--format", "onnx", "--quantize", "int4"): "quantize is 'int4'",
    }.items():
        assert message in mistake("export", folder, *arguments, target)
    for wrong, usage in {
        ("--centroid", "--vertex", "0", "--format", "onnx"): "at most one",
        ("--format", "onnx", "--as-adapter"): "--as-adapter is for checkpoints",
        ("--centroid", "--quantize", "int8"): "--quantize is for graphs",
        ("--format", "checkpoint"): "exactly one of --centroid",
        ("--format", "tflite"): "tflite",
        ("--format", "torch", "--simplex", "0"): "--simplex is for --centroid",
        ("--vertex", "0", "--simplex", "0"): "--simplex is for --centroid",
    }.items():
        result = invoke("export", folder, *wrong, target)
        assert result.exit_code == 2 and usage in " ".join(result.stderr.split()), wrong
    assert not target.exists()
    target.mkdir()
    (target / "config.json").write_text("mine")
    assert "already holds a model" in mistake("export", folder, "--format", "torch", target)
    assert contents(target) == {"config.json": b"mine"}
