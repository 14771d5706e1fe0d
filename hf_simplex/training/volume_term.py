"""The volume term of SPRO: the log volume of the growing vertex's simplexes, and its gradient by perpendiculars.

Only one vertex moves. The volume of its k-simplex is V = V_face h / k, with the fixed volume of the frozen face and
the height h of the vertex over it. The height, and the perpendicular r from the face to the vertex, follow from inner
products of weights: nothing of the size of the weight space is stored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.complexes import SimplicialComplex
from ..model.sharding import all_reduce_sum, local_parameters, local_tensor
from ..model.volumes import (
    complex_log_volume,
    height_over_face,
    log_volume_with_floor,
    regular_simplex_log_volume,
    simplex_log_volume,
)
from ..model.weight_space import Weights, cast_like, chunks, stacked_parameters, trainable_names
from .placement import VertexPlacement
from .volume_measure import tensor_scales

__all__ = ["Height", "StarVolume", "VolumeTerm", "log_volume_of_radius", "scaled_volume_weight"]

HEIGHT_FLOOR = 1e-4
"""The floor of a height, relative to the norm of the weights. It bounds the gradient of a flat simplex."""

NEAR_FACE = 0.05
"""Relative height below which perpendiculars are computed in float64, because float32 rounding would show."""

PRODUCT_CHUNK_ON_CPU = 2**16
"""Chunk size, in elements, for inner products on a CPU. A chunk is held twice."""


@dataclass(frozen=True)
class VolumeTerm:
    """The value of the volume term.

    Attributes:
        log_volume: natural logarithm of the summed volume, in the chosen measure; finite for flat simplexes too.
        regularizer: its part of the objective, in nats: `-volume_weight * log_volume`, or with a target
            `volume_weight * (log_volume - log_volume_target) ** 2 / 2`.

    Example:
        >>> from hf_simplex.training.volume_term import VolumeTerm
        >>> VolumeTerm(log_volume=10.0, regularizer=-0.1).regularizer
        -0.1
    """

    log_volume: float
    regularizer: float


class _FrozenFace:
    """The frozen vertices of one simplex: their indices, the Gram matrix of their edges, and their log volume."""

    def __init__(self, vertices: Sequence[Weights], indices: Sequence[int], scales: Mapping[str, float]) -> None:
        self.indices = indices
        face = [vertices[index] for index in indices]
        scaled = (
            block if scale == 1 else scale * block.double()
            for scale, block in zip(scales.values(), stacked_parameters(face, scales), strict=True)
        )
        self.log_volume = float(simplex_log_volume(scaled))
        edges = len(indices) - 1
        self.edge_gram = torch.zeros(edges, edges, dtype=torch.float64)
        for name, scale in scales.items():
            block = _edges(face, name)
            self.edge_gram += scale**2 * (block @ block.T).cpu()


@dataclass(frozen=True)
class Height:
    """The growing vertex over the frozen face of one simplex.

    Attributes:
        face: the indices of the frozen vertices.
        squared: the squared height, in the chosen measure.
        foot: [vertices of the face] float64: the coordinates of the foot of the height in the face.
        log_volume: float64 scalar, the log volume of the simplex, with the floor of the height.

    Example::

        for height in star_volume.heights():
            print(height.face, math.sqrt(height.squared))
    """

    face: Sequence[int]
    squared: float
    foot: Tensor
    log_volume: Tensor


class StarVolume:
    """The volume of the star of a growing vertex: the simplexes that hold it.

    Args:
        placement: the module, which holds the growing vertex, and the frozen vertices; not yet sharded.
        faces: the indices of the frozen vertices of each simplex.
        measure: one of `volume_measure.VOLUME_MEASURES`.
        reference: the weights of a vertex. Their norms are the units of heights and tensors.

    Raises:
        ValueError: the reference is 0 everywhere, and the measure is `"normalized"`.

    Example::

        volume = StarVolume(placement, faces=[[0, 1]], measure="weights", reference=vertices[0])
        for height in volume.heights():  # the gradient of log h
            volume.add_perpendicular(height, 1 / height.squared)
    """

    @torch.no_grad()
    def __init__(
        self, placement: VertexPlacement, faces: Sequence[Sequence[int]], measure: str, reference: Weights
    ) -> None:
        self.placement = placement
        names = trainable_names(placement.module)
        self.norm, scales = tensor_scales(measure, reference, names)
        """The norm of the reference, the same in every measure."""
        self.height_floor = HEIGHT_FLOOR * self.norm
        """Added in quadrature to every height. Log volume and gradient stay finite at height 0."""
        # Tensors of equal scale are processed together.
        self._groups = [(1.0, names)] if set(scales.values()) == {1.0} else [(s, [name]) for name, s in scales.items()]
        self._faces = [_FrozenFace(placement.vertices, face, scales) for face in faces]

    @torch.no_grad()
    def heights(self) -> list[Height]:
        """Return the heights over the faces of the vertex that the module holds now.

        Example::

            [math.sqrt(height.squared) for height in volume.heights()]
        """
        parameters = local_parameters(self.placement.module)
        device = next(iter(parameters.values())).device
        found = []
        for face in self._faces:
            vertices = [self.placement.vertices[index] for index in face.indices]
            products = torch.zeros(len(vertices), dtype=torch.float64, device=device)
            for scale, names in self._groups:
                frozen = [[vertex[name] for name in names] for vertex in vertices]
                own = [parameters[name] for name in names]
                for theta, *others in chunks(own, *frozen, on_cpu=PRODUCT_CHUNK_ON_CPU):
                    products += scale**2 * _inner_products(theta, others)
            products = all_reduce_sum(self.placement.group, products.cpu(), device)
            height_squared, projection = height_over_face(face.edge_gram, products[1:], products[0])
            log_volume = log_volume_with_floor(face.log_volume, height_squared, self.height_floor, len(vertices))
            foot = torch.full((len(vertices),), 1 / len(vertices), dtype=torch.float64)
            foot[1:] += projection
            foot[0] -= projection.sum()
            found.append(Height(face.indices, float(height_squared), foot, log_volume))
        return found

    @torch.no_grad()
    def add_perpendicular(self, height: Height, factor: float) -> None:
        """Add `factor` times the perpendicular from the face to the vertex, r, to the `.grad` of the module.

        In a measure that scales each tensor t by d_t, the part of tensor t is multiplied by d_t^2.

        Args:
            height: from `heights`, at the weights that the module holds now.
            factor: factor of the perpendicular.

        Example::

            height, = volume.heights()
            volume.add_perpendicular(height, 1 / height.squared)   # adds the gradient of log h
        """
        least = torch.float64 if height.squared < (NEAR_FACE * self.norm) ** 2 else torch.float32
        foot = height.foot.tolist()
        parameters = {name: p for name, p in self.placement.module.named_parameters() if p.requires_grad}
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for scale, names in self._groups:
            trained = [name for name in names if name in parameters]
            if not trained:
                continue
            theta = [local_tensor(parameters[name].detach()) for name in trained]
            gradients = [local_tensor(grad) for name in trained if (grad := parameters[name].grad) is not None]
            frozen = [[self.placement.vertices[index][name] for name in trained] for index in height.face]
            for own, gradient, *others in chunks(theta, gradients, *frozen):
                # Compute the perpendicular before the factor: near the face it is small, and the factor is large.
                wide = [tensor.to(torch.promote_types(tensor.dtype, least)) for tensor in own]
                perpendicular = torch._foreach_sub(wide, cast_like(others[0], wide), alpha=foot[0])
                for coordinate, other in zip(foot[1:], others[1:], strict=True):
                    torch._foreach_sub_(perpendicular, cast_like(other, wide), alpha=coordinate)
                torch._foreach_mul_(perpendicular, factor * scale**2)
                torch._foreach_add_(gradient, cast_like(perpendicular, gradient))


def _edges(vertices: Sequence[Weights], name: str) -> Tensor:
    """One parameter of the edges from the first vertex to the others, [vertices - 1, parameter size] float64."""
    first, *others = (vertex[name].flatten().double() for vertex in vertices)
    if not others:
        return first.new_empty(0, first.numel())
    return torch.stack(others) - first


def _inner_products(theta: Sequence[Tensor], frozen: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of a vertex's offset from the mean of a face with itself and with the edges of the face.

    Differences are taken before products, so vertices that lie close together lose little precision in float32. Sums
    are float64.

    Args:
        theta: a chunk of the vertex's weights.
        frozen: the same chunk of each vertex of the face.

    Returns:
        [vertices of the face] float64: the squared length of the offset, then its products with the edges from the
        first vertex to the others.
    """
    device, wide = theta[0].device, torch.promote_types(theta[0].dtype, torch.float32)
    # On a CPU the caller may read the result at once, so the copy must block.
    moved = [[tensor.to(device, non_blocking=device.type != "cpu") for tensor in tensors] for tensors in frozen]
    own, first, *others = (
        (tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten() for tensor in tensors])).flatten().to(wide)
        for tensors in (theta, *moved)
    )
    vectors = own.new_empty(1 + len(others), own.numel())
    offset, *edges = vectors
    # Measure the offset from the mean of the face, where training starts. The offset is then short, and little cancels
    # in the height. The mean is mixed like a point, so that a vertex at the mean has height 0.
    mean = first
    for number, other in enumerate(others, start=2):
        mean = torch.lerp(mean, other, 1 / number, out=offset)
    torch.sub(own, mean, out=offset)
    for other, edge in zip(others, edges, strict=True):
        torch.sub(other, first, out=edge)
    return (vectors * offset).sum(dim=1, dtype=torch.float64)


def log_volume_of_radius(radius: float, dimensions: Sequence[int]) -> float:
    """The log of the summed volume of regular simplexes whose vertices lie at `radius` from their centroid.

    A regular k-simplex of radius R has edges of length R sqrt(2 (k + 1) / k).

    Args:
        radius: R, above 0.
        dimensions: k of each simplex, at least 1.

    Example:
        >>> import math
        >>> from hf_simplex.training.volume_term import log_volume_of_radius
        >>> round(math.exp(log_volume_of_radius(2.0, [1])), 6)  # an edge of length 4
        4.0
    """
    log_volumes = [regular_simplex_log_volume(k, math.log(radius * math.sqrt(2 * (k + 1) / k))) for k in dimensions]
    return float(complex_log_volume(torch.stack(log_volumes)))


def scaled_volume_weight(volume_weight: float, structure: SimplicialComplex, vertex: int, random_edge: float) -> float:
    """The regularization weight lambda_j = lambda* / log V of a random complex (Benton et al. 2021).

    Independent random vertices in P dimensions are equidistant up to a relative 1/sqrt(P), so the simplexes of the
    random complex are treated as regular.

    Args:
        volume_weight: lambda*.
        structure: the complex that grows.
        vertex: index of the growing vertex. The random complex has the structure of its star.
        random_edge: the distance between two random vertices, in units of the weights.

    Returns:
        lambda_j, in nats of loss per nat of log volume.

    Raises:
        ValueError: the random complex has log V <= 0, for which the rule gives no positive weight.

    Example:
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.training.volume_term import scaled_volume_weight
        >>> round(scaled_volume_weight(1e-3, SimplicialComplex(2, [[0, 1]]), 1, random_edge=100.0), 8)  # / log 100
        0.00021715
    """
    dimensions = [len(structure.simplexes[index]) - 1 for index in structure.simplexes_with(vertex)]
    log_volumes = [regular_simplex_log_volume(dimension, math.log(random_edge)) for dimension in dimensions]
    log_volume = float(complex_log_volume(torch.stack(log_volumes)))
    if log_volume <= 0:
        raise ValueError(
            f"A random complex has log volume {log_volume:.3g}, so lambda*/log V is not positive (its edges are "
            f"{random_edge:.3g}, its dimensions {dimensions}). Give a plain weight: volume_weight_scaling='none'."
        )
    return volume_weight / log_volume
