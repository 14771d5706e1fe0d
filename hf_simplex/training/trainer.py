"""SimplexTrainer: grows a simplex with one run of transformers' Trainer for each vertex."""

import contextlib
import copy
import os
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import SchedulerType, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy, TrainOutput

from ..data.random_streams import SeededDataset, stream
from ..model.batch_norm import batch_norm_layers, recompute_statistics
from ..model.checkpoint import clear_saves, finish_saves
from ..model.complexes import SimplicialComplex
from ..model.configuration_simplex import CONNECTOR, MODE, PRETRAINED
from ..model.coordinates import vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.processes import any_rank
from ..model.sharding import local_parameters, shard_group
from .arguments import SimplexTrainingArguments
from .batch_norm_images import batch_norm_batches
from .callbacks import StageCallback, StageProgressCallback
from .engines import check_engine, unwrap
from .finite import NonFiniteError, non_finite_error
from .growth import check_growth, mean_loss, random_edge, unchanged_on_error
from .preemption import Preemption
from .publish_run import publish_run
from .spro import GrowingVertex
from .stage_checkpoints import StageCheckpoints
from .step import ConnectorStep
from .volume_term import scaled_volume_weight

__all__ = ["NonFiniteError", "SimplexTrainer"]


class SimplexTrainer(Trainer):
    """Grows a `SimplexForImageClassification`: modes, then connectors, then members. Each vertex is one stage.

    Within a stage, Trainer trains, wraps and saves the plain backbone of one vertex. Outside the stages its model is
    the ensemble: `evaluate`, `predict`, `save_model` and `push_to_hub` apply to that. Checkpoints of a stage are in
    `output_dir/vertex-<index>/`. Finished vertices are in the ensemble in `output_dir`.

    In a distributed run, every process draws its own points: W processes see W times the points. Processes that share
    one copy of the weights (FSDP2) share their points.

    Args:
        model: The complex that grows.
        args: Default: `SimplexTrainingArguments("tmp_trainer")`.
        batch_norm_dataset: Training images for BatchNorm statistics, best without augmentation. Default:
            `train_dataset`. `args.batch_norm_images` of them are chosen at random.
        **kwargs: Those of `transformers.Trainer`, except `optimizers`: each vertex needs a fresh optimizer, from
            `args.optim` or `optimizer_cls_and_kwargs`.

    Raises:
        TypeError: `model` or `args` is of another class.
        ValueError: `optimizers` is given, or the engine cannot train a vertex (see `engines.check_engine`).

    Example::

        model = SimplexForImageClassification.from_backbone("timm/resnet50.a1_in1k", num_labels=100)
        trainer = SimplexTrainer(model, SimplexTrainingArguments("out"), train_dataset=images)
        trainer.grow()
        trainer.save_model("out/ensemble")
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
        check_engine(args, self.accelerator.state)
        if (args.fp16_full_eval or args.bf16_full_eval) and args.frozen_vertices == "device":
            # Trainer moves the model when it casts it. Here it casts a copy.
            self._move_model_to_device(model, args.device)
        self.simplex = model
        self.batch_norm_dataset = batch_norm_dataset
        self.is_in_stage = False
        self._connector: ConnectorStep | None = None
        self._checkpoints: StageCheckpoints | None = None
        self._seeded_dataset: SeededDataset | None = None
        # Several processes exit together. One alone would leave the others waiting.
        self.preemption = Preemption(lambda: self.is_in_stage or self.args.world_size > 1)
        self.add_callback(StageCallback(self._begin_training, self._begin_epoch, self.preemption))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(StageProgressCallback)
        self.remove_callback(PrinterCallback)

    # ---- growth: modes, connectors, members --------------------------------------------------------------------

    def grow(self, resume_from_checkpoint: bool = False) -> list[dict[str, Any]]:
        """Train the modes, grow each simplex to `args.num_vertices` by connectors, and draw the members.

        Each simplex starts with `args.num_modes` modes, fine-tuned from the weights that it is given with. Several
        simplexes grow into the components of an ESPRO ensemble.

        Args:
            resume_from_checkpoint: Continue an interrupted run with the same arguments from `args.output_dir`.

        Returns:
            One report a stage: vertex, role, epochs, steps, wall_time [s], loss [nats], and for connectors log_volume
            and volume_weight. `model.config.provenance["stages"]` keeps them.

        Raises:
            ValueError: The arguments do not fit the complex (see `growth.check_growth`). Nothing is trained.
            NonFiniteError: A loss or a weight is not finite. Earlier checkpoints are kept.
            SystemExit: SIGTERM arrived. A checkpoint is saved, and the code is `preemption.EXIT_CODE`.

        Example::

            trainer.grow(resume_from_checkpoint=True)
        """
        config = self.simplex.config
        with self.preemption.heeded():
            if resume_from_checkpoint:
                self._restore_vertices()
            self._check_growth()
            self._add_modes()
            for vertex, role in enumerate(list(config.roles)):
                if role == PRETRAINED:
                    self._train_mode(vertex, resume_from_checkpoint)
            for simplex in range(len(config.simplexes)):
                while len(config.simplexes[simplex]) < self.args.num_vertices:
                    self.grow_connector([simplex], resume_from_checkpoint)
            self._end_if_preempted()
            self.draw_members()
            self._return_to_cpu()
            self._end_if_preempted()
        return config.provenance.get("stages", [])

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Call `grow` and return what `Trainer.train` returns: steps and mean loss over all stages.

        Raises:
            ValueError: `resume_from_checkpoint` is a folder other than `args.output_dir`.
        """
        if isinstance(resume_from_checkpoint, str) and Path(resume_from_checkpoint) != Path(self.args.output_dir):
            raise ValueError(
                f"resume_from_checkpoint is {resume_from_checkpoint!r}, but a growth resumes from its output_dir, "
                f"{self.args.output_dir!r}: give True, and that output_dir."
            )
        stages = self.grow(bool(resume_from_checkpoint))
        steps = sum(stage["steps"] for stage in stages)
        loss = sum(stage["loss"] * stage["steps"] for stage in stages) / max(steps, 1)
        return TrainOutput(steps, loss, {"train_runtime": sum(stage["wall_time"] for stage in stages)})

    def _restore_vertices(self) -> None:
        """Take the finished vertices of an interrupted run with the same arguments from `output_dir`."""
        if self.args.should_save:
            finish_saves(self.args.output_dir)
            clear_saves(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if os.path.isfile(os.path.join(self.args.output_dir, "config.json")):
            self.simplex.replace_with(SimplexForImageClassification.from_pretrained(self.args.output_dir))

    def _check_growth(self) -> None:
        check_growth(self.args, self.simplex.config.complex, self.simplex.config.roles, self._volume_weight)

    def _volume_weight(self, structure: SimplicialComplex) -> float:
        """lambda_j for the last vertex of a complex."""
        weight = self.args.volume_weight
        if not weight or self.args.volume_weight_scaling == "none":
            return weight
        return scaled_volume_weight(weight, structure, structure.num_vertices - 1, self._random_edge)

    @cached_property
    def _random_edge(self) -> float:
        return random_edge(self.simplex)

    def _add_modes(self) -> None:
        for simplex in range(len(self.simplex.config.simplexes)):
            while len(self.simplex.config.simplexes[simplex]) < self.args.num_modes:
                self.simplex.add_vertex([simplex], role=PRETRAINED)

    def _train_mode(self, vertex: int, resume: bool) -> None:
        self.simplex.backbone_at(vertex_coordinates(self.simplex.config.complex, vertex).tolist())
        report = self._train_vertex(vertex, MODE, self.args.num_train_epochs, self.args.learning_rate, resume)
        self._finish_stage(report)

    def grow_connector(self, simplexes: list[int] | None = None, resume: bool = False) -> int:
        """Add a connector to some simplexes and train it by SPRO.

        Args:
            simplexes: Indices of simplexes. Default: all.
            resume: Continue an interrupted stage from its last checkpoint.

        Returns:
            Index of the new vertex.

        Raises:
            RuntimeError: A mode is not trained yet.

        Example::

            trainer.grow_connector([0])
        """
        args, config = self.args, self.simplex.config
        if PRETRAINED in config.roles:
            raise RuntimeError(f"Vertex {config.roles.index(PRETRAINED)} is not trained yet: call grow().")
        weight = self._volume_weight(config.complex.with_vertex(simplexes))
        with unchanged_on_error(self.simplex):
            vertex = self.simplex.add_vertex(simplexes)
            growing = GrowingVertex(
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
            # All processes start the vertex with the same noise.
            growing.start_at_mean(args.start_jitter, stream(args.seed, vertex))
            epochs = args.num_train_epochs if args.connector_epochs is None else args.connector_epochs
            rate = args.learning_rate if args.connector_learning_rate is None else args.connector_learning_rate
            report = self._train_vertex(vertex, CONNECTOR, epochs, rate, resume, growing)
        self._finish_stage({**report, "volume_weight": weight})
        return vertex

    def draw_members(self) -> None:
        """Choose the members as `args` says and compute their BatchNorm statistics.

        All processes of a distributed run call this together and divide the members among themselves.
        """
        # With FSDP2 the vertices stay on the CPU, but the backbone computes on the device.
        backbone = self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        batches = self._batch_norm_batches() if batch_norm_layers(backbone) else None
        self.simplex.draw_members(
            "auto" if self.args.num_members is None else self.args.num_members,
            seed=self.args.member_seed,
            batches=batches,
            sampling=self.args.sampling,
            among_processes=True,
        )

    # ---- one stage ---------------------------------------------------------------------------------------------

    def _train_vertex(
        self,
        vertex: int,
        role: str,
        epochs: float,
        learning_rate: float,
        resume: bool,
        growing: GrowingVertex | None = None,
    ) -> dict[str, Any]:
        """Train the backbone as one vertex and store it there. Returns the report of the stage."""
        run_args, simplex, backbone = self.args, self.simplex, self.simplex.backbone
        self.args = self._stage_args(vertex, role, epochs, learning_rate)
        self._checkpoints = StageCheckpoints(
            self.args, self.accelerator.wait_for_everyone, limit=run_args.save_total_limit
        )
        self._connector = None if growing is None else ConnectorStep(growing, self.args)
        self.accelerator.dataloader_config.data_seed = self.args.data_seed
        set_seed(self.args.seed)
        self.optimizer = self.lr_scheduler = None
        if self.args.sync_batch_norm:
            backbone = convert_sync_batchnorm(backbone)
        if self.args.frozen_vertices != "device" and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # Of the ensemble, only the backbone moves to the device, and it does so before the optimizer is made.
            self._move_model_to_device(backbone, self.args.device)
        self.model = self.model_wrapped = backbone
        simplex.growing = vertex
        self.is_in_stage = True
        report: dict[str, Any] = {"vertex": vertex, "role": role}
        started = time.perf_counter()
        try:
            result = super().train(resume_from_checkpoint=self._stage_start(resume))
            self._end_if_preempted()
            loss = mean_loss(self.state.log_history, result.training_loss)
            report |= {"epochs": self.state.epoch, "steps": result.global_step}
            if growing is not None:
                report["log_volume"] = growing.volume_term().log_volume
                # Training has averaged statistics over points of the whole simplex.
                self._recompute_batch_norm()
            simplex.store_vertex(vertex)
        finally:
            self.is_in_stage = self.is_in_train = False
            simplex.growing = self._connector = self._checkpoints = None
            self._release(backbone)
            if shard_group(backbone) is not None or self.args.sync_batch_norm:
                simplex.reset_backbone()
            self.args = run_args
            self.accelerator.dataloader_config.data_seed = run_args.data_seed
        return {**report, "wall_time": time.perf_counter() - started, "loss": loss}

    def _stage_args(self, vertex: int, role: str, epochs: float, learning_rate: float) -> SimplexTrainingArguments:
        args = copy.copy(self.args)
        args.output_dir = os.path.join(str(self.args.output_dir), f"vertex-{vertex:05d}")
        args.num_train_epochs, args.learning_rate = epochs, learning_rate
        if role == CONNECTOR and args.connector_lr_scheduler_type is not None:
            args.lr_scheduler_type = SchedulerType(args.connector_lr_scheduler_type)
        # StageCheckpoints keeps the limit. Trainer would delete the last checkpoint at the end of a stage.
        args.save_total_limit = None
        # Each stage has its own data order and dropout.
        args.seed += vertex
        if args.data_seed is not None:
            args.data_seed += vertex
        return args

    def _stage_start(self, resume: bool) -> str | None:
        assert self._checkpoints is not None
        if resume:
            return self._checkpoints.resume()
        self._checkpoints.clear()
        return None

    def _begin_training(self) -> None:
        if self._connector is not None:
            # The engine may have sharded or moved the backbone.
            self._connector.growing.place_vertices()

    def _begin_epoch(self, epoch: int) -> None:
        if self._seeded_dataset is not None:
            self._seeded_dataset.set_epoch(epoch)

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
        """Undo what accelerate did to a module and make the ensemble the trainer's model again."""
        unwrap(self.accelerator, self.model_wrapped, module)
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.model = self.model_wrapped = self.callback_handler.model = self.simplex
        self.accelerator.free_memory()
        module.zero_grad(set_to_none=True)

    def _return_to_cpu(self) -> None:
        """Move the ensemble to the CPU if its frozen vertices are kept off the device."""
        if self.args.frozen_vertices != "device":
            self.simplex.cpu()

    # ---- one step ----------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward at each drawn point, then the gradient of the volume term. Modes: as in `Trainer`."""
        connector = self._connector
        if connector is None:
            return self._finite(super().training_step(model, inputs, num_items_in_batch))
        drawn = connector.draw(inputs, self.state.global_step, self.accelerator.sync_gradients)
        loss = torch.zeros((), device=self.args.device)
        for number, point in enumerate(drawn):
            items: Any = num_items_in_batch
            if items is not None and self.args.point_batches == "split":
                items = items * point.part.share
            is_last = number == len(drawn) - 1
            with connector.at(point), contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                loss += super().training_step(model, point.part.inputs, items)
        self._finite(loss)
        if self.accelerator.sync_gradients:
            scaler = self.accelerator.scaler
            connector.add_volume_gradient(self.state.global_step, 1.0 if scaler is None else scaler.get_scale())
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As in `Trainer`. At a point of a connector, the loss is weighted, see `ConnectorStep.weighted`."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self._connector is not None:
            loss = self._connector.weighted(loss)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`. Steps of a connector also log its volume term, see `ConnectorStep.logs`."""
        if self._connector is not None and "loss" in logs:
            logs |= self._connector.logs(logs["loss"])
        super().log(logs, start_time)

    def _finite(self, loss: Tensor) -> Tensor:
        # All processes raise together. One alone would leave the others waiting.
        if any_rank(~loss.isfinite(), loss.device):
            found = "not finite on another process" if bool(loss.isfinite()) else float(loss)
            raise self._non_finite_error(f"The loss is {found}", self.state.global_step + 1)
        return loss

    def _check_finite_weights(self) -> None:
        parameters = local_parameters(self.simplex.backbone)
        found = next((name for name, tensor in parameters.items() if not bool(tensor.isfinite().all())), None)
        if any_rank(found is not None, self.args.device):
            raise self._non_finite_error(
                f"The weights of {found or 'another process'} are no longer finite", self.state.global_step
            )

    def _non_finite_error(self, what: str, step: int) -> NonFiniteError:
        assert self._checkpoints is not None
        return non_finite_error(what, step, self.state, self._checkpoints, self._get_learning_rate())

    # ---- data --------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`. Augmentation depends neither on workers nor on processes nor on interruptions."""
        dataset: Any = self.train_dataset
        if hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
            examples = dataset
            if isinstance(dataset, datasets.Dataset):
                examples = self._remove_unused_columns(dataset, description="training")
            self.train_dataset = self._seeded_dataset = SeededDataset(examples, self.args.seed)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = dataset
        if self.args.dataloader_num_workers:
            loader.worker_init_fn = partial(Preemption.begin_worker, loader.worker_init_fn)
        return loader

    def _recompute_batch_norm(self) -> None:
        if batch_norm_layers(self.simplex.backbone):
            recompute_statistics(self.simplex.backbone, self._batch_norm_batches())

    def _batch_norm_batches(self) -> list[dict[str, Any]]:
        dataset: Any = self.train_dataset if self.batch_norm_dataset is None else self.batch_norm_dataset
        if dataset is None:
            raise ValueError("BatchNorm statistics need training images: give train_dataset or batch_norm_dataset.")
        collate = self.data_collator
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description="batch norm")
        else:
            collate = self._get_collator_with_removed_columns(collate, description="batch norm")
        return batch_norm_batches(
            dataset,
            images=self.args.batch_norm_images,
            batch_size=self.args.eval_batch_size,
            seed=self.args.member_seed,
            collate=collate,
            label_names=self.label_names,
            num_workers=self.args.dataloader_num_workers,
        )

    # ---- evaluation --------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`: metrics of the ensemble, within a stage of the vertex that trains."""
        if self.is_in_stage and self._connector is not None:
            self._recompute_batch_norm()
        return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`. Outside the stages, the ensemble is left as it was."""
        if self.is_in_stage:
            return super().evaluation_loop(*args, **kwargs)
        if self.args.fp16_full_eval or self.args.bf16_full_eval:
            # Trainer casts the model for good, which would round the vertices.
            self.model = self.model_wrapped = copy.deepcopy(self.simplex)
        # FSDP2 would shard all vertices.
        shards, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.is_fsdp_enabled = shards
            self._release(self.simplex)
            self._return_to_cpu()

    # ---- files -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_finite_weights()
        assert self._checkpoints is not None
        with self._checkpoints.writing_aside(self.state):
            super()._save_checkpoint(model, trial)

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
        # In checkpoints of ViT and others, tensors have other names than in the module. Trainer skips unknown names
        # (huggingface/transformers issue 48805). from_pretrained maps them.
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
        """Save the ensemble to `args.output_dir` and publish it with its card in one commit, see `publish_run`.

        Args:
            commit_message, blocking, token, revision, private, tags: As in `Trainer`, but `blocking` must be True.

        Returns:
            The commit in the main process, None in the others.

        Raises:
            ValueError: `blocking` is False, or contents of a card are given.
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
        """Do nothing: the checkpoint of a stage is one vertex, not an ensemble."""
