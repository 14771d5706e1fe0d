"""SimplexTrainer: one ordinary training run a vertex, in which nothing but that vertex moves."""

import contextlib
import copy
import gc
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import KINDS, Images, backbone, ensemble, images
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.training.preemption import EXIT_CODE
from hf_simplex.training.spro import GrowingVertex
from hf_simplex.training.trainer import NonFiniteError


@pytest.fixture(scope="module", autouse=True)
def _imported_modules_are_no_garbage() -> Iterator[None]:
    """Each stage collects garbage, which takes ten times as long as the stage while it looks through all imports."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def trainer(
    path: Path,
    kind: str = "resnet",
    model: SimplexForImageClassification | None = None,
    number: int = 24,
    trainer_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> SimplexTrainer:
    settings: dict[str, Any] = {
        "num_vertices": 3,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "num_members": 2,
        "batch_norm_images": 16,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if model is None:
        model = SimplexForImageClassification.from_backbone(backbone(kind), fine_tuned=False)
    return SimplexTrainer(
        model=model,
        args=SimplexTrainingArguments(str(path), **{**settings, **arguments}),
        train_dataset=Images(number),
        eval_dataset=Images(12),
        **(trainer_arguments or {}),
    )


def weights(model: SimplexForImageClassification, vertex: int) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.weights[vertex].items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Recorder(TrainerCallback):
    """Keeps what a stage's optimizer holds and the vertices as they were when the stage began."""

    def __init__(self, model: SimplexForImageClassification) -> None:
        self.model = model
        self.optimized: list[list[torch.Tensor]] = []
        self.frozen: list[list[dict[str, torch.Tensor]]] = []

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):  # type: ignore[no-untyped-def]
        self.optimized.append([p for group in optimizer.param_groups for p in group["params"]])
        self.frozen.append([weights(self.model, vertex) for vertex in range(self.model.config.num_vertices)])

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        assert all(p.grad is None for vertex in self.model.vertices for p in vertex.parameters())


# ---- growing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_growing_trains_the_mode_then_a_connector_at_a_time_then_draws_members(kind: str, tmp_path: Path) -> None:
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
    assert len(config.members) == 3


def test_a_run_that_is_interrupted_in_a_further_mode_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_modes": 2, **CHECKPOINTED}
    whole = trainer(tmp_path / "whole", "resnet", **settings)
    whole.grow()
    interrupted(tmp_path / "cut", 1, 2, **settings)
    resumed = trainer(tmp_path / "cut", "resnet", **settings)
    resumed.grow(resume_from_checkpoint=True)
    assert resumed.simplex.config.roles == ["mode", "mode", "connector"]
    for vertex in range(3):
        assert same(weights(resumed.simplex, vertex), weights(whole.simplex, vertex))


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


def test_each_step_logs_loss_log_volume_and_the_regularizers_share(tmp_path: Path) -> None:
    run = trainer(tmp_path, volume_weight=1e-2, volume_weight_scaling="none")
    run.grow()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [1, 2, 3]
    for entry in logs:
        # The first is that of the mean of the others, where the simplex has no volume at all.
        assert math.isfinite(entry["log_volume"])
        assert entry["regularizer"] == pytest.approx(-1e-2 * entry["log_volume"])
        share = abs(entry["regularizer"]) / (abs(entry["regularizer"]) + entry["loss"])
        assert entry["regularizer_share"] == pytest.approx(share)


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


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_volume_is_added_at_every_so_many_steps_that_many_times(
    accumulated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[int, float]] = []
    settings: dict[str, Any] = {"volume_weight": 0.05, "volume_weight_scaling": "none", "volume_interval": 2}
    run = trainer(
        tmp_path,
        "vit",
        model=ensemble("vit"),
        num_vertices=4,
        num_train_epochs=5,
        gradient_accumulation_steps=accumulated,
        per_device_train_batch_size=8 // accumulated,
        **settings,
    )
    add = GrowingVertex.add_volume_gradient

    def noting(growing: GrowingVertex, scale: float = 1.0) -> Any:
        added.append((run.state.global_step + 1, scale))
        return add(growing, scale)

    monkeypatch.setattr(GrowingVertex, "add_volume_gradient", noting)
    run.grow()
    assert added == [(step, 2.0) for step in range(2, 16, 2)]
    logged = [entry["log_volume"] for entry in run.state.log_history if "log_volume" in entry]
    assert len(logged) == 15 and logged[1] == logged[2] != logged[3]


def test_a_target_keeps_the_volume_from_growing_without_end(tmp_path: Path) -> None:
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
def test_frozen_vertices_that_are_kept_elsewhere_are_saved_as_they_were(
    frozen_vertices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU is taken for an accelerator, which fetches what is kept on the CPU.
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


def test_the_next_step_draws_the_point_that_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_simplex.training.placement.are_fetched", lambda device: True)
    announced: list[list[float]] = []
    written: list[list[float]] = []
    prefetch, at = GrowingVertex.prefetch, GrowingVertex.at

    def announcing(growing: GrowingVertex, point: list[float]) -> None:
        announced.append(point)
        prefetch(growing, point)

    def writing(growing: GrowingVertex, point: list[float]) -> Any:
        written.append(point)
        return at(growing, point)

    monkeypatch.setattr(GrowingVertex, "prefetch", announcing)
    monkeypatch.setattr(GrowingVertex, "at", writing)
    run = trainer(
        tmp_path,
        "vit",
        model=ensemble("vit"),
        num_vertices=4,
        frozen_vertices="cpu",
        points_per_step=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    run.grow()
    assert len(written) == 12 and announced[:-1] == written[1:]


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


def test_a_schedule_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="connector_lr_scheduler_type is 'flat': choose from linear, cosine"):
        SimplexTrainingArguments(str(tmp_path), use_cpu=True, connector_lr_scheduler_type="flat")


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


def test_the_same_seed_gives_the_same_bits_and_another_other_bits(tmp_path: Path) -> None:
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


def test_a_connector_that_gets_no_epochs_stays_at_the_mean(tmp_path: Path) -> None:
    run = trainer(tmp_path, model=ensemble("vit"), num_vertices=4, connector_epochs=0, volume_weight=1.0)
    stage = run.grow()[-1]
    assert stage["steps"] == 0 and math.isfinite(stage["log_volume"])
    found, others = weights(run.simplex, 3), [weights(run.simplex, vertex) for vertex in range(3)]
    for name, tensor in found.items():
        assert torch.allclose(tensor, sum(other[name] for other in others) / 3, atol=1e-6)


def test_every_stage_has_its_own_order_of_the_data(tmp_path: Path) -> None:
    for arguments in ({}, {"data_seed": 5}):
        seen: list[int] = []

        class Watched(Images):
            def __getitem__(self, index: int, seen: list[int] = seen) -> dict[str, torch.Tensor]:
                seen.append(int(index))
                return super().__getitem__(index)

        run = trainer(tmp_path / str(arguments), "vit", **arguments)
        run.train_dataset = Watched()
        run.grow()
        orders = [tuple(seen[start : start + 24]) for start in (0, 24, 48)]
        assert all(sorted(order) == list(range(24)) for order in orders)
        assert len(set(orders)) == 3


def test_processes_start_a_vertex_alike_and_draw_points_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, points = [], []
    for process in (0, 1):
        monkeypatch.setattr(SimplexTrainingArguments, "process_index", property(lambda self, index=process: index))
        run = trainer(
            tmp_path / str(process), model=ensemble("vit"), num_vertices=4, connector_epochs=0, start_jitter=0.1
        )
        run.grow()
        starts.append(weights(run.simplex, 3))
        points.append(torch.rand(3, generator=run._step_generator()))
    assert same(starts[0], starts[1])
    assert not torch.equal(points[0], points[1])


# ---- one step --------------------------------------------------------------------------------------------------

POINTS = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.1, 0.4], [0.05, 0.15, 0.0, 0.8], [0.25, 0.3, 0.35, 0.1]]
VOLUME_WEIGHT = 0.05


class FirstStep(TrainerCallback):
    """The growing vertex, its gradient and what the optimizer is about to see of it, at a stage's first step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.vertex: dict[str, torch.Tensor] = {}
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.vertex = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.gradient = {name: p.grad.clone() for name, p in self.module.named_parameters()}
        self.checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in self.module.modules())


def objective(
    kind: str, vertices: list[dict[str, torch.Tensor]], parts: list[tuple[list[int], float]], smoothing: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss, and the gradient of the whole objective for the last vertex, in float64 and by autograd.

    Part h of the data is seen at point h, which is a differentiable sum of the vertices, and counts by its share.
    """
    *frozen, theta = [{name: tensor.double() for name, tensor in vertex.items()} for vertex in vertices]
    theta = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    module, data = backbone(kind).double().train(), Images()
    loss = torch.zeros((), dtype=torch.float64)
    for (part, share), point in zip(parts, POINTS, strict=False):
        phi = {name: sum(c * v[name] for c, v in zip(point, [*frozen, theta], strict=True)) for name in theta}
        output = torch.func.functional_call(module, phi, kwargs={"pixel_values": data.pixel_values[part].double()})
        loss = loss + share * torch.nn.functional.cross_entropy(
            output.logits, data.labels[part], label_smoothing=smoothing
        )
    flat = torch.stack([torch.cat([vertex[name].flatten() for name in theta]) for vertex in [*frozen, theta]])
    edges = flat[:-1] - flat[-1]
    (loss - VOLUME_WEIGHT * 0.5 * torch.logdet(edges @ edges.T)).backward()
    return float(loss.detach()), {name: tensor.grad for name, tensor in theta.items()}


def summed_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


EVERYTHING = list(range(8))
THIRDS = [([0, 1, 2], 3 / 8), ([3, 4, 5], 3 / 8), ([6, 7], 2 / 8)]
THRICE = [(EVERYTHING, 1 / 3)] * 3
ACCUMULATED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
ITEMS = {"trainer_arguments": {"compute_loss_func": summed_loss}}


@pytest.mark.parametrize(
    ("kind", "arguments", "parts"),
    [
        ("vit", {}, [(EVERYTHING, 1.0)]),
        ("vit", {"points_per_step": 3}, THIRDS),
        ("timm", {"points_per_step": 2}, [([0, 1, 2, 3], 1 / 2), ([4, 5, 6, 7], 1 / 2)]),
        ("vit", {"points_per_step": 3, "point_batches": "full"}, THRICE),
        ("resnet", {"points_per_step": 3, "point_batches": "full"}, THRICE),
        ("vit", {"points_per_step": 3, "label_smoothing_factor": 0.2}, THIRDS),
        ("vit", {"points_per_step": 3, "gradient_checkpointing": True}, THIRDS),
        ("vit", ACCUMULATED, [([0, 1, 2, 3], 1 / 2), ([4, 5, 6, 7], 1 / 2)]),
        (
            "vit",
            {**ACCUMULATED, "points_per_step": 2, "point_batches": "full"},
            [([0, 1, 2, 3], 1 / 4)] * 2 + [([4, 5, 6, 7], 1 / 4)] * 2,
        ),
        ("vit", {"points_per_step": 3, **ITEMS}, THIRDS),
        ("vit", {"points_per_step": 3, "point_batches": "full", **ITEMS}, THRICE),
        # Seven images make batches of four and three; with a count of items each image weighs the same.
        (
            "vit",
            {**ACCUMULATED, "number": 7, "points_per_step": 2, **ITEMS},
            [([0, 1], 2 / 7), ([2, 3], 2 / 7), ([4, 5], 2 / 7), ([6], 1 / 7)],
        ),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_a_step_sees_the_objective_and_its_gradient_at_the_drawn_points(
    kind: str,
    arguments: dict[str, Any],
    parts: list[tuple[list[int], float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(POINTS)
    monkeypatch.setattr(GrowingVertex, "draw", lambda self, number, generator: [next(left) for _ in range(number)])
    settings = {
        "number": 8,
        "max_steps": 1,
        "max_grad_norm": 0,
        "start_jitter": 0.1,
        "train_sampling_strategy": "sequential",
        "volume_weight": VOLUME_WEIGHT,
        "volume_weight_scaling": "none",
    }
    run = trainer(tmp_path, model=ensemble(kind), **{**settings, **arguments})
    seen = FirstStep(run.simplex.backbone)
    run.add_callback(seen)
    run.grow_connector()
    vertices = [weights(run.simplex, index) for index in range(3)]
    loss, gradient = objective(kind, [*vertices, seen.vertex], parts, arguments.get("label_smoothing_factor", 0.0))
    assert run.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    scale = max(float(tensor.abs().max()) for tensor in gradient.values())
    for name, tensor in gradient.items():
        assert torch.allclose(seen.gradient[name].double(), tensor, rtol=1e-3, atol=1e-5 * scale), name
    assert len(list(left)) == len(POINTS) - len(parts)
    assert seen.checkpointing == arguments.get("gradient_checkpointing", False)


def test_a_step_with_a_gradient_scaler_is_the_step_without_it(tmp_path: Path) -> None:
    vertices = []
    for name, scaler in (("plain", None), ("scaled", torch.amp.GradScaler("cpu", init_scale=1024.0))):
        run = trainer(
            tmp_path / name,
            model=ensemble("vit"),
            max_steps=1,
            max_grad_norm=0,
            optim="sgd",
            start_jitter=0.1,
            volume_weight=VOLUME_WEIGHT,
            volume_weight_scaling="none",
            save_strategy="no",
        )
        run.accelerator.scaler = scaler
        run.grow_connector()
        vertices.append(weights(run.simplex, 3))
    for name, tensor in vertices[0].items():
        torch.testing.assert_close(vertices[1][name], tensor, rtol=1e-6, atol=1e-7)


def test_points_differ_between_steps_and_stages_and_are_the_same_again(tmp_path: Path) -> None:
    drawn: list[list[list[tuple[float, ...]]]] = []
    for name in "ab":
        run = trainer(tmp_path / name, points_per_step=2)
        points: list[tuple[float, ...]] = []
        original = run._step_generator

        def watched(original: Any = original, points: list[Any] = points) -> torch.Generator:
            generator = original()
            state = generator.get_state()
            points.append(tuple(torch.rand(2, generator=generator).tolist()))
            generator.set_state(state)
            return generator

        run._step_generator = watched  # type: ignore[method-assign]
        run.grow()
        drawn.append(points)  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0]) == 6  # type: ignore[arg-type]


# ---- TrainingArguments keep working ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": 21, "points_per_step": 2},
        {"bf16": True},
        {"optim": "sgd", "lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"max_steps": 2, "dataloader_num_workers": 1},
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_training_arguments_keep_working(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", **arguments)
    assert all(torch.isfinite(torch.tensor(stage["loss"])) for stage in run.grow())
    assert type(run.simplex.backbone).forward is run.simplex.backbone.forward.__func__


def test_stages_evaluate_their_vertex_keep_the_best_and_stop_early(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        num_train_epochs=6,
        learning_rate=0.0,
        volume_weight=0.0,
        trainer_arguments={"callbacks": [EarlyStoppingCallback(1)]},
    )
    stages = run.grow()
    assert all(stage["epochs"] < 6 for stage in stages)
    assert all("eval_loss" in entry for entry in run.state.log_history if "eval_runtime" in entry)


def test_the_best_checkpoint_becomes_the_vertex(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        "vit",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        num_train_epochs=3,
        learning_rate=0.5,
        num_vertices=2,
    )
    run.grow()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = min(losses, key=lambda step: losses[step])
    assert losses[best] < max(losses.values())
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "vertex-00001" / f"checkpoint-{best}")
    assert same(weights(run.simplex, 1), dict(saved.state_dict()))


class Stream(IterableDataset):
    """Images without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        data = Images()
        yield from (data[index] for index in range(len(data)))


def rows() -> Iterator[dict[str, Any]]:
    for row in Stream():
        yield {"pixel_values": row["pixel_values"].numpy(), "labels": int(row["labels"]), "name": "not for the model"}


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("hub", [False, True], ids=["torch", "datasets"])
def test_streamed_images_train_by_steps(kind: str, hub: bool, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind, max_steps=2, num_vertices=2)
    run.train_dataset = datasets.IterableDataset.from_generator(rows).with_format("torch") if hub else Stream()
    assert [stage["steps"] for stage in run.grow()] == [2, 2]
    assert len(run.simplex.config.members) == 2


def test_weights_of_low_precision_grow_too(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit").bfloat16())
    run = trainer(tmp_path, model=model, num_vertices=2, volume_weight=0.5, volume_weight_scaling="none")
    run.grow()
    logs = [entry["log_volume"] for entry in run.state.log_history if "log_volume" in entry]
    assert logs == sorted(logs) and all(map(math.isfinite, logs))
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_evaluating_leaves_the_ensemble_as_it_was(precision: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, model=ensemble("vit"), **{precision: True})
    before, expected = copy.deepcopy(run.simplex.state_dict()), run.simplex(images()).logits
    assert math.isfinite(run.evaluate()["eval_loss"])
    assert same(run.simplex.state_dict(), before)
    assert torch.equal(run.simplex(images()).logits, expected)
    # An evaluated ensemble must not answer for others that share its vertices.
    corner = run.simplex.with_members([[1.0, 0.0, 0.0]], [{}])
    assert torch.equal(corner(images()).logits, backbone("vit", 0)(images()).logits.log_softmax(-1))


def test_a_checkpoint_of_a_stage_is_one_plain_backbone(tmp_path: Path) -> None:
    run = trainer(tmp_path, "timm", save_strategy="epoch")
    run.grow()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "vertex-00002" / "checkpoint-3")
    parameters = dict(saved.named_parameters())
    assert all(torch.equal(parameters[name], p) for name, p in run.simplex.vertices[2].named_parameters())
    assert SimplexForImageClassification.from_pretrained(tmp_path).config.roles == run.simplex.config.roles


class Crash(TrainerCallback):
    """Interrupts a stage when so many of its steps are done; 0 is before its first."""

    def __init__(self, vertex: int, step: int) -> None:
        self.vertex, self.step = vertex, step

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith(str(self.vertex)) and state.global_step == self.step:
            raise KeyboardInterrupt

    on_step_end = on_train_begin


def interrupted(path: Path, vertex: int, step: int, **arguments: Any) -> SimplexTrainer:
    run = trainer(path, **arguments)
    run.add_callback(Crash(vertex, step))
    with pytest.raises(KeyboardInterrupt):
        run.grow()
    run.remove_callback(Crash)
    return run


CHECKPOINTED = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimplexTrainer]:
    """Uninterrupted runs by kind of backbone; resuming where nothing was left is to begin."""
    runs = {kind: trainer(tmp_path_factory.mktemp(kind), kind, **CHECKPOINTED) for kind in KINDS}
    for run in runs.values():
        run.grow(resume_from_checkpoint=True)
    return runs


def assert_the_same_growth(run: SimplexTrainer, whole: SimplexTrainer) -> None:
    assert run.simplex.config.roles == whole.simplex.config.roles == ["mode", "connector", "connector"]
    assert run.simplex.config.members == whole.simplex.config.members
    for index in range(3):
        assert same(weights(run.simplex, index), weights(whole.simplex, index)), index
    assert torch.equal(run.simplex(images()).logits, whole.simplex(images()).logits)


@pytest.mark.parametrize(
    ("kind", "vertex", "step"), [("resnet", 0, 2), ("vit", 1, 1), ("timm", 1, 2), ("resnet", 2, 0), ("resnet", 2, 3)]
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    kind: str, vertex: int, step: int, tmp_path: Path, whole: dict[str, SimplexTrainer]
) -> None:
    interrupted(tmp_path, vertex, step, kind=kind, **CHECKPOINTED)
    resumed = trainer(tmp_path, kind, **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole[kind])
    before = resumed.simplex.config.provenance["stages"]
    assert trainer(tmp_path, kind, **CHECKPOINTED).grow(resume_from_checkpoint=True) == before


def test_a_volume_that_is_added_now_and_then_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"volume_interval": 2, "volume_weight": 0.05, "volume_weight_scaling": "none"}
    uninterrupted = trainer(tmp_path / "whole", "vit", **CHECKPOINTED, **settings)
    uninterrupted.grow()
    # After an odd number of steps, so that counting from the resumption would add it at others.
    interrupted(tmp_path / "cut", 1, 1, kind="vit", **CHECKPOINTED, **settings)
    resumed = trainer(tmp_path / "cut", "vit", **CHECKPOINTED, **settings)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, uninterrupted)


def test_channels_last_weights_resume_to_the_same_bits_in_the_same_order_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights that are cut into pieces are summed in the order of the memory.
    monkeypatch.setattr("hf_simplex.model.weight_space.CHUNK_ON_CPU", 64)
    settings = {"volume_weight": 0.05, "volume_weight_scaling": "none", **CHECKPOINTED}
    grown = []
    for name, sizes in (("whole", [4]), ("cut", [2, 4])):
        for size in sizes:
            model = SimplexForImageClassification.from_backbone(backbone("resnet"), fine_tuned=False)
            model.to(memory_format=torch.channels_last)
            trainer(tmp_path / name, model=model, num_vertices=size, **settings).grow(resume_from_checkpoint=True)
        grown.append(model)
    whole, resumed = grown
    for vertex in range(4):
        assert same(weights(whole, vertex), weights(resumed, vertex))
        layouts = [{name: p.stride() for name, p in model.weights[vertex].items()} for model in grown]
        assert layouts[0] == layouts[1]


def test_a_vertex_whose_training_was_interrupted_is_not_in_the_complex(
    tmp_path: Path, whole: dict[str, SimplexTrainer]
) -> None:
    run = interrupted(tmp_path, 2, 2)
    assert run.simplex.config.roles == ["mode", "connector"] and run.simplex.config.simplexes == [[0, 1]]
    assert len(run.simplex.vertices) == 2 and run.model is run.simplex
    # Without any checkpoint the trainer goes on from the vertices that it has, to the same end.
    run.grow()
    assert_the_same_growth(run, whole["resnet"])


def test_a_grown_ensemble_is_saved_and_train_is_grow(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    output = run.train()
    assert output.global_step == 9 and output.training_loss > 0
    run.save_model(str(tmp_path / "saved"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(images()).logits, run.simplex(images()).logits)


def test_statistics_come_from_random_images_of_the_given_data_set(tmp_path: Path) -> None:
    run = trainer(tmp_path, trainer_arguments={"batch_norm_dataset": Images(100)})
    first, second = run._batch_norm_batches(), run._batch_norm_batches()
    assert sum(len(batch["pixel_values"]) for batch in first) == 16
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0]["pixel_values"], Images(100).pixel_values[: len(first[0]["pixel_values"])])
    assert set(first[0]) == {"pixel_values"}


# ---- engines, killed runs, logs ------------------------------------------------------------------------------------


AGREEING = [
    ({"bf16": True}, 0.03),
    ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "points_per_step": 1}, 1e-5),
    ({"gradient_checkpointing": True}, 1e-6),
    ({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1e-5),
]


def first_gradient(path: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> torch.Tensor:
    left = iter(POINTS)
    seen_by_the_engine: list[torch.dtype] = []
    settings = {
        "number": 8,
        "max_steps": 1,
        "max_grad_norm": 0,
        "points_per_step": 2,
        "start_jitter": 0.1,
        "train_sampling_strategy": "sequential",
        "volume_weight": VOLUME_WEIGHT,
        "volume_weight_scaling": "none",
        "save_strategy": "no",
    }
    run = trainer(path, model=ensemble("vit"), **{**settings, **arguments})
    seen = FirstStep(run.simplex.backbone)
    run.add_callback(seen)
    with monkeypatch.context() as patch:
        patch.setattr(GrowingVertex, "draw", lambda self, number, generator: [next(left) for _ in range(number)])
        patch.setattr(
            "hf_simplex.model.weight_space.torch._foreach_lerp_",
            lambda targets, *rest: (
                seen_by_the_engine.extend(target.dtype for target in targets),
                torch.ops.aten._foreach_lerp_(targets, *rest),
            ),
        )
        run.grow_connector()
    assert set(seen_by_the_engine) <= {torch.float32}
    return torch.cat([tensor.flatten() for tensor in seen.gradient.values()])


@pytest.mark.parametrize(
    ("arguments", "tolerance"), AGREEING, ids=lambda value: "".join(value)[:12] if isinstance(value, dict) else None
)
def test_engines_agree_with_the_plain_run(
    arguments: dict[str, Any], tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = first_gradient(tmp_path / "plain", monkeypatch)
    other = first_gradient(tmp_path / "other", monkeypatch, **arguments)
    assert (other - plain).norm() < tolerance * plain.norm()


class Poison(TrainerCallback):
    """Makes the weights of a stage not finite once a step is done."""

    def __init__(self, module: torch.nn.Module, step: int, value: float) -> None:
        self.module, self.step, self.value = module, step, value

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith("1") and state.global_step == self.step:
            with torch.no_grad():
                next(self.module.parameters()).fill_(self.value)


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", connector_learning_rate=0.025, **CHECKPOINTED)
    run.add_callback(Poison(run.simplex.backbone, 2, float("nan")))
    place = "stage vertex-00001, step 3 of 3, at learning rate .*checkpoint-2"
    with pytest.raises(NonFiniteError, match=f"The loss is nan in {place}"):
        run.grow()
    assert sorted(path.name for path in (tmp_path / "vertex-00001").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert run.simplex.config.roles == ["mode"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gradient(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            if state.global_step == 1:
                next(run.simplex.backbone.parameters()).grad.fill_(float("inf"))

    run = trainer(tmp_path, "vit", max_grad_norm=0, **CHECKPOINTED)
    run.add_callback(Gradient())
    with pytest.raises(NonFiniteError, match=r"weights of .* no longer finite in stage vertex-00000, step 2"):
        run.grow()
    assert [path.name for path in (tmp_path / "vertex-00000").iterdir()] == ["checkpoint-1"]


def test_a_checkpoint_that_is_cut_short_is_not_seen(tmp_path: Path, whole: dict[str, SimplexTrainer]) -> None:
    run = trainer(tmp_path, "resnet", **CHECKPOINTED)
    save = run._save_rng_state

    def cut(directory: str) -> None:
        save(directory)
        if "vertex-00001" in directory and run.state.global_step == 2:
            raise KeyboardInterrupt

    run._save_rng_state = cut  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.grow()
    assert {path.name for path in (tmp_path / "vertex-00001").iterdir()} == {".saving", "checkpoint-1"}
    resumed = trainer(tmp_path, "resnet", **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole["resnet"])


def test_a_step_that_is_saved_again_is_never_without_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, "vit", num_vertices=1, max_steps=1, **CHECKPOINTED)
    run.grow()
    place = tmp_path / "vertex-00000"
    run.args.output_dir = str(place)
    replace = os.replace
    for killed_before in (1, 2, 3):
        left = iter(range(killed_before - 1))

        def cut(source: Any, target: Any, left: Iterator[int] = left) -> None:
            if str(place) in str(source) and next(left, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        new = place / ".saving" / "checkpoint-1"
        new.mkdir(parents=True)
        (new / "trainer_state.json").write_text("{}")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr("os.replace", cut)
            run._put_in_place(new)
        assert run._stage_checkpoint(resume=True) == str(place / "checkpoint-1")
        assert (place / "checkpoint-1" / "trainer_state.json").is_file()
        shutil.rmtree(place / ".saving", ignore_errors=True)


def test_only_so_many_checkpoints_are_kept_and_a_fresh_run_goes_on_from_none(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", num_vertices=1, save_total_limit=1, **CHECKPOINTED)
    run.grow()
    assert [path.name for path in (tmp_path / "vertex-00000").iterdir()] == ["checkpoint-3"]
    again = trainer(tmp_path, "vit", num_vertices=1, max_steps=1, save_strategy="no")
    again.grow()
    assert not list((tmp_path / "vertex-00000").iterdir())


def test_a_checkpoint_holds_one_backbone_however_many_vertices_there_are(tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", save_only_model=True, **CHECKPOINTED)
    run.grow()
    own = sum(p.numel() * 4 for p in run.simplex.backbone.parameters())
    for vertex in range(3):
        (file,) = (tmp_path / f"vertex-{vertex:05d}" / "checkpoint-3").glob("*.safetensors")
        assert own <= file.stat().st_size < 1.2 * own


class Terminate(TrainerCallback):
    """Sends this process and its data loader workers SIGTERM within a step."""

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith("1") and state.global_step == 1:
            for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
                process.terminate()


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_after_the_step_and_ends_with_a_code_of_its_own(
    workers: int, tmp_path: Path, whole: dict[str, SimplexTrainer]
) -> None:
    run = trainer(tmp_path, "resnet", dataloader_num_workers=workers)
    run.add_callback(Terminate())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        run.grow()
    assert raised.value.code == EXIT_CODE == 75 and signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "vertex-00001").iterdir()] == ["checkpoint-2"]
    resumed = trainer(tmp_path, "resnet")
    stages = resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole["resnet"])
    assert [stage["loss"] for stage in stages] == pytest.approx(
        [stage["loss"] for stage in whole["resnet"].simplex.config.provenance["stages"]]
    )


def test_tensorboard_gets_the_quantities_of_each_step(tmp_path: Path) -> None:
    trainer(tmp_path, "vit", num_vertices=2, report_to="tensorboard").grow()
    written: dict[str, int] = {}
    for file in tmp_path.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file)).Reload()
        written |= {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]}
    names = ("loss", "learning_rate", "log_volume", "regularizer", "regularizer_share")
    assert {name: written.get(f"train/{name}") for name in names} == dict.fromkeys(names, 3)


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_vertices": 0}, "num_vertices is 0"),
        ({"num_modes": 0}, "num_modes is 0"),
        ({"num_modes": 5}, "num_modes is 5 and num_vertices 4"),
        ({"points_per_step": 0}, "points_per_step is 0"),
        ({"batch_norm_images": 1}, "batch_norm_images is 1"),
        ({"volume_weight": float("nan")}, "volume_weight is nan"),
        ({"connector_epochs": -1.0}, "connector_epochs is -1"),
        ({"point_batches": "halves"}, "'halves'"),
        ({"sampling": "some"}, "'some'"),
        ({"volume_weight_scaling": "much"}, "'much'"),
        ({"volume_interval": 0}, "volume_interval is 0"),
        ({"volume_measure": "surface"}, "'surface'"),
        ({"volume_target": -0.1}, "volume_target is -0.1"),
        ({"volume_target": 0.1, "volume_weight": 0.0}, "volume_weight is 0: nothing pulls"),
        ({"frozen_vertices": "disk"}, "'disk'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexTrainingArguments(str(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ZeRO-3 keeps the weights in partitions.*fsdp2.yaml"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "volume_weight is 1e-08, but DeepSpeed"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "FSDP version 1 flattens.*fsdp_version 2"),
        (
            {"fsdp_plugin": SimpleNamespace(fsdp_version=2, activation_checkpointing=True)},
            "activation_checkpointing renames the weights.*--gradient_checkpointing",
        ),
    ],
    ids=["zero3", "zero2", "fsdp1", "activation checkpointing"],
)
def test_engines_that_points_cannot_be_written_into_are_refused(
    engine: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path, "vit")
    run.is_deepspeed_enabled, run.is_fsdp_enabled = "deepspeed_plugin" in engine, "fsdp_plugin" in engine
    run.accelerator = SimpleNamespace(state=SimpleNamespace(**engine))
    with pytest.raises(ValueError, match=message):
        run._check_engine()


def test_what_the_cpu_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no SyncBatchNorm for the CPU"):
        trainer(tmp_path, "resnet", sync_batch_norm=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for, but accelerate runs NO on cpu"):
        trainer(tmp_path, "resnet")


def test_without_a_number_the_members_are_as_many_as_the_vertices(tmp_path: Path) -> None:
    grown = trainer(tmp_path, "vit", num_vertices=2, num_members=None)
    grown.grow()
    first, second = grown.simplex.config.members
    assert first == pytest.approx([0.788675, 0.211325], abs=1e-6) and second == first[::-1]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
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
        ({"num_vertices": 4}, "plain weight"),
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


def test_a_growth_resumes_from_its_own_folder_only(tmp_path: Path) -> None:
    run = trainer(tmp_path / "out")
    with pytest.raises(ValueError, match="output_dir"):
        run.train(resume_from_checkpoint=str(tmp_path / "elsewhere"))
    assert run.simplex.config.roles == ["pretrained"]
