"""SimplexTrainer: one ordinary training run a vertex, in which nothing but that vertex moves."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_modeling_simplex import ensemble
from tiny import KINDS, Images, backbone, images
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments


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
def test_frozen_vertices_keep_every_bit_and_have_no_optimizer_state(kind: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind, weight_decay=0.5, volume_weight=1e-3)
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


def test_connectors_have_their_own_epochs_and_learning_rate(tmp_path: Path) -> None:
    run = trainer(tmp_path, connector_epochs=2, connector_learning_rate=0.0, volume_weight=0.0)
    stages = run.grow()
    assert [stage["epochs"] for stage in stages] == [1.0, 2.0, 2.0]
    mean = weights(run.simplex, 0)
    for name, parameter in run.simplex.vertices[1].named_parameters():
        assert torch.allclose(parameter, mean[name], atol=1e-7)


def test_several_simplexes_grow_into_components(tmp_path: Path) -> None:
    modes = [SimplexForImageClassification.from_backbone(backbone("vit", seed)) for seed in (0, 1)]
    run = trainer(tmp_path, model=SimplexForImageClassification.unite(modes))
    run.grow()
    assert run.simplex.config.simplexes == [[0, 2, 3], [1, 4, 5]]
    assert run.simplex.config.roles == ["mode", "mode", *["connector"] * 4]


def test_a_connector_may_join_several_simplexes(tmp_path: Path) -> None:
    modes = [SimplexForImageClassification.from_backbone(backbone("resnet", seed)) for seed in (0, 1)]
    run = trainer(tmp_path, model=SimplexForImageClassification.unite(modes))
    assert run.grow_connector() == 2
    assert run.simplex.config.simplexes == [[0, 2], [1, 2]]


def test_the_same_seed_gives_the_same_bits_and_another_other_bits(tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = trainer(tmp_path / name, seed=seed)
        torch.rand(len(models))  # what happened before must not matter
        run.grow()
        models.append(run.simplex)
    assert all(same(weights(models[0], vertex), weights(models[1], vertex)) for vertex in range(3))
    assert not any(same(weights(models[0], vertex), weights(models[2], vertex)) for vertex in range(3))


# ---- one step --------------------------------------------------------------------------------------------------


def gradient(run: SimplexTrainer, points: list[list[float]], **change: Any) -> dict[str, torch.Tensor]:
    """The gradient that one optimizer step of a connector sees, with given points."""
    seen: dict[str, torch.Tensor] = {}
    left = iter(points)

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
            seen.update({name: p.grad.clone() for name, p in run.simplex.backbone.named_parameters()})

    run.add_callback(Keep())
    grow = run.grow_connector

    def with_points(*args: Any, **kwargs: Any) -> Any:
        from hf_simplex.spro import GrowingVertex

        GrowingVertex.draw = lambda self, number, generator: [next(left) for _ in range(number)]  # type: ignore
        return grow(*args, **kwargs)

    with_points()
    return seen


POINTS = [[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]]


def expected_gradient(kind: str, parts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Autograd through the mixed weights, at the start, where both vertices are equal; part h is seen at point h."""
    module, data = backbone(kind).train(), Images(8)
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for part, (_, coordinate) in zip(parts, POINTS, strict=False):
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(data.pixel_values[part]).logits, data.labels[part])
        loss.backward()
        share = len(part) / sum(map(len, parts))
        for name, parameter in module.named_parameters():
            total[name] += coordinate * share * parameter.grad
    return total


@pytest.mark.parametrize("kind", ["vit", "timm"])
@pytest.mark.parametrize(("batches", "points"), [("split", 1), ("split", 3), ("full", 3)])
def test_the_step_sees_coordinate_times_gradient_averaged_over_points(
    kind: str, batches: str, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_simplex.spro.GrowingVertex.draw", None)
    mode = SimplexForImageClassification.from_backbone(backbone(kind))
    run = trainer(
        tmp_path, model=mode, number=8, max_steps=1, points_per_step=points, point_batches=batches, max_grad_norm=0
    )
    run._get_train_sampler = lambda *args: torch.utils.data.SequentialSampler(Images(8))
    found = gradient(run, POINTS)
    everything = torch.arange(8)
    parts = [everything] * points if batches == "full" else list(everything.tensor_split(points))
    for name, tensor in expected_gradient(kind, parts).items():
        assert (found[name] - tensor).norm() <= 1e-4 * tensor.norm() + 1e-6, name


def test_accumulated_batches_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_simplex.spro.GrowingVertex.draw", None)
    found = []
    for name, arguments in (
        ("split", {"points_per_step": 2}),
        ("accumulated", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ("sum over items", {"points_per_step": 2, "trainer_arguments": {"compute_loss_func": summed_loss}}),
    ):
        mode = SimplexForImageClassification.from_backbone(backbone("vit"))
        run = trainer(tmp_path / name, model=mode, number=8, max_steps=1, max_grad_norm=0, **arguments)
        run._get_train_sampler = lambda *args: torch.utils.data.SequentialSampler(Images(8))
        found.append(gradient(run, POINTS))
    for other in found[1:]:
        assert all(torch.allclose(found[0][name], other[name], rtol=1e-4, atol=1e-7) for name in found[0])


def summed_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


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
        {"label_smoothing_factor": 0.1, "number": 21},
        {"bf16": True},
        {"optim": "sgd", "lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"max_steps": 2, "dataloader_num_workers": 1},
        {"gradient_accumulation_steps": 2, "points_per_step": 3, "number": 20},
    ],
    ids=lambda arguments: ",".join(arguments),
)
def test_training_arguments_keep_working(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, "vit", **arguments)
    assert all(torch.isfinite(torch.tensor(stage["loss"])) for stage in run.grow())
    assert type(run.simplex.backbone).forward is run.simplex.backbone.forward.__func__


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    models = []
    for flag in (False, True):
        run = trainer(tmp_path / str(flag), "vit", gradient_checkpointing=flag, num_vertices=2)
        run.grow()
        models.append(run.simplex)
    for name, tensor in weights(models[0], 1).items():
        assert torch.allclose(tensor, weights(models[1], 1)[name], atol=1e-5)


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


def test_a_checkpoint_of_a_stage_is_one_plain_backbone(tmp_path: Path) -> None:
    run = trainer(tmp_path, "timm", save_strategy="epoch")
    run.grow()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "vertex-00002" / "checkpoint-3")
    parameters = dict(saved.named_parameters())
    assert all(torch.equal(parameters[name], p) for name, p in run.simplex.vertices[2].named_parameters())
    assert SimplexForImageClassification.from_pretrained(tmp_path).config.roles == run.simplex.config.roles


class Crash(TrainerCallback):
    def __init__(self, vertex: int, step: int) -> None:
        self.vertex, self.step = vertex, step

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.output_dir.endswith(str(self.vertex)) and state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("vertex", "step"), [(0, 2), (1, 1), (2, 3)])
def test_an_interrupted_run_resumes_to_the_same_bits(vertex: int, step: int, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", save_strategy="steps", save_steps=1)
    whole.grow()
    broken = trainer(tmp_path / "broken", save_strategy="steps", save_steps=1)
    broken.add_callback(Crash(vertex, step))
    with pytest.raises(KeyboardInterrupt):
        broken.grow()
    assert broken.model is broken.simplex and broken.simplex.growing is None
    resumed = trainer(tmp_path / "broken", save_strategy="steps", save_steps=1)
    resumed.grow(resume_from_checkpoint=True)
    assert resumed.simplex.config.roles == whole.simplex.config.roles
    for index in range(3):
        assert same(weights(whole.simplex, index), weights(resumed.simplex, index)), index
    assert torch.equal(whole.simplex(images()).logits, resumed.simplex(images()).logits)


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


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_vertices": 0}, "num_vertices is 0"),
        ({"points_per_step": 0}, "points_per_step is 0"),
        ({"batch_norm_images": 1}, "batch_norm_images is 1"),
        ({"volume_weight": float("nan")}, "volume_weight is nan"),
        ({"connector_epochs": -1.0}, "connector_epochs is -1"),
        ({"point_batches": "halves"}, "'halves'"),
        ({"sampling": "some"}, "'some'"),
        ({"volume_weight_scaling": "much"}, "'much'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexTrainingArguments(str(tmp_path), **arguments)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    args = SimplexTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TypeError, match="from_backbone"):
        SimplexTrainer(model=backbone("vit"), args=args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        trainer(tmp_path, trainer_arguments={"optimizers": (torch.optim.SGD([torch.zeros(1)]), None)})
    united = SimplexForImageClassification.unite([ensemble("vit"), ensemble("vit")])
    before = copy.deepcopy(united.state_dict())
    run = trainer(tmp_path, model=united, num_members=1)
    with pytest.raises(ValueError, match="one for each of 2 simplexes"):
        run.grow()
    assert all(torch.equal(before[name], tensor) for name, tensor in united.state_dict().items())
    with pytest.raises(RuntimeError, match="not trained yet"):
        trainer(tmp_path).grow_connector()
