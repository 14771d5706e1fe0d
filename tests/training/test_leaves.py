"""Leaves: later modes of a simplex that start from its first trained mode, the trunk."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import CHECKPOINTED, Recorder, interrupted, trainer, weights
from tiny import KINDS, backbone, contents, ensemble, same

from hf_simplex import SimplexForImageClassification, SimplexTrainingArguments

LEAVES: dict[str, Any] = {"num_modes": 3, "mode_start": "first_mode"}
ADAPTERS = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}


def untrained(kind: str = "vit", seed: int = 0, choice: Any = "all") -> SimplexForImageClassification:
    return SimplexForImageClassification.from_backbone(
        backbone(kind, seed), fine_tuned=False, vertex_parameters=choice
    )


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_start_from_the_weights_and_batch_norm_statistics_of_the_trunk(kind: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind, leaf_epochs=0.0, **LEAVES)
    before = weights(run.simplex, 0)
    stages = run.grow()
    assert run.simplex.config.roles == ["mode"] * 3 and run.simplex.config.simplexes == [[0, 1, 2]]
    assert [(stage["vertex"], stage.get("start"), stage["steps"]) for stage in stages] == [
        (0, None, 3),
        (1, 0, 0),
        (2, 0, 0),
    ]
    assert not same(weights(run.simplex, 0), before)
    assert run.simplex.vertex_statistics(0).keys() == run.simplex.vertex_statistics(1).keys()
    for leaf in (1, 2):
        assert same(weights(run.simplex, leaf), weights(run.simplex, 0))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_leaf_is_an_ordinary_training_run_from_the_trunk(kind: str, tmp_path: Path) -> None:
    own: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 1, "seed": 5}
    run = trainer(tmp_path / "grown", kind, leaf_epochs=2.0, leaf_learning_rate=3e-2, **own, **LEAVES)
    recorder = Recorder(run.simplex)
    run.add_callback(recorder)
    stages = run.grow()
    assert [(stage["epochs"], stage["steps"]) for stage in stages] == [(1.0, 3), (2.0, 6), (2.0, 6)]
    trunk = weights(run.simplex, 0)
    assert same(recorder.frozen[1][0], trunk) and same(recorder.frozen[2][0], trunk)
    for leaf in (1, 2):
        module = backbone(kind)
        module.load_state_dict(trunk, strict=False)
        alone = trainer(
            tmp_path / str(leaf),
            model=SimplexForImageClassification.from_backbone(module, fine_tuned=False),
            num_vertices=1,
            num_members=1,
            num_train_epochs=2,
            learning_rate=3e-2,
            **{**own, "seed": 5 + leaf},
        )
        alone.grow()
        assert same(weights(run.simplex, leaf), weights(alone.simplex, 0))
        assert not same(weights(run.simplex, leaf), trunk)
    assert not same(weights(run.simplex, 1), weights(run.simplex, 2))


def test_leaves_train_as_their_trunk_unless_told_otherwise(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "default", "vit", **LEAVES)
    told = trainer(tmp_path / "told", "vit", leaf_epochs=1.0, leaf_learning_rate=1e-2, **LEAVES)
    for run in (whole, told):
        run.grow()
    assert all(same(weights(whole.simplex, vertex), weights(told.simplex, vertex)) for vertex in range(3))


def test_connectors_come_after_the_leaves(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", num_vertices=3, **{**LEAVES, "num_modes": 2})
    assert [(stage["role"], "start" in stage) for stage in run.grow()] == [
        ("mode", False),
        ("mode", True),
        ("connector", False),
    ]


def test_each_simplex_has_a_trunk_of_its_own(tmp_path: Path) -> None:
    united = SimplexForImageClassification.disjoint_union([untrained(seed=0), untrained(seed=1)])
    run = trainer(tmp_path, model=united, num_vertices=2, leaf_epochs=0.0, **{**LEAVES, "num_modes": 2})
    stages = run.grow()
    assert run.simplex.config.simplexes == [[0, 2], [1, 3]]
    assert [(stage["vertex"], stage.get("start")) for stage in stages] == [(0, None), (1, None), (2, 0), (3, 1)]
    assert same(weights(united, 2), weights(united, 0)) and same(weights(united, 3), weights(united, 1))
    assert not same(weights(united, 2), weights(united, 3))


def test_a_given_mode_is_the_trunk_and_stays_as_it_is(tmp_path: Path) -> None:
    given = SimplexForImageClassification.from_backbone(backbone("resnet"))
    before = weights(given, 0)
    run = trainer(tmp_path, model=given, **LEAVES)
    assert [(stage["vertex"], stage["start"]) for stage in run.grow()] == [(1, 0), (2, 0)]
    assert same(weights(given, 0), before) and not same(weights(given, 1), before)


@pytest.mark.parametrize("choice", ["head", "*layers.1*", ADAPTERS], ids=["head", "pattern", "lora"])
def test_leaves_differ_in_the_vertex_parameters_only(choice: Any, tmp_path: Path) -> None:
    model = untrained(choice=choice)
    shared = {name: tensor.clone() for name, tensor in model.shared.tensors().items()}
    trainer(tmp_path / "start", model=model, leaf_epochs=0.0, **LEAVES).grow()
    assert same(weights(model, 1), weights(model, 0))
    grown = untrained(choice=choice)
    trainer(tmp_path / "grown", model=grown, **LEAVES).grow()
    assert same(weights(grown, 0), weights(model, 0)) and not same(weights(grown, 1), weights(grown, 0))
    assert shared and same(dict(grown.shared.tensors()), shared)


# ---- resumption ----------------------------------------------------------------------------------------------------


def files(path: Path) -> dict[str, bytes]:
    """The weight files of the ensemble in a folder."""
    return {name: held for name, held in contents(path).items() if "/" not in name and name.endswith(".safetensors")}


@pytest.mark.parametrize(
    ("choice", "kind", "vertex", "step"),
    [("all", "resnet", 1, 2), ("all", "resnet", 2, 0), ("all", "vit", 2, 1), (ADAPTERS, "vit", 1, 1)],
)
def test_a_run_interrupted_in_a_leaf_resumes_to_the_same_bytes(
    choice: Any, kind: str, vertex: int, step: int, tmp_path: Path
) -> None:
    settings = {"leaf_learning_rate": 2e-2, **LEAVES, **CHECKPOINTED}
    whole = trainer(tmp_path / "whole", model=untrained(kind, choice=choice), **settings)
    whole.grow()
    interrupted(tmp_path / "cut", vertex, step, model=untrained(kind, choice=choice), **settings)
    resumed = trainer(tmp_path / "cut", model=untrained(kind, choice=choice), **settings)
    stages = resumed.grow(resume_from_checkpoint=True)
    assert [(stage["vertex"], stage.get("start")) for stage in stages] == [(0, None), (1, 0), (2, 0)]
    assert len(files(tmp_path / "whole")) >= 3 and files(tmp_path / "cut") == files(tmp_path / "whole")


def test_leaves_of_a_given_trunk_resume_to_the_same_bytes(tmp_path: Path) -> None:
    settings = {**LEAVES, **CHECKPOINTED}
    given = [SimplexForImageClassification.from_backbone(backbone("vit")) for _ in range(3)]
    trainer(tmp_path / "whole", model=given[0], **settings).grow()
    interrupted(tmp_path / "cut", 2, 1, model=given[1], **settings)
    trainer(tmp_path / "cut", model=given[2], **settings).grow(resume_from_checkpoint=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its first leaf."""
    path = tmp_path_factory.mktemp("cut")
    interrupted(path, 1, 2, kind="vit", leaf_epochs=2.0, **LEAVES, **CHECKPOINTED)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leaf_epochs": 1.0}, "leaf_epochs was 2.0 and is 1.0"),
        ({"leaf_learning_rate": 0.5}, "leaf_learning_rate was None and is 0.5"),
        ({"mode_start": "backbone", "leaf_epochs": None}, "mode_start was 'first_mode' and is 'backbone'"),
    ],
)
def test_another_start_or_other_leaves_are_another_run(arguments: dict[str, Any], message: str, cut: Path) -> None:
    run = trainer(cut, "vit", **{**LEAVES, **CHECKPOINTED, "leaf_epochs": 2.0, **arguments})
    with pytest.raises(ValueError, match=re.escape(message)):
        run.grow(resume_from_checkpoint=True)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode_start": "trunk"}, "mode_start is 'trunk': choose from backbone, first_mode"),
        ({"mode_start": "first_mode"}, "num_modes 1: expected at least 2 modes"),
        ({"leaf_epochs": 2.0, "num_modes": 2}, "leaf_epochs is 2.0, but mode_start is 'backbone'.*mode_start"),
        ({"leaf_learning_rate": 0.1}, "leaf_learning_rate is 0.1, but mode_start is 'backbone'"),
        ({"leaf_epochs": -1.0, **LEAVES}, "leaf_epochs is -1.0: expected a finite number of at least 0"),
        ({"leaf_epochs": float("inf"), **LEAVES}, "leaf_epochs is inf"),
        ({"leaf_learning_rate": float("nan"), **LEAVES}, "leaf_learning_rate is nan"),
    ],
)
def test_arguments_of_leaves_that_do_not_fit_are_named(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexTrainingArguments(str(tmp_path), use_cpu=True, **arguments)


def test_modes_after_a_given_mode_need_a_start(tmp_path: Path) -> None:
    given = SimplexForImageClassification.from_backbone(backbone("vit"))
    with pytest.raises(ValueError, match=r"vertices \[0\] are trained already.*mode_start 'first_mode'"):
        trainer(tmp_path, model=given, num_modes=2).grow()
    with pytest.raises(ValueError, match=r"of vertices \[0, 1, 2\] some are connectors"):
        trainer(tmp_path, model=ensemble("vit"), num_vertices=4, **{**LEAVES, "num_modes": 4}).grow()
    assert given.config.num_vertices == 1 and torch.equal(given.weights[0]["classifier.bias"], torch.zeros(3))
