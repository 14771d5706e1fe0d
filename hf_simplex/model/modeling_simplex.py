"""A simplicial complex of backbones as one image classifier that transformers loads and saves."""

import copy
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from .batch_norm import batch_norm_statistics, copy_statistics, recompute_statistics
from .checkpoint import (
    HUB_ARGUMENTS,
    atomic_write,
    check_alone,
    check_dtypes,
    check_files,
    check_target,
    indexed_files,
    read_index,
    remove_stale,
    stored_dtype,
    write_tensors,
)
from .complexes import SimplicialComplex
from .configuration_simplex import CONNECTOR, MODE, PRETRAINED, ROLES, SimplexConfig
from .coordinates import centroid_coordinates, vertex_coordinates
from .cuda_graph import MembersOnCuda
from .members import draw_members, symmetric_members
from .processes import map_over_ranks
from .remote_code import write_inference_code
from .sharding import full_tensor
from .subset import part_of, read_part
from .tensor_tree import TensorTree, like
from .volumes import simplex_log_volumes
from .weight_space import stacked_parameters, trainable_names, write_point


@dataclass
class SimplexImageClassifierOutput(ModelOutput):
    """What the ensemble predicts.

    Attributes:
        loss: scalar float32, the mean negative log-likelihood of the labels in nats, where labels were given.
        logits: [batch, labels] float32, the natural logarithm of the mean of the members' probabilities, so that a
            softmax gives that mean back.
        member_probabilities: [batch, members, labels] float32, each member's softmax, on request.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    member_probabilities: Tensor | None = None


class SimplexForImageClassification(PreTrainedModel):
    """An ensemble whose members are points of a simplicial complex in the weight space of one backbone.

    Build one with `from_backbone`, grow it with `SimplexTrainer`, unite several with `disjoint_union`, load one with
    `from_pretrained`. The vertices hold the weights; one working backbone, built at first use, holds the point at
    hand.

    Args:
        config: the structure.

    Raises:
        ValueError: the configuration has no backbone, or another label count than its backbone.
    """

    config_class = SimplexConfig
    config: SimplexConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    accepts_loss_kwargs = False
    _no_split_modules = ["TensorTree"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: SimplexConfig) -> None:
        super().__init__(config)
        if config.backbone_config is None:
            raise ValueError(
                "The configuration has no backbone_config. Build a model with "
                "SimplexForImageClassification.from_backbone(id_or_path, num_labels=...)."
            )
        if config.num_labels != config.backbone_config.num_labels:
            raise ValueError(
                f"The ensemble was trained for {config.backbone_config.num_labels} labels and cannot have "
                f"{config.num_labels}. Build a new one with from_backbone(..., num_labels={config.num_labels})."
            )
        self.vertices = nn.ModuleList()
        self.members = nn.ModuleList()
        self.centroids = nn.ModuleList()
        self.growing: int | None = None
        # Not modules of this one: the working backbone's weights are a scratch pad, no part of the state dict.
        self.__dict__["_backbone"] = None
        self.__dict__["_materialized"] = []
        self._on_cuda: MembersOnCuda | None = None
        self._image_processor: BaseImageProcessor | None = None
        self._image_processor_source: tuple[str, dict[str, Any]] | None = None

        on_meta = torch.empty(0).device.type == "meta"
        with torch.device("meta" if on_meta else "cpu"):
            prototype = _build_backbone(config)
        parameters, buffers = _parameters_and_buffers(prototype)
        for _ in range(config.num_vertices):
            # Loading overwrites everything; without it all vertices begin as one randomly initialized backbone.
            tree = TensorTree(like(parameters), like(buffers))
            if not on_meta:
                _copy(prototype, tree)
            self.vertices.append(tree)
        if config.members:
            names = batch_norm_statistics(prototype)
            self.members.extend(TensorTree({}, like(names)) for _ in config.members if names)
            self.centroids.extend(TensorTree({}, like(names)) for _ in config.simplexes if names)
            if not on_meta:
                for tree in (*self.members, *self.centroids):
                    _copy(prototype, tree)
        self.post_init()

    # ---- from a backbone, to an ensemble -----------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike[str] | PreTrainedModel,
        *,
        num_labels: int | None = None,
        fine_tuned: bool | None = None,
        image_processor: BaseImageProcessor | None = None,
        **kwargs: Any,
    ) -> Self:
        """Start a complex of one vertex from an image classifier.

        Args:
            backbone: Hub id or folder of anything that `AutoModelForImageClassification` loads (timm's repositories
                included), or such a model; a model is copied, not changed.
            num_labels: labels of the new task; default: the backbone's own. With it (or `id2label`) a head of another
                size is initialized afresh.
            fine_tuned: whether the weights are trained on the task already, so that vertex 0 is a mode; default: they
                are if every weight came from the checkpoint.
            image_processor: default: the backbone's own.
            **kwargs: of `from_pretrained`: `revision`, `token`, `cache_dir`, `dtype`, `id2label`,
                `ignore_mismatched_sizes`, `trust_remote_code`, ...

        Returns:
            A model with one vertex, one simplex and one member, in evaluation mode.

        Raises:
            OSError: there is no such backbone.
            TypeError: the backbone is neither a name nor a model of transformers.
            ValueError: the backbone's weights are not in safetensors or not whole, it is no image classifier, or label
                counts contradict each other.
        """
        if isinstance(backbone, PreTrainedModel):
            if kwargs:
                raise ValueError(f"{sorted(kwargs)} are for loading a backbone by name; a model was given.")
            if num_labels is not None and num_labels != backbone.config.num_labels:
                raise ValueError(
                    f"The given backbone has {backbone.config.num_labels} labels, not {num_labels}. Load it with "
                    "num_labels first, or give its Hub id or folder here."
                )
            module, complete, source = copy.deepcopy(backbone), True, None
        elif not isinstance(backbone, str | os.PathLike):
            raise TypeError(
                f"The backbone is a {type(backbone).__name__}; expected a Hub id, a folder or an image classifier of "
                "transformers. A model of timm's is loaded by its Hub id, such as 'timm/resnet50.a1_in1k'."
            )
        else:
            if kwargs.pop("use_safetensors", True) is False:
                raise ValueError("use_safetensors=False was given: weights are only read from safetensors files.")
            if (id2label := kwargs.get("id2label")) is not None:
                if num_labels not in (None, len(id2label)):
                    raise ValueError(f"num_labels={num_labels} contradicts the {len(id2label)} labels of id2label.")
                # timm's configuration takes the size of the head from num_labels alone.
                num_labels = len(id2label)
                kwargs.setdefault("label2id", {name: int(index) for index, name in id2label.items()})
            if num_labels is not None and num_labels < 1:
                raise ValueError(f"num_labels={num_labels}: expected at least 1.")
            labels = {} if num_labels is None else {"num_labels": num_labels}
            kwargs.setdefault("ignore_mismatched_sizes", bool(labels))
            arguments = _image_processor_arguments(kwargs)
            try:
                # A configuration can name a pickled file, which transformers reads although safetensors are asked for.
                weights_file = getattr(AutoConfig.from_pretrained(backbone, **arguments), "transformers_weights", None)
                if str(weights_file).endswith(".bin"):
                    raise ValueError(f"{backbone} keeps its weights in {weights_file}: only safetensors are read.")
                module, loading = AutoModelForImageClassification.from_pretrained(
                    backbone, output_loading_info=True, use_safetensors=True, **labels, **kwargs
                )
            except OSError as error:
                raise OSError(f"The backbone {os.fspath(backbone)!r} could not be loaded: {error}") from error
            except SafetensorError as error:
                raise ValueError(f"The weights of {os.fspath(backbone)!r} are empty or not whole: {error}") from error
            complete = not loading["missing_keys"] and not loading["mismatched_keys"]
            source = (os.fspath(backbone), arguments)
        if isinstance(module, SimplexForImageClassification):
            raise ValueError(f"{backbone} is an ensemble already. Load it with from_pretrained to grow it further.")
        _set_labels(module.config, module.config.id2label, module.config.label2id)
        role = MODE if (complete if fine_tuned is None else fine_tuned) else PRETRAINED
        config = SimplexConfig(backbone_config=module.config, roles=[role])
        config.provenance = {"backbone": module.config.name_or_path or type(module).__name__}
        with torch.device("meta"):
            model = cls(config)
        parameters, buffers = _parameters_and_buffers(module)
        if _shapes(model.weights[0]) != _shapes(parameters | buffers):
            raise ValueError(
                f"The given {type(module).__name__} has other weights than the image classifier that "
                "AutoModelForImageClassification builds from its configuration, so it could not be loaded again."
            )
        model.vertices = nn.ModuleList([TensorTree(_copies(parameters), _copies(buffers))])
        model.__dict__["_backbone"] = module
        model._image_processor_source = source
        if image_processor is not None:
            model.image_processor = image_processor
        config.dtype = model.dtype
        model.set_members([[1.0]])
        return model.eval()

    @classmethod
    def disjoint_union(cls, models: Sequence["SimplexForImageClassification"]) -> Self:
        """Unite components into one disjoint complex: an ESPRO ensemble (Benton et al. 2021).

        Args:
            models: at least one, all with the same backbone architecture and labels; they are copied, not changed.

        Returns:
            The ensemble of all vertices, simplexes and members, component after component, in evaluation mode.

        Raises:
            ValueError: no model was given, or two differ in architecture or labels.
        """
        if not models:
            raise ValueError("There is nothing to unite: give at least one model.")
        _check_same_kind(models)
        first = models[0]
        structure = first.config.complex.union(*(model.config.complex for model in models[1:]))
        members, stages, before = [], [], 0
        for model in models:
            after = structure.num_vertices - before - model.config.num_vertices
            members += [[0.0] * before + member + [0.0] * after for member in model.config.members]
            for stage in model.config.provenance.get("stages", []):
                stages.append({**stage, "vertex": before + stage["vertex"]})
            before += model.config.num_vertices
        config = SimplexConfig(
            backbone_config=copy.deepcopy(first.config.backbone_config),
            simplexes=structure.simplexes,
            roles=[role for model in models for role in model.config.roles],
            members=members if all(model.config.members for model in models) else (),
            sampling=first.config.sampling,
            provenance={**copy.deepcopy(first.config.provenance), "stages": stages},
            id2label=first.config.id2label,
            label2id=first.config.label2id,
        )
        config.dtype = first.dtype
        with torch.device("meta"):
            united = cls(config)
        united.vertices = nn.ModuleList(copy.deepcopy(vertex) for model in models for vertex in model.vertices)
        if config.members:
            united.members = nn.ModuleList(copy.deepcopy(tree) for model in models for tree in model.members)
            united.centroids = nn.ModuleList(copy.deepcopy(tree) for model in models for tree in model.centroids)
        united._image_processor, united._image_processor_source = (
            first._image_processor,
            first._image_processor_source,
        )
        return united.eval()

    @classmethod
    def simplex_of_modes(cls, models: Sequence["SimplexForImageClassification"]) -> Self:
        """Join modes into one simplex, whose vertices they are.

        For modes that were fine-tuned from the same pretrained weights: a straight line between two of them mostly
        has low loss (Neyshabur et al. 2020, What is being transferred in transfer learning?), so that no connector is
        needed. Modes that were trained from scratch have a barrier between them: `disjoint_union` them, and let
        connectors that several simplexes share lead around it.

        Args:
            models: at least one, all with the same backbone architecture and labels; they are copied, not changed.

        Returns:
            One simplex of all their vertices, with no members drawn yet, in evaluation mode.

        Raises:
            ValueError: no model was given, two differ in architecture or labels, or the simplex would have more
                dimensions than the backbone has weights.
        """
        joined = cls.disjoint_union(models)
        structure = SimplicialComplex(joined.config.num_vertices, (tuple(range(joined.config.num_vertices)),))
        joined._change_structure(structure)
        return joined

    def add_vertex(self, simplexes: Sequence[int] | None = None, *, role: str = CONNECTOR) -> int:
        """Add a vertex at the mean of the vertices of the simplexes that it joins.

        The members are dropped, because the complex that they were drawn from is no longer the whole.

        Args:
            simplexes: indices of the simplexes; default: all.
            role: `"connector"`, or `"pretrained"` for a vertex that is to be trained as one more mode.

        Returns:
            The index of the new vertex.

        Raises:
            ValueError: an unknown role, or a simplex would have more dimensions than the backbone has weights.
        """
        if role not in ROLES:
            raise ValueError(f"role is {role!r}: choose from {', '.join(ROLES)}.")
        self.dematerialize()
        structure = self.config.complex.with_vertex(simplexes)
        self._check_dimensions(structure)
        neighbours = {v for s in structure.simplexes_with(self.config.num_vertices) for v in structure.simplexes[s]}
        neighbours.discard(self.config.num_vertices)
        mean = [(v in neighbours) / len(neighbours) for v in range(self.config.num_vertices)]
        vertex = copy.deepcopy(self.vertices[min(neighbours)])
        write_point(vertex, self.weights, mean)
        self.vertices.append(vertex)
        self.config.roles.append(role)
        self._change_structure(structure)
        return structure.num_vertices - 1

    def _check_dimensions(self, structure: SimplicialComplex) -> None:
        weights = sum(p.numel() for p in self.vertices[0].parameters())
        if (dimension := max(map(structure.dimension, range(len(structure.simplexes))))) > weights:
            raise ValueError(
                f"A simplex of {dimension} dimensions has no volume among {weights} weights: grow fewer vertices."
            )

    def _change_structure(self, structure: SimplicialComplex) -> None:
        """Take another structure of the same vertices; the members, which lie in the former one, are dropped."""
        self._check_dimensions(structure)
        self.config.simplexes = [list(simplex) for simplex in structure.simplexes]
        self.config.members = []
        self.members, self.centroids = nn.ModuleList(), nn.ModuleList()

    def store_vertex(self, vertex: int) -> None:
        """Make the working backbone's weights and buffers those of the given vertex."""
        self.dematerialize()
        _copy(self.backbone, self.vertices[vertex])

    def take_over(self, other: "SimplexForImageClassification") -> None:
        """Become the ensemble that `other` is: its vertices, structure and members, on this model's device.

        Raises:
            ValueError: the two differ in architecture or labels.
        """
        _check_same_kind([self, other])
        self.dematerialize()
        other.to(self.device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
        # The order of elements in memory decides the order of sums over them: what goes on must not depend on it.
        present = self.weights[0]
        for vertex in other.weights:
            for name, tensor in vertex.items():
                tensor.data = torch.empty_like(present[name], dtype=tensor.dtype).copy_(tensor)
        self.vertices, self.members, self.centroids = other.vertices, other.members, other.centroids
        for name in ("simplexes", "roles", "members", "sampling", "provenance"):
            setattr(self.config, name, getattr(other.config, name))

    # ---- weights and points ------------------------------------------------------------------------------------

    @property
    def weights(self) -> list[dict[str, Tensor]]:
        """All vertices: the tensors (parameters and buffers) of each by the backbone's names, not copied."""
        return [cast(TensorTree, vertex).tensors() for vertex in self.vertices]

    @property
    def backbone(self) -> PreTrainedModel:
        """The working backbone: whichever point was written last."""
        backbone: Any = self.__dict__["_backbone"]
        if backbone is None:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                backbone = _build_backbone(self.config)
            backbone.to(self.device, self.dtype)
            # Points are written fastest, and computed with in the vertices' order, where both lie alike in memory.
            first = self.weights[0]
            for name, parameter in backbone.named_parameters():
                if (strides := first[name].stride()) != parameter.stride():
                    empty = torch.empty_strided(
                        parameter.shape, strides, dtype=parameter.dtype, device=parameter.device
                    )
                    parameter.data = empty.copy_(parameter.data)
            self.__dict__["_backbone"] = backbone
        return backbone

    def forget_backbone(self) -> None:
        """Let go of the working backbone, which an engine has changed for good; the next use builds another."""
        self.__dict__["_backbone"] = None

    def backbone_at(self, coordinates: Sequence[float], batches: Iterable[Any] | None = None) -> PreTrainedModel:
        """The working backbone, in evaluation mode, holding the point at `coordinates` until the next is written.

        Args:
            coordinates: [vertices] barycentric coordinates.
            batches: inputs of training images for the BatchNorm statistics, as `recompute_statistics` takes them. Not
                needed for a backbone without BatchNorm, nor for coordinates that single out one vertex.

        Raises:
            ValueError: the coordinates are no point of the complex, or batches are needed and missing.
        """
        self.config.check_points([coordinates])
        backbone = self._write(coordinates)
        if max(coordinates) < 1 and batch_norm_statistics(backbone):
            if batches is None:
                raise ValueError(
                    f"The point at {list(coordinates)} lies between vertices, where the BatchNorm statistics are not "
                    "known: give batches of training images to compute them from."
                )
            recompute_statistics(backbone, batches)
        return backbone

    def _check_idle(self) -> None:
        if self.growing is not None:
            raise RuntimeError(
                f"Vertex {self.growing} is being trained in the working backbone: ask for points after its stage."
            )

    def _write(self, coordinates: Sequence[float], point_statistics: nn.Module | None = None) -> PreTrainedModel:
        self._check_idle()
        _place(self.backbone, self.weights, coordinates, point_statistics)
        return self.backbone.eval()

    def log_volumes(self) -> Tensor:
        """[simplexes] float64: the natural logarithm of each simplex's volume, in the units of the weights."""
        return simplex_log_volumes(
            self.config.complex, stacked_parameters(self.weights, trainable_names(self.vertices[0]))
        )

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
        """Choose the members of the ensemble: random points of the complex, or few that stand for all of them.

        Args:
            num_members: how many, drawn uniformly (see `members.draw_members`); or `"auto"` for as many members of
                each simplex as it has vertices, placed by `members.symmetric_members`.
            seed: of the draw.
            batches: re-iterable inputs of training images for the BatchNorm statistics, where the backbone has any.
            sampling: `"equal"` or `"volume"`; default: the configuration's.
            among_processes: of `set_members`.

        Raises:
            ValueError: too few members, or `"auto"` members where several simplexes are to weigh by their volume.
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
        if rule != "auto":
            raise ValueError(f"num_members is {rule!r}: expected a number or 'auto'.")
        if sampling == "volume" and len(self.config.simplexes) > 1:
            raise ValueError(
                "Members by 'auto' weigh all simplexes alike, but sampling is 'volume': give a number of members."
            )
        return symmetric_members(self.config.complex)

    def set_members(
        self,
        coordinates: Sequence[Sequence[float]],
        batches: Iterable[Any] | None = None,
        *,
        among_processes: bool = False,
    ) -> None:
        """Make the given points the members, and compute the BatchNorm statistics of members and centroids.

        Args:
            coordinates: [members, vertices] barycentric coordinates.
            batches: re-iterable inputs of training images, read once for each point between vertices; not needed for
                a backbone without BatchNorm.
            among_processes: divide the points among the processes of a distributed run, all of which must call this
                together with the same batches; default: this process computes the statistics of all.

        Raises:
            ValueError: there is no point, one lies outside the complex, or batches are needed and missing.
        """
        if not len(coordinates):
            raise ValueError("An ensemble needs at least one member, and no point was given.")
        self.config.check_points(coordinates)
        self.dematerialize()
        points, found = [*coordinates, *self._centroids()], []
        if batch_norm_statistics(self.backbone):
            progress = logging.tqdm(total=len(points), desc="BatchNorm statistics", leave=False)

            def at(point: Sequence[float]) -> dict[str, Tensor]:
                kept = copy_statistics(batch_norm_statistics(self.backbone_at(point, batches)))
                progress.update()
                return {name: tensor.cpu() for name, tensor in kept.items()}

            with progress:
                each = map_over_ranks(points, at) if among_processes else [at(point) for point in points]
            found = [TensorTree({}, kept).to(self.device) for kept in each]
        members, centroids = nn.ModuleList(found[: len(coordinates)]), nn.ModuleList(found[len(coordinates) :])
        self.config.members = [[float(coordinate) for coordinate in member] for member in coordinates]
        self.members, self.centroids = members, centroids

    def with_members(
        self, coordinates: Sequence[Sequence[float]], point_statistics: Sequence[Mapping[str, Tensor]]
    ) -> Self:
        """Another ensemble over the same vertices, which are shared and not copied, with known BatchNorm statistics.

        Args:
            coordinates: [members, vertices] barycentric coordinates.
            point_statistics: for each member its statistics by buffer name; empty for a backbone without BatchNorm.
        """
        self.config.check_points(coordinates)
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.__dict__["_materialized"] = []
        other._on_cuda = None
        other.config = copy.deepcopy(self.config)
        other.config.members = [[float(coordinate) for coordinate in member] for member in coordinates]
        other.members = nn.ModuleList(TensorTree({}, found) for found in point_statistics if found)
        return other

    def materialize(self, max_bytes: int | None = None, *, cuda_graph: bool = False) -> int:
        """Keep members ready as backbones of their own, so that a prediction mixes no weights.

        Without this, or beyond `max_bytes`, members are streamed: each is written into the one working backbone when
        its turn comes, which costs a pass over the vertices' weights for each member and batch. For large batches
        that is little; for single images it can cost as much as the forward pass itself.

        What changes vertices or members afterwards (`set_members`, growth, `load_state_dict`) undoes it.

        Args:
            max_bytes: of memory that the members may take; default: no bound. A member takes a backbone's bytes.
            cuda_graph: replay all members' forward passes from one CUDA graph, which is captured at the first batch of
                each shape and dtype: for small batches and backbones, whose kernels a GPU runs faster than Python
                launches them. Predictions are the same; see `cuda_graph.MembersOnCuda` for what it cannot do. Where
                arguments beside the images are given, no graph is used.

        Returns:
            How many members are ready now: the first ones, as many as fit.

        Raises:
            RuntimeError: the members are not drawn yet.
            ValueError: `max_bytes` is negative; or for a CUDA graph the model is not on a GPU, or not all members fit.
        """
        self._check_drawn()
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}: expected at least 0, or None for no bound.")
        self.dematerialize()
        tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
        backbone_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        members = len(self.config.members)
        fit = members if max_bytes is None else min(members, max_bytes // backbone_bytes)
        if cuda_graph and self.device.type != "cuda":
            raise ValueError(f"cuda_graph=True, but the model is on {self.device}: move it to a GPU first.")
        if cuda_graph and fit < members:
            raise ValueError(
                f"A CUDA graph needs all {members} members ready, which take {members * backbone_bytes} bytes, and "
                f"max_bytes is {max_bytes}."
            )
        self.__dict__["_materialized"] = [copy.deepcopy(self._member(index)) for index in range(fit)]
        if cuda_graph:
            self._on_cuda = MembersOnCuda(self.__dict__["_materialized"])
        return fit

    @property
    def num_materialized(self) -> int:
        """How many members `materialize` keeps ready."""
        return len(self.__dict__["_materialized"])

    def dematerialize(self) -> None:
        """Free what `materialize` made: members are streamed again."""
        self.__dict__["_materialized"] = []
        self._on_cuda = None

    def vertex_statistics(self, vertex: int) -> dict[str, Tensor]:
        """The BatchNorm statistics of a vertex by buffer name, not copied; empty without BatchNorm."""
        tensors = self.weights[vertex]
        return {name: tensors[name] for name in batch_norm_statistics(self.backbone)}

    def _centroids(self) -> list[list[float]]:
        structure = self.config.complex
        return [centroid_coordinates(structure, simplex).tolist() for simplex in range(len(structure.simplexes))]

    @torch.no_grad()
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_member_probabilities: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SimplexImageClassifierOutput | tuple[Tensor, ...]:
        """Predict with the ensemble: the mean of its members' softmax (Benton et al. 2021).

        No gradient flows: to explain predictions, export the centroid or a vertex and use that.

        Args:
            pixel_values: [batch, channels, height, width], as the image processor gives them.
            labels: [batch] int64.
            output_member_probabilities: return each member's probabilities too; default: the attribute of that name
                of the configuration, else no.
            return_dict: a `SimplexImageClassifierOutput` (default) or a plain tuple.
            **kwargs: passed on to the backbone.

        Raises:
            RuntimeError: the model is in training mode, or its members are not drawn yet.
        """
        if self.training:
            raise RuntimeError(
                "An ensemble predicts in evaluation mode only: call model.eval(). Vertices are trained by "
                "SimplexTrainer.grow(), not by backpropagation through this model."
            )
        self._check_drawn()
        if output_member_probabilities is None:
            output_member_probabilities = getattr(self.config, "output_member_probabilities", False)
        if self._on_cuda is not None and pixel_values.is_cuda and not kwargs:
            self._check_idle()
            log_probabilities = self._on_cuda(pixel_values)
        else:
            log_probabilities = torch.stack(
                [
                    member(pixel_values=pixel_values, **kwargs).logits.float().log_softmax(dim=-1)
                    for member in self._each_member()
                ],
                dim=1,
            )
        logits = log_probabilities.logsumexp(dim=1) - math.log(len(self.config.members))
        loss = None if labels is None else nn.functional.nll_loss(logits, labels.to(logits.device))
        output = SimplexImageClassifierOutput(
            loss=loss,
            logits=logits,
            member_probabilities=log_probabilities.exp() if output_member_probabilities else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _check_drawn(self) -> None:
        if not self.config.members:
            raise RuntimeError(
                "The ensemble has no members: SimplexTrainer.grow() draws them at its end, or call "
                "model.draw_members(number, batches=...)."
            )

    def _member(self, index: int) -> PreTrainedModel:
        materialized: list[PreTrainedModel] = self.__dict__["_materialized"]
        if index < len(materialized):
            self._check_idle()
            return materialized[index]
        return self._write(self.config.members[index], self.members[index] if len(self.members) else None)

    def _each_member(self) -> Iterator[PreTrainedModel]:
        """The members in their order; a streamed one is valid until the next is asked for."""
        self._check_idle()
        materialized: list[PreTrainedModel] = self.__dict__["_materialized"]
        yield from materialized
        streamed = range(len(materialized), len(self.config.members))
        if streamed:
            # Once for all members: looking through a small backbone for its tensors takes as long as a forward pass.
            backbone, weights = self.backbone.eval(), self.weights
            for index in streamed:
                point_statistics = self.members[index] if len(self.members) else None
                _place(backbone, weights, self.config.members[index], point_statistics)
                yield backbone

    # ---- files -------------------------------------------------------------------------------------------------

    @property
    def image_processor(self) -> BaseImageProcessor | None:
        """The backbone's image processor, or None where its folder or repository has none."""
        if self._image_processor is None and self._image_processor_source is not None:
            name_or_path, arguments = self._image_processor_source
            try:
                self._image_processor = AutoImageProcessor.from_pretrained(name_or_path, **arguments)
            except (OSError, ValueError):
                self._image_processor_source = None
        return self._image_processor

    @image_processor.setter
    def image_processor(self, image_processor: BaseImageProcessor | None) -> None:
        settings = getattr(image_processor, "data_config", None)
        is_timm = hasattr(self.config.backbone_config, "pretrained_cfg")
        if image_processor is not None and is_timm != (settings is not None):
            raise ValueError(
                f"A {type(image_processor).__name__} does not go with this backbone: timm's backbones need a "
                "TimmWrapperImageProcessor, and only they can have one."
            )
        self._image_processor, self._image_processor_source = image_processor, None
        if settings is not None:
            # timm keeps the image processor's settings in the backbone's configuration.
            configs: list[Any] = [self.config.backbone_config, self.backbone.config]
            for config in configs:
                config.pretrained_cfg = {**config.pretrained_cfg, **settings}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        simplex: int | Sequence[int] | None = None,
        num_members: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load an ensemble, or a part of one, from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            simplex: load only this simplex (or these), with the members that lie in it.
            num_members: load only the first so many members, with the simplexes that they lie in. Of a part only the
                vertex files that it needs are downloaded; it is an ensemble of its own.
            **kwargs: as for every transformers model: `revision`, `token`, `cache_dir`, `local_files_only`, `dtype`,
                `device_map`, ...

        Raises:
            OSError: there is no such repository or revision, or not for this token.
            FileNotFoundError: the folder or repository is no ensemble, or a file that its index names is missing.
            ValueError: a file is corrupt or its header lies, the index points outside the folder, tensors are missing
                or misshapen, another model's file is beside them that transformers would read, or the ensemble has no
                such simplex or not so many members.
        """
        if kwargs.pop("use_safetensors", True) is False:
            raise ValueError("use_safetensors=False was given: weights are only read from safetensors files.")
        with_loading_info = kwargs.pop("output_loading_info", False)
        index = read_index(pretrained_model_name_or_path, **kwargs)
        # All files come from the same commit, whatever is committed meanwhile.
        kwargs["revision"] = index.commit or kwargs.get("revision")
        processor_arguments = _image_processor_arguments(kwargs)
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        check_alone(pretrained_model_name_or_path, **hub)
        renamed = {name: name for name in index.weight_map}
        if simplex is None and num_members is None:
            files = check_files(pretrained_model_name_or_path, index.weight_map.values(), **hub)
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, use_safetensors=True, **kwargs
            )
        else:
            config, kwargs = _configuration(pretrained_model_name_or_path, kwargs)
            config, renamed = part_of(config, list(renamed), simplex=simplex, num_members=num_members)
            needed = {index.weight_map[name] for name in renamed}
            files = check_files(pretrained_model_name_or_path, needed, **hub)
            state = read_part(index.weight_map, files, renamed)
            loaded = super().from_pretrained(
                None, *model_args, config=config, state_dict=state, output_loading_info=True, **kwargs
            )
            loaded[0].config.name_or_path = os.fspath(pretrained_model_name_or_path)
        model, loading = loaded
        model.config._commit_hash = index.commit
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            if loading[kind]:
                example = sorted(str(key) for key in loading[kind])[0]
                raise ValueError(
                    f"{pretrained_model_name_or_path}: {len(loading[kind])} {kind.replace('_', ' ')}, {example} among "
                    "them. The weight files do not fit config.json; restore or re-save the checkpoint."
                )
        tensors = model.state_dict()
        stored = stored_dtype(pretrained_model_name_or_path, **hub)
        check_dtypes(files.values(), {name: tensors[new] for name, new in renamed.items()}, stored)
        model._image_processor_source = (os.fspath(pretrained_model_name_or_path), processor_arguments)
        return (model, loading) if with_loading_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        push_to_hub: bool = False,
        *,
        include_code: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save one safetensors file a vertex, the standard index, config.json and the image processor.

        All is written aside first and then renamed into place; vertices that did not change get the same bytes.

        Args:
            save_directory: created if it is not there.
            is_main_process: False writes nothing.
            push_to_hub: also upload, to `kwargs["repo_id"]` or a repository named after the folder.
            include_code: save the inference code too, so that `trust_remote_code=True` loads the ensemble without
                hf_simplex; default: only if the ensemble was loaded that way itself.
            **kwargs: of `PreTrainedModel.push_to_hub`, where that is asked for.

        Raises:
            ValueError: `save_directory` is a file, or holds a model of another kind or an adapter; or other weights, a
                variant or pickles were asked for.
        """
        if kwargs.pop("safe_serialization", True) is False:
            raise ValueError("safe_serialization=False was given: weights are only written to safetensors files.")
        for name in ("state_dict", "variant"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{name} was given, but an ensemble is saved with its own weights under their own names: "
                    "leave it out."
                )
        check_target(save_directory, self.config.model_type)
        if not is_main_process:
            return
        if os.path.isdir(save_directory):
            check_alone(save_directory)
        before = indexed_files(save_directory)
        state = self.state_dict()
        self.config.architectures = [type(self).__name__]
        self.config.dtype = self.dtype
        with atomic_write(save_directory) as aside:
            write_tensors(aside, state)
            self._save_image_processor(aside)
            self.config.save_pretrained(aside)
            if self.is_remote_code() if include_code is None else include_code:
                write_inference_code(aside)
        remove_stale(Path(save_directory), before)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: str | list[str] | None = None,
        include_code: bool = True,
    ) -> Any:
        """Publish the ensemble in one commit, with its card; see `publishing.publish_folder`.

        Args:
            max_shard_size: not used, every vertex is one file; there because transformers has it.
            include_code: also publish the code that loads the ensemble where hf-simplex is not installed.

        Raises:
            ImportError: hf-simplex is not installed, but this model came with its own code from the Hub.
            ValueError, OSError: as `publishing.publish_folder`.
        """
        # hf_simplex/registration.py replaces this method when the whole package is installed.
        raise ImportError("Publishing needs all of hf-simplex: pip install hf-simplex, then import hf_simplex.")

    def export_vertex(self, vertex: int, save_directory: str | os.PathLike[str]) -> None:
        """Save one vertex as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        Args:
            vertex: its index.
            save_directory: created if it is not there.

        Raises:
            IndexError: there is no such vertex.
        """
        if not 0 <= vertex < self.config.num_vertices:
            raise IndexError(f"There is no vertex {vertex}: the vertices are 0 to {self.config.num_vertices - 1}.")
        self._export(self._write(vertex_coordinates(self.config.complex, vertex).tolist()), save_directory)

    def export_member(self, member: int, save_directory: str | os.PathLike[str]) -> None:
        """Save one member as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        Args:
            member: its index.
            save_directory: created if it is not there.

        Raises:
            IndexError: there is no such member.
        """
        if not 0 <= member < len(self.config.members):
            raise IndexError(f"There is no member {member}: the ensemble has {len(self.config.members)}, from 0.")
        self._export(self._member(member), save_directory)

    def export_centroid(self, save_directory: str | os.PathLike[str], simplex: int = 0) -> None:
        """Save the centroid of one simplex as an ordinary checkpoint of the backbone, which loads without hf_simplex.

        Args:
            save_directory: created if it is not there.
            simplex: index of the simplex.

        Raises:
            IndexError: there is no such simplex.
            RuntimeError: the backbone has BatchNorm and its members are not drawn, so the statistics are not known.
        """
        self._export(self.write_centroid(simplex), save_directory)

    def write_centroid(self, simplex: int = 0) -> PreTrainedModel:
        """The working backbone, in evaluation mode, holding the centroid of a simplex; errors of `export_centroid`."""
        if not 0 <= simplex < len(self.config.simplexes):
            raise IndexError(f"There is no simplex {simplex}: they are 0 to {len(self.config.simplexes) - 1}.")
        if batch_norm_statistics(self.backbone) and not len(self.centroids):
            raise RuntimeError("The centroid's BatchNorm statistics are computed with the members: draw those first.")
        tree = self.centroids[simplex] if len(self.centroids) else None
        return self._write(self._centroids()[simplex], tree)

    def _export(self, backbone: PreTrainedModel, save_directory: str | os.PathLike[str]) -> None:
        check_target(save_directory, backbone.config.model_type)
        _set_labels(backbone.config, self.config.id2label, self.config.label2id)
        with atomic_write(save_directory) as aside:
            backbone.save_pretrained(aside)
            self._save_image_processor(aside)

    def _save_image_processor(self, directory: Path) -> None:
        # timm's image processor is part of config.json, and refuses to be saved apart.
        if self.image_processor is not None and not hasattr(self.image_processor, "data_config"):
            self.image_processor.save_pretrained(directory)

    # ---- torch and transformers --------------------------------------------------------------------------------

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        super()._apply(*args, **kwargs)
        if self.__dict__.get("_backbone") is not None:
            self.__dict__["_backbone"]._apply(*args, **kwargs)
        for member in self.__dict__.get("_materialized", []):
            member._apply(*args, **kwargs)
        if self.__dict__.get("_on_cuda") is not None:
            # What was captured reads the memory that the weights were in before.
            self._on_cuda = MembersOnCuda(self.__dict__["_materialized"])
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; members that were materialized from the former weights are dropped."""
        self.dematerialize()
        return super().load_state_dict(*args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing to initialize: vertices are copied from a backbone or read from files."""


def _check_same_kind(models: Sequence[SimplexForImageClassification]) -> None:
    first, *others = models
    for number, model in enumerate(others, start=2):
        if _shapes(model.weights[0]) != _shapes(first.weights[0]):
            raise ValueError(f"Component {number} has another backbone architecture than component 1.")
        one, other = _architecture(first.config), _architecture(model.config)
        if differing := sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)):
            name = differing[0]
            raise ValueError(
                f"Component {number} has another backbone architecture than component 1: {name} is "
                f"{other.get(name)!r}, not {one.get(name)!r}."
            )
        if model.config.id2label != first.config.id2label:
            raise ValueError(
                f"Component {number} has other labels than component 1: "
                f"{model.config.id2label} and {first.config.id2label}."
            )


def _architecture(config: SimplexConfig) -> dict[str, Any]:
    """What of its configuration shapes the backbone's function at inference: not labels, nor dropout, for example."""
    assert config.backbone_config is not None
    told = config.backbone_config.to_dict()
    # What every configuration has may change with use, such as problem_type in the first forward pass with labels.
    others = {*PreTrainedConfig().to_dict(), "_name_or_path", "label_names", "num_classes", "pretrained_cfg"}
    return {
        name: value
        for name, value in told.items()
        if name not in others and "drop" not in name and not name.startswith("initializer")
    }


def _set_labels(config: Any, id2label: Any, label2id: Any) -> None:
    config.id2label, config.label2id = id2label, label2id
    if hasattr(config, "label_names"):
        # timm's configuration is saved with these names in place of id2label, and they may be the former task's.
        config.label_names = list(id2label.values())


def _build_backbone(config: SimplexConfig) -> PreTrainedModel:
    backbone_config = copy.deepcopy(config.backbone_config)
    return AutoModelForImageClassification.from_config(backbone_config, dtype=config.dtype)


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    names = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in names}


def _parameters_and_buffers(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {name: p.data for name, p in module.named_parameters()}, _persistent_buffers(module)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    tensors = dict(source.named_parameters()) | dict(source.named_buffers())
    for name, tensor in (dict(target.named_parameters()) | dict(target.named_buffers())).items():
        if name in tensors:
            tensor.copy_(full_tensor(tensors[name]))


@torch.no_grad()
def _place(
    backbone: nn.Module,
    weights: Sequence[Mapping[str, Tensor]],
    coordinates: Sequence[float],
    point_statistics: nn.Module | None,
) -> None:
    """Write a point into a backbone: mixed parameters, and the buffers of the nearest vertex or the point's own."""
    write_point(backbone, weights, coordinates)
    nearest = weights[max(range(len(weights)), key=lambda index: coordinates[index])]
    own = {} if point_statistics is None else dict(point_statistics.named_buffers())
    for name, buffer in backbone.named_buffers():
        # Buffers that are not persistent, which no vertex has, belong to the backbone and not to a point.
        if (source := own.get(name, nearest.get(name))) is not None:
            buffer.copy_(source)


def _configuration(
    name_or_path: str | os.PathLike[str], kwargs: dict[str, Any]
) -> tuple[SimplexConfig, dict[str, Any]]:
    """The configuration that arguments of `from_pretrained` give or change, and those that are still to be used."""
    config = kwargs.pop("config", None)
    if isinstance(config, SimplexConfig):
        return config, {name: value for name, value in kwargs.items() if name not in HUB_ARGUMENTS}
    dtypes = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
    source = name_or_path if config is None else config
    config, unused = SimplexConfig.from_pretrained(source, return_unused_kwargs=True, **kwargs)
    return config, unused | dtypes


def _image_processor_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "trust_remote_code")
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}
