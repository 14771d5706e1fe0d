"""A recipe's arguments: a line of its YAML file means what the flag of that name means, and flags win."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_recipes import RECIPES
from train_espro import check

from hf_simplex.training.recipe.arguments import (
    BackboneArguments,
    CalibrationArguments,
    DataArguments,
    EsproArguments,
)
from hf_simplex.training.recipe.parsing import parse_arguments
from hf_simplex.training.recipe.strategy import apply_strategy


@dataclass
class Model:
    size: int = 3
    rate: float = 0.1
    name: str = field(default="plain", metadata={"choices": ("plain", "fancy")})
    note: str | None = "none given"
    folders: list[str] | None = None
    counts: list[int] = field(default_factory=list)
    trackers: None | str | list[str] = None  # noqa: RUF036 - as in TrainingArguments, whose parser wants it so
    extras: dict[str, Any] | str | None = None


@dataclass
class Run:
    output: str
    deep: bool = False
    safe: bool = True


def parse(path: Path, text: str, *flags: str) -> tuple[Model, Run]:
    (path / "config.yaml").write_text(text)
    model, run = parse_arguments((Model, Run), [str(path / "config.yaml"), *flags])
    return model, run


def test_every_line_of_the_file_is_an_argument_of_its_type(tmp_path: Path) -> None:
    text = """
        size: 5
        rate: 1e-3
        name: fancy
        note: 12
        folders: [a, 2]
        counts: [1, 2]
        trackers: [one, two]
        extras: {power: 2}
        output: -odd, but = a name
        deep: yes
        safe: false
    """
    model, run = parse(tmp_path, text)
    assert model == Model(5, 0.001, "fancy", "12", ["a", "2"], [1, 2], ["one", "two"], {"power": 2})
    assert run == Run("-odd, but = a name", deep=True, safe=False)
    assert type(model.size) is int and type(model.rate) is float


def test_negative_numbers_and_single_values_of_a_list_are_values(tmp_path: Path) -> None:
    model, _ = parse(tmp_path, "size: -5\nrate: -1e-3\nfolders: a\ntrackers: one\noutput: x\n")
    assert (model.size, model.rate, model.folders, model.trackers) == (-5, -0.001, ["a"], "one")


def test_what_is_not_given_or_has_no_value_keeps_its_default(tmp_path: Path) -> None:
    assert parse(tmp_path, "note:\nsize: null\noutput: x\n") == (Model(), Run("x"))


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    text = "size: 5\nrate: 0.5\nfolders: [a, b]\ncounts: [1]\noutput: x\ndeep: true\ntrackers: [one, two]\n"
    flags = ["--size", "7", "--folders", "c", "--counts", "4", "5", "--deep", "false", "--no_safe", "--trackers", "t"]
    model, run = parse(tmp_path, text, *flags)
    assert (model.size, model.rate, model.folders, model.counts, model.trackers) == (7, 0.5, ["c"], [4, 5], "t")
    assert run == Run("x", deep=False, safe=False)


def test_flags_do_without_a_file() -> None:
    assert parse_arguments((Model, Run), ["--output", "x", "--deep"]) == (Model(), Run("x", deep=True))
    with pytest.raises(ValueError, match="--output"):
        parse_arguments((Model, Run), [])


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("width: 3", [], "'width', which is not an argument"),
        ("help: true", [], "'help', which is not an argument"),
        ("1: 2\nsize: 3", [], "names 1, which is not an argument"),
        ("- size", [], "holds list"),
        ("only words", [], "holds str"),
        ("size: [", [], "is not YAML"),
        ("size: many", [], "size.*many"),
        ("size: 1.5", [], "size.*1.5"),
        ("size: true", [], "size.*True"),
        ("size: [1, 2]", [], r"size: \[1, 2\]; expected one value"),
        ("size: {a: 1}", [], "size.*; expected one value"),
        ("folders: []", [], r"folders: \[\]; expected a value"),
        ("counts: [1, x]", [], "counts.*x"),
        ("name: other", [], "name.*other.*plain"),
        ("deep: 3", [], "deep.*3"),
        ("size: 1", ["--width", "3"], "'--width' is not an argument"),
        ("size: 1", ["stray"], "'stray' is not an argument"),
        ("size: 1", ["--siz", "3"], "'--siz' is not an argument"),
        ("size: 1", ["--size", "many"], "size.*many"),
        ("size: 1", ["--size"], "size.*expected one argument"),
    ],
)
def test_what_does_not_fit_is_named(text: str, flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text, "--output", "x", *flags)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        parse_arguments((Model, Run), ["nowhere.yaml"])


@pytest.mark.parametrize("bad", [b"\xff\xfe\x00", b"size: \x00"])
def test_a_file_that_is_no_text_is_refused(bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(bad)
    with pytest.raises(ValueError):
        parse_arguments((Model, Run), [str(tmp_path / "config.yaml"), "--output", "x"])


def test_help_begins_with_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse_arguments((BackboneArguments, DataArguments, CalibrationArguments, EsproArguments), ["--help"])
    assert raised.value.code == 0
    told = capsys.readouterr().out
    assert "[CONFIG.yaml] [--argument value ...]" in told.splitlines()[0]
    assert all(flag in told for flag in ("--backbone", "--data_set", "--learning_rate", "--num_vertices"))


MINE = ["--backbone", "timm/resnet50.a1_in1k", "--data_set", "zalando-datasets/fashion_mnist"]


@pytest.mark.parametrize(("name", "flags"), [("quickstart", []), ("fine_tune", MINE), ("fine_tune_leaves", MINE)])
def test_the_configurations_that_come_along_are_valid(name: str, flags: list[str], tmp_path: Path) -> None:
    file = RECIPES / "configs" / f"{name}.yaml"
    kinds = (BackboneArguments, DataArguments, CalibrationArguments, EsproArguments)
    flags = ["--output_dir", str(tmp_path), "--use_cpu", *flags]
    backbone, _, calibration, args = parse_arguments(kinds, [str(file), *flags])
    apply_strategy(calibration.strategy, backbone, args)
    check(backbone, args)
    vertices = {"quickstart": 3, "fine_tune": 2, "fine_tune_leaves": 5}
    assert args.num_vertices == vertices[name] and args.report_to == []


def test_a_seed_of_splits_below_0_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="data_split_seed is -1: expected a number of at least 0"):
        parse_arguments((DataArguments,), ["--data_split_seed", "-1"])
