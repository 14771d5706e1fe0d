"""VertexTrainer: one stage, the training run of one vertex with transformers' Trainer."""

import contextlib
import copy
import os
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import SchedulerType, Trainer, default_data_collator, set_seed
from transformers.data.data_collator import DataCollator
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..data.random_streams import SeededDataset
from ..model.batch_norm import batch_norm_layers, recompute_statistics
from ..model.configuration_simplex import CONNECTOR
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.problem_types import is_multi_label
from ..model.processes import any_rank
from ..model.sharding import local_parameters, shard_group
from ..model.shared_weights import shared_state
from .arguments import SimplexTrainingArguments
from .batch_norm_images import batch_norm_batches
from .callbacks import StageCallback, StageProgressCallback
from .checked_labels import CheckedLabels, check_label_columns
from .dry_step import dry_step, len_of, smallest_batch, without_traces
from .engines import check_engine, unwrap
from .finite import NonFiniteError, non_finite_error
from .growth import mean_loss
from .growth_record import GrowthRecord
from .preemption import Preemption
from .several_labels import check_arguments, check_kept_problem_type, check_multi_hot
from .shared_checkpoints import load_without_shared, without_shared
from .spro import GrowingVertex
from .stage_checkpoints import StageCheckpoints
from .step import ConnectorStep

__all__ = ["VertexTrainer"]

logger = logging.get_logger(__name__)


class VertexTrainer(Trainer):
    """Trains the plain backbone of a `SimplexForImageClassification` as one vertex, a mode or a connector.

    Within a stage, Trainer trains, wraps and saves the backbone. Outside the stages its model is the ensemble.
    `SimplexTrainer` runs one stage after another.

    Args:
        model: The complex that holds the vertex.
        args: Arguments of the growth.
        batch_norm_dataset: Training images for BatchNorm statistics. Default: `train_dataset`.
        **kwargs: Those of `transformers.Trainer`.

    Raises:
        ValueError: The engine cannot train a vertex, see `engines.check_engine`; `args.mode_label_smoothing` and
            `compute_loss_func` are both given; or an argument does not go with several labels of an image, see
            `several_labels.check_arguments`.

    Example::

        trainer = VertexTrainer(model, args, train_dataset=images)
        trainer.train_vertex(0, "mode", epochs=10, learning_rate=0.01, resume=False)
    """

    args: SimplexTrainingArguments

    def __init__(
        self,
        model: SimplexForImageClassification,
        args: SimplexTrainingArguments,
        *,
        batch_norm_dataset: Dataset | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        check_engine(args, self.accelerator.state)
        check_arguments(args, model.config)
        if args.mode_label_smoothing is not None and self.compute_loss_func is not None:
            raise ValueError(
                f"mode_label_smoothing is {args.mode_label_smoothing}, but compute_loss_func takes the place of the "
                "loss that has label smoothing: leave one of them out."
            )
        if (args.fp16_full_eval or args.bf16_full_eval) and args.frozen_vertices == "device":
            # Trainer moves the model when it casts it. Evaluation casts a copy, so move the model now.
            self._move_model_to_device(model, args.device)
        self.simplex = model
        self.batch_norm_dataset = batch_norm_dataset
        self.is_in_stage = False
        self._connector: ConnectorStep | None = None
        self._checkpoints: StageCheckpoints | None = None
        self._record: GrowthRecord | None = None
        self._non_finite_losses = 0
        self._seeded_dataset: SeededDataset | None = None
        # All processes must exit together. If one exited alone, the others would wait for it.
        self.preemption = Preemption(lambda: self.is_in_stage or self.args.world_size > 1)
        self.add_callback(StageCallback(self._begin_training, self._begin_epoch, self.preemption))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(StageProgressCallback)
        self.remove_callback(PrinterCallback)

    # ---- the stage -----------------------------------------------------------------------------------------------

    def train_vertex(
        self,
        vertex: int,
        role: str,
        epochs: float,
        learning_rate: float,
        resume: bool,
        growing: GrowingVertex | None = None,
        label_smoothing: float | None = None,
    ) -> dict[str, Any]:
        """Train the backbone, which holds the initial weights of a vertex, and store the result in that vertex.

        Args:
            vertex: Index of the vertex.
            role: `MODE` or `CONNECTOR`.
            epochs: Epochs of the stage.
            learning_rate: Initial learning rate.
            resume: Continue from the last checkpoint of the stage. If False, earlier checkpoints are deleted.
            growing: SPRO objective of a connector. None trains a mode.
            label_smoothing: Label smoothing of the stage, in training and evaluation. Default:
                `args.label_smoothing_factor`.

        Returns:
            The report: vertex, role, epochs, steps, wall_time [s], loss [nats], for connectors log_volume.

        Example::

            trainer.train_vertex(0, MODE, epochs=10, learning_rate=0.01, resume=False)["loss"]
        """
        run_args, simplex, backbone = self.args, self.simplex, self.simplex.backbone
        run_smoother = self.label_smoother
        self.args = self._stage_args(vertex, role, epochs, learning_rate)
        if label_smoothing not in (None, run_args.label_smoothing_factor):
            # Trainer makes its label smoother once, from the arguments of the run.
            self.args.label_smoothing_factor = label_smoothing
            self.label_smoother = LabelSmoother(epsilon=label_smoothing) if label_smoothing else None
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
                # During training, the BatchNorm statistics averaged over points of the whole simplex.
                self._recompute_batch_norm()
            simplex.store_vertex(vertex)
        finally:
            self.is_in_stage = self.is_in_train = False
            simplex.growing = self._connector = self._checkpoints = None
            self._release(backbone)
            if shard_group(backbone) is not None or self.args.sync_batch_norm:
                simplex.reset_backbone()
            self.args, self.label_smoother = run_args, run_smoother
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

    # ---- the step ------------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """See `transformers.Trainer.training_step`. A connector runs forward and backward at each drawn point."""
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
        """See `transformers.Trainer.compute_loss`. `ConnectorStep.weighted` weights the loss of a connector."""
        config, several = self.simplex.backbone.config, self._is_binary and model.training
        if several and not (self._has_lists and len_of(self.train_dataset)):
            # No one else has seen these labels: they are of a stream, or of a collate function of one's own.
            check_multi_hot(inputs, self._num_labels)
        given = config.problem_type
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        check_kept_problem_type(config, given, inputs)
        if self._connector is not None:
            loss = self._connector.weighted(loss)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """See `transformers.Trainer.evaluation_loop`. A warning tells of losses that are not finite."""
        self._non_finite_losses = 0
        output = super().evaluation_loop(*args, **kwargs)
        if self._non_finite_losses:
            what = "the ensemble" if self.simplex.growing is None else f"vertex {self.simplex.growing}"
            kept = "The mean loss leaves them out. " if self.args.logging_nan_inf_filter else ""
            logger.warning(
                f"The loss of {what} is not finite on {self._non_finite_losses} evaluation batches. {kept}Look for "
                "images or weights that are not finite, and for an overflow in half precision."
            )
        return output

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.Trainer.prediction_step`. Counts the losses that are not finite, which Trainer hides."""
        predicted = super().prediction_step(*args, **kwargs)
        if predicted[0] is not None and not bool(predicted[0].isfinite().all()):
            self._non_finite_losses += 1
        return predicted

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """See `transformers.Trainer.log`. A connector also logs its volume term, see `ConnectorStep.logs`."""
        if self._connector is not None and "loss" in logs:
            logs |= self._connector.logs(logs["loss"])
        super().log(logs, start_time)

    def _finite(self, loss: Tensor) -> Tensor:
        # All processes must raise together. If one raised alone, the others would wait for it.
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

    # ---- data ----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """See `transformers.Trainer.get_train_dataloader`.

        Augmentation does not depend on the number of workers, on the processes, or on interruptions.
        """
        dataset: Any = self.train_dataset
        if hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
            examples = dataset
            if isinstance(dataset, datasets.Dataset):
                examples = self._remove_unused_columns(dataset, description="training")
            examples = CheckedLabels(examples, self._num_labels, several=self._has_lists)
            self.train_dataset = self._seeded_dataset = SeededDataset(examples, self.args.seed)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = dataset
        if self.args.dataloader_num_workers:
            loader.worker_init_fn = partial(Preemption.begin_worker, loader.worker_init_fn)
        return loader

    def check_batches(self, roles: Collection[str]) -> None:
        """Run a dry step for each role before training, see `dry_step`: a full batch and the smallest one.

        Weights, statistics and random states do not change. Engines that shard weights, and iterable data sets, which
        may be read only once, are left out.

        Args:
            roles: Of `MODE` and `CONNECTOR`, those that will train.

        Raises:
            ValueError: The backbone cannot train on the images, or a label is out of range.

        Example::

            trainer.check_batches([MODE, CONNECTOR])
        """
        dataset, num_labels = self.train_dataset, self._num_labels
        for images in (dataset, self.eval_dataset):
            check_label_columns(images, num_labels, several=self._has_lists)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not len_of(dataset):
            return
        former, self.model = (self.model, self._signature_columns), self.simplex.backbone
        try:
            with without_traces(self.simplex.backbone, self.args.device) as module:
                for role, size in self._checked_sizes(roles, len_of(dataset)):
                    batch = self._prepare_inputs(self._first_examples(size))
                    with self.compute_loss_context_manager():
                        dry_step(
                            module, batch, self._dry_loss, role=role, num_labels=num_labels, binary=self._is_binary
                        )
        finally:
            self.model, self._signature_columns = former

    @property
    def _num_labels(self) -> int:
        return self.simplex.config.num_labels or 0

    @property
    def _is_binary(self) -> bool:
        """Whether the loss is the backbone's binary cross-entropy. A loss of one's own may take any labels."""
        return is_multi_label(self.simplex.config) and self.compute_loss_func is None

    @property
    def _has_lists(self) -> bool:
        """Whether examples have a number for each label. A collate function of one's own may make them of anything."""
        return self._is_binary and self.data_collator is default_data_collator

    def _checked_sizes(self, roles: Collection[str], images: int) -> list[tuple[str, int]]:
        args = self.args
        size = args.train_batch_size
        # accelerate fills the last batch where there are several processes.
        epoch = images if args.world_size == 1 else max(images, size) // size * size
        found = []
        for role in roles:
            points = args.points_per_step if role == CONNECTOR and args.point_batches == "split" else 1
            smallest = smallest_batch(epoch, size, points, args.dataloader_drop_last)
            found += [(role, number) for number in dict.fromkeys((min(size, epoch), smallest))]
        return found

    def _first_examples(self, number: int) -> Any:
        dataset, collate = self._used_columns(self.train_dataset, "training")
        examples = CheckedLabels(dataset, self._num_labels, several=self._has_lists)
        # As accelerate fills a batch of several processes: with the first images again.
        return collate([examples[index % len(examples)] for index in range(number)])

    def _used_columns(self, dataset: Any, description: str) -> tuple[Any, DataCollator]:
        """A data set and its collate function, which together leave out the columns that the model does not take."""
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description=description), self.data_collator
        return dataset, self._get_collator_with_removed_columns(self.data_collator, description=description)

    def _dry_loss(self, module: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        loss, output = self.compute_loss(module, inputs, return_outputs=True)
        return loss, output

    def _recompute_batch_norm(self) -> None:
        if batch_norm_layers(self.simplex.backbone):
            recompute_statistics(self.simplex.backbone, self._batch_norm_batches(), f"vertex {self.simplex.growing}")

    def _batch_norm_batches(self) -> list[dict[str, Any]]:
        dataset: Any = self.train_dataset if self.batch_norm_dataset is None else self.batch_norm_dataset
        if dataset is None:
            raise ValueError("BatchNorm statistics need training images: give train_dataset or batch_norm_dataset.")
        dataset, collate = self._used_columns(dataset, "batch norm")
        return batch_norm_batches(
            dataset,
            images=self.args.batch_norm_images,
            batch_size=self.args.eval_batch_size,
            seed=self.args.member_seed,
            collate=collate,
            label_names=self.label_names,
            num_workers=self.args.dataloader_num_workers,
        )

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_finite_weights()
        assert self._checkpoints is not None
        if self.args.should_save:
            self._write_record(self._checkpoints.folder.parent)
        with self._checkpoints.writing_aside(self.state), without_shared(self.simplex.backbone):
            super()._save_checkpoint(model, trial)

    def _write_record(self, folder: str | Path) -> None:
        if self._record is not None:
            self._record.write(folder)

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
        # Checkpoints of ViT and others name tensors differently than the module does. Trainer skips unknown names
        # (huggingface/transformers issue 48805), but from_pretrained maps them.
        backbone = self.simplex.backbone
        if shared_state(backbone):
            load_without_shared(backbone, Path(checkpoint_folder))
            return
        saved: Any = type(backbone).from_pretrained(checkpoint_folder, use_safetensors=True)
        backbone.load_state_dict(saved.state_dict())

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: the checkpoint of a stage is one vertex, not an ensemble."""
