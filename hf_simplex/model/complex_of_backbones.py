"""A simplicial complex in the weight space of a backbone: its vertices, and the backbone at any point of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .backbones import build_backbone, check_same_architecture, copy_tensors, persistent_buffers
from .batch_norm import batch_norm_statistics, recompute_statistics
from .complexes import SimplicialComplex
from .configuration_simplex import CONNECTOR, ROLES, SimplexConfig
from .coordinates import centroid_coordinates
from .decisions import Decisions
from .point_writing import write_point_and_buffers
from .ready_members import ReadyMembers
from .shared_weights import own_bytes, split_parameters, tie_shared
from .structure_checks import check_against_backbone
from .tensor_tree import TensorTree, empty_like
from .volumes import simplex_log_volumes
from .weight_space import mix, set_strides, stacked_parameters, support

__all__ = ["ComplexOfBackbones"]

logger = logging.get_logger(__name__)


class ComplexOfBackbones(PreTrainedModel):
    """The vertices of a simplicial complex, and one working backbone that holds one point at a time.

    `SimplexForImageClassification` adds prediction and files. The vertices hold the weights and make up the state
    dict. The working backbone is built at first use and is not part of the state dict.

    Args:
        config: the structure.

    Raises:
        ValueError: the configuration has no backbone, or another number of labels or problem type than its backbone.

    Example:
        >>> from transformers import ViTConfig
        >>> model = ComplexOfBackbones(SimplexConfig(ViTConfig(hidden_size=12, num_hidden_layers=1)))
        >>> model.add_vertex()
        1
        >>> type(model.backbone_at([0.5, 0.5])).__name__
        'ViTForImageClassification'
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
        check_against_backbone(config)
        self.shared = TensorTree({}, {})
        """The backbone's parameters that all vertices share; empty unless `vertex_parameters` leaves some out."""
        self.vertices = nn.ModuleList()
        self.members = nn.ModuleList()
        self.centroids = nn.ModuleList()
        self.growing: int | None = None
        self.new_weights: frozenset[str] = frozenset()
        """Names of the backbone's weights that `from_backbone` initialized at random, such as those of a new head."""
        # In __dict__, not a submodule: the working backbone stays out of the state dict.
        self.__dict__["_backbone"] = None
        self._ready = ReadyMembers()

        on_meta = torch.empty(0).device.type == "meta"
        with torch.device("meta" if on_meta else "cpu"):
            prototype = build_backbone(config)
        buffers = persistent_buffers(prototype)
        parameters, shared = split_parameters(prototype)
        self.shared = TensorTree(empty_like(shared), {})
        if not on_meta:
            copy_tensors(prototype, self.shared)
        for _ in range(config.num_vertices):
            # Without a checkpoint all vertices start as the same randomly initialized backbone.
            tree = TensorTree(empty_like(parameters), empty_like(buffers))
            if not on_meta:
                copy_tensors(prototype, tree)
            self.vertices.append(tree)
        if config.members:
            names = batch_norm_statistics(prototype)
            self.members.extend(TensorTree({}, empty_like(names)) for _ in config.members if names)
            self.centroids.extend(TensorTree({}, empty_like(names)) for _ in config.simplexes if names)
            if not on_meta:
                for tree in (*self.members, *self.centroids):
                    copy_tensors(prototype, tree)
        self.post_init()

    # ---- vertices ----------------------------------------------------------------------------------------------

    @property
    def weights(self) -> list[dict[str, Tensor]]:
        """Parameters and buffers of each vertex by the backbone's names, not copied. Shared parameters are left out.

        Example::

            model.weights[0]["classifier.bias"]   # a view: a write changes the vertex
        """
        return [cast(TensorTree, vertex).tensors() for vertex in self.vertices]

    def log_volumes(self) -> Tensor:
        """Natural logarithm of each simplex's volume, [simplexes] float64, in units of the weights that differ.

        Example::

            model.log_volumes().exp()   # an edge between two vertices has their distance as its volume
        """
        return simplex_log_volumes(self.config.complex, stacked_parameters(self.weights, self.vertex_parameter_names))

    @property
    def vertex_parameter_names(self) -> list[str]:
        """Names of the backbone's parameters that differ between vertices and span the simplexes.

        Example::

            model.vertex_parameter_names[-1]   # 'classifier.bias'
        """
        return [name for name, _ in self.vertices[0].named_parameters()]

    def vertex_statistics(self, vertex: int) -> dict[str, Tensor]:
        """Return the BatchNorm statistics of a vertex by buffer name, not copied; empty without BatchNorm.

        Args:
            vertex: index of the vertex.

        Example::

            model.vertex_statistics(0)["bn1.running_mean"]
        """
        tensors = self.weights[vertex]
        return {name: tensors[name] for name in batch_norm_statistics(self.backbone)}

    def add_vertex(self, simplexes: Sequence[int] | None = None, *, role: str = CONNECTOR) -> int:
        """Add a vertex to some simplexes, at the mean of their vertices.

        The members are dropped, since they were drawn from the smaller complex.

        Args:
            simplexes: indices of the simplexes that the vertex joins; default: all.
            role: `"connector"`, or `"pretrained"` for a vertex that will become another mode.

        Returns:
            The index of the new vertex.

        Raises:
            ValueError: the role is unknown, or a simplex would have more dimensions than the backbone has weights.

        Example:
            >>> from transformers import ViTConfig
            >>> model = ComplexOfBackbones(SimplexConfig(ViTConfig(hidden_size=12, num_hidden_layers=1)))
            >>> model.add_vertex(), model.config.simplexes
            (1, [[0, 1]])
        """
        if role not in ROLES:
            raise ValueError(f"role is {role!r}: choose from {', '.join(ROLES)}.")
        self.dematerialize()
        structure = self.config.complex.with_vertex(simplexes)
        self._check_dimensions(structure)
        neighbours = {v for s in structure.simplexes_with(self.config.num_vertices) for v in structure.simplexes[s]}
        neighbours.discard(self.config.num_vertices)
        mean = [(v in neighbours) / len(neighbours) for v in range(self.config.num_vertices)]
        vertex, weights = copy.deepcopy(self.vertices[min(neighbours)]), self.weights
        names, found = self.vertex_parameter_names, support(weights, mean)
        sources = [[weights[v][name] for name in names] for v in found]
        mix([vertex.get_parameter(name).data for name in names], sources, list(found.values()))
        self.vertices.append(vertex)
        self.config.roles.append(role)
        self._set_structure(structure)
        return structure.num_vertices - 1

    def _check_dimensions(self, structure: SimplicialComplex) -> None:
        weights = sum(p.numel() for p in self.vertices[0].parameters())
        if (dimension := max(map(structure.dimension, range(len(structure.simplexes))))) > weights:
            raise ValueError(
                f"A simplex of {dimension} dimensions has no volume among {weights} weights: grow fewer vertices."
            )

    def _set_structure(self, structure: SimplicialComplex) -> None:
        """Set another structure of the same vertices, and drop the members of the former one."""
        self._check_dimensions(structure)
        self._drop_decisions()
        self.config.simplexes = [list(simplex) for simplex in structure.simplexes]
        self.config.members = []
        self.members, self.centroids = nn.ModuleList(), nn.ModuleList()

    @property
    def decisions(self) -> Decisions | None:
        """What was fitted on validation images; None if nothing was.

        Raises:
            ValueError: the configuration's decisions are malformed.

        Example::

            model.decisions.temperature   # 1.2
        """
        values = self.config.decisions
        return None if values is None else Decisions.from_json(values)

    @decisions.setter
    def decisions(self, decisions: Decisions | None) -> None:
        self.config.decisions = None if decisions is None else decisions.to_json()

    def _drop_decisions(self) -> None:
        if self.config.decisions is not None:
            logger.warning(
                "The members change, so the decisions are dropped: temperature, threshold and prediction sets were "
                "fitted for the former members. Call calibrate again."
            )
            self.config.decisions = None

    def store_vertex(self, vertex: int) -> None:
        """Copy the working backbone's weights and buffers into a vertex. All ranks of a sharded run call this.

        Decisions are dropped: the members are other models now.

        Args:
            vertex: index of the vertex that is overwritten.

        Example::

            fine_tune(model.backbone_at([1.0, 0.0]))
            model.store_vertex(1)
        """
        self.dematerialize()
        self._drop_decisions()
        copy_tensors(self.backbone, self.vertices[vertex])

    def replace_with(self, other: "ComplexOfBackbones") -> None:
        """Replace vertices, structure and members by those of another model, on this model's device.

        Args:
            other: its tensors are moved, not copied.

        Raises:
            ValueError: the two differ in architecture or labels.

        Example::

            model.replace_with(SimplexForImageClassification.from_pretrained("checkpoint-100"))
        """
        check_same_architecture([self.config, other.config], [self.weights[0], other.weights[0]])
        self.dematerialize()
        other.to(self.device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
        # Keep this model's memory format: the order of elements decides the rounding of sums over them.
        present = self.weights[0]
        for vertex in other.weights:
            for name, tensor in vertex.items():
                tensor.data = torch.empty_like(present[name], dtype=tensor.dtype).copy_(tensor)
        self.shared, self.vertices = other.shared, other.vertices
        self.members, self.centroids = other.members, other.centroids
        self._tie_shared()
        for name in ("simplexes", "roles", "members", "sampling", "provenance", "decisions"):
            setattr(self.config, name, getattr(other.config, name))

    # ---- points ------------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> PreTrainedModel:
        """The working backbone. It holds the point that was written last.

        Example::

            model.backbone_at([0.5, 0.5]) is model.backbone   # True
        """
        backbone: Any = self.__dict__["_backbone"]
        if backbone is None:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                backbone = build_backbone(self.config)
            backbone.to(self.device, self.dtype)
            # The vertices' memory format makes writing a point fast, and keeps the order of sums.
            set_strides(backbone, self.weights[0])
            self.__dict__["_backbone"] = backbone
            self._tie_shared()
        return backbone

    def _tie_shared(self) -> None:
        """Let the working backbone and the ready members hold the shared parameters themselves, not copies."""
        # transformers lets the parameters that it loads require gradients.
        self.shared.requires_grad_(False)
        shared, backbone = dict(self.shared.named_parameters()), self.__dict__["_backbone"]
        for module in self._ready if backbone is None else (backbone, *self._ready):
            tie_shared(module, shared)

    def reset_backbone(self) -> None:
        """Drop the working backbone, for example after an engine has sharded it. The next use builds a new one.

        Example::

            model.reset_backbone()
        """
        self.__dict__["_backbone"] = None

    def backbone_at(self, coordinates: Sequence[float], batches: Iterable[Any] | None = None) -> PreTrainedModel:
        """Write a point into the working backbone and return it in evaluation mode. The next point overwrites it.

        Args:
            coordinates: [vertices] barycentric coordinates.
            batches: inputs of training images for `recompute_statistics`. Needed for a point between vertices of a
                backbone with BatchNorm.

        Raises:
            ValueError: the coordinates are not a point of the complex, or batches are needed and missing.
            RuntimeError: the working backbone is in training.

        Example::

            midpoint = model.backbone_at([0.5, 0.5], batches=[{"pixel_values": images}])
            midpoint(images).logits
        """
        self.config.check_points([coordinates])
        backbone = self._write(coordinates)
        if max(coordinates) < 1 and batch_norm_statistics(backbone):
            if batches is None:
                raise ValueError(
                    f"The point at {list(coordinates)} lies between vertices, where the BatchNorm statistics are not "
                    "known: give batches of training images to compute them from."
                )
            recompute_statistics(backbone, batches, f"the point {list(coordinates)}")
        return backbone

    def write_centroid(self, simplex: int = 0) -> PreTrainedModel:
        """Write the centroid of a simplex into the working backbone and return it in evaluation mode.

        Args:
            simplex: index of the simplex.

        Raises:
            IndexError: the simplex does not exist.
            RuntimeError: the backbone has BatchNorm and the members are not drawn, so the statistics are unknown.

        Example::

            model.write_centroid(0)(images).logits
        """
        if not 0 <= simplex < len(self.config.simplexes):
            raise IndexError(f"There is no simplex {simplex}: they are 0 to {len(self.config.simplexes) - 1}.")
        if batch_norm_statistics(self.backbone) and not len(self.centroids):
            raise RuntimeError("The centroid's BatchNorm statistics are computed with the members: draw those first.")
        tree = self.centroids[simplex] if len(self.centroids) else None
        return self._write(self._centroid_coordinates()[simplex], tree)

    def member_backbone(self, member: int) -> PreTrainedModel:
        """Return the backbone of a member, in evaluation mode.

        A member that `materialize` keeps ready has a backbone of its own. Any other is written into the working
        backbone.

        Args:
            member: index of the member.

        Raises:
            IndexError: the member does not exist.
            RuntimeError: the working backbone is in training.

        Example::

            model.member_backbone(0)(images).logits
        """
        if not 0 <= member < len(self.config.members):
            raise IndexError(f"There is no member {member}: the ensemble has {len(self.config.members)}, from 0.")
        if member < len(self._ready):
            self._check_not_training()
            return self._ready.modules[member]
        return self._write(self.config.members[member], self.members[member] if len(self.members) else None)

    def _member_backbones(self) -> Iterator[PreTrainedModel]:
        """All members in order. A streamed one is valid until the next."""
        self._check_not_training()
        yield from self._ready
        streamed = range(len(self._ready), len(self.config.members))
        if streamed:
            # Look up the tensors once. For a small backbone, the look-up takes as long as a forward pass.
            backbone, weights = self.backbone.eval(), self.weights
            for index in streamed:
                point_statistics = self.members[index] if len(self.members) else None
                write_point_and_buffers(backbone, weights, self.config.members[index], point_statistics)
                yield backbone

    def _centroid_coordinates(self) -> list[list[float]]:
        structure = self.config.complex
        return [centroid_coordinates(structure, simplex).tolist() for simplex in range(len(structure.simplexes))]

    def _check_not_training(self) -> None:
        if self.growing is not None:
            raise RuntimeError(
                f"Vertex {self.growing} is being trained in the working backbone: ask for points after its stage."
            )

    def _write(self, coordinates: Sequence[float], point_statistics: nn.Module | None = None) -> PreTrainedModel:
        self._check_not_training()
        write_point_and_buffers(self.backbone, self.weights, coordinates, point_statistics)
        return self.backbone.eval()

    # ---- ready members -----------------------------------------------------------------------------------------

    def materialize(self, max_bytes: int | None = None, *, cuda_graph: bool = False, batched: bool = False) -> int:
        """Keep members ready as backbones of their own, so that a prediction mixes no weights.

        Other members are streamed: their weights are mixed into the working backbone for each batch. For single
        images this can cost as much as the forward pass; for large batches it costs little. A change of vertices or
        members (`set_members`, growth, `load_state_dict`) drops the ready members.

        Args:
            max_bytes: memory limit in bytes; default: none. A member takes as much as a backbone, without what all
                vertices share.
            cuda_graph: replay the forward passes of all members from one CUDA graph, captured for each shape and
                dtype. This helps small batches and backbones on a GPU. Calls with extra arguments use no graph. See
                `cuda_graph.GraphedMembers`.
            batched: run all members as one batch of one backbone, see `batched_members.BatchedMembers`. What they
                share is computed once up to the first layer in which they differ: eight members that differ in the
                last block of a ViT took 1.4 times as long as one (one image, one CPU core). Calls with extra arguments
                run one member after the other.

        Returns:
            The number of ready members: the first ones, as many as fit.

        Raises:
            RuntimeError: the members are not drawn yet.
            ValueError: `max_bytes` is negative; with `cuda_graph` or `batched`, not all members fit; with
                `cuda_graph`, the model is not on a GPU; or both are given.

        Example::

            model.materialize(max_bytes=2 * 2**30)   # the number of members that fit into 2 GiB
        """
        self._check_drawn()
        if cuda_graph and batched:
            raise ValueError("cuda_graph and batched are two ways to run all members at once: give one of them.")
        if cuda_graph and self.device.type != "cuda":
            raise ValueError(f"cuda_graph=True, but the model is on {self.device}: move it to a GPU first.")
        self.dematerialize()
        members, number = self._member_backbones(), len(self.config.members)
        return self._ready.fill(members, number, own_bytes(self.backbone), max_bytes, cuda_graph, batched)

    @property
    def num_materialized(self) -> int:
        """The number of members that `materialize` keeps ready.

        Example::

            model.num_materialized   # 0: all members are streamed
        """
        return self._ready.number

    def dematerialize(self) -> None:
        """Free the ready members. All members are streamed again.

        Example::

            model.dematerialize()
        """
        self._ready.clear()

    def _check_drawn(self) -> None:
        if not self.config.members:
            raise RuntimeError(
                "The ensemble has no members: SimplexTrainer.grow() draws them at its end, or call "
                "model.draw_members(number, batches=...)."
            )

    # ---- torch and transformers --------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.__dict__["_backbone"] is not None:
            self.__dict__["_backbone"]._apply(fn, recurse)
        self._ready.apply_to_tensors(fn, recurse)
        self._tie_shared()
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """See `torch.nn.Module.load_state_dict`. The ready members are dropped."""
        self.dematerialize()
        result = super().load_state_dict(*args, **kwargs)
        self._tie_shared()
        return result

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: vertices are copied from a backbone or read from files."""
