"""Modes are connected, and the barriers that are reported are those of the loss along the paths."""

import json
from pathlib import Path
from typing import Any

import connect_modes
import numpy as np
import probe_dimension
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import backbone, contents, folder
from tiny_recipes import TINY, write_config

from hf_simplex import SimplexForImageClassification


def config(path: Path, **settings: Any) -> str:
    return str(write_config(path, {**TINY, "output_dir": str(path / "output"), **settings}))


def test_modes_are_connected_and_measured(tmp_path: Path) -> None:
    results = connect_modes.main([config(tmp_path, joins=["0,1", "0,1,2"])])
    assert results["simplexes"] == [[0, 3, 4], [1, 3, 4], [2, 4]]
    assert set(results["paths"]) == {"0-1", "0-2", "1-2"}
    assert results["paths"]["0-2"]["best_connector"] == 4
    model = SimplexForImageClassification.from_pretrained(tmp_path / "output/complex")
    assert model.config.roles == ["mode"] * 3 + ["connector"] * 2
    for name in ("train", "test"):
        values = results["complex"][name]["accuracy"]["values"]
        assert len(values) == 4 and results["complex"][name]["accuracy"]["worst"] == min(values)
        path = results["paths"]["0-1"]["through_connector"][name]
        assert len(path["loss"]) == 5
        assert path["loss"][0] == pytest.approx(results["modes"][name]["loss"][0], rel=1e-5)
    assert (tmp_path / "output/paths.png").stat().st_size > 10_000

    folders = [str(tmp_path / f"mode-{vertex}") for vertex in range(2)]
    for vertex, directory in enumerate(folders):
        model.export_vertex(vertex, directory)
    given = {"train_modes": None, "modes": folders, "connectors": 1, "output_dir": str(tmp_path / "given")}
    results = connect_modes.main([config(tmp_path, **given)])
    connected = SimplexForImageClassification.from_pretrained(tmp_path / "given/complex")
    assert results["simplexes"] == [[0, 2], [1, 2]] and connected.config.roles == ["mode"] * 2 + ["connector"]
    for vertex in range(2):
        weights = connected.weights[vertex]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.weights[vertex].items())
    assert json.loads((tmp_path / "output/results.json").read_text())["wall_time"] > 0


def test_small_transformers_are_connected_too(tmp_path: Path) -> None:
    results = connect_modes.main([config(tmp_path, backbone="small_vit", train_modes=2, connectors=1)])
    assert results["simplexes"] == [[0, 2], [1, 2]]
    model = SimplexForImageClassification.from_pretrained(tmp_path / "output/complex")
    assert model.config.backbone_config.model_type == "vit"


def test_a_barrier_is_the_rise_over_the_mean_of_the_ends() -> None:
    found = connect_modes.PointResults(np.array([0.1, 2.0, 0.3]), np.array([0.9, 0.4, 0.8]))
    barrier = connect_modes.barriers({"train": found})["train"]
    assert barrier["loss_barrier"] == pytest.approx(1.8)
    assert barrier["accuracy_barrier"] == pytest.approx(0.45)


def test_each_count_of_connectors_is_probed(tmp_path: Path) -> None:
    results = probe_dimension.main([config(tmp_path, train_modes=2)])
    assert [count["dimension"] for count in results["counts"]] == [1, 2]
    assert all(np.isfinite(count["log_volume"]) and count["height"] > 0 for count in results["counts"])
    assert (tmp_path / "output/dimension.png").stat().st_size > 10_000


def broken_mode(path: Path) -> dict[str, Any]:
    names = [str(folder("resnet", path / name, labels=10)) for name in ("one", "two")]
    file = Path(names[1]) / "model.safetensors"
    tensors = load_file(file)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).fill_(torch.nan)
    save_file(tensors, file, metadata={"format": "pt"})
    return {"modes": names}


def shuffled_labels(path: Path) -> dict[str, Any]:
    names = []
    for seed in range(2):
        module = backbone("vit", seed, labels=10)
        module.config.id2label = {index: str(9 - index) for index in range(10)}
        module.config.label2id = {str(9 - index): index for index in range(10)}
        module.save_pretrained(path / str(seed))
        names.append(str(path / str(seed)))
    return {"modes": names}


MISTAKES: list[tuple[str, Any, str]] = [
    ("twice", lambda path: {"modes": ["a", "a"]}, "listed twice"),
    ("one mode", lambda path: {"modes": ["a"]}, "at least 2"),
    ("no modes", lambda path: {}, "either modes"),
    ("no mode of that number", lambda path: {"train_modes": 2, "joins": ["0,1", "0,5"]}, "no mode 5"),
    ("a mode joined twice", lambda path: {"train_modes": 2, "joins": ["0,1", "0,0"]}, "named twice"),
    ("paths without a middle", lambda path: {"train_modes": 2, "path_points": 2}, "path_points is 2"),
    (
        "leaves",
        lambda path: {"train_modes": 2, "mode_start": "first_mode"},
        "mode_start is 'first_mode' and num_modes 1",
    ),
    ("a simplex of modes", lambda path: {"train_modes": 2, "num_modes": 2, "num_vertices": 2}, "num_modes is 2"),
    ("a probed head", lambda path: {"train_modes": 2, "probe_head": True}, "probe_head was given"),
    ("no points", lambda path: {"train_modes": 2, "sampled_points": 0}, "sampled_points is 0"),
    ("more connectors than dimensions", lambda path: {"train_modes": 2, "connectors": 10**6}, "give at most"),
    ("not enough joins", lambda path: {"train_modes": 2, "joins": ["0,1"]}, "names 1 connectors"),
    (
        "same weights",
        lambda path: {"modes": [str(folder("resnet", path / n, labels=10)) for n in "ab"]},
        "same weights",
    ),
    ("not finite", broken_mode, "not finite"),
    (
        "other architecture",
        lambda path: {"modes": [str(folder(kind, path / kind, labels=10)) for kind in ("resnet", "vit")]},
        "architecture",
    ),
    (
        "other labels",
        lambda path: {"modes": [str(folder("resnet", path / str(n), labels=n)) for n in (10, 7)]},
        "has 7 labels",
    ),
    ("labels in another order", shuffled_labels, "another order"),
]


@pytest.mark.parametrize(("mistake", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_before_training(
    mistake: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, **{"train_modes": None, **mistake(tmp_path)})
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        connect_modes.main([file])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before
