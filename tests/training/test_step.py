"""A step sees the objective and its gradient at the drawn points."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import (
    POINTS,
    VOLUME_WEIGHT,
    FirstStep,
    trainer,
    weights,
)
from tiny import Images, backbone, ensemble, same

from hf_simplex import SimplexTrainingArguments
from hf_simplex.training.engines import CHECKPOINTING
from hf_simplex.training.spro import GrowingVertex
from hf_simplex.training.step import StepStreams


def objective(
    kind: str, vertices: list[dict[str, torch.Tensor]], parts: list[tuple[list[int], float]], smoothing: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss, and gradient of the objective with respect to the last vertex, by autograd in float64.

    Point h, a differentiable sum of the vertices, sees part h of the data. Its loss is weighted by the share.
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


def in_float64(get: Callable[[Images, int], dict[str, torch.Tensor]]) -> Callable[..., dict[str, torch.Tensor]]:
    def example(images: Images, index: int) -> dict[str, torch.Tensor]:
        found = get(images, index)
        return {**found, "pixel_values": found["pixel_values"].double()}

    return example


def settings_id(value: Any) -> str | None:
    """Id of a test's settings. A nested setting is named only: addresses of functions differ among processes."""
    if not isinstance(value, dict):
        return None
    return ",".join(name if isinstance(setting, dict) else f"{name}={setting}" for name, setting in value.items())


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
        ("vit", {"points_per_step": 3, CHECKPOINTING: True}, THIRDS),
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
    ids=settings_id,
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
    # In float64: the float32 gradient of a convolution differs by 1e-4 among processors.
    monkeypatch.setattr(Images, "__getitem__", in_float64(Images.__getitem__))
    run = trainer(tmp_path, model=ensemble(kind).double(), **{**settings, **arguments})
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
    assert seen.checkpointing == arguments.get(CHECKPOINTING, False)


def test_points_differ_between_steps_and_stages_but_not_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    draw = GrowingVertex.draw

    def noting(growing: GrowingVertex, number: int, generator: torch.Generator) -> list[list[float]]:
        drawn.extend(found := draw(growing, number, generator))
        return found

    monkeypatch.setattr(GrowingVertex, "draw", noting)
    for name in "ab":
        trainer(tmp_path / name, points_per_step=2).grow()
    first, again = drawn[:12], drawn[12:]
    assert first == again and len(set(map(tuple, first))) == 12


@pytest.mark.parametrize("accumulated", [1, 2])
def test_volume_interval_spaces_and_multiplies_the_volume_gradient(
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


def test_the_next_step_draws_the_prefetched_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_processes_start_a_vertex_alike_and_draw_their_own_points(
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
        streams = StepStreams(run.args.seed, run.simplex.backbone, run.args.process_index)
        points.append(torch.rand(3, generator=streams.next(0)))
    assert same(starts[0], starts[1])
    assert not torch.equal(points[0], points[1])


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
