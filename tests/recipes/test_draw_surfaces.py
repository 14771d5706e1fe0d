"""Surfaces that are drawn are those of the saved complex, and can be drawn again from their files."""

import json
from pathlib import Path
from typing import Any

import draw_surfaces
import pytest
import torch
from tiny import SIZE, backbone, contents
from tiny_recipes import TINY
from transformers import ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.model.configuration_simplex import MODE
from hf_simplex.plots.surfaces import plot_plane

DATA = {name: TINY[name] for name in ("data_set", "max_train_examples", "max_test_examples", "image_size")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_complex(tmp_path_factory.mktemp("trained"))


def saved_complex(path: Path, labels: int = 10) -> Path:
    """Three modes, and two connectors near their means; the labels are those of the digits."""
    modes = []
    for seed in range(3):
        mode = SimplexForImageClassification.from_backbone(backbone("vit", seed, labels))
        names = {number: str(number) for number in range(labels)}
        mode.config.id2label, mode.config.label2id = names, {name: number for number, name in names.items()}
        mode.config.roles = [MODE]
        modes.append(mode)
    model = SimplexForImageClassification.disjoint_union(modes)
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    for _ in range(2):
        vertex = model.add_vertex()
        for parameter in model.vertices[vertex].parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(vertex))
    model.save_pretrained(path / "complex")
    return path / "complex"


def flags(path: Path, **settings: Any) -> list[str]:
    lines = {**DATA, "output_dir": path / "output", "resolution": 3, "complex_points": 5, **settings}
    return [part for name, value in lines.items() for part in (f"--{name}", *str(value).split(" "))]


def test_planes_faces_and_the_complex_are_drawn_and_saved(trained: Path, tmp_path: Path) -> None:
    results = draw_surfaces.main(flags(tmp_path, model=trained))
    names = ["plane-0-1-2", "plane-0-1-3", "face-0-3-4", "complex"]
    assert list(results["surfaces"]) == names
    model = SimplexForImageClassification.from_pretrained(trained)
    for name in names:
        surface = Surface.load(tmp_path / f"output/{name}.safetensors")
        assert surface.points.structure == model.config.complex
        assert torch.isfinite(surface.loss).all()
        assert (tmp_path / f"output/{name}.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "output/surfaces.json").read_text())["surfaces"] == results["surfaces"]
    plane = Surface.load(tmp_path / "output/plane-0-1-3.safetensors")
    assert len(plot_plane(plane).axes) == 2


def test_modes_and_connectors_are_named_as_in_the_paper(trained: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(trained)
    labels = draw_surfaces.vertex_labels(model.config)
    assert labels == ["$w_{0}$", "$w_{1}$", "$w_{2}$", r"$\theta_{0}$", r"$\theta_{1}$"]


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("two vertices span no plane", {"planes": "0,1"}, "three vertices"),
    ("a vertex twice", {"planes": "0,1,1"}, "repeated"),
    ("no vertex of that number", {"planes": "0,1,7"}, "no vertex 7"),
    ("no numbers", {"faces": "a,b,c"}, "'a,b,c'"),
    ("a face of four vertices", {"faces": "0,1,3,4"}, "three vertices"),
    ("modes of no common simplex", {"faces": "0,1,2"}, "simplex"),
    ("too coarse", {"resolution": 1}, "resolution"),
    ("fewer points than none", {"complex_points": -1}, "complex_points"),
]


@pytest.mark.parametrize(("settings", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_before_anything_is_evaluated(
    settings: dict[str, Any], message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        draw_surfaces.main(flags(tmp_path, model=trained, **settings))
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_other_labels_than_those_of_the_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        draw_surfaces.main(flags(tmp_path, model=saved_complex(tmp_path, labels=7)))
    assert "has 7 labels" in capsys.readouterr().err


def test_surfaces_that_are_there_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/surfaces.json").write_text("{}")
    with pytest.raises(SystemExit):
        draw_surfaces.main(flags(tmp_path, model="none"))
    assert "holds surfaces already" in capsys.readouterr().err
