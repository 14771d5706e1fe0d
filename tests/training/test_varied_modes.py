"""Modes that differ mildly: each trains with its own learning rate and label smoothing, everything else as before."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import CHECKPOINTED, interrupted, trainer, weights
from tiny import backbone, contents, same
from torch import nn
from transformers import TrainerCallback

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.training.card_evidence import shown_arguments

VARIED: dict[str, Any] = {"mode_learning_rates": [1.0, 2.0], "mode_label_smoothing": [0.0, 0.3]}
MODES: dict[str, Any] = {"num_modes": 2, "num_vertices": 2}


def untrained(kind: str = "vit", seed: int = 0) -> SimplexForImageClassification:
    return SimplexForImageClassification.from_backbone(backbone(kind, seed), fine_tuned=False)


def plain(path: Path, kind: str = "vit", **arguments: Any) -> SimplexTrainer:
    """A run of one mode."""
    return trainer(path, kind, num_vertices=1, num_members=1, **arguments)


def told(stages: list[dict[str, Any]]) -> list[tuple[int, float | None, float | None]]:
    """Vertex, learning rate and label smoothing of each stage."""
    return [(stage["vertex"], stage.get("learning_rate"), stage.get("label_smoothing")) for stage in stages]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_mode_with_twice_the_rate_is_a_plain_run_with_twice_the_rate(kind: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 1, "num_train_epochs": 2}
    run = trainer(tmp_path / "varied", kind, seed=5, mode_learning_rates=[1, 2], **MODES, **settings)
    assert told(run.grow()) == [(0, None, None), (1, 0.02, None)]
    for vertex, rate in enumerate((1e-2, 2e-2)):
        alone = plain(tmp_path / str(vertex), kind, learning_rate=rate, seed=5 + vertex, **settings)
        alone.grow()
        assert same(weights(run.simplex, vertex), weights(alone.simplex, 0))
    # Alone, the rate of the run gives other weights.
    other = plain(tmp_path / "other", kind, seed=6, **settings)
    other.grow()
    assert not same(weights(run.simplex, 1), weights(other.simplex, 0))


class EvaluationLosses(TrainerCallback):
    """Records the evaluation losses of the stages."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_evaluate(self, args, state, control, metrics, **kwargs):  # type: ignore[no-untyped-def]
        self.losses.append(metrics["eval_loss"])


@pytest.mark.parametrize(("run_smoothing", "smoothing"), [(0.0, [0.0, 0.3]), (0.2, [0.0, 0.3]), (0.3, [0.3, 0.0])])
def test_a_mode_with_label_smoothing_is_a_plain_run_with_it_and_evaluates_with_it(
    run_smoothing: float, smoothing: list[float], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"eval_strategy": "epoch", "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    found, expected = EvaluationLosses(), EvaluationLosses()
    run = trainer(
        tmp_path / "varied",
        "vit",
        label_smoothing_factor=run_smoothing,
        mode_label_smoothing=smoothing,
        trainer_arguments={"callbacks": [found]},
        **MODES,
        **settings,
    )
    stages = run.grow()
    assert told(stages) == [(i, None, own if own != run_smoothing else None) for i, own in enumerate(smoothing)]
    for vertex, own in enumerate(smoothing):
        alone = plain(
            tmp_path / str(vertex),
            label_smoothing_factor=own,
            seed=run.args.seed + vertex,
            trainer_arguments={"callbacks": [expected]},
            **settings,
        )
        assert alone.grow()[0]["loss"] == stages[vertex]["loss"]
        assert same(weights(run.simplex, vertex), weights(alone.simplex, 0))
    assert len(found.losses) == 4 and found.losses == expected.losses

    assert run.args.label_smoothing_factor == run_smoothing
    same_members = trainer(tmp_path / "same", model=run.simplex, label_smoothing_factor=run_smoothing, **MODES)
    assert run.evaluate()["eval_loss"] == same_members.evaluate()["eval_loss"], "the ensemble: that of the run"


def test_an_interrupted_mode_leaves_the_smoothing_of_the_run(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 1, 1, kind="vit", label_smoothing_factor=0.1, mode_label_smoothing=[0.3], **MODES)
    assert run.label_smoother is not None and run.label_smoother.epsilon == 0.1


def test_connectors_are_not_varied(tmp_path: Path) -> None:
    grown = trainer(tmp_path / "grown", "vit", **{**MODES, "num_vertices": 3}, **VARIED)
    assert told(grown.grow()) == [(0, None, None), (1, 0.02, 0.3), (2, None, None)]
    modes = trainer(tmp_path / "modes", "vit", **MODES, **VARIED)
    modes.grow()
    # The connector of a run without lists, of the same modes.
    apart = trainer(tmp_path / "apart", model=modes.simplex, num_modes=2)
    apart.grow()
    assert same(weights(grown.simplex, 1), weights(apart.simplex, 1))
    assert same(weights(grown.simplex, 2), weights(apart.simplex, 2))


def test_the_trunk_is_mode_0_and_leaves_are_not_varied(tmp_path: Path) -> None:
    leaves: dict[str, Any] = {"mode_start": "first_mode", "num_modes": 3, "leaf_learning_rate": 3e-2}
    varied = trainer(
        tmp_path / "varied", "vit", mode_learning_rates=[2.0, 4.0], mode_label_smoothing=[0.3, 0.5], **leaves
    )
    assert told(varied.grow()) == [(0, 0.02, 0.3), (1, None, None), (2, None, None)]
    trunk = plain(tmp_path / "trunk", learning_rate=2e-2, label_smoothing_factor=0.3)
    trunk.grow()
    assert same(weights(varied.simplex, 0), weights(trunk.simplex, 0))
    apart = trainer(tmp_path / "apart", model=trunk.simplex, **leaves)
    apart.grow()
    assert all(same(weights(varied.simplex, vertex), weights(apart.simplex, vertex)) for vertex in (1, 2))

    united = SimplexForImageClassification.disjoint_union([untrained(), untrained(seed=1)])
    two: dict[str, Any] = {**leaves, **MODES, "num_train_epochs": 0}
    several = trainer(tmp_path / "several", model=united, **two, **VARIED)
    assert told(several.grow()) == [(0, None, None), (1, 0.02, 0.3), (2, None, None), (3, None, None)]


def test_modes_of_several_simplexes_count_as_those_of_components(tmp_path: Path) -> None:
    united = SimplexForImageClassification.disjoint_union([untrained(), untrained(seed=1)])
    run = trainer(tmp_path, model=united, num_train_epochs=0, mode_learning_rates=[1.0, 2.0, 3.0], **MODES)
    stages = run.grow()
    assert run.simplex.config.simplexes == [[0, 2], [1, 3]]
    assert told(stages) == [(0, None, None), (1, 3e-2, None), (2, 2e-2, None), (3, None, None)]


# ---- resumption ----------------------------------------------------------------------------------------------------


def files(path: Path) -> dict[str, bytes]:
    """The weight files of the ensemble in a folder."""
    return {name: held for name, held in contents(path).items() if "/" not in name and name.endswith(".safetensors")}


@pytest.mark.parametrize(("kind", "step"), [("resnet", 0), ("vit", 2)])
def test_a_run_interrupted_in_a_varied_mode_resumes_to_the_same_bytes(kind: str, step: int, tmp_path: Path) -> None:
    settings = {**MODES, **VARIED, **CHECKPOINTED}
    whole = trainer(tmp_path / "whole", kind, **settings)
    whole.grow()
    interrupted(tmp_path / "cut", 1, step, kind=kind, **settings)
    resumed = trainer(tmp_path / "cut", kind, **settings)
    stages = resumed.grow(resume_from_checkpoint=True)
    assert told(stages) == [(0, None, None), (1, 0.02, 0.3)]
    assert stages[1]["loss"] == whole.simplex.config.provenance["stages"][1]["loss"]
    assert len(files(tmp_path / "whole")) == 2 and files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its second mode."""
    path = tmp_path_factory.mktemp("cut")
    interrupted(path, 1, 2, kind="vit", **MODES, **VARIED, **CHECKPOINTED)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode_learning_rates": [1.0, 3.0]}, "mode_learning_rates was [1.0, 2.0] and is [1.0, 3.0]"),
        ({"mode_learning_rates": None}, "mode_learning_rates was [1.0, 2.0] and is None"),
        ({"mode_label_smoothing": [0.3]}, "mode_label_smoothing was [0.0, 0.3] and is [0.3]"),
    ],
)
def test_other_lists_are_another_run(arguments: dict[str, Any], message: str, cut: Path) -> None:
    run = trainer(cut, "vit", **{**MODES, **VARIED, **CHECKPOINTED, **arguments})
    with pytest.raises(ValueError, match=re.escape(message)):
        run.grow(resume_from_checkpoint=True)


def test_equal_lists_are_the_same_run(cut: Path) -> None:
    lists = {"mode_learning_rates": (1, 2), "mode_label_smoothing": [0, 0.3]}
    trainer(cut, "vit", **MODES, **lists, **CHECKPOINTED).check_resume()


# ---- what is shown and refused -------------------------------------------------------------------------------------


def test_a_card_shows_the_lists(tmp_path: Path) -> None:
    shown = shown_arguments(SimplexTrainingArguments(str(tmp_path), use_cpu=True, **VARIED))
    assert {name: shown[name] for name in VARIED} == VARIED
    assert not VARIED.keys() & shown_arguments(SimplexTrainingArguments(str(tmp_path), use_cpu=True)).keys()


@pytest.mark.parametrize("value", [[], [0.0], [1.0, -1.0], [float("nan")], [1.0, float("inf")], ["2"], 2.0, [None]])
def test_multiples_of_the_learning_rate_are_positive_and_finite(value: Any, tmp_path: Path) -> None:
    message = f"mode_learning_rates is {value!r}: expected a list of finite numbers above 0, one for each mode"
    with pytest.raises(ValueError, match=re.escape(message)):
        SimplexTrainingArguments(str(tmp_path), use_cpu=True, mode_learning_rates=value)


@pytest.mark.parametrize("value", [[], [1.0], [0.1, -0.1], [float("nan")], [float("inf")], ["0.1"], 0.1])
def test_label_smoothing_is_at_least_0_and_below_1(value: Any, tmp_path: Path) -> None:
    message = f"mode_label_smoothing is {value!r}: expected a list of numbers of at least 0 and below 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        SimplexTrainingArguments(str(tmp_path), use_cpu=True, mode_label_smoothing=value)


def test_a_loss_that_would_ignore_the_label_smoothing_is_refused(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels)

    with pytest.raises(ValueError, match=r"mode_label_smoothing is \[0\.1\], but compute_loss_func"):
        trainer(tmp_path, "vit", mode_label_smoothing=[0.1], trainer_arguments={"compute_loss_func": loss})
