"""SimplexTrainer: grows a simplex, first its modes, then its connectors, then its members."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import Dataset
from transformers import default_data_collator
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy, TrainOutput
from transformers.utils import logging

from ..data.image_transforms import collate
from ..data.random_streams import stream
from ..data.split_records import DataRecord
from ..evaluation.calibrate import calibrate
from ..model.batch_norm import batch_norm_layers
from ..model.checkpoint import finish_saves
from ..model.complexes import SimplicialComplex
from ..model.configuration_simplex import CONNECTOR, MODE, PRETRAINED
from ..model.coordinates import vertex_coordinates
from ..model.decisions import Decisions
from ..model.modeling_simplex import SimplexForImageClassification
from .arguments import SimplexTrainingArguments
from .callbacks import StageProgressCallback
from .example_check import KeptColumns, check_examples
from .example_digest import example_digest
from .finite import NonFiniteError
from .growth import check_growth, random_edge, trained_mode, unchanged_on_error
from .growth_record import GrowthRecord, initial_weights, shaping_arguments
from .probed_modes import labeled_images, probe_modes
from .publish_run import publish_run
from .resumption import check_same_run, clear_stages, holds_ensemble
from .spro import GrowingVertex
from .varied_modes import leaf_settings, mode_settings
from .vertex_trainer import VertexTrainer
from .volume_term import scaled_volume_weight

__all__ = ["NonFiniteError", "SimplexTrainer"]


class SimplexTrainer(VertexTrainer):
    """Grows a `SimplexForImageClassification`: modes, then connectors, then members. Each vertex is one stage.

    Within a stage, Trainer trains, wraps and saves the plain backbone of one vertex. Outside the stages its model is
    the ensemble: `evaluate`, `predict`, `save_model` and `push_to_hub` apply to the ensemble. The checkpoints of a
    stage are in `output_dir/vertex-<index>/`. The ensemble of the finished vertices is in `output_dir`.

    In a distributed run, every process draws its own points, so W processes train at W times as many points per step.
    Processes that share one copy of the weights (FSDP2) share their points.

    Args:
        model: The complex that grows.
        args: Default: `SimplexTrainingArguments("tmp_trainer")`.
        train_dataset: Its examples are dictionaries of `pixel_values`, a float tensor [channels, height, width], and
            `labels`, an int from 0, or a float for each label of a multi-label model. `with_pixel_values` and
            `datasets.Dataset.with_transform` make them. With a `data_collator` of your own, they may be anything.
        batch_norm_dataset: Training images for BatchNorm statistics, best without augmentation. Default:
            `train_dataset`. `args.batch_norm_images` of them are chosen at random.
        data_record: Origin of the training images. A resumed growth must have the same.
        data_arguments: Settings of their transforms by name, JSON values. A resumed growth must have the same.
        **kwargs: Those of `transformers.Trainer`, except `optimizers`: each vertex needs a fresh optimizer, from
            `args.optim` or `optimizer_cls_and_kwargs`.

    Raises:
        TypeError: `model` or `args` is of another class, or the examples are no dictionaries.
        ValueError: The examples lack `pixel_values` or `labels`, `optimizers` is given, the engine cannot train a
            vertex (see `engines.check_engine`), or `args.mode_label_smoothing` and `compute_loss_func` are both given.

    Example::

        model = SimplexForImageClassification.from_backbone("timm/resnet50.a1_in1k", num_labels=100)
        trainer = SimplexTrainer(model, SimplexTrainingArguments("out"), train_dataset=images)
        trainer.grow()
        trainer.save_model("out/ensemble")
    """

    def __init__(
        self,
        model: SimplexForImageClassification,
        args: SimplexTrainingArguments | None = None,
        *,
        batch_norm_dataset: Dataset | None = None,
        data_record: DataRecord | None = None,
        data_arguments: Mapping[str, Any] | None = None,
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
        super().__init__(model, args, batch_norm_dataset=batch_norm_dataset, **kwargs)
        self.data_record = data_record
        self.data_arguments = dict(data_arguments or {})
        self._is_in_growth = False
        if args.disable_tqdm:
            # Lines take the place of the bars.
            self.add_callback(StageProgressCallback)
        self._check_examples()

    def _check_examples(self) -> None:
        if self.data_collator is not default_data_collator and self.data_collator is not collate:
            # Another collator may make batches of any examples. The dry step checks them.
            return
        several = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        check_examples(self.train_dataset, "train_dataset", labels=True)
        check_examples(self.batch_norm_dataset, "batch_norm_dataset", labels=False)
        for name, dataset in several.items():
            check_examples(dataset, f"eval_dataset[{name!r}]" if name else "eval_dataset", labels=False)

    def _remove_unused_columns(self, dataset: datasets.Dataset, description: str | None = None) -> datasets.Dataset:
        if not self.args.remove_unused_columns or dataset.format["type"] != "custom":
            return super()._remove_unused_columns(dataset, description)
        # A transform reads columns that the model does not take.
        self._set_signature_columns_if_needed()
        kept = KeptColumns(dataset.format["format_kwargs"]["transform"], self._signature_columns or ())
        return dataset.with_transform(kept, columns=dataset.format["columns"])

    # ---- growth --------------------------------------------------------------------------------------------------

    def grow(self, resume_from_checkpoint: bool = False) -> list[dict[str, Any]]:
        """Train the modes, grow each simplex to `args.num_vertices` by connectors, and draw the members.

        Each simplex starts with `args.num_modes` modes, all fine-tuned from the simplex's given weights. With
        `args.mode_start="first_mode"` the later ones are leaves: they start from the first trained mode, the trunk
        (StarSSE, Sadrtdinov et al. 2023, To Stay or Not to Stay in the Pre-train Basin). Several simplexes grow into
        the components of an ESPRO ensemble.

        Args:
            resume_from_checkpoint: Continue an interrupted run from `args.output_dir`. What shapes the weights must
                be the same: see `check_resume`. More vertices, other members and other reports are allowed.

        Returns:
            One report per stage: vertex, role, epochs, steps, wall_time [s], loss [nats], for modes learning_rate
            and label_smoothing where they differ from those of the run, for leaves start, the vertex of the trunk,
            and for connectors log_volume and volume_weight.
            `model.config.provenance["stages"]` also keeps the reports.

        Raises:
            ValueError: The arguments do not fit the complex (see `growth.check_growth`), or the run that is resumed
                (see `check_resume`). Nothing is trained.
            NonFiniteError: A loss or a weight is not finite. Earlier checkpoints are kept.
            SystemExit: SIGTERM arrived. A checkpoint is saved, and the code is `preemption.EXIT_CODE`.

        Example::

            trainer.grow(resume_from_checkpoint=True)
        """
        config = self.simplex.config
        with self.preemption.heeded(), self._in_growth():
            self._record = self._given_record()
            if resume_from_checkpoint:
                self.check_resume()
                self._restore_vertices()
            self._check_growth()
            if not resume_from_checkpoint:
                clear_stages(self.args, config.roles, self.accelerator.wait_for_everyone)
            self._add_modes()
            self._check_batches()
            self._probe_head(resume_from_checkpoint)
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

    @contextmanager
    def _in_growth(self) -> Iterator[None]:
        self._is_in_growth = True
        try:
            yield
        finally:
            self._is_in_growth = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Call `grow` and return what `Trainer.train` returns: steps and mean loss over all stages.

        Raises:
            ValueError: `resume_from_checkpoint` is a folder other than `args.output_dir`.

        Example::

            trainer.train().training_loss
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
        """Load the finished vertices of an interrupted run from `output_dir`."""
        if self.args.should_save:
            finish_saves(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if not holds_ensemble(self.args.output_dir):
            return
        self.simplex.replace_with(SimplexForImageClassification.from_pretrained(self.args.output_dir))
        largest = max(map(len, self.simplex.config.simplexes))
        # Modes alone may be resumed before the connectors.
        if self.args.num_modes < self.args.num_vertices < largest:
            raise ValueError(
                f"num_vertices is {self.args.num_vertices}, but {self.args.output_dir} holds a simplex of {largest} "
                f"vertices: give at least {largest}, or another output_dir."
            )

    def check_resume(self) -> None:
        """Check that `args.output_dir` holds a run with the same arguments, initial weights, data and processes.

        The first checkpoint of a run stores them in `growth.json`. A folder without it, of an older version, is
        accepted with a warning. All processes of a distributed run call this together.

        Raises:
            ValueError: Something that shapes the weights differs. The message names each difference.

        Example::

            trainer.check_resume()
            trainer.grow(resume_from_checkpoint=True)
        """
        given = self._record or self._given_record()
        self._record = check_same_run(self.args, self.simplex, given, self.accelerator.wait_for_everyone)

    def _given_record(self) -> GrowthRecord:
        main = self.args.should_save
        return GrowthRecord(
            arguments=shaping_arguments(self.args, self.simplex) | self.data_arguments,
            processes=self.args.world_size,
            backbone=str(self.simplex.config.provenance.get("backbone")),
            weights=initial_weights(self.simplex, self.args.output_dir),
            # Only the main process compares and writes.
            data=example_digest(self.train_dataset) if main else None,
            images=None if self.data_record is None else self.data_record.train.fingerprint,
        )

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

    def _check_batches(self) -> None:
        config, epochs = self.simplex.config, max(self.args.num_train_epochs, self.args.leaf_epochs or 0)
        roles = [MODE] if PRETRAINED in config.roles and epochs else []
        if any(len(simplex) < self.args.num_vertices for simplex in config.simplexes):
            roles.append(CONNECTOR)
        if roles:
            self.simplex.backbone_at(vertex_coordinates(config.complex, 0).tolist())
            self.check_batches(roles)

    def _probe_head(self, resume: bool) -> None:
        """Fit the head of the untrained modes, unless the run that is resumed has done so."""
        if not self.args.probe_head or (resume and "probe" in self.simplex.config.provenance):
            return
        images = labeled_images(self.train_dataset, self.batch_norm_dataset, self.label_names)
        images, collate = self._used_columns(images, "linear probe")
        probe_modes(self.simplex, self.args, images, collate=collate, label_names=self.label_names)

    def _train_mode(self, vertex: int, resume: bool) -> None:
        args, config, epochs = self.args, self.simplex.config, self.args.num_train_epochs
        trunk = trained_mode(config, vertex) if args.mode_start == "first_mode" else None
        if trunk is None:
            own = mode_settings(args, config, vertex)
            start, told = vertex, own.differences(args)
        else:
            epochs = epochs if args.leaf_epochs is None else args.leaf_epochs
            own, start, told = leaf_settings(args), trunk, {"start": trunk}
        self.simplex.backbone_at(vertex_coordinates(config.complex, start).tolist())
        report = self.train_vertex(vertex, MODE, epochs, own.learning_rate, resume, None, own.label_smoothing)
        self._finish_stage({**report, **told})

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
        if not self._is_in_growth:
            # The model may have grown since the run's start, so its weights are not compared.
            self._record = replace(self._given_record(), weights=None)
            if resume:
                self.check_resume()
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
            report = self.train_vertex(vertex, CONNECTOR, epochs, rate, resume, growing)
        self._finish_stage({**report, "volume_weight": weight})
        return vertex

    def _finish_stage(self, report: dict[str, Any]) -> None:
        self.simplex.config.roles[report["vertex"]] = report["role"]
        self.simplex.config.provenance.setdefault("stages", []).append(report)
        if self.args.save_strategy != SaveStrategy.NO and self.args.should_save:
            self._write_record(self.args.output_dir)
            self.simplex.save_pretrained(self.args.output_dir)
        self._end_if_preempted()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # The bar of the files would break that of the stage.
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            if shown:
                logging.enable_progress_bar()

    def draw_members(self) -> None:
        """Choose the members as `args` says and compute their BatchNorm statistics.

        All processes of a distributed run call this together and divide the members among themselves.

        Example::

            trainer.grow_connector()
            trainer.draw_members()
        """
        # With FSDP2 the vertices stay on the CPU, but the backbone computes on the device.
        backbone = self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        batches = self._batch_norm_batches() if batch_norm_layers(backbone) else None
        self.simplex.draw_members(
            self.args.member_rule if self.args.num_members is None else self.args.num_members,
            seed=self.args.member_seed,
            batches=batches,
            sampling=self.args.sampling,
            among_processes=True,
        )

    def calibrate(self, validation: Dataset, **kwargs: Any) -> Decisions | None:
        """Choose the members and fit temperature, abstention and prediction sets on validation images.

        All processes of a distributed run call this together.

        Args:
            validation: Images with labels. They must be new to the model, and no test images.
            **kwargs: See `evaluation.calibrate.calibrate`.

        Returns:
            The decisions, which the model keeps; None where there are too few images.

        Raises:
            ValueError: See `evaluation.calibrate.calibrate`.

        Example::

            trainer.grow()
            trainer.calibrate(validation_images, target_error=0.02)
        """
        backbone = self.simplex.backbone.to(self.args.device)  # type: ignore[arg-type]
        batches = self._batch_norm_batches() if batch_norm_layers(backbone) else None
        kwargs = {"args": self.args, "data_collator": self.data_collator, "batches": batches, **kwargs}
        return calibrate(self.simplex, validation, **kwargs)

    # ---- evaluation and publishing -------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the ensemble, or within a stage the vertex that trains, as `Trainer.evaluate` does.

        Example::

            trainer.evaluate()["eval_loss"]
        """
        if self.is_in_stage and self._connector is not None:
            self._recompute_batch_norm()
        return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """See `transformers.Trainer.evaluation_loop`. Evaluating the ensemble does not change it."""
        if self.is_in_stage:
            return super().evaluation_loop(*args, **kwargs)
        if self.args.fp16_full_eval or self.args.bf16_full_eval:
            # Trainer casts its model permanently, which would round the vertices.
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

    def _return_to_cpu(self) -> None:
        """Move the ensemble to the CPU if its frozen vertices are kept off the device."""
        if self.args.frozen_vertices != "device":
            self.simplex.cpu()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tags: str | list[str] | None = None,
        with_handler: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Save the ensemble to `args.output_dir` and publish it with its card in one commit, see `publish_run`.

        Args:
            commit_message, blocking, token, revision, private, tags: See `transformers.Trainer.push_to_hub`.
                `blocking` must be True.
            with_handler: See `publish_folder`.

        Returns:
            The commit in the main process, None in the others.

        Raises:
            ValueError: `blocking` is False, or arguments for the contents of a card are given.

        Example::

            trainer.push_to_hub(private=True)
        """
        if kwargs or not blocking:
            raise ValueError(f"push_to_hub does not take {', '.join(kwargs) or 'blocking=False'}: leave it out.")
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
            with_handler=with_handler,
        )
