"""Modes that differ mildly, in the recipes: the modes of a run count over all its components."""

import json
from pathlib import Path
from typing import Any

import connect_modes
import pytest
from tiny import folder
from tiny_recipes import DIGITS, TINY, run, weights, write_config
from torch import equal

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.training.recipe.arguments import EsproArguments
from hf_simplex.training.recipe.components import component_arguments
from hf_simplex.training.recipe.parsing import parse_arguments
from hf_simplex.training.varied_modes import mode_settings

RATES = ["--mode_learning_rates", "1", "2", "3"]
SETTINGS: dict[str, Any] = {
    **DIGITS,
    "max_test_examples": 30,
    "num_components": None,
    "num_modes": 3,
    "num_vertices": 3,
    "num_train_epochs": 1,
    "num_members": None,
    "mode_label_smoothing": [0, 0.2],
}


def parsed(*argv: str) -> EsproArguments:
    (args,) = parse_arguments((EsproArguments,), [*argv, "--use_cpu", "--report_to", "none"])
    return args


def told(stages: list[dict[str, Any]]) -> list[tuple[float | None, float | None]]:
    """Learning rate and label smoothing of each stage, where they are its own."""
    return [(stage.get("learning_rate"), stage.get("label_smoothing")) for stage in stages]


def test_lists_are_flags_and_lines_of_the_file(tmp_path: Path) -> None:
    file = write_config(tmp_path, {"output_dir": "o", "mode_learning_rates": [1, 2.5], "mode_label_smoothing": 0.1})
    assert parsed(str(file)).mode_learning_rates == [1.0, 2.5] and parsed(str(file)).mode_label_smoothing == [0.1]
    assert parsed(str(file), "--mode_learning_rates", "4").mode_learning_rates == [4.0], "flags win"
    args = parsed("--output_dir", "o", "--mode_label_smoothing", "0", "0.1")
    assert args.mode_learning_rates is None and args.mode_label_smoothing == [0.0, 0.1]
    with pytest.raises(ValueError, match=r"mode_learning_rates is \[1\.0, 0\.0\]: expected a list of finite numbers"):
        parsed("--output_dir", "o", "--mode_learning_rates", "1", "0")


@pytest.mark.parametrize("mode_start", ["backbone", "first_mode"])
@pytest.mark.parametrize("num_modes", [1, 2, 3])
def test_modes_of_components_have_the_settings_of_those_of_one_trainer(num_modes: int, mode_start: str) -> None:
    args = parsed("--output_dir", "o", *RATES, "--mode_label_smoothing", "0", "0.1", "--num_modes", str(num_modes))
    args.mode_start = mode_start
    modes = 1 if mode_start == "first_mode" else num_modes
    structure = SimplexForImageClassification.config_class
    whole = [list(range(first * num_modes, (first + 1) * num_modes)) for first in range(4)]
    united = structure(simplexes=whole, roles=["pretrained"] * 4 * num_modes)
    alone = structure(simplexes=[list(range(num_modes))], roles=["pretrained"] * num_modes)
    expected = [mode_settings(args, united, vertex) for simplex in whole for vertex in simplex[:modes]]
    found = [
        mode_settings(component_arguments(args, component, 4), alone, vertex)
        for component in range(4)
        for vertex in range(modes)
    ]
    assert found == expected
    rates = [settings.learning_rate / args.learning_rate for settings in found]
    assert rates == pytest.approx([number % 3 + 1 for number in range(4 * modes)])
    assert args.mode_learning_rates == [1.0, 2.0, 3.0], "the arguments of the run stay"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(folder("resnet", tmp_path_factory.mktemp("backbone"), labels=7))


OWN = [(None, None), (0.02, 0.2), (0.03, None)]


def test_strategies_vary_the_modes_alike(source: str, tmp_path: Path) -> None:
    run(tmp_path / "join", *RATES, "--strategy", "join", backbone=source, **SETTINGS)
    assert told(json.loads((tmp_path / "join/output/run.json").read_text())["stages"]) == OWN
    card = (tmp_path / "join/output/ensemble/README.md").read_text()
    assert "mode_learning_rates:" in card and "mode_label_smoothing:" in card
    flags = [*RATES, "--strategy", "connect"]
    for component, own in enumerate(OWN):
        run(tmp_path / "connect", *flags, "--component", str(component), backbone=source, **SETTINGS)
        grown = SimplexForImageClassification.from_pretrained(tmp_path / f"connect/output/components/0{component}")
        assert grown.config.roles == ["mode", "connector", "connector"]
        assert told(grown.config.provenance["stages"]) == [own, (None, None), (None, None)]


def test_a_killed_run_of_varied_modes_goes_on_to_the_same_bits(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Too few validation images to measure a barrier: the modes are joined.
    flags = [*RATES, "--strategy", "auto"]
    results = run(tmp_path / "whole", *flags, backbone=source, **SETTINGS)
    assert told(json.loads((tmp_path / "whole/output/run.json").read_text())["stages"]) == OWN
    train_vertex = SimplexTrainer.train_vertex

    def interrupted(trainer: SimplexTrainer, *arguments: Any) -> dict[str, Any]:
        if trainer.args.output_dir.endswith("01"):
            raise KeyboardInterrupt
        return train_vertex(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr(SimplexTrainer, "train_vertex", interrupted)
        run(tmp_path / "cut", *flags, backbone=source, **SETTINGS)
    assert run(tmp_path / "cut", "--resume", *flags, backbone=source, **SETTINGS) == results
    for vertex in range(3):
        whole, resumed = (weights(tmp_path / name / "output/ensemble", vertex) for name in ("whole", "cut"))
        assert all(equal(resumed[name], tensor) for name, tensor in whole.items())


def test_other_lists_are_refused_before_training(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SETTINGS, "strategy": "connect", "num_modes": 2, "backbone": source}
    assert run(tmp_path, *RATES, "--component", "0", **settings) is None
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, "--resume", "--mode_learning_rates", "1", "2", **settings)
    message = "mode_learning_rates was [1.0, 2.0, 3.0] and is [1.0, 2.0]"
    assert raised.value.code == 2 and message in capsys.readouterr().err


def test_connected_modes_from_scratch_are_varied_too(tmp_path: Path) -> None:
    file = write_config(tmp_path, {**TINY, "connectors": 1, "output_dir": str(tmp_path / "output")})
    connect_modes.main([str(file), *RATES])
    complex_ = SimplexForImageClassification.from_pretrained(tmp_path / "output/complex")
    stages = complex_.config.provenance["stages"]
    assert [(stage["vertex"], stage.get("learning_rate")) for stage in stages] == [
        (0, None),
        (1, 0.02),
        (2, 0.03),
        (3, None),
    ]
