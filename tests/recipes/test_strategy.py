"""Modes are joined or connected as the strategy says, or as the barriers between them say."""

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Images, backbone, batches, contents, folder
from tiny_recipes import DIGITS, KEYS, run, weights
from torch.utils.data import Subset

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.evaluation.barriers import Barrier, measure_barriers
from hf_simplex.training.recipe.arguments import BackboneArguments, EsproArguments
from hf_simplex.training.recipe.images import in_batches
from hf_simplex.training.recipe.strategy import (
    Choice,
    apply_strategy,
    choose_strategy,
    joined_arguments,
    mode_arguments,
)

MEASURE = "hf_simplex.training.recipe.strategy.measure_barriers"


# ---- numbers -----------------------------------------------------------------------------------------------------


def numbers(
    strategy: str | None, modes: list[str] | None = None, from_scratch: bool = False, **settings: Any
) -> tuple[int, int, int]:
    """Components, modes of each and vertices of each."""
    backbone_args = BackboneArguments(None if modes else "b", modes=modes, from_scratch=from_scratch)
    args = EsproArguments("output", use_cpu=True, report_to="none", **settings)
    apply_strategy(strategy, backbone_args, args)
    return backbone_args.num_components, args.num_modes, args.num_vertices


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (None, (2, 3, 4)),
        ("one_simplex", (1, 1, 4)),
        ("join", (1, 3, 4)),
        ("connect", (3, 1, 4)),
        ("auto", (3, 1, 4)),
    ],
)
@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_strategy_sets_the_numbers(strategy: str | None, expected: tuple[int, int, int], from_scratch: bool) -> None:
    assert numbers(strategy, num_modes=3, num_vertices=4, from_scratch=from_scratch) == expected


@pytest.mark.parametrize(
    ("strategy", "expected"), [("join", (1, 3, 3)), ("connect", (3, 1, 2)), ("auto", (3, 1, 2)), (None, (2, 1, 2))]
)
def test_given_modes_count_themselves(strategy: str | None, expected: tuple[int, int, int]) -> None:
    assert numbers(strategy, modes=["a", "b", "c"], num_vertices=2) == expected


def test_each_simplex_has_an_edge() -> None:
    assert numbers("one_simplex", num_vertices=1) == (1, 1, 2)
    assert numbers("one_simplex", modes=["a"], num_vertices=1) == (1, 1, 2)
    assert numbers("connect", modes=["a", "b"], num_vertices=1) == (2, 1, 2)


@pytest.mark.parametrize(
    ("strategy", "modes", "message"),
    [
        ("both", None, "strategy is 'both': choose from auto"),
        ("auto", None, "num_modes 1: expected at least 2"),
        ("join", ["a"], "num_modes 1: expected at least 2"),
        ("connect", None, "num_modes 1: expected at least 2"),
        ("one_simplex", ["a", "b"], "there are 2 modes: give one"),
    ],
)
def test_a_strategy_that_does_not_fit_is_named(strategy: str, modes: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers(strategy, modes=modes)


def test_the_arguments_of_a_run_stay_when_those_of_its_parts_are_copied() -> None:
    args = EsproArguments("output", use_cpu=True, report_to="none", num_vertices=4, num_members=9, push_to_hub=True)
    mode, joined = mode_arguments(args), joined_arguments(args, 5)
    assert (mode.num_vertices, mode.num_modes, mode.num_members) == (1, 1, None)
    assert (joined.num_vertices, joined.num_modes, joined.num_members) == (5, 5, 9)
    assert Path(joined.output_dir) == Path("output/components/joined") and not joined.push_to_hub
    assert joined_arguments(args, 2).num_vertices == 4
    assert (args.output_dir, args.num_vertices, args.num_modes, args.push_to_hub) == ("output", 4, 1, True)


# ---- the choice --------------------------------------------------------------------------------------------------

VALIDATION = in_batches(Subset(Images(60), range(60)), 32)


def components(kind: str, *seeds: int) -> list[SimplexForImageClassification]:
    return [SimplexForImageClassification.from_backbone(backbone(kind, seed)) for seed in seeds]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_same_mode_twice_is_joined(kind: str) -> None:
    choice = choose_strategy(components(kind, 0, 0), VALIDATION, batches(), from_scratch=True)
    assert (choice.asked, choice.chosen) == ("auto", "join")
    [barrier] = choice.barriers
    assert barrier.height == pytest.approx(0.0, abs=1e-5)
    assert choice.reason.startswith("There is no barrier between the modes (at most ")


def test_the_measured_barriers_are_those_of_the_modes() -> None:
    models = components("resnet", 0, 1, 2)
    # A component that a resumed run has connected already: its mode is its first vertex.
    vertex = models[1].add_vertex()
    models[1].backbone.load_state_dict(backbone("resnet", 5).state_dict())
    models[1].store_vertex(vertex)
    choice = choose_strategy(models, VALIDATION, batches(), from_scratch=False)
    modes = [dict(backbone("resnet", seed).named_parameters()) for seed in range(3)]
    expected = measure_barriers(backbone("resnet"), modes, VALIDATION, batch_norm_batches=batches())
    assert [barrier.modes for barrier in choice.barriers] == [(0, 1), (0, 2), (1, 2)]
    for found, barrier in zip(choice.barriers, expected, strict=True):
        assert found.height == pytest.approx(barrier.height, abs=1e-5)
        assert found.position == barrier.position
    assert choice.chosen == ("connect" if any(barrier.is_real for barrier in expected) else "join")


def test_a_barrier_between_any_two_modes_connects_and_is_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise, real, low = Barrier((0, 1), 0.9, 0.5, 0.5), Barrier((0, 2), 0.4, 0.1, 0.25), Barrier((1, 2), -0.1, 0.1, 0.5)
    monkeypatch.setattr(MEASURE, lambda *_, **__: [noise, real, low])
    choice = choose_strategy(components("vit", 0, 1, 2), VALIDATION, batches(), from_scratch=False)
    assert choice.chosen == "connect"
    assert choice.reason == "There is a barrier of 0.400 ± 0.100 nats between modes, so each mode gets connectors."
    assert json.loads(json.dumps(choice.to_json()))["barriers"][1] == {
        "modes": [0, 2], "height": 0.4, "standard_error": 0.1, "position": 0.25,
    }  # fmt: skip

    monkeypatch.setattr(MEASURE, lambda *_, **__: [noise, low])
    choice = choose_strategy(components("vit", 0, 1, 2), VALIDATION, batches(), from_scratch=True)
    assert choice.chosen == "join" and "at most 0.900 ± 0.500 nats" in choice.reason


@pytest.mark.parametrize(("from_scratch", "chosen"), [(True, "connect"), (False, "join")])
def test_without_validation_images_the_start_of_the_modes_decides(from_scratch: bool, chosen: str) -> None:
    choice = choose_strategy(components("vit", 0, 1), None, batches(), from_scratch=from_scratch)
    assert (choice.asked, choice.chosen, choice.barriers) == ("auto", chosen, ())
    assert "too few validation images" in choice.reason


# ---- whole runs --------------------------------------------------------------------------------------------------

DATA = {**DIGITS, "max_train_examples": 200, "max_test_examples": 30}
SETTINGS: dict[str, Any] = {
    **DATA,
    "strategy": "auto",
    "num_components": None,
    "num_modes": 2,
    "num_vertices": 3,
    "num_members": None,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 70,
    "validation_fraction": 0.3,
}


def measured(height: float) -> Any:
    return lambda *_, **__: [Barrier((0, 1), height, 0.01, 0.5)]


def same_weights(first: Path, second: Path) -> bool:
    names = {file.name for file in first.glob("*.safetensors")}
    assert names and names == {file.name for file in second.glob("*.safetensors")}
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(folder("resnet", tmp_path_factory.mktemp("backbone"), labels=7))


@pytest.fixture(scope="module")
def joined(source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A finished run whose modes were joined, and its results."""
    path = tmp_path_factory.mktemp("joined")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patched.setattr(MEASURE, measured(0.0))
        results = run(path, backbone=source, **SETTINGS)
    gc.collect()
    yield path / "output", results


def test_joined_modes_become_one_simplex_with_a_connector(joined: tuple[Path, dict[str, Any]]) -> None:
    output, results = joined
    config = json.loads((output / "ensemble/config.json").read_text())
    assert config["simplexes"] == [[0, 1, 2]] and config["roles"] == ["mode", "mode", "connector"]
    told = json.loads((output / "run.json").read_text())
    assert told["strategy"] == config["provenance"]["strategy"] == {
        "asked": "auto",
        "chosen": "join",
        "reason": "There is no barrier between the modes (at most 0.000 ± 0.010 nats), so one simplex joins them.",
        "barriers": [{"modes": [0, 1], "height": 0.0, "standard_error": 0.01, "position": 0.5}],
    }  # fmt: skip
    assert [stage["vertex"] for stage in told["stages"]] == [0, 1, 2]
    assert told["arguments"]["training"]["num_modes"] == 2 and told["arguments"]["backbone"]["num_components"] == 1
    assert told["decisions"] == config["decisions"] and told["decisions"]["fitted_on"]["images"] == 60
    card = (output / "ensemble/README.md").read_text()
    assert "num_components: 1\n" in card and "num_modes: 2\n" in card and "so one simplex joins them." in card
    assert results == json.loads((output / "results.json").read_text()) and list(results)[:3] == KEYS[:3]
    for number in (0, 1):
        mode = weights(output / f"components/0{number}", 0)
        assert all(torch.equal(mode[name], tensor) for name, tensor in weights(output / "ensemble", number).items())


def test_connected_modes_are_those_of_the_strategy_connect(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MEASURE, measured(0.5))
    settings = {**SETTINGS, "num_vertices": 2}
    results = run(tmp_path / "auto", backbone=source, **settings)
    ensemble = tmp_path / "auto/output/ensemble"
    config = json.loads((ensemble / "config.json").read_text())
    assert config["simplexes"] == [[0, 1], [2, 3]] and config["roles"] == ["mode", "connector"] * 2
    told = json.loads((tmp_path / "auto/output/run.json").read_text())
    assert told["strategy"]["chosen"] == "connect" and told["strategy"]["barriers"][0]["height"] == 0.5
    reason = "There is a barrier of 0.500 ± 0.010 nats between modes, so each mode gets connectors."
    assert reason in capsys.readouterr().err and reason in (ensemble / "README.md").read_text()

    grow_connector = SimplexTrainer.grow_connector

    def interrupted(trainer: SimplexTrainer, *arguments: Any) -> int:
        if trainer.args.output_dir.endswith("01"):
            raise KeyboardInterrupt
        return grow_connector(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr(SimplexTrainer, "grow_connector", interrupted)
        run(tmp_path / "cut", backbone=source, **settings)
    assert run(tmp_path / "cut", "--resume", backbone=source, **settings) == results
    assert same_weights(ensemble, tmp_path / "cut/output/ensemble")

    monkeypatch.setattr(MEASURE, lambda *_, **__: pytest.fail("measured"))
    asked = run(tmp_path / "asked", backbone=source, **{**settings, "strategy": "connect"})
    assert asked == results and same_weights(ensemble, tmp_path / "asked/output/ensemble")
    choice = json.loads((tmp_path / "asked/output/run.json").read_text())["strategy"]
    assert choice == Choice("connect", "connect", "It was asked for.").to_json()
    assert "asked for" not in (tmp_path / "asked/output/ensemble/README.md").read_text()


@pytest.mark.parametrize("at", ["before", "within"])
def test_a_run_that_ends_between_measuring_and_joining_goes_on_to_the_same_bits(
    at: str, joined: tuple[Path, dict[str, Any]], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, measured(0.0))
    name = "grow" if at == "before" else "draw_members"
    method = getattr(SimplexTrainer, name)

    def interrupted(trainer: SimplexTrainer, *arguments: Any) -> Any:
        if trainer.args.output_dir.endswith("joined"):
            raise KeyboardInterrupt
        return method(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr(SimplexTrainer, name, interrupted)
        run(tmp_path, backbone=source, **SETTINGS)
    output = tmp_path / "output"
    assert {path.name for path in output.iterdir()} == {"components"}
    done = output / "components/joined/config.json"
    assert done.exists() == (at == "within")
    stages = json.loads(done.read_text())["provenance"]["stages"] if at == "within" else []
    assert run(tmp_path, "--resume", backbone=source, **SETTINGS) == joined[1]
    told = json.loads((output / "run.json").read_text())["stages"]
    assert told[: len(stages)] == stages and len(told) == 3, "nothing is trained twice"
    assert same_weights(joined[0] / "ensemble", output / "ensemble")


def test_modes_are_independent_jobs_and_a_resumed_run_joins_them(
    joined: tuple[Path, dict[str, Any]], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, lambda *_, **__: pytest.fail("a single component has no barrier"))
    for component in ("1", "0"):
        assert run(tmp_path, "--component", component, backbone=source, **SETTINGS) is None
    output = tmp_path / "output"
    assert {path.name for path in (output / "components").iterdir()} == {"00", "01"}
    monkeypatch.setattr(MEASURE, measured(0.0))
    assert run(tmp_path, "--resume", backbone=source, **SETTINGS) == joined[1]
    assert same_weights(joined[0] / "ensemble", output / "ensemble")


def test_a_new_run_forgets_the_simplex_of_the_modes_before(
    joined: tuple[Path, dict[str, Any]], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(joined[0], tmp_path / "output")
    monkeypatch.setattr(MEASURE, measured(0.0))
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="130"):
        patched.setattr("train_espro.choose_strategy", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        run(tmp_path, "--overwrite", "--seed", "5", backbone=source, **SETTINGS)
    run(tmp_path, "--overwrite", "--resume", "--seed", "5", backbone=source, **SETTINGS)
    for number in (0, 1):
        mode = weights(tmp_path / f"output/components/0{number}", 0)
        found = weights(tmp_path / "output/ensemble", number)
        assert all(torch.equal(mode[name], tensor) for name, tensor in found.items())
        assert not torch.equal(
            mode["classifier.1.weight"], weights(joined[0] / "ensemble", number)["classifier.1.weight"]
        )


def test_too_few_validation_images_are_told_and_the_modes_joined_unmeasured(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MEASURE, lambda *_, **__: pytest.fail("measured"))
    settings = {**SETTINGS, "num_vertices": 2, "max_train_examples": 60}
    results = run(tmp_path, backbone=source, **settings, out_of_distribution="digits")
    printed = capsys.readouterr()
    assert "out_of_distribution is not measured" in printed.err
    assert "There are too few validation images to measure a barrier" in printed.err
    assert "Nothing was calibrated: there were no validation images, or fewer than 50." in printed.out
    told = json.loads((tmp_path / "output/run.json").read_text())
    config = json.loads((tmp_path / "output/ensemble/config.json").read_text())
    assert told["decisions"] is None and config.get("decisions") is None
    assert (told["strategy"]["chosen"], told["strategy"]["barriers"]) == ("join", [])
    assert any("fewer than 50" in note for note in told["images"]["notes"])
    assert config["simplexes"] == [[0, 1]] and "calibrated" not in results["espro"]
    card = (tmp_path / "output/ensemble/README.md").read_text()
    assert "## Decisions" not in card and "calibrated NLL" not in card


def pictures(path: Path) -> str:
    """A folder of noise in two categories."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("one", "other"):
            (path / split / label).mkdir(parents=True)
            for number in range(8):
                noise = random.integers(0, 256, (12, 20, 3), np.uint8)
                Image.fromarray(noise).save(path / split / label / f"{number}.png")
    return str(path)


def test_members_are_limited_and_unfamiliar_images_measured(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURE, measured(0.0))
    settings = {
        **SETTINGS,
        "num_vertices": 2,
        "max_forward_passes": 1,
        "out_of_distribution": pictures(tmp_path / "ood"),
    }
    results = run(tmp_path, backbone=source, **settings)
    ensemble = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert len(ensemble.config.members) == 1 and results["espro"]["forward_passes"] == 1
    assert ensemble.decisions is not None and ensemble.decisions.selection["name"] != "present members"
    for name in ("mutual_information", "energy"):
        assert 0 <= results["espro"]["decisions"][f"ood_auroc_{name}"] <= 1
        assert f"by {name.replace('_', ' ')}." in (tmp_path / "output/ensemble/README.md").read_text()


def test_members_that_were_asked_for_are_kept(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURE, measured(0.0))
    results = run(tmp_path, backbone=source, **{**SETTINGS, "num_vertices": 2, "num_members": 5})
    ensemble = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert ensemble.decisions is not None and ensemble.decisions.selection == {"name": "present members"}
    assert results["espro"]["forward_passes"] == len(ensemble.config.members) == 5
    drawn = SimplexForImageClassification.simplex_of_modes(
        [SimplexForImageClassification.from_pretrained(tmp_path / f"output/components/0{number}") for number in (0, 1)]
    )
    drawn.draw_members(5, batches=[{"pixel_values": torch.randn(4, 3, 16, 16)}])
    assert ensemble.config.members == drawn.config.members, "uniform, with member_seed 0"
    assert min(min(member) for member in ensemble.config.members) > 0


def test_a_mistake_in_the_unfamiliar_images_ends_the_run_before_training(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, backbone=source, **SETTINGS, out_of_distribution="no_such_data")
    assert raised.value.code == 2 and "no_such_data" in capsys.readouterr().err
    assert contents(tmp_path).keys() == before.keys() | {"config.yaml"}


@pytest.mark.parametrize("settings", [{"num_members": 5}, {"choose_members": False}])
def test_a_limit_of_members_that_are_not_chosen_is_refused(
    settings: dict[str, Any], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, backbone=source, **{**SETTINGS, **settings, "max_forward_passes": 2})
    assert raised.value.code == 2 and "max_forward_passes is 2, but no members are chosen" in capsys.readouterr().err


def test_equal_modes_are_refused_before_they_become_a_simplex_of_no_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))
    modes = [str(folder("resnet", tmp_path / name, labels=10, seed=name == "a")) for name in "abc"]
    with pytest.raises(SystemExit) as raised:
        run(tmp_path, modes=modes, **{**SETTINGS, "num_modes": None})
    assert raised.value.code == 2 and "have the same weights" in capsys.readouterr().err


def test_given_modes_are_measured_and_joined_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURE, measured(0.0))
    modes = [str(folder("resnet", tmp_path / name, labels=10, seed=seed)) for seed, name in enumerate("ab")]
    run(tmp_path, modes=modes, **{**SETTINGS, "num_modes": None, "num_vertices": 2})
    config = json.loads((tmp_path / "output/ensemble/config.json").read_text())
    assert config["simplexes"] == [[0, 1]] and config["roles"] == ["mode", "mode"]
    for seed in (0, 1):
        given = dict(backbone("resnet", seed, labels=10).named_parameters())
        found = weights(tmp_path / "output/ensemble", seed)
        assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
