"""The strategy "leaves" of train_espro: a trunk, and modes that start from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train_espro
from huggingface_hub import ModelCard
from tiny import backbone, folder
from tiny_recipes import DIGITS, run, weights

from hf_simplex import SimplexTrainer
from hf_simplex.training.recipe.arguments import BackboneArguments, EsproArguments
from hf_simplex.training.recipe.strategy import Choice, apply_strategy

SETTINGS: dict[str, Any] = {
    **DIGITS,
    "max_test_examples": 30,
    "strategy": "leaves",
    "num_components": None,
    "num_modes": 3,
    "num_vertices": 3,
    "num_members": None,
    "num_train_epochs": 2,
    "leaf_epochs": 1,
    "leaf_learning_rate": "2e-2",
    "connector_epochs": None,
}


def applied(strategy: str | None, modes: list[str] | None = None, **settings: Any) -> tuple[Any, ...]:
    """Components, modes and vertices of each, and what modes start from."""
    backbone_args = BackboneArguments(None if modes else "b", modes=modes)
    args = EsproArguments("output", use_cpu=True, report_to="none", **settings)
    apply_strategy(strategy, backbone_args, args)
    return backbone_args.num_components, args.num_modes, args.num_vertices, args.mode_start


def test_the_strategy_sets_the_numbers_and_the_start() -> None:
    assert applied("leaves", num_modes=3, num_vertices=4, leaf_epochs=2.0) == (1, 3, 4, "first_mode")
    assert applied("leaves", modes=["trunk"], num_modes=3, num_vertices=3) == (1, 3, 3, "first_mode")
    assert applied(None, num_modes=3, mode_start="first_mode") == (2, 3, 4, "first_mode")
    assert applied("join", num_modes=3) == (1, 3, 4, "backbone")


@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        ("leaves", {}, "strategy is 'leaves' and num_modes 1: expected at least 2"),
        ("leaves", {"modes": ["a"]}, "strategy is 'leaves' and num_modes 1: expected at least 2"),
        ("leaves", {"modes": ["a", "b"], "num_modes": 3}, "there are 2 modes: give one, the trunk"),
        ("auto", {"num_modes": 2, "mode_start": "first_mode"}, "strategy is 'auto' and mode_start 'first_mode'"),
        ("join", {"num_modes": 2, "leaf_epochs": 1.0}, "leaf_epochs is 1.0, but mode_start is 'backbone'"),
        (None, {"leaf_learning_rate": 0.1}, "leaf_learning_rate is 0.1, but mode_start is 'backbone'"),
    ],
)
def test_what_does_not_fit_the_strategy_is_named(strategy: str | None, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        applied(strategy, **settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(folder("resnet", tmp_path_factory.mktemp("backbone"), labels=7))


def test_a_run_grows_leaves_and_a_killed_one_goes_on_to_the_same_bytes(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(tmp_path / "whole", backbone=source, **SETTINGS)
    output = tmp_path / "whole/output"
    config = json.loads((output / "ensemble/config.json").read_text())
    assert config["simplexes"] == [[0, 1, 2]] and config["roles"] == ["mode"] * 3
    told = json.loads((output / "run.json").read_text())
    assert told["strategy"] == Choice("leaves", "leaves", "It was asked for.").to_json()
    assert [(stage.get("start"), stage["epochs"]) for stage in told["stages"]] == [(None, 2.0), (0, 1.0), (0, 1.0)]
    assert results["backbone"]["training_epochs"] == 2.0 and results["espro"]["training_epochs"] == 4.0
    card = ModelCard.load(output / "ensemble/README.md").text
    assert "| 2 | mode, from vertex 0 | 0 | 1 |" in card and "leaf_epochs: 1.0" in card
    assert "of independently trained" not in card and "not independent" in card

    train_vertex = SimplexTrainer.train_vertex

    def interrupted(trainer: SimplexTrainer, vertex: int, *arguments: Any) -> dict[str, Any]:
        if vertex == 2:
            raise KeyboardInterrupt
        return train_vertex(trainer, vertex, *arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr(SimplexTrainer, "train_vertex", interrupted)
        run(tmp_path / "cut", backbone=source, **SETTINGS)
    assert run(tmp_path / "cut", "--resume", backbone=source, **SETTINGS) == results
    for file in (output / "ensemble").glob("*.safetensors"):
        assert (tmp_path / "cut/output/ensemble" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_given_mode_is_the_trunk(tmp_path: Path) -> None:
    modes = [str(folder("resnet", tmp_path / "trunk", labels=10))]
    run(tmp_path, modes=modes, **{**SETTINGS, "leaf_epochs": 0})
    config = json.loads((tmp_path / "output/ensemble/config.json").read_text())
    assert config["roles"] == ["mode"] * 3
    given = dict(backbone("resnet", labels=10).named_parameters())
    for vertex in range(3):
        found = weights(tmp_path / "output/ensemble", vertex)
        assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_leaves_may_start_from_a_trunk_from_scratch(tmp_path: Path) -> None:
    # Their trunk is one mode, so there is no barrier between them as between modes from scratch.
    backbone_args = BackboneArguments("vgg16_cifar", from_scratch=True)
    args = EsproArguments(str(tmp_path), use_cpu=True, report_to="none", num_modes=3)
    apply_strategy("leaves", backbone_args, args)
    train_espro.check(backbone_args, args)
    args.mode_start = "backbone"
    with pytest.raises(ValueError, match="barriers between them"):
        train_espro.check(backbone_args, args)
