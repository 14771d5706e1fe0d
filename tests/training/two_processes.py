"""Claims about two processes, each checked by both. test_two_processes.py launches them."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin, ParallelismConfig
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from growing import trainer
from several_labels import SeveralImages, several_backbone
from sharded_weights import (
    each_process_keeps_its_shards_of_frozen_vertices,
    replicas_are_numbered,
    replicated_shards,
    replicated_shards_train_like_whole_weights,
    sharded_weights_train_like_whole_ones,
    shards_are_fetched_and_rounded_like_whole_weights,
    weights_sharded_in_several_ways_are_refused,
)
from test_comparison import arguments
from tiny import Images, backbone, batches, ensemble
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from transformers import EvalPrediction, TrainerCallback, TrainerState

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.evaluation.comparison import predict_members
from hf_simplex.evaluation.surface_evaluation import classification, evaluate_points
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.sharding import full_tensor
from hf_simplex.training.linear_probe import fit_head
from hf_simplex.training.preemption import EXIT_CODE
from hf_simplex.training.spro import GrowingVertex
from hf_simplex.training.step import StepStreams
from hf_simplex.training.trainer import NonFiniteError

SHARDS = ParallelismConfig(dp_shard_size=2)


class Watch(TrainerCallback):
    """Records vertex, gradient, points and all-reduced bytes of the first step of a stage."""

    def __init__(self, run: SimplexTrainer) -> None:
        self.run, self.bytes, self.points, self.is_sharded = run, 0, [], False
        self.vertex: dict[str, torch.Tensor] = {}
        self.gradient: dict[str, torch.Tensor] = {}
        draw = GrowingVertex.draw

        def noting(growing: GrowingVertex, *arguments: Any) -> list[list[float]]:
            self.points += (drawn := draw(growing, *arguments))
            return drawn

        self.patch = mock.patch.object(GrowingVertex, "draw", noting)

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if isinstance(self.run.model_wrapped, nn.parallel.DistributedDataParallel):
            self.run.model_wrapped.register_comm_hook(None, self.count)

    def count(self, _: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.bytes += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        named = [(name, p) for name, p in self.run.simplex.backbone.named_parameters() if p.requires_grad]
        self.is_sharded = all(isinstance(p, DTensor) for _, p in named)
        self.vertex = {name: full_tensor(p).detach().clone() for name, p in named}
        self.gradient = {name: full_tensor(p.grad).clone() for name, p in named}


def adapted() -> SimplexForImageClassification:
    """A triangle of low-rank adapters, the same in both processes."""
    choice = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}
    model = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=choice)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        model.add_vertex()
    with torch.no_grad():
        for vertex in model.vertices:
            for parameter in vertex.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def grown(model: SimplexForImageClassification | None = None, **arguments: Any) -> tuple[SimplexTrainer, Watch]:
    """One step of a connector, on images 0 to 3 in one process and 4 to 7 in the other."""
    settings: dict[str, Any] = {
        "number": 8,
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "max_grad_norm": 0,
        "points_per_step": 2,
        "start_jitter": 0.1,
        "train_sampling_strategy": "sequential",
        "volume_weight": 0.05,
        "volume_weight_scaling": "none",
        "save_strategy": "no",
    }
    run = trainer(DIRECTORY / "grown", model=ensemble("vit") if model is None else model, **{**settings, **arguments})
    watch = Watch(run)
    run.add_callback(watch)
    with watch.patch:
        run.grow_connector()
    return run, watch


def assert_gradient_is_that_of_all_points(run: SimplexTrainer, watch: Watch) -> None:
    points: list[Any] = [None, None]
    dist.all_gather_object(points, watch.points)
    whole = run.simplex.config.vertex_parameters == "all"
    module, data = backbone("vit") if whole else adapted().backbone, Images(8)
    module.load_state_dict(watch.vertex, strict=False)
    vertices = [dict(vertex) for vertex in run.simplex.weights[:3]] + [watch.vertex]
    growing = GrowingVertex(module, vertices, run.simplex.config.complex, 3, volume_weight=0.05)
    module.train()
    pairs = [data.pixel_values[start : start + 2] for start in range(0, 8, 2)]
    for pixels, labels, point in zip(pairs, data.labels.split(2), [*points[0], *points[1]], strict=True):
        with growing.at(point) as coordinate:
            (coordinate * nn.functional.cross_entropy(module(pixels).logits, labels) / 4).backward()
    growing.add_volume_gradient()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == (name not in watch.gradient)
        if parameter.grad is not None:
            torch.testing.assert_close(watch.gradient[name], parameter.grad, rtol=1e-3, atol=1e-6)


def averaged_gradient_is_that_of_one_process_given_the_same_points(rank: int) -> None:
    run, watch = grown()
    points: list[Any] = [None, None]
    dist.all_gather_object(points, watch.points)
    assert len({tuple(point) for part in points for point in part}) == 4
    assert_gradient_is_that_of_all_points(run, watch)


def only_the_growing_vertex_is_communicated(rank: int) -> None:
    run, watch = grown(points_per_step=3)
    assert watch.bytes == sum(p.numel() * p.element_size() for p in run.simplex.backbone.parameters())


def only_what_differs_between_vertices_is_communicated(rank: int) -> None:
    run, watch = grown(adapted(), points_per_step=3)
    own = sum(p.numel() * p.element_size() for p in run.simplex.vertices[3].parameters())
    assert watch.bytes == own < sum(p.numel() * p.element_size() for p in run.simplex.shared.parameters()) / 4
    assert_gradient_is_that_of_all_points(*grown(adapted()))


def several_labels_take_the_step_of_all_images(rank: int) -> None:
    data, module = SeveralImages(16), several_backbone("vit").train()
    logits = module(pixel_values=data.pixel_values).logits
    nn.functional.binary_cross_entropy_with_logits(logits, data.labels).backward()
    expected = module.classifier.weight.detach() - 0.1 * module.classifier.weight.grad
    run = trainer(
        DIRECTORY / "several",
        model=SimplexForImageClassification.from_backbone(several_backbone("vit"), fine_tuned=False),
        num_vertices=1,
        num_members=1,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_strategy="no",
    )
    run.train_dataset, run.eval_dataset = data, SeveralImages(5)
    run.grow()
    torch.testing.assert_close(run.simplex.backbone_at([1.0]).classifier.weight, expected, rtol=1e-3, atol=1e-6)


def results_do_not_depend_on_data_loader_workers(rank: int) -> None:
    plain, _ = grown(max_steps=3)
    workers, _ = grown(max_steps=3, dataloader_num_workers=1)
    for name, tensor in plain.simplex.weights[3].items():
        assert torch.equal(tensor, workers.simplex.weights[3][name])


def machines_with_a_shared_file_system_move_a_checkpoint_once(rank: int) -> None:
    first_of_its_machine = mock.patch.object(SimplexTrainingArguments, "local_process_index", 0)
    slow = mock.patch.object(TrainerState, "save_to_json", slowly(TrainerState.save_to_json))
    with first_of_its_machine, slow:
        grown(max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=2)
    folder = DIRECTORY / "grown" / "vertex-00003"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert all((checkpoint / "trainer_state.json").is_file() for checkpoint in folder.iterdir())


def a_non_finite_loss_in_one_process_ends_both(rank: int) -> None:
    loss, found = SimplexTrainer.compute_loss, "nan" if rank == 1 else "not finite on another process"

    def poisoned(*arguments: Any, **settings: Any) -> torch.Tensor:
        return loss(*arguments, **settings) * (float("nan") if rank == 1 else 1.0)

    message = f"The loss is {found} in stage vertex-00003, step 1"
    with mock.patch.object(SimplexTrainer, "compute_loss", poisoned), pytest.raises(NonFiniteError, match=message):
        grown(max_steps=3)


def sigterm_between_the_stages_ends_both_processes_together(rank: int) -> None:
    run = trainer(DIRECTORY / "preempted", "vit", num_vertices=1, max_steps=1, save_strategy="no")
    finish = SimplexTrainer._check_growth

    def terminated(*arguments: Any) -> None:
        finish(*arguments)
        if rank == 1:
            signal.raise_signal(signal.SIGTERM)

    with mock.patch.object(SimplexTrainer, "_check_growth", terminated), pytest.raises(SystemExit) as raised:
        run.grow()
    assert raised.value.code == EXIT_CODE
    assert run.state.global_step == 1


def both_processes_start_from_the_same_probed_head(rank: int) -> None:
    # Each process has drawn a head of its own.
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    with torch.no_grad():
        model.weights[0]["classifier.weight"].add_(rank)
    run = trainer(
        DIRECTORY / "probed", model=model, num_vertices=1, num_train_epochs=0, probe_head=True, save_strategy="no"
    )
    run.grow()
    heads: list[Any] = [None, None]
    dist.all_gather_object(heads, run.simplex.weights[0]["classifier.weight"])
    alone = backbone("vit")
    fit_head(alone, Images(24), batch_size=8)
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[0], alone.classifier.weight)


def labels_that_no_head_fits_end_both_processes(rank: int) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    run = trainer(DIRECTORY / "refused", model=model, num_vertices=1, probe_head=True, save_strategy="no")
    run.train_dataset.labels.clamp_(max=1)[0] = 2
    with pytest.raises(ValueError, match="fewer than 2 training images"):
        run.grow()


def slowly(function: Callable[..., None]) -> Callable[..., None]:
    """The function, delayed so that a process that does not wait for it would fail."""

    def after_a_while(*arguments: Any) -> None:
        time.sleep(0.2)
        function(*arguments)

    return after_a_while


def leaves_start_from_the_trunk(rank: int, **settings: Any) -> None:
    for epochs in (0.0, 1.0):
        run = trainer(
            DIRECTORY / "leaves",
            model=SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False),
            number=8,
            per_device_train_batch_size=4,
            num_modes=2,
            num_vertices=2,
            mode_start="first_mode",
            leaf_epochs=epochs,
            save_strategy="no",
            **settings,
        )
        run.grow()
        trunk, leaf = (torch.cat([tensor.flatten() for tensor in vertex.values()]) for vertex in run.simplex.weights)
        assert bool((trunk == leaf).all()) == (epochs == 0)
        both = [torch.empty_like(leaf) for _ in range(2)]
        dist.all_gather(both, leaf)
        assert torch.equal(*both)


# ---- members, evaluation, surfaces -----------------------------------------------------------------------------


def batch_norm_statistics_of_members_are_divided_and_gathered(rank: int) -> None:
    alone, together = ensemble("resnet"), ensemble("resnet")
    coordinates = [[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]]
    alone.set_members(coordinates, batches())
    # SyncBatchNorm would refuse the CPU, or wait for the other process, if it communicated.
    together.__dict__["_backbone"] = nn.SyncBatchNorm.convert_sync_batchnorm(together.backbone)
    with mock.patch(
        "hf_simplex.model.complex_of_backbones.recompute_statistics", wraps=recompute_statistics
    ) as recompute:
        together.set_members(coordinates, batches(), among_processes=True)
    # Four members and a centroid.
    assert recompute.call_count == (3, 2)[rank]
    expected = alone.state_dict()
    assert together.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in together.state_dict().items())


def no_image_is_counted_twice(rank: int) -> None:
    model, data = ensemble("resnet"), Images(17)
    found, _, labels = predict_members(model, data, arguments(DIRECTORY / "evaluated"))
    expected = model(data.pixel_values, output_member_probabilities=True).member_probabilities
    assert labels.tolist() == data.labels.tolist()
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-4, atol=1e-6)
    run = trainer(DIRECTORY / "evaluated", model=model, trainer_arguments={"compute_metrics": count_images})
    run.eval_dataset = data
    metrics = run.evaluate()
    assert metrics["eval_images"] == 17 and metrics["eval_loss"] > 0


def count_images(prediction: EvalPrediction) -> dict[str, float]:
    return {"images": len(prediction.label_ids)}


def surfaces_are_divided_by_points(rank: int) -> None:
    model, data = ensemble("resnet"), Images(7)
    rows = [{"pixel_values": data.pixel_values, "labels": data.labels}]
    coordinates = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.4, 0.4, 0.2]])
    calls = []

    def measure(module: nn.Module, batch: Any) -> Any:
        calls.append(batch)
        return classification(module, batch)

    given: dict[str, Any] = {"batch_norm_batches": batches()}
    expected = evaluate_points(model.backbone, model.weights, coordinates, rows, **given)
    found = evaluate_points(model.backbone, model.weights, coordinates, rows, measure, among_processes=True, **given)
    assert len(calls) == (2, 1)[rank]
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


# ---- FSDP2 -----------------------------------------------------------------------------------------------------


def fsdp_is_refused_where_accelerate_would_run_ddp(rank: int) -> None:
    with mock.patch.dict(os.environ, ACCELERATE_USE_FSDP="true"), pytest.raises(ValueError, match="FSDP was asked"):
        trainer(DIRECTORY / "fsdp", "vit")


@contextmanager
def fsdp2_on_the_cpu() -> Iterator[None]:
    """accelerate's own FSDP2, which it leaves out for processes on the CPU although torch has it there."""
    begin = AcceleratorState.__init__

    def shards(state: AcceleratorState, *arguments: Any, **settings: Any) -> None:
        begin(state, *arguments, **settings)
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, cpu_ram_efficient_loading=False, auto_wrap_policy="no_wrap"
        )

    with mock.patch.object(AcceleratorState, "__init__", shards):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def fsdp2_shares_points_and_takes_the_same_step(rank: int) -> None:
    with fsdp2_on_the_cpu():
        run, watch = grown(parallelism_config=SHARDS)
        points: list[Any] = [None, None]
        dist.all_gather_object(points, watch.points)
        assert watch.is_sharded and points[0] == points[1]
        assert_gradient_is_that_of_all_points(run, watch)
        checkpointed, _ = grown(max_steps=2, save_strategy="steps", save_steps=1, parallelism_config=SHARDS)
        assert all(torch.isfinite(tensor).all() for tensor in checkpointed.simplex.weights[3].values())
        run.draw_members()
        assert run.evaluate()["eval_loss"] > 0


def fsdp2_trains_adapters_and_keeps_what_they_share(rank: int) -> None:
    model = adapted()
    shared = {name: tensor.clone() for name, tensor in model.shared.tensors().items()}
    with fsdp2_on_the_cpu():
        run, watch = grown(model, parallelism_config=SHARDS)
        assert watch.is_sharded
        assert_gradient_is_that_of_all_points(run, watch)
        assert all(torch.equal(tensor, shared[name]) for name, tensor in run.simplex.shared.tensors().items())
        run.draw_members()
        assert run.evaluate()["eval_loss"] > 0


def fsdp2_starts_leaves_from_the_trunk(rank: int) -> None:
    with fsdp2_on_the_cpu():
        leaves_start_from_the_trunk(rank, parallelism_config=SHARDS)


def replicas_draw_their_own_points(rank: int) -> None:
    for mesh, is_shared in ((init_device_mesh("cpu", (2,)), True), (replicated_shards(), False)):
        run = trainer(DIRECTORY / "replicas", model=ensemble("vit"))
        fully_shard(run.simplex.backbone, mesh=mesh)
        drawn: list[Any] = [None, None]
        dist.all_gather_object(drawn, StepStreams(0, run.simplex.backbone, rank).next(0).initial_seed())
        assert (drawn[0] == drawn[1]) == is_shared


CLAIMS = [
    sharded_weights_train_like_whole_ones,
    replicated_shards_train_like_whole_weights,
    shards_are_fetched_and_rounded_like_whole_weights,
    each_process_keeps_its_shards_of_frozen_vertices,
    replicas_are_numbered,
    weights_sharded_in_several_ways_are_refused,
    averaged_gradient_is_that_of_one_process_given_the_same_points,
    only_the_growing_vertex_is_communicated,
    only_what_differs_between_vertices_is_communicated,
    several_labels_take_the_step_of_all_images,
    results_do_not_depend_on_data_loader_workers,
    machines_with_a_shared_file_system_move_a_checkpoint_once,
    a_non_finite_loss_in_one_process_ends_both,
    sigterm_between_the_stages_ends_both_processes_together,
    leaves_start_from_the_trunk,
    both_processes_start_from_the_same_probed_head,
    labels_that_no_head_fits_end_both_processes,
    batch_norm_statistics_of_members_are_divided_and_gathered,
    no_image_is_counted_twice,
    surfaces_are_divided_by_points,
    fsdp_is_refused_where_accelerate_would_run_ddp,
    fsdp2_shares_points_and_takes_the_same_step,
    fsdp2_trains_adapters_and_keeps_what_they_share,
    fsdp2_starts_leaves_from_the_trunk,
    replicas_draw_their_own_points,
]


def main(rank: int) -> None:
    # accelerate reads these names.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{DIRECTORY}/rendezvous", rank=rank, world_size=2)
    held = DIRECTORY / f"process-{rank}"
    held.mkdir()
    for claim in CLAIMS:
        try:
            claim(rank)
        except Exception:
            traceback.print_exc()
            continue
        (held / claim.__name__).touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    DIRECTORY = Path(sys.argv[1])
    # Forks share the imports, which take longer than the claims.
    start_processes(main, nprocs=2, start_method="fork")
