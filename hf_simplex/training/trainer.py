"""SPRO on transformers.Trainer: each vertex is one ordinary training run of the plain backbone."""

import contextlib
import copy
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import DistributedType
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import (
    AutoModelForImageClassification,
    SchedulerType,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalLoopOutput,
    SaveStrategy,
    TrainOutput,
    get_last_checkpoint,
    rotate_checkpoints,
)

from ..data.random_streams import SeededDataset, isolate_rng, stream
from ..model.batch_norm import batch_norm_layers, recompute_statistics
from ..model.checkpoint import clear_saves, finish_saves
from ..model.complexes import SimplicialComplex
from ..model.configuration_simplex import CONNECTOR, MODE, PRETRAINED
from ..model.coordinates import vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.processes import any_rank
from ..model.sharding import local_parameters, replica_index, shard_group
from .arguments import SimplexTrainingArguments
from .preemption import Preemption
from .publish_run import publish_run
from .spro import GrowingVertex
from .volume_term import VolumeTerm, scaled_volume_weight

STATE_FILE = "trainer_state.json"
SAVING, FORMER = ".saving", "former-"


class StageProgressCallback(ProgressCallback):
    """One progress bar a stage, which carries the last logged figures instead of printing each step's."""

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(Path(args.output_dir).name)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if self.training_bar is not None and logs:
            shown = ("loss", "eval_loss", "eval_accuracy", "log_volume", "regularizer_share")
            self.training_bar.set_postfix({name: f"{logs[name]:.4g}" for name in shown if name in logs})


class NonFiniteError(RuntimeError):
    """A vertex's loss or weights are no longer finite numbers; the message names stage, step and learning rate."""


class StageCallback(TrainerCallback):
    """What a stage needs at the turns of Trainer's loop."""

    def __init__(self, trainer: "SimplexTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.trainer.begin_training()

    def on_epoch_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self.trainer.seeded_dataset is not None:
            self.trainer.seeded_dataset.set_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self.trainer.preemption.agreed(args.device):
            control.should_save = control.should_training_stop = True


class SimplexTrainer(Trainer):
    """Grows a `SimplexForImageClassification`, one stage of `transformers.Trainer` a vertex.

    In a stage the model that trains, is wrapped by the engine and checkpointed is the plain backbone of one vertex;
    outside the stages it is the ensemble, so that `evaluate`, `predict`, `save_model` and `push_to_hub` mean that.
    Checkpoints of a stage go to `output_dir/vertex-<index>/` and hold the vertex that grows; finished vertices are in
    the ensemble in `output_dir`. An evaluation within a stage is that of the vertex.

    Every process of a distributed run draws points of its own, so that W processes estimate the objective with W times
    the points; processes that share one copy of the weights (FSDP2) share the point that it holds.

    Args:
        model: the complex to grow.
        args: default: `SimplexTrainingArguments("tmp_trainer")`.
        batch_norm_dataset: training images for BatchNorm statistics, best without augmentation, of which
            `args.batch_norm_images` are taken at random; default: `train_dataset`.
        **kwargs: those of `transformers.Trainer`. `optimizers` is refused, since each vertex needs a fresh optimizer:
            use `optimizer_cls_and_kwargs` or `args.optim`.

    Raises:
        TypeError: `model` or `args` is of another class.
        ValueError: `optimizers` was given, or FSDP or DeepSpeed was asked for in a form that cannot be had.
    """

    args: SimplexTrainingArguments

    def __init__(
        self,
        model: SimplexForImageClassification,
        args: SimplexTrainingArguments | None = None,
        *,
        batch_norm_dataset: Dataset | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, SimplexForImageClassification):
            raise TypeError(
                f"SimplexTrainer grows a SimplexForImageClassification, not a {type(model).__module__}."
                f"{type(model).__name__}. Make one with SimplexForImageClassification.from_backbone(model); load an "
                "ensemble that comes with its own code with SimplexForImageClassification.from_pretrained."
            )
        args = SimplexTrainingArguments("tmp_trainer") if args is None else args
        if not isinstance(args, SimplexTrainingArguments):
            raise TypeError(f"SimplexTrainer needs SimplexTrainingArguments, not {type(args).__name__}.")
        if kwargs.get("optimizers", (None, None)) != (None, None):
            raise ValueError(
                "optimizers was given, but each vertex needs a fresh optimizer and scheduler: give "
                "optimizer_cls_and_kwargs=(class, kwargs) or args.optim and args.lr_scheduler_type."
            )
        super().__init__(model=model, args=args, **kwargs)
        self._check_engine()
        if (args.fp16_full_eval or args.bf16_full_eval) and args.frozen_vertices == "device":
            # Trainer would do so when it casts the model, but here that happens to a copy.
            self._move_model_to_device(model, args.device)
        self.simplex = model
        self.batch_norm_dataset = batch_norm_dataset
        self.is_in_stage = False
        self._growing: GrowingVertex | None = None
        self._factors = (1.0, 1.0)
        self._volume_term: VolumeTerm | None = None
        self._draws_at_step = (-1, 0)
        self._random_edge: float | None = None
        self._save_total_limit: int | None = None
        self.seeded_dataset: SeededDataset | None = None
        # Several processes leave together or not at all: the others would wait for the one that left.
        self.preemption = Preemption(lambda: self.is_in_stage or self.args.world_size > 1)
        self.add_callback(StageCallback(self))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(StageProgressCallback)
        self.remove_callback(PrinterCallback)

    def _check_engine(self) -> None:
        """Refuse what an engine would do otherwise than asked for, or in a way that points cannot be written into."""
        state = self.accelerator.state
        asks_for_fsdp = bool(self.args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if asks_for_fsdp and state.distributed_type != DistributedType.FSDP:
            raise ValueError(
                f"FSDP was asked for, but accelerate runs {state.distributed_type.value} on {self.args.device}: it "
                "shards weights over several accelerators only. Use recipes/accelerate/cpu.yaml or ddp.yaml."
            )
        if self.is_fsdp_enabled and state.fsdp_plugin.fsdp_version != 2:
            raise ValueError("FSDP version 1 flattens the weights: no point can be written. Use fsdp_version 2.")
        if self.is_fsdp_enabled and state.fsdp_plugin.activation_checkpointing:
            raise ValueError(
                "FSDP's activation_checkpointing renames the weights: no point can be written. Turn it off and give "
                "--gradient_checkpointing, which saves the same memory."
            )
        if self.is_deepspeed_enabled and state.deepspeed_plugin.zero_stage == 3:
            raise ValueError(
                "DeepSpeed ZeRO-3 keeps the weights in partitions of its own, into which no point can be written. Use "
                "FSDP2 (recipes/accelerate/fsdp2.yaml), which divides weights, gradients and optimizer alike."
            )
        if self.is_deepspeed_enabled and self.args.volume_weight:
            raise ValueError(
                f"volume_weight is {self.args.volume_weight}, but DeepSpeed takes gradients away before the volume's "
                "can be added. Use DDP or FSDP2, or give volume_weight 0."
            )

    # ---- stages ------------------------------------------------------------------------------------------------

    def grow(self, resume_from_checkpoint: bool = False) -> list[dict[str, Any]]:
        """Train the modes that are not trained yet, grow each simplex to `args.num_vertices`, and draw the members.

        Each simplex begins with `args.num_modes` modes, all from the weights that it is given with. Each connector
        joins one simplex: several simplexes grow into the components of an ESPRO ensemble.

        Args:
            resume_from_checkpoint: continue a run with the same arguments from what it left in `args.output_dir`.

        Returns:
            One report a stage: vertex, role, epochs, steps, wall_time (seconds), loss (nats) and, for connectors,
            log_volume and volume_weight. They are kept in `model.config.provenance["stages"]` too.

        Raises:
            ValueError: the arguments do not fit the complex: more modes than it has are asked for and their common
                weights are gone, too few members for its simplexes, volume sampling of simplexes of different size,
                or no weight from `scaled_volume_weight`. Nothing has been trained then.
            NonFiniteError: a loss or a weight is not finite; the checkpoints before it are left.
            SystemExit: SIGTERM arrived; a checkpoint was saved, and the code is `preemption.EXIT_CODE`.
        """
        with self.preemption.heeded():
            if resume_from_checkpoint:
                self._restore_vertices()
            self._check_growth()
            for simplex in range(len(self.simplex.config.simplexes)):
                while len(self.simplex.config.simplexes[simplex]) < self.args.num_modes:
                    self.simplex.add_vertex([simplex], role=PRETRAINED)
            for vertex, role in enumerate(list(self.simplex.config.roles)):
                if role == PRETRAINED:
                    self._train_mode(vertex, resume_from_checkpoint)
            for simplex in range(len(self.simplex.config.simplexes)):
                while len(self.simplex.config.simplexes[simplex]) < self.args.num_vertices:
                    self.grow_connector([simplex], resume_from_checkpoint)
            self._end_if_preempted()
            self.draw_members()
            self._return_to_cpu()
            self._end_if_preempted()
        return self.simplex.config.provenance.get("stages", [])

    def _check_growth(self) -> None:
        args, structure, roles = self.args, self.simplex.config.complex, self.simplex.config.roles
        simplexes = len(structure.simplexes)
        for vertices in structure.simplexes:
            if len(vertices) < args.num_modes and any(roles[vertex] != PRETRAINED for vertex in vertices):
                raise ValueError(
                    f"num_modes is {args.num_modes}, but vertices {list(vertices)} are trained already, so that the "
                    "weights that further modes would start from are gone: train each mode on its own and join them "
                    "with SimplexForImageClassification.simplex_of_modes."
                )
        if args.num_members is None and args.sampling == "volume" and simplexes > 1:
            raise ValueError(
                "sampling is 'volume' and num_members is not given: the members that are placed by default weigh all "
                "simplexes alike. Give the number of random members."
            )
        if args.num_members is not None and args.sampling == "equal" and args.num_members < simplexes:
            raise ValueError(
                f"num_members is {args.num_members}: expected at least one for each of {simplexes} simplexes."
            )
        sizes = [max(len(simplex), args.num_vertices) for simplex in structure.simplexes]
        if args.sampling == "volume" and len(set(sizes)) > 1:
            raise ValueError(
                f"sampling is 'volume', but the simplexes will have {sizes} vertices: volumes of different dimension "
                "cannot be compared. Choose 'equal', or num_vertices of the largest."
            )
        for simplex in range(simplexes):
            while len(structure.simplexes[simplex]) < args.num_vertices:
                structure = structure.with_vertex([simplex])
                self._volume_weight(structure)

    def _volume_weight(self, structure: SimplicialComplex) -> float:
        """lambda_j for the last vertex of a complex."""
        weight = self.args.volume_weight
        if not weight or self.args.volume_weight_scaling == "none":
            return weight
        if self._random_edge is None:
            self._random_edge = random_edge(self.simplex)
        return scaled_volume_weight(weight, structure, structure.num_vertices - 1, self._random_edge)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """The same as `grow`, with what `transformers.Trainer.train` returns: steps and mean loss of all stages.

        Raises:
            ValueError: `resume_from_checkpoint` is a folder other than `args.output_dir`.
        """
        if isinstance(resume_from_checkpoint, str) and Path(resume_from_checkpoint) != Path(self.args.output_dir):
            raise ValueError(
                f"resume_from_checkpoint is {resume_from_checkpoint!r}, but a growth is resumed from all that it left "
                f"in output_dir, {self.args.output_dir!r}: give True, and that output_dir."
            )
        stages = self.grow(bool(resume_from_checkpoint))
        steps = sum(stage["steps"] for stage in stages)
        loss = sum(stage["loss"] * stage["steps"] for stage in stages) / max(steps, 1)
        return TrainOutput(steps, loss, {"train_runtime": sum(stage["wall_time"] for stage in stages)})

    def _train_mode(self, vertex: int, resume: bool) -> None:
        self.simplex.backbone_at(vertex_coordinates(self.simplex.config.complex, vertex).tolist())
        report = self._train_vertex(vertex, MODE, self.args.num_train_epochs, self.args.learning_rate, resume)
        self._finish_stage(report)

    def grow_connector(self, simplexes: list[int] | None = None, resume: bool = False) -> int:
        """Add a connector to the given simplexes (default: all) and train it by SPRO; returns its vertex index."""
        args, config = self.args, self.simplex.config
        if PRETRAINED in config.roles:
            raise RuntimeError(f"Vertex {config.roles.index(PRETRAINED)} is not trained yet: call grow().")
        weight = self._volume_weight(config.complex.with_vertex(simplexes))
        with _unchanged_on_error(self.simplex):
            vertex = self.simplex.add_vertex(simplexes)
            self._growing = GrowingVertex(
                self.simplex.backbone,
                self.simplex.weights,
                config.complex,
                vertex,
                volume_weight=weight,
                sampling=args.sampling,
                volume_measure=args.volume_measure,
                volume_target=args.volume_target,
                frozen_vertices=args.frozen_vertices,
            )
            try:
                # Not from a process's own stream: all processes train the same vertex.
                self._growing.start_at_mean(args.start_jitter, stream(args.seed, vertex))
                epochs = args.num_train_epochs if args.connector_epochs is None else args.connector_epochs
                rate = args.learning_rate if args.connector_learning_rate is None else args.connector_learning_rate
                report = self._train_vertex(vertex, CONNECTOR, epochs, rate, resume)
            finally:
                self._growing = None
        self._finish_stage({**report, "volume_weight": weight})
        return vertex

    def _train_vertex(
        self, vertex: int, role: str, epochs: float, learning_rate: float, resume: bool
    ) -> dict[str, Any]:
        run_args, simplex, backbone = self.args, self.simplex, self.simplex.backbone
        self.args = copy.copy(run_args)
        self.args.output_dir = os.path.join(run_args.output_dir, f"vertex-{vertex:05d}")
        self.args.num_train_epochs, self.args.learning_rate = epochs, learning_rate
        if role == CONNECTOR and run_args.connector_lr_scheduler_type is not None:
            self.args.lr_scheduler_type = SchedulerType(run_args.connector_lr_scheduler_type)
        # The limit is kept by _save_checkpoint alone: Trainer would remove the last checkpoint when a stage ends.
        self._save_total_limit, self.args.save_total_limit = run_args.save_total_limit, None
        # Every stage has its own data order and its own dropout, whatever was trained before it.
        self.args.seed = run_args.seed + vertex
        if run_args.data_seed is not None:
            self.args.data_seed = run_args.data_seed + vertex
        self.accelerator.dataloader_config.data_seed = self.args.data_seed
        set_seed(self.args.seed)
        self.optimizer = self.lr_scheduler = None
        if self.args.sync_batch_norm:
            backbone = convert_sync_batchnorm(backbone)
        if self.args.frozen_vertices != "device" and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # Of the ensemble this alone goes to the device, and before the optimizer sees it.
            self._move_model_to_device(backbone, self.args.device)
        self.model = self.model_wrapped = backbone
        simplex.growing, self._volume_term, self._draws_at_step = vertex, None, (-1, 0)
        self.is_in_stage = True
        report: dict[str, Any] = {"vertex": vertex, "role": role}
        started = time.perf_counter()
        try:
            result = super().train(resume_from_checkpoint=self._stage_checkpoint(resume))
            self._end_if_preempted()
            loss = mean_loss(self.state.log_history, result.training_loss)
            report |= {"epochs": self.state.epoch, "steps": result.global_step}
            if self._growing is not None:
                report["log_volume"] = self._growing.volume_term().log_volume
                # The running statistics were gathered at points all over the simplex: none fits the vertex itself.
                self._recompute_batch_norm()
            simplex.store_vertex(vertex)
        finally:
            self.is_in_stage = self.is_in_train = False
            simplex.growing = None
            self._release(backbone)
            if shard_group(backbone) is not None or self.args.sync_batch_norm:
                simplex.forget_backbone()
            self.args = run_args
            self.accelerator.dataloader_config.data_seed = run_args.data_seed
        return {**report, "wall_time": time.perf_counter() - started, "loss": loss}

    def _stage_checkpoint(self, resume: bool) -> str | None:
        """The checkpoint that a stage goes on from; before a fresh start those of an earlier run are removed."""
        folder = Path(self.args.output_dir)
        if resume:
            self._once_in_each_file_system(self._finish_move)
            return get_last_checkpoint(folder) if folder.is_dir() else None
        if self.args.should_save:
            for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
        self.accelerator.wait_for_everyone()
        return None

    def begin_training(self) -> None:
        """Called when the engine has wrapped the backbone and before the first step of a stage."""
        if self._growing is not None:
            self._growing.place_vertices()

    def _finish_stage(self, report: dict[str, Any]) -> None:
        self.simplex.config.roles[report["vertex"]] = report["role"]
        self.simplex.config.provenance.setdefault("stages", []).append(report)
        if self.args.save_strategy != SaveStrategy.NO and self.args.should_save:
            self.simplex.save_pretrained(self.args.output_dir)
        self._end_if_preempted()

    def _end_if_preempted(self) -> None:
        if self.preemption.agreed(self.args.device):
            self.preemption.end()

    def _release(self, module: nn.Module) -> None:
        """Undo what accelerate did to a backbone or the ensemble, and go back to the ensemble."""
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False, keep_torch_compile=False)
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            module.__dict__.pop(name, None)
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.model = self.model_wrapped = self.callback_handler.model = self.simplex
        self.accelerator.free_memory()
        module.zero_grad(set_to_none=True)

    def _restore_vertices(self) -> None:
        """Take over the vertices that an interrupted run with the same arguments had finished."""
        if self.args.should_save:
            finish_saves(self.args.output_dir)
            clear_saves(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if os.path.isfile(os.path.join(self.args.output_dir, "config.json")):
            self.simplex.take_over(SimplexForImageClassification.from_pretrained(self.args.output_dir))

    # ---- one step ----------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One batch at freshly drawn points: forward and backward at each, then the volume term on the vertex."""
        growing = self._growing
        if growing is None:
            return self._finite(super().training_step(model, inputs, num_items_in_batch))
        parts = self._parts(inputs)
        points = growing.draw(len(parts), self._step_generator())
        following = [*points[1:], self._next_point(len(parts))] if growing.fetches else points
        loss = torch.zeros((), device=self.args.device)
        try:
            for number, ((part, share), point) in enumerate(zip(parts, points, strict=True)):
                items: Any = num_items_in_batch
                if items is not None and self.args.point_batches == "split":
                    items = items * share
                with growing.at(point) as coordinate, self._gradients_kept_local(model, number < len(parts) - 1):
                    growing.prefetch(following[number])
                    self._factors = (share, share * coordinate)
                    loss += super().training_step(model, part, items)
        finally:
            self._factors = (1.0, 1.0)
        self._finite(loss)
        # Counted from the steps alone, so that a resumed run adds it at the same ones.
        if self.accelerator.sync_gradients and (self.state.global_step + 1) % self.args.volume_interval == 0:
            self._volume_term = self._add_volume_gradient() if growing.volume_weight else None
        return loss

    def _add_volume_gradient(self) -> VolumeTerm:
        assert self._growing is not None
        scaler = self.accelerator.scaler
        return self._growing.add_volume_gradient(
            self.args.volume_interval * (1.0 if scaler is None else scaler.get_scale())
        )

    def _finite(self, loss: Tensor) -> Tensor:
        # Processes that did not see it would wait for the one that raises.
        if any_rank(~loss.isfinite(), loss.device):
            found = "not finite on another process" if bool(loss.isfinite()) else float(loss)
            raise self._non_finite_error(f"The loss is {found}", self.state.global_step + 1)
        return loss

    def _non_finite_error(self, what: str, step: int) -> NonFiniteError:
        stage = f"stage {Path(self.args.output_dir).name}, step {step}"
        folder = self.args.output_dir
        checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        return NonFiniteError(
            f"{what} in {stage} of {self.state.max_steps}, at learning rate {self._get_learning_rate():.3g}. The last "
            f"checkpoint is {checkpoint}. Resume from it with a lower learning rate, more warm-up steps or clipped "
            "gradients, and look for images or labels that are not finite."
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As in `Trainer`; while a connector trains, the gradient also carries the vertex's coordinate."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        value_factor, gradient_factor = self._factors
        if self._factors != (1.0, 1.0):
            loss = value_factor * loss.detach() + gradient_factor * (loss - loss.detach())
        return (loss, outputs) if return_outputs else loss

    def _parts(self, inputs: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
        """What each point of a step sees, and its share of the mean loss: a part of the batch, or all of it."""
        points = self.args.points_per_step
        if self.args.point_batches == "full":
            return [(dict(inputs), 1 / points) for _ in range(points)]
        size = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
        pieces = torch.arange(size).tensor_split(min(points, size))
        return [
            (
                {
                    name: value[piece[0] : piece[-1] + 1] if _is_batched(value, size) else value
                    for name, value in inputs.items()
                },
                len(piece) / size,
            )
            for piece in pieces
        ]

    def _gradients_kept_local(self, model: nn.Module, local: bool) -> AbstractContextManager[Any]:
        return self.accelerator.no_sync(model) if local else contextlib.nullcontext()

    def _step_generator(self) -> torch.Generator:
        """A random stream of its own for each batch, stage and copy of the weights."""
        # Derived from the step instead of carried along, so that a resumed run draws the same points.
        step, draws = self._draws_at_step
        self._draws_at_step = (step, draws + 1) if step == self.state.global_step else (self.state.global_step, 0)
        return self._stream_of_draw(*self._draws_at_step)

    def _stream_of_draw(self, step: int, draws: int) -> torch.Generator:
        return stream(self.args.seed, replica_index(self.simplex.backbone, self.args.process_index), step, draws)

    def _next_point(self, number: int) -> list[float]:
        """The first point of the next batch, if that has as many: it is drawn again when its turn comes."""
        step, draws = self._draws_at_step
        following = (step + 1, 0) if self.accelerator.sync_gradients else (step, draws + 1)
        assert self._growing is not None
        return self._growing.draw(number, self._stream_of_draw(*following))[0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`; a connector's steps also log log_volume, regularizer (nats) and its share.

        They are those of the last step at which the volume's gradient was added, see `args.volume_interval`.
        """
        if self._growing is not None and "loss" in logs:
            if self._volume_term is None:
                self._volume_term = self._growing.volume_term()
            term = self._volume_term
            magnitude = abs(logs["loss"]) + abs(term.regularizer)
            logs["log_volume"], logs["regularizer"] = term.log_volume, term.regularizer
            logs["regularizer_share"] = abs(term.regularizer) / magnitude if magnitude else 0.0
        super().log(logs, start_time)

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`; the augmentation of an image does not depend on workers, processes or interruptions."""
        dataset: Any = self.train_dataset
        if hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
            examples = dataset
            if isinstance(dataset, datasets.Dataset):
                examples = self._remove_unused_columns(dataset, description="training")
            self.train_dataset = self.seeded_dataset = SeededDataset(examples, self.args.seed)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = dataset
        if self.args.dataloader_num_workers:
            loader.worker_init_fn = partial(Preemption.begin_worker, loader.worker_init_fn)
        return loader

    # ---- evaluation, members, files ----------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`: the ensemble's metrics, or within a stage those of the vertex that trains."""
        if self.is_in_stage and self._growing is not None:
            self._recompute_batch_norm()
        return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, except that outside a stage the ensemble is left as it was."""
        if self.is_in_stage:
            return super().evaluation_loop(*args, **kwargs)
        if self.args.fp16_full_eval or self.args.bf16_full_eval:
            # Trainer casts what it evaluates for good: that would round the vertices.
            self.model = self.model_wrapped = copy.deepcopy(self.simplex)
        # The ensemble is evaluated as it is: an engine would shard all of its vertices.
        shards, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.is_fsdp_enabled = shards
            self._release(self.simplex)
            self._return_to_cpu()

    def draw_members(self) -> None:
        """Choose the members as the arguments say, with BatchNorm statistics where there are any.

        The members are divided among the processes of a distributed run, all of which must call this together.
        """
        # An engine that shards leaves the vertices on the CPU, and the point that is at hand must not be there.
        backbone = self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        batches = self._batch_norm_batches() if batch_norm_layers(backbone) else None
        self.simplex.draw_members(
            "auto" if self.args.num_members is None else self.args.num_members,
            seed=self.args.member_seed,
            batches=batches,
            sampling=self.args.sampling,
            among_processes=True,
        )

    def _return_to_cpu(self) -> None:
        """Keep the ensemble in one place outside the stages, where its vertices are kept off the accelerator."""
        if self.args.frozen_vertices != "device":
            self.simplex.cpu()

    def _recompute_batch_norm(self) -> None:
        if batch_norm_layers(self.simplex.backbone):
            recompute_statistics(self.simplex.backbone, self._batch_norm_batches())

    def _batch_norm_batches(self) -> list[dict[str, Any]]:
        """The same random training images each time, in memory, as inputs without labels."""
        dataset: Any = self.train_dataset if self.batch_norm_dataset is None else self.batch_norm_dataset
        if dataset is None:
            raise ValueError("BatchNorm statistics need training images: give train_dataset or batch_norm_dataset.")
        wanted = self.args.batch_norm_images
        collate = self.data_collator
        if not isinstance(dataset, IterableDataset):
            order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.args.member_seed))
            chosen = sorted(order[:wanted].tolist())
            dataset = dataset.select(chosen) if isinstance(dataset, datasets.Dataset) else Subset(dataset, chosen)
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description="batch norm")
        else:
            collate = self._get_collator_with_removed_columns(collate, description="batch norm")
        if not isinstance(dataset, IterableDataset | datasets.IterableDataset):
            dataset = SeededDataset(dataset, self.args.member_seed)
        size = max(2, min(self.args.eval_batch_size, wanted))
        loader = DataLoader(dataset, size, collate_fn=collate, num_workers=self.args.dataloader_num_workers)
        batches = itertools.islice(loader, math.ceil(wanted / size))
        with isolate_rng(self.args.member_seed):
            inputs = [{name: v for name, v in batch.items() if name not in self.label_names} for batch in batches]
        return [batch for batch in inputs if _batch_size(batch) > 1]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, but written aside and renamed: a run that is killed meanwhile leaves no half of one."""
        self._check_finite_weights()
        folder, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = folder / SAVING
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(aside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(folder)
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step:
            best = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if best.name == name or best.is_dir():
                self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(aside / name / STATE_FILE))
        # Where machines share no file system, each has a part of the checkpoint.
        self._once_in_each_file_system(partial(self._put_in_place, aside / name))

    def _put_in_place(self, saved: Path) -> None:
        """Move a checkpoint that was written aside to its place, unless that has been done, and remove old ones."""
        aside, folder = saved.parent, saved.parent.parent
        if not saved.is_dir():
            return
        if (folder / saved.name).is_dir():
            # The step was saved before: there is no moment at which neither is whole, and _finish_move knows.
            os.replace(folder / saved.name, aside / f"{FORMER}{saved.name}")
        os.replace(saved, folder / saved.name)
        shutil.rmtree(aside)
        rotate_checkpoints(
            output_dir=str(folder),
            save_total_limit=self._save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def _finish_move(self) -> None:
        """Finish the move of a checkpoint that a killed run had begun: its former version was out of the way."""
        folder = Path(self.args.output_dir)
        for former in (folder / SAVING).glob(f"{FORMER}*"):
            name = former.name.removeprefix(FORMER)
            if not (folder / name).exists():
                os.replace(folder / SAVING / name, folder / name)

    def _once_in_each_file_system(self, work: Callable[[], None]) -> None:
        """Work of the first process, then of the first on each other machine, which may see the files of the former.

        All processes must call this together; `work` must do nothing where it has been done already.
        """
        if self.args.should_save:
            work()
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and not self.args.should_save:
            work()
        self.accelerator.wait_for_everyone()

    def _check_finite_weights(self) -> None:
        parameters = local_parameters(self.simplex.backbone)
        found = next((name for name, tensor in parameters.items() if not bool(tensor.isfinite().all())), None)
        if any_rank(found is not None, self.args.device):
            raise self._non_finite_error(
                f"The weights of {found or 'another process'} are no longer finite", self.state.global_step
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_backbone(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            assert self.state.best_model_checkpoint is not None
            self._load_backbone(self.state.best_model_checkpoint)

    def _load_backbone(self, checkpoint_folder: str) -> None:
        # Checkpoints of some architectures, ViT among them, have other tensor names than the module. Trainer skips
        # what it does not find by name (huggingface/transformers issue 48805); from_pretrained knows the names.
        backbone = self.simplex.backbone
        saved: Any = type(backbone).from_pretrained(checkpoint_folder, use_safetensors=True)
        backbone.load_state_dict(saved.state_dict())

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tags: str | list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the ensemble to `args.output_dir` and publish it with its card in one commit, when that is done.

        Arguments and result as in `Trainer`, but for `blocking=False` and the contents of its card, which are not
        taken; with an `eval_dataset` the ensemble is evaluated for the card. See `publish_run.publish_run`.
        """
        if kwargs or not blocking:
            raise ValueError(f"push_to_hub takes no {', '.join(kwargs) or 'blocking=False'} here.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        return publish_run(
            self.simplex,
            self.args,
            eval_dataset=self.eval_dataset,
            data_collator=self.data_collator,
            commit_message=commit_message,
            token=token,
            revision=revision,
            private=private,
            tags=[tags] if isinstance(tags, str) else tags or (),
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """A stage's checkpoint is one vertex and no ensemble: it is not for the Hub."""


@contextlib.contextmanager
def _unchanged_on_error(simplex: SimplexForImageClassification) -> Iterator[None]:
    """Takes a vertex out again whose training failed: in the complex it would pass for a trained one."""
    config = simplex.config
    structure = copy.deepcopy((config.simplexes, config.roles, config.members))
    modules = nn.ModuleList(simplex.vertices), simplex.members, simplex.centroids
    try:
        yield
    except BaseException:
        config.simplexes, config.roles, config.members = structure
        simplex.vertices, simplex.members, simplex.centroids = modules
        raise


def mean_loss(log_history: list[dict[str, float]], otherwise: float) -> float:
    """The mean loss of a stage's steps, those before an interruption included; `otherwise` where none was logged."""
    total, last = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            total, last = total + entry["loss"] * (entry["step"] - last), int(entry["step"])
    return total / last if last else otherwise


def _is_batched(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size


def _batch_size(batch: Mapping[str, Any]) -> int:
    return next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))


def random_edge(simplex: SimplexForImageClassification) -> float:
    """The distance of two random initializations of the backbone, in the units of the weights."""
    with isolate_rng(0):
        first, second = (
            AutoModelForImageClassification.from_config(copy.deepcopy(simplex.config.backbone_config))
            for _ in range(2)
        )
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return math.sqrt(sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in pairs))
