"""The ensemble as an image classification model of transformers."""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from .backbones import (
    check_same_architecture,
    copy_backbone,
    load_backbone,
    persistent_buffers,
    set_labels,
    shapes,
)
from .batch_norm import batch_norm_statistics, copy_statistics
from .classifier_checks import check_classifier
from .classifier_output import SimplexImageClassifierOutput
from .complexes import SimplicialComplex
from .configuration_simplex import MODE, PRETRAINED, SimplexConfig
from .cuda_graph import member_logits
from .image_processors import LazyImageProcessor, common_image_processor
from .label_activation import activation_of
from .members import DEFAULT_RULE, draw_members, place_members
from .pretrained_simplex import SimplexPreTrainedModel
from .problem_types import is_multi_label
from .processes import map_over_ranks
from .ready_members import ReadyMembers
from .shared_weights import split_parameters
from .tensor_tree import TensorTree
from .vertex_selection import resolve_vertex_parameters, separate_shared

__all__ = ["SimplexForImageClassification", "SimplexImageClassifierOutput"]

ADAPTER_SEED = 0
"""Seed of the initial low-rank adapters, the same for every model."""


class SimplexForImageClassification(SimplexPreTrainedModel):
    """An ensemble of image classifiers whose members are points of a simplicial complex in weight space.

    Build one with `from_backbone`, grow it with `SimplexTrainer`, combine several with `disjoint_union`, load one with
    `from_pretrained`.

    Args:
        config: the structure.

    Raises:
        ValueError: the configuration has no backbone, or another number of labels than its backbone.

    Source: Benton et al. 2021, Loss Surface Simplexes for Mode Connecting Volumes and Fast Ensembling.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1, num_labels=5))
        >>> model = SimplexForImageClassification.from_backbone(vit)
        >>> model.add_vertex()
        1
        >>> model.draw_members(4)
        >>> output = model(torch.zeros(1, 3, 224, 224), output_member_probabilities=True)
        >>> output.logits.shape, output.member_probabilities.shape
        (torch.Size([1, 5]), torch.Size([1, 4, 5]))
    """

    # ---- structure ---------------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike[str] | PreTrainedModel,
        *,
        num_labels: int | None = None,
        fine_tuned: bool | None = None,
        image_processor: BaseImageProcessor | None = None,
        vertex_parameters: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Build a complex of one vertex from an image classifier.

        Args:
            backbone: Hub id or folder of anything that `AutoModelForImageClassification` loads (timm's repositories
                included), or such a model, which is copied.
            num_labels: number of labels of the new task; default: the backbone's. With it (or `id2label`), a head of
                another size is newly initialized. So is a head whose labels have other names than `id2label`, unless
                `fine_tuned` is True.
            fine_tuned: whether the weights are already trained on the task, which makes vertex 0 a mode; default: True
                if every weight came from the checkpoint.
            image_processor: default: the backbone's.
            vertex_parameters: what differs between vertices. `"all"` parameters; the `"head"`; the name of a parameter
                or module, with `*` and `?` as wildcards, or a list of such names; or low-rank adapters: `"lora"`, a
                peft `LoraConfig`, or its dictionary. The rest is stored and held once for all vertices. Default: what
                requires gradients, which is `"all"` of a backbone loaded by name. BatchNorm statistics always belong
                to a point.
            **kwargs: arguments of `from_pretrained`: `revision`, `token`, `cache_dir`, `dtype`, `id2label`,
                `ignore_mismatched_sizes`, `trust_remote_code`, `problem_type` (`"multi_label_classification"` for
                several labels of an image), ... Weights of half precision become float32, with a
                warning, unless `dtype` is given; a model takes `dtype` alone.

        Returns:
            A model with one vertex, one simplex and one member, in evaluation mode.

        Raises:
            ImportError: adapters are asked for, and peft is not installed.
            OSError: the backbone does not exist.
            TypeError: the backbone is neither a name nor a model of transformers, or `vertex_parameters` is of another
                type.
            ValueError: `vertex_parameters` matches nothing or does not fit (see `resolve_vertex_parameters`), the
                weights are not complete safetensors files, label counts contradict each other, or the backbone is not
                a classifier of RGB images (see `classifier_checks.check_classifier`).

        Example::

            model = SimplexForImageClassification.from_backbone("timm/resnet50.a1_in1k", num_labels=100)
        """
        if isinstance(backbone, PreTrainedModel):
            loaded = copy_backbone(backbone, num_labels, **kwargs)
        elif isinstance(backbone, str | os.PathLike):
            loaded = load_backbone(backbone, num_labels, keep_head=bool(fine_tuned), **kwargs)
        else:
            raise TypeError(
                f"The backbone is a {type(backbone).__name__}; expected a Hub id, a folder or an image classifier of "
                "transformers. Load a timm model by its Hub id, such as 'timm/resnet50.a1_in1k'."
            )
        module = loaded.module
        if isinstance(module, SimplexForImageClassification):
            raise ValueError(f"{backbone} is an ensemble already. Load it with from_pretrained to grow it further.")
        check_classifier(module)
        set_labels(module.config, module.config.id2label, module.config.label2id)
        resolved = resolve_vertex_parameters(vertex_parameters, module, loaded.new_weights)
        # Adapters of all models start from the same values: vertices are mixed entry by entry, and A and B are
        # determined up to an invertible matrix only.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ADAPTER_SEED)
            separate_shared(module, resolved)
        role = MODE if (loaded.complete if fine_tuned is None else fine_tuned) else PRETRAINED
        config = SimplexConfig(backbone_config=module.config, roles=[role], vertex_parameters=resolved)
        config.provenance = {"backbone": module.config.name_or_path or type(module).__name__}
        with torch.device("meta"):
            model = cls(config)
        buffers = persistent_buffers(module)
        parameters, shared = split_parameters(module)
        if shapes(model.weights[0]) != shapes(parameters | buffers) or shapes(model.shared.tensors()) != shapes(
            shared
        ):
            raise ValueError(
                f"The given {type(module).__name__} has other weights than the image classifier that "
                "AutoModelForImageClassification builds from its configuration, so it could not be loaded again."
            )
        copies = ({name: tensor.clone() for name, tensor in tensors.items()} for tensors in (parameters, buffers))
        model.vertices = nn.ModuleList([TensorTree(*copies)])
        model.shared = TensorTree(shared, {})
        model.__dict__["_backbone"] = module
        model._tie_shared()
        model.new_weights = loaded.new_weights
        model._image_processor = LazyImageProcessor(source=loaded.source)
        if image_processor is not None:
            model.image_processor = image_processor
        config.dtype = model.dtype
        model.set_members([[1.0]])
        return model.eval()

    @classmethod
    def disjoint_union(cls, models: Sequence["SimplexForImageClassification"]) -> Self:
        """Combine components into the disjoint union of their complexes: an ESPRO ensemble (Benton et al. 2021).

        Args:
            models: at least one, all with the same backbone architecture, labels, vertex parameters and shared
                weights; they are copied.

        Returns:
            The ensemble of all vertices, simplexes and members, component after component, in evaluation mode. It
            has the record of the images only if all components have the same, else a warning says so.

        Raises:
            ValueError: there is no model, or two differ in architecture, labels, vertex parameters, shared weights or
                image processor.

        Example::

            ensemble = SimplexForImageClassification.disjoint_union([first, second])
            ensemble.config.simplexes   # [[0, 1], [2, 3]]
        """
        if not models:
            raise ValueError("There is nothing to unite: give at least one model.")
        first = models[0]
        check_same_architecture(
            [model.config for model in models],
            [model.weights[0] for model in models],
            [model.shared.tensors() for model in models],
        )
        config = SimplexConfig.disjoint_union([model.config for model in models])
        config.dtype = first.dtype
        with torch.device("meta"):
            united = cls(config)
        united.shared = copy.deepcopy(first.shared)
        united.vertices = nn.ModuleList(copy.deepcopy(vertex) for model in models for vertex in model.vertices)
        if config.members:
            united.members = nn.ModuleList(copy.deepcopy(tree) for model in models for tree in model.members)
            united.centroids = nn.ModuleList(copy.deepcopy(tree) for model in models for tree in model.centroids)
        names = [model.config.name_or_path or f"component {number}" for number, model in enumerate(models, start=1)]
        common = common_image_processor([model.image_processor for model in models], names)
        united._image_processor = LazyImageProcessor(common)
        return united.eval()

    @classmethod
    def simplex_of_modes(cls, models: Sequence["SimplexForImageClassification"]) -> Self:
        """Combine modes into one simplex, with a mode at each vertex.

        Use this for modes fine-tuned from the same pretrained weights: the loss between two of them is mostly low
        (Neyshabur et al. 2020, What is being transferred in transfer learning?), so they need no connector. Modes
        trained from scratch have a barrier between them: combine those with `disjoint_union` and train connectors.

        Args:
            models: at least one, all with the same backbone architecture and labels; they are copied.

        Returns:
            One simplex of all their vertices, without members, in evaluation mode.

        Raises:
            ValueError: see `disjoint_union`; or the simplex would have more dimensions than a vertex has weights.

        Example::

            model = SimplexForImageClassification.simplex_of_modes([first, second, third])
            model.config.simplexes   # [[0, 1, 2]]
        """
        simplex = cls.disjoint_union(models)
        vertices = simplex.config.num_vertices
        simplex._set_structure(SimplicialComplex(vertices, (tuple(range(vertices)),)))
        return simplex

    # ---- members -----------------------------------------------------------------------------------------------

    def draw_members(
        self,
        num_members: int | str,
        *,
        seed: int = 0,
        batches: Iterable[Any] | None = None,
        sampling: str | None = None,
        among_processes: bool = False,
    ) -> None:
        """Choose the members of the ensemble: random points of the complex, or points placed by a rule.

        Args:
            num_members: how many to draw uniformly (`members.draw_members`); or a rule of `members.place_members`:
                `"vertices_and_centroid"`, `"vertices"`, `"centroid"` or `"symmetric"`. `"auto"` is the first.
            seed: of the draw.
            batches: re-iterable inputs of training images for the BatchNorm statistics, if the backbone has BatchNorm.
            sampling: `"equal"` or `"volume"`; default: the configuration's.
            among_processes: see `set_members`.

        Raises:
            ValueError: there are too few members, or the rule is unknown; or a rule with volume sampling of several
                simplexes.

        Example::

            model.draw_members(8, seed=1)
            model.draw_members("auto")
        """
        sampling = sampling or self.config.sampling
        if isinstance(num_members, str):
            coordinates = self._placed_members(num_members, sampling)
        else:
            log_volumes = self.log_volumes() if sampling == "volume" else None
            coordinates = draw_members(
                self.config.complex, num_members, seed=seed, sampling=sampling, log_volumes=log_volumes
            )
        self.set_members(coordinates, batches=batches, among_processes=among_processes)
        self.config.sampling = sampling

    def _placed_members(self, rule: str, sampling: str) -> list[list[float]]:
        placed = place_members(self.config.complex, DEFAULT_RULE if rule == "auto" else rule)
        if sampling == "volume" and len(self.config.simplexes) > 1:
            raise ValueError(
                f"Members by the rule {rule!r} weigh all simplexes alike, but sampling is 'volume': give a number of "
                "members."
            )
        return placed

    def set_members(
        self,
        coordinates: Sequence[Sequence[float]],
        batches: Iterable[Any] | None = None,
        *,
        among_processes: bool = False,
    ) -> None:
        """Set the members, and compute the BatchNorm statistics of members and centroids.

        Args:
            coordinates: [members, vertices] barycentric coordinates.
            batches: re-iterable inputs of training images, read once for each point between vertices. Not needed
                without BatchNorm.
            among_processes: divide the points among the ranks. All ranks must call this with the same batches.
                Default: this rank computes all statistics.

        Raises:
            ValueError: there is no point, one lies outside the complex, or batches are needed and missing.

        Example::

            model.set_members([[0.5, 0.5], [1.0, 0.0]], batches=[{"pixel_values": images}])
        """
        if not len(coordinates):
            raise ValueError("An ensemble needs at least one member, and no point was given.")
        self.config.check_points(coordinates)
        self.dematerialize()
        found = self.point_statistics(
            [*coordinates, *self._centroid_coordinates()], batches, among_processes=among_processes
        )
        trees = [TensorTree({}, tensors).to(self.device) for tensors in found if tensors]
        self._assign_members(coordinates, trees[: len(coordinates)])
        self.centroids = nn.ModuleList(trees[len(coordinates) :])

    def choose_members(
        self, coordinates: Sequence[Sequence[float]], point_statistics: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Set the members to points whose BatchNorm statistics are known. The centroids stay.

        Args:
            coordinates: [members, vertices] barycentric coordinates.
            point_statistics: the statistics of each member by buffer name; empty without BatchNorm.

        Raises:
            ValueError: there is no point, or one lies outside the complex.

        Example::

            model.choose_members([[1.0, 0.0], [0.0, 1.0]], [model.vertex_statistics(v) for v in (0, 1)])
        """
        if not len(coordinates):
            raise ValueError("An ensemble needs at least one member, and no point was given.")
        self.config.check_points(coordinates)
        self.dematerialize()
        copies = [{name: tensor.clone() for name, tensor in found.items()} for found in point_statistics if found]
        self._assign_members(coordinates, [TensorTree({}, found).to(self.device) for found in copies])

    def _assign_members(self, coordinates: Sequence[Sequence[float]], trees: Sequence[TensorTree]) -> None:
        self._drop_decisions()
        self.config.members = [[float(coordinate) for coordinate in member] for member in coordinates]
        self.members = nn.ModuleList(trees)

    def point_statistics(
        self,
        points: Sequence[Sequence[float]],
        batches: Iterable[Any] | None = None,
        *,
        among_processes: bool = False,
    ) -> list[dict[str, Tensor]]:
        """Compute the BatchNorm statistics of points.

        Args:
            points: [points, vertices] barycentric coordinates.
            batches, among_processes: see `set_members`.

        Returns:
            The statistics of each point by buffer name, on the CPU; empty without BatchNorm.

        Raises:
            ValueError: see `set_members`.

        Example::

            model.point_statistics([[0.5, 0.5]], batches=[{"pixel_values": images}])
        """
        if not batch_norm_statistics(self.backbone):
            return [{} for _ in points]
        progress = logging.tqdm(total=len(points), desc="BatchNorm statistics", leave=False, disable=None)

        def at(point: Sequence[float]) -> dict[str, Tensor]:
            found = copy_statistics(batch_norm_statistics(self.backbone_at(point, batches)))
            progress.update()
            return {name: tensor.cpu() for name, tensor in found.items()}

        with progress:
            return map_over_ranks(points, at) if among_processes else [at(point) for point in points]

    def with_members(
        self, coordinates: Sequence[Sequence[float]], point_statistics: Sequence[Mapping[str, Tensor]]
    ) -> Self:
        """Return an ensemble of other members that shares the vertices, with known BatchNorm statistics.

        It has no decisions: those were fitted for the present members.

        Args:
            coordinates: [members, vertices] barycentric coordinates.
            point_statistics: the statistics of each member by buffer name; empty without BatchNorm.

        Raises:
            ValueError: a point lies outside the complex.

        Example::

            at_vertex_0 = model.with_members([[1.0, 0.0]], [model.vertex_statistics(0)])
        """
        self.config.check_points(coordinates)
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._ready = ReadyMembers()
        other.config = copy.deepcopy(self.config)
        other.config.members = [[float(coordinate) for coordinate in member] for member in coordinates]
        other.config.decisions = None
        other.members = nn.ModuleList(TensorTree({}, found) for found in point_statistics if found)
        return other

    # ---- prediction --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_member_probabilities: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SimplexImageClassifierOutput | tuple[Tensor, ...]:
        """Predict with the ensemble: the mean of its members' softmax (Benton et al. 2021), then the temperature.

        With `problem_type="multi_label_classification"` it is the mean of their sigmoids, for each label on its own.
        The temperature is that of `decisions`, fitted by `calibrate`; without decisions there is none.

        No gradient flows. To explain predictions, export the centroid or a vertex and use that.

        Args:
            pixel_values: [batch, channels, height, width], from the image processor.
            labels: [batch] int64; of a multi-label ensemble [batch, labels] of 0 and 1.
            output_member_probabilities: return each member's probabilities and energies; default: the configuration's
                attribute of that name, else False.
            return_dict: return a `SimplexImageClassifierOutput` (default) or a tuple.
            **kwargs: arguments of the backbone.

        Raises:
            RuntimeError: the model is in training mode, or its members are not drawn yet.

        Example::

            output = model(pixel_values, labels=labels, output_member_probabilities=True)
            output.logits.softmax(dim=-1)   # the mean of output.member_probabilities over the members
        """
        if self.training:
            raise RuntimeError(
                "An ensemble predicts in evaluation mode only: call model.eval(). Vertices are trained by "
                "SimplexTrainer.grow(), not by backpropagation through this model."
            )
        self._check_drawn()
        if output_member_probabilities is None:
            output_member_probabilities = getattr(self.config, "output_member_probabilities", False)
        self._check_not_training()
        raw = None if kwargs else self._ready.logits(pixel_values)
        if raw is None:
            raw = member_logits(self._member_backbones(), pixel_values, **kwargs)
        activation = activation_of(self.config)
        # A checkpoint may have decisions without a temperature, which is 1 then.
        logits = activation.ensemble_logits(raw, (self.config.decisions or {}).get("temperature", 1.0))
        output = SimplexImageClassifierOutput(
            loss=None if labels is None else activation.loss(logits, labels.to(logits.device)),
            logits=logits,
            member_probabilities=activation.probabilities(raw) if output_member_probabilities else None,
            member_energies=activation.energies(raw) if output_member_probabilities else None,
            member_logits=raw if output_member_probabilities and is_multi_label(self.config) else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()
