"""SimplexTrainer: one ordinary training run a vertex, in which nothing but that vertex moves."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import (
    Recorder,
    trainer,
    weights,
)
from tiny import KINDS, Images, backbone, ensemble, images, same
from transformers import (
    TrainerCallback,
    TrainingArguments,
)

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments


@pytest.mark.parametrize("kind", KINDS)
def test_growing_trains_the_mode_then_each_connector_then_draws_members(kind: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind)
    stages = run.grow()
    config = run.simplex.config
    assert config.roles == ["mode", "connector", "connector"] and config.simplexes == [[0, 1, 2]]
    assert [(stage["vertex"], stage["role"], stage["epochs"], stage["steps"]) for stage in stages] == [
        (0, "mode", 1.0, 3),
        (1, "connector", 1.0, 3),
        (2, "connector", 1.0, 3),
    ]
    assert all(stage["wall_time"] > 0 for stage in stages) and config.provenance["stages"] == stages
    assert stages[1]["log_volume"] > -20 and "log_volume" not in stages[0]
    assert len(config.members) == 2
    assert run.evaluate()["eval_loss"] == pytest.approx(
        float(run.simplex(Images(12).pixel_values, labels=Images(12).labels).loss), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_several_modes_train_from_the_same_weights_before_the_connectors(kind: str, tmp_path: Path) -> None:
    run = trainer(tmp_path / "two", kind, num_modes=2, num_members=None)
    start = weights(run.simplex, 0)
    recorder = Recorder(run.simplex)
    run.add_callback(recorder)
    stages = run.grow()
    config = run.simplex.config
    assert config.roles == ["mode", "mode", "connector"] and config.simplexes == [[0, 1, 2]]
    assert [(stage["vertex"], stage["role"]) for stage in stages] == [(0, "mode"), (1, "mode"), (2, "connector")]
    assert same(recorder.frozen[0][0], start) and same(recorder.frozen[0][1], start)
    assert same(recorder.frozen[1][1], start) and not same(weights(run.simplex, 1), start)
    # The first mode is that of a simplex with one; the others see the images in another order.
    alone = trainer(tmp_path / "one", kind, num_vertices=1, num_members=1)
    alone.grow()
    assert same(weights(alone.simplex, 0), weights(run.simplex, 0))
    assert not same(weights(run.simplex, 1), weights(run.simplex, 0))
    assert len(config.members) == 4


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_frozen_vertices_keep_every_bit_and_have_no_optimizer_state(kind: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind, weight_decay=50.0, volume_weight=1e-3)
    recorder = Recorder(run.simplex)
    run.add_callback(recorder)
    run.grow()
    own = [id(p) for p in run.simplex.backbone.parameters()]
    for stage, (optimized, vertices) in enumerate(zip(recorder.optimized, recorder.frozen, strict=True)):
        assert sorted(map(id, optimized)) == sorted(own)
        for vertex in range(stage):
            assert same(vertices[vertex], weights(run.simplex, vertex))
        assert not same(vertices[stage], weights(run.simplex, stage))
    assert not any(p.requires_grad for p in run.simplex.parameters())


def test_the_volume_term_makes_a_larger_simplex(tmp_path: Path) -> None:
    volumes = []
    for weight in (0.0, 0.5):
        run = trainer(
            tmp_path / str(weight),
            num_vertices=2,
            num_train_epochs=4,
            volume_weight=weight,
            volume_weight_scaling="none",
            max_grad_norm=0,
        )
        volumes.append(run.grow()[-1]["log_volume"])
    assert volumes[1] > volumes[0] + 0.1


def test_a_volume_target_bounds_the_volume(tmp_path: Path) -> None:
    volumes = {}
    for target in (None, 0.01, 0.1):
        run = trainer(
            tmp_path / str(target),
            num_vertices=2,
            num_train_epochs=6,
            volume_weight=0.5,
            volume_weight_scaling="none",
            volume_target=target,
            volume_measure="normalized",
            start_jitter=0.01,
            max_grad_norm=0,
        )
        volumes[target] = run.grow()[-1]["log_volume"]
    assert volumes[0.01] < min(volumes[None], volumes[0.1])


@pytest.mark.parametrize("frozen_vertices", ["cpu", "bfloat16"])
def test_frozen_vertices_kept_off_the_device_are_saved_unchanged(
    frozen_vertices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU stands for an accelerator, which fetches vertices from the CPU.
    monkeypatch.setattr("hf_simplex.training.placement.are_fetched", lambda device: True)
    ensemble("vit").save_pretrained(tmp_path / "before")
    grown = {}
    for where in ("device", frozen_vertices):
        model = SimplexForImageClassification.from_pretrained(tmp_path / "before")
        settings: dict[str, Any] = {"volume_weight": 0.05, "volume_weight_scaling": "none", "points_per_step": 2}
        run = trainer(tmp_path / where, model=model, num_vertices=4, frozen_vertices=where, **settings)
        run.grow()
        run.save_model(str(tmp_path / where))
        assert run.evaluate()["eval_loss"] > 0
        grown[where] = weights(model, 3)
        for vertex in range(3):
            name = f"vertex-{vertex:05d}.safetensors"
            assert (tmp_path / where / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    if frozen_vertices == "bfloat16":
        assert not same(grown["device"], grown["bfloat16"])
    else:
        for name, tensor in grown["device"].items():
            torch.testing.assert_close(grown["cpu"][name], tensor, rtol=1e-5, atol=1e-5)


def test_connectors_have_their_own_epochs_and_learning_rate(tmp_path: Path) -> None:
    run = trainer(tmp_path, connector_epochs=2, connector_learning_rate=0.0, volume_weight=0.0)
    stages = run.grow()
    assert [stage["epochs"] for stage in stages] == [1.0, 2.0, 2.0]
    mean = weights(run.simplex, 0)
    for name, parameter in run.simplex.vertices[1].named_parameters():
        assert torch.allclose(parameter, mean[name], atol=1e-7)


def test_connectors_have_their_own_schedule(tmp_path: Path) -> None:
    rates: dict[str, list[float]] = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.setdefault(Path(args.output_dir).name, []).append(optimizer.param_groups[0]["lr"])

    run = trainer(
        tmp_path,
        num_vertices=2,
        connector_learning_rate=0.02,
        lr_scheduler_type="linear",
        connector_lr_scheduler_type="constant",
    )
    run.add_callback(Watch)
    run.grow()
    mode, connector = rates["vertex-00000"], rates["vertex-00001"]
    assert len(mode) > 1 and mode == sorted(mode, reverse=True) and mode[-1] < mode[0]
    assert connector == [0.02] * len(connector) and len(connector) > 1


def test_several_simplexes_grow_into_components(tmp_path: Path) -> None:
    modes = [SimplexForImageClassification.from_backbone(backbone("vit", seed)) for seed in (0, 1)]
    run = trainer(tmp_path, model=SimplexForImageClassification.disjoint_union(modes))
    run.grow()
    assert run.simplex.config.simplexes == [[0, 2, 3], [1, 4, 5]]
    assert run.simplex.config.roles == ["mode", "mode", *["connector"] * 4]


@pytest.mark.parametrize("sampling", ["equal", "volume"])
def test_a_connector_may_join_several_simplexes(sampling: str, tmp_path: Path) -> None:
    modes = [SimplexForImageClassification.from_backbone(backbone("resnet", seed)) for seed in (0, 1)]
    run = trainer(
        tmp_path, model=SimplexForImageClassification.disjoint_union(modes), sampling=sampling, points_per_step=4
    )
    assert run.grow_connector() == 2
    assert run.simplex.config.simplexes == [[0, 2], [1, 2]]
    before = [weights(run.simplex, vertex) for vertex in range(3)]
    assert run.grow_connector() == 3
    assert run.simplex.config.simplexes == [[0, 2, 3], [1, 2, 3]]
    assert all(same(before[vertex], weights(run.simplex, vertex)) for vertex in range(3))
    run.draw_members()
    assert math.isfinite(run.evaluate()["eval_loss"])


def test_the_seed_decides_the_bits(tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = trainer(tmp_path / name, seed=seed)
        torch.rand(len(models))  # what happened before must not matter
        run.grow()
        models.append(run.simplex)
    assert all(same(weights(models[0], vertex), weights(models[1], vertex)) for vertex in range(3))
    assert not any(same(weights(models[0], vertex), weights(models[2], vertex)) for vertex in range(3))


def test_a_grown_ensemble_grows_further_round_the_same_vertices(tmp_path: Path) -> None:
    run = trainer(tmp_path / "first", num_vertices=2)
    run.grow()
    run.save_model(str(tmp_path / "saved"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "saved")
    before = [weights(loaded, vertex) for vertex in range(2)]
    further = trainer(tmp_path / "second", model=loaded)
    recorder = Recorder(loaded)
    further.add_callback(recorder)
    assert [stage["vertex"] for stage in further.grow()] == [0, 1, 2]
    assert len(recorder.optimized) == 1
    assert all(same(before[vertex], weights(loaded, vertex)) for vertex in range(2))


def test_a_connector_without_epochs_stays_at_the_mean(tmp_path: Path) -> None:
    run = trainer(tmp_path, model=ensemble("vit"), num_vertices=4, connector_epochs=0, volume_weight=1.0)
    stage = run.grow()[-1]
    assert stage["steps"] == 0 and math.isfinite(stage["log_volume"])
    found, others = weights(run.simplex, 3), [weights(run.simplex, vertex) for vertex in range(3)]
    for name, tensor in found.items():
        assert torch.allclose(tensor, sum(other[name] for other in others) / 3, atol=1e-6)


def test_bfloat16_weights_grow(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit").bfloat16(), dtype="bfloat16")
    run = trainer(tmp_path, model=model, num_vertices=2, volume_weight=0.5, volume_weight_scaling="none")
    run.grow()
    logs = [entry["log_volume"] for entry in run.state.log_history if "log_volume" in entry]
    assert logs == sorted(logs) and all(map(math.isfinite, logs))
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_evaluation_leaves_the_ensemble_unchanged(precision: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, model=ensemble("vit"), **{precision: True})
    before, expected = copy.deepcopy(run.simplex.state_dict()), run.simplex(images()).logits
    assert math.isfinite(run.evaluate()["eval_loss"])
    assert same(run.simplex.state_dict(), before)
    assert torch.equal(run.simplex(images()).logits, expected)
    # An evaluated ensemble must not answer for others that share its vertices.
    corner = run.simplex.with_members([[1.0, 0.0, 0.0]], [{}])
    assert torch.equal(corner(images()).logits, backbone("vit", 0)(images()).logits.log_softmax(-1))


def test_a_grown_ensemble_is_saved_and_train_is_grow(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    output = run.train()
    assert output.global_step == 9 and output.training_loss > 0
    run.save_model(str(tmp_path / "saved"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(images()).logits, run.simplex(images()).logits)


def test_by_default_the_members_are_the_vertices_and_the_centroid(tmp_path: Path) -> None:
    grown = trainer(tmp_path, "vit", num_vertices=2, num_members=None)
    grown.grow()
    assert grown.simplex.config.members == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    placed = trainer(tmp_path, "vit", num_vertices=2, num_members=None, member_rule="symmetric")
    placed.grow()
    first, second = placed.simplex.config.members
    assert first == pytest.approx([0.788675, 0.211325], abs=1e-6) and second == first[::-1]


def test_other_models_arguments_and_optimizers_are_refused(tmp_path: Path) -> None:
    args = SimplexTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TypeError, match="from_backbone"):
        SimplexTrainer(model=backbone("vit"), args=args)  # type: ignore[arg-type]
    plain = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TypeError, match="SimplexTrainingArguments, not TrainingArguments"):
        SimplexTrainer(model=ensemble("vit"), args=plain)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        trainer(tmp_path, trainer_arguments={"optimizers": (torch.optim.SGD([torch.zeros(1)]), None)})
    with pytest.raises(RuntimeError, match="not trained yet"):
        trainer(tmp_path).grow_connector()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_members": 1}, "one for each of 2 simplexes"),
        ({"num_members": None, "sampling": "volume"}, "num_members is not given"),
        ({"sampling": "volume", "num_vertices": 2}, r"sampling is 'volume'.*\[3, 2\] vertices"),
        ({"num_vertices": 4, "volume_weight": 1e-8}, "plain weight"),
        ({"num_modes": 4, "num_vertices": 4}, r"vertices \[0, 1, 2\] are trained already.*join"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_arguments_that_do_not_fit_the_complex_are_refused_before_any_training(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights so small that a random tetrahedron has a volume below 1, for which the paper's rule gives no weight.
    monkeypatch.setattr("hf_simplex.training.trainer.random_edge", lambda simplex: 2.0)
    untrained = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    united = SimplexForImageClassification.disjoint_union([ensemble("vit"), untrained])
    before = copy.deepcopy(united.state_dict())
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path / "out", model=united, **arguments).grow()
    assert same(united.state_dict(), before)
    assert united.config.roles[-1] == "pretrained" and not list((tmp_path / "out").iterdir())
