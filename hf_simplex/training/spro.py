"""SPRO: one vertex grows while all others stay, so that points of its simplexes have low loss and large volume."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.distributed import ProcessGroup

from ..model.complexes import SimplicialComplex
from ..model.sampling import sample_complex
from ..model.sharding import all_reduce_sum, local_parameters, local_tensor, shard_group, sharded_like
from ..model.volumes import (
    complex_log_volume,
    height_over_face,
    log_volume_with_floor,
    regular_simplex_log_volume,
    simplex_log_volume,
)
from ..model.weight_space import (
    Weights,
    cast_like,
    chunks,
    copy_weights,
    stacked_parameters,
    swap_in_point,
    trainable_names,
    write_point,
)
from .frozen_vertices import FROZEN_VERTICES, FetchedMix, are_fetched
from .volume_measure import VOLUME_MEASURES, tensor_scales

HEIGHT_FLOOR = 1e-4
"""Part of the weights' norm that is added, in quadrature, to every height: it bounds the pull on a flat simplex."""

NEAR_FACE = 0.05
"""Part of the weights' norm below which a height is short: float32 weights, rounded by 6e-8, would show in it."""

PRODUCT_CHUNK_ON_CPU = 2**16
"""Elements of a piece whose inner products are taken: all of its differences are in memory twice over."""


@dataclass(frozen=True)
class VolumeTerm:
    """The log volume of the growing vertex's simplexes and what it adds to the objective.

    Attributes:
        log_volume: natural logarithm of the summed volume, in the chosen measure; finite also where the volume is 0.
        regularizer: in nats like the loss: `-volume_weight * log_volume`, or with a target
            `volume_weight * (log_volume - log_volume_of_target) ** 2 / 2`.
    """

    log_volume: float
    regularizer: float


class _Face:
    """The fixed part of one simplex: its frozen vertices, what their inner products say, and its volume."""

    def __init__(self, vertices: Sequence[Weights], indices: Sequence[int], scales: Mapping[str, float]) -> None:
        self.indices = indices
        self.vertices: Sequence[Weights] = [vertices[index] for index in indices]
        scaled = (
            block if scale == 1 else scale * block.double()
            for scale, block in zip(scales.values(), stacked_parameters(self.vertices, scales), strict=True)
        )
        self.log_volume = float(simplex_log_volume(scaled))
        edges = len(indices) - 1
        self.edge_gram = torch.zeros(edges, edges, dtype=torch.float64)
        for name, scale in scales.items():
            block = self.edges(name)
            self.edge_gram += scale**2 * (block @ block.T).cpu()

    def edges(self, name: str) -> Tensor:
        first, *others = (vertex[name].flatten().double() for vertex in self.vertices)
        if not others:
            return first.new_empty(0, first.numel())
        return torch.stack(others) - first


class GrowingVertex:
    """The SPRO objective for one vertex of a complex, on any module with any loss (Benton et al. 2021, eq. 1).

    The module that trains *is* the growing vertex. With theta for its weights, c for its coordinate and F for the mix
    of the frozen vertices, a point is phi = F + c theta, so dL/dtheta = c dL/dphi. A step reads::

        for coordinates in growing.draw(points, generator):
            with growing.at(coordinates) as coordinate:      # the module holds phi
                (coordinate * loss(module(inputs)) / points).backward()
        growing.add_volume_gradient()                        # the module holds theta again
        optimizer.step()

    Points are drawn from the simplexes that hold the vertex: all other points have a zero gradient.

    An engine that divides the module among processes (FSDP2) or moves it may do so before or after this; if after,
    call `place_vertices` then. Processes that share one copy of the weights must be given the same points.

    Where `frozen_vertices` are not kept on the device, give `vertices` that are on the CPU: they are not changed, and
    those of the growing vertex serve as storage only while the module is on the CPU itself.

    Args:
        module: the weights of the growing vertex, its trainable parameters; any engine may wrap it.
        vertices: the weights of all vertices by parameter name. Those of the growing vertex are storage: the module's
            weights are kept there while the module holds a point.
        structure: the complex; `vertices` are its vertices.
        vertex: index of the growing vertex.
        volume_weight: lambda_j, in nats of loss for a nat of log volume; 0 leaves the volume term out.
        sampling: how a simplex is chosen when the vertex is in several: `"equal"` or `"volume"`.
        volume_measure: of `volume_measure.VOLUME_MEASURES`: the volume of the weights (Benton et al. 2021), or of
            weights in which each tensor is measured by its norm in the first frozen vertex.
        volume_target: None lets the volume grow without end (Benton et al. 2021). A number pulls it to the volume
            that regular simplexes of that radius have, from centroid to vertex, relative to the norm of the first
            frozen vertex: the term is then `volume_weight * (log V - log V_target) ** 2 / 2`.
        frozen_vertices: where the others are kept. `"device"`: as they are given. `"bfloat16"`: rounded, on the
            module's device; points and volume are then those of the rounded vertices, each weight of which is off by
            at most 2**-8 of itself. `"cpu"`: on the CPU, see `prefetch`; the same points as with `"device"`.

    Raises:
        ValueError: the vertex is its simplex's only one, so that nothing spans the simplex; or an argument is none of
            the choices or not a positive number.
    """

    @torch.no_grad()
    def __init__(
        self,
        module: nn.Module,
        vertices: Sequence[Weights],
        structure: SimplicialComplex,
        vertex: int,
        *,
        volume_weight: float = 0.0,
        sampling: str = "equal",
        volume_measure: str = "weights",
        volume_target: float | None = None,
        frozen_vertices: str = "device",
    ) -> None:
        for name, value, choices in (
            ("volume_measure", volume_measure, VOLUME_MEASURES),
            ("frozen_vertices", frozen_vertices, FROZEN_VERTICES),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: choose from {', '.join(choices)}.")
        if volume_target is not None and not (math.isfinite(volume_target) and volume_target > 0):
            raise ValueError(f"volume_target is {volume_target}: expected a positive number, or None.")
        self.module = module
        self._given = vertices
        self.vertices = vertices
        if frozen_vertices == "bfloat16":
            self.vertices = [w if index == vertex else _rounded(w) for index, w in enumerate(vertices)]
        self.vertex = vertex
        self.volume_weight = volume_weight
        self.sampling = sampling
        self.frozen_vertices = frozen_vertices
        names = trainable_names(module)
        self.star, self.star_vertices = structure.sub_complex(structure.simplexes_with(vertex))
        faces = [
            [index for index in structure.simplexes[s] if index != vertex] for s in structure.simplexes_with(vertex)
        ]
        if not all(faces):
            raise ValueError(f"Vertex {vertex} is the only vertex of a simplex: it is a mode, trained without SPRO.")
        # The measure keeps this norm, so that it serves for all of them.
        self._norm, scales = tensor_scales(volume_measure, vertices[faces[0][0]], names)
        # Tensors of one scale are worked on together.
        self._groups = [(1.0, names)] if set(scales.values()) == {1.0} else [(s, [name]) for name, s in scales.items()]
        self._faces = [_Face(self.vertices, face, scales) for face in faces]
        self.height_floor = HEIGHT_FLOOR * self._norm
        """A height far below those that training reaches: keeps log volume and gradient finite at height 0."""
        self.log_volume_target: float | None = None
        """The log volume that the target's radius stands for."""
        if volume_target is not None:
            dimensions = [len(face) for face in faces]
            self.log_volume_target = _log_volume_of_radius(volume_target * self._norm, dimensions)
        self._sharing: ProcessGroup | None = None
        self._device: torch.device | None = None
        self._mix: FetchedMix | None = None
        self.place_vertices()

    @torch.no_grad()
    def place_vertices(self) -> None:
        """Divide the vertices among processes as the module is, and put those that are frozen where they are to be.

        Raises:
            ValueError: the engine divides the parameters of the module in several ways.
        """
        sharing, device = shard_group(self.module), next(self.module.parameters()).device
        if (sharing, device) == (self._sharing, self._device):
            return
        self._sharing, self._device = sharing, device
        parameters = local_parameters(self.module)
        on_device = next(iter(parameters.values())).device
        is_fetched = self.frozen_vertices == "cpu" and are_fetched(on_device)
        placed: list[Weights] = []
        for index, weights in enumerate(self.vertices):
            if index == self.vertex and self.frozen_vertices != "device" and on_device.type != "cpu":
                placed.append({name: torch.empty_like(parameter) for name, parameter in parameters.items()})
                continue
            shards = weights if sharing is None else sharded_like(weights, self.module)
            if index != self.vertex and (is_fetched or self.frozen_vertices == "bfloat16"):
                target = torch.device("cpu") if is_fetched else on_device
                shards = {name: shards[name].to(target) for name in parameters}
            placed.append(shards)
        self.vertices = placed
        if is_fetched:
            self._mix = FetchedMix(placed, self.vertex, parameters)
            self.vertices = [w if i == self.vertex else self._mix.vertices[i] for i, w in enumerate(placed)]
        for face in self._faces:
            face.vertices = [self.vertices[index] for index in face.indices]

    @property
    def fetches(self) -> bool:
        """Whether points are fetched from the CPU, so that it is worth while to say beforehand which comes next."""
        return self._mix is not None

    def prefetch(self, coordinates: Sequence[float]) -> None:
        """Say which point comes next, while the module holds another: what `at` needs of it is fetched meanwhile.

        Without effect where nothing is fetched. Whatever was announced, `at` writes the point that it is given.

        Args:
            coordinates: [vertices] barycentric coordinates.
        """
        if self._mix is not None:
            self._mix.fetch(coordinates)

    @torch.no_grad()
    def start_at_mean(self, jitter: float = 0.0, generator: Generator | None = None) -> None:
        """Set the module to the mean of the frozen vertices of its simplexes (Benton et al. 2021).

        Args:
            jitter: standard deviation of Gaussian noise, relative to the root mean square of each parameter tensor.
            generator: of the noise.

        Raises:
            RuntimeError: the module is divided among processes already.
        """
        if self._sharing is not None:
            raise RuntimeError("The start of a vertex is computed on whole weights: do so before they are sharded.")
        others = [index for index in self.star_vertices if index != self.vertex]
        write_point(self.module, self._given, [(index in others) / len(others) for index in range(len(self.vertices))])
        if jitter:
            for parameter in self.module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                scale = jitter * parameter.square().mean().sqrt()
                parameter.add_(noise.to(parameter) * scale)
        copy_weights(self.module, self.vertices[self.vertex])

    def draw(self, num_points: int, generator: Generator) -> list[list[float]]:
        """Draw points uniformly from the simplexes that hold the vertex: [points, all vertices] coordinates."""
        # Of the vertex as it is now, so that a run that is resumed draws the same points.
        log_volumes = self._heights()[0] if self.sampling == "volume" and len(self._faces) > 1 else None
        drawn = sample_complex(
            self.star, num_points, sampling=self.sampling, log_volumes=log_volumes, generator=generator
        )
        coordinates = torch.zeros(num_points, len(self.vertices), dtype=torch.float64)
        coordinates[:, self.star_vertices] = drawn
        return coordinates.tolist()

    @contextmanager
    def at(self, coordinates: Sequence[float]) -> Iterator[float]:
        """While the context lasts the module holds the point at `coordinates`; yields the vertex's own coordinate."""
        own, vertices, vertex = coordinates[self.vertex], self.vertices, self.vertex
        if self._mix is not None:
            weights, share = self._mix.take(coordinates)
            vertices, coordinates, vertex = [weights, self.vertices[self.vertex]], [share, own], 1
        with swap_in_point(self.module, vertices, coordinates, vertex):
            yield own

    @torch.no_grad()
    def add_volume_gradient(self, scale: float = 1.0) -> VolumeTerm:
        """Add the gradient of the volume term to the `.grad` of the module, which holds the vertex.

        With h_s the height of the vertex over the frozen face of simplex s, and r_s the perpendicular from that face
        to the vertex, log V = log sum_s V_s has the gradient sum_s (V_s / V) r_s / h_s^2; the perpendicular is a mix
        of the vertices, so no copy of the weight space is needed. In a measure that scales each tensor by some d_t,
        heights and perpendiculars are those of the scaled vertices, and the gradient has the factor d_t^2 / h_s^2 with
        the tensor's part of the perpendicular in the weights themselves.

        Args:
            scale: factor of what is added, for gradients that a loss scaler has multiplied, or of which this stands
                for several.

        Returns:
            The term's value at the vertex, not multiplied by `scale`.
        """
        log_volumes, geometry = self._heights()
        term = self._term(log_volumes)
        if self.volume_weight:
            pull = scale * self.volume_weight
            if self.log_volume_target is not None:
                pull *= self.log_volume_target - term.log_volume
            shares = torch.softmax(log_volumes, dim=0)
            for face, share, (height_squared, foot) in zip(self._faces, shares, geometry, strict=True):
                factor = pull * float(share) / (float(height_squared) + self.height_floor**2)
                is_near = float(height_squared) < (NEAR_FACE * self._norm) ** 2
                self._add_perpendicular(face, foot.tolist(), -factor, torch.float64 if is_near else torch.float32)
        return term

    def _add_perpendicular(self, face: _Face, foot: Sequence[float], factor: float, least: torch.dtype) -> None:
        """Add `factor` times the perpendicular from the foot, given by its coordinates in a face, to the gradients.

        Args:
            face: the perpendicular leads from it to the vertex.
            foot: [vertices of the face].
            factor: of the perpendicular in the measure that scales all tensors by 1.
            least: the dtype to compute in, or a wider one where weights are wider.
        """
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for scale, names in self._groups:
            trained = [name for name in names if name in parameters]
            if not trained:
                continue
            theta = [local_tensor(parameters[name].detach()) for name in trained]
            gradients = [local_tensor(grad) for name in trained if (grad := parameters[name].grad) is not None]
            frozen = [[vertex[name] for name in trained] for vertex in face.vertices]
            for own, gradient, *others in chunks(theta, gradients, *frozen):
                # Small where the vertex is near the face, so it must be there before it meets the large factor.
                wide = [tensor.to(torch.promote_types(tensor.dtype, least)) for tensor in own]
                perpendicular = torch._foreach_sub(wide, cast_like(others[0], wide), alpha=foot[0])
                for coordinate, other in zip(foot[1:], others[1:], strict=True):
                    torch._foreach_sub_(perpendicular, cast_like(other, wide), alpha=coordinate)
                torch._foreach_mul_(perpendicular, factor * scale**2)
                torch._foreach_add_(gradient, cast_like(perpendicular, gradient))

    def volume_term(self) -> VolumeTerm:
        """The term's value at the vertex, which the module holds; no gradient is touched."""
        return self._term(self._heights()[0])

    def _term(self, log_volumes: Tensor) -> VolumeTerm:
        log_volume = float(complex_log_volume(log_volumes))
        if self.log_volume_target is None:
            return VolumeTerm(log_volume, -self.volume_weight * log_volume)
        return VolumeTerm(log_volume, self.volume_weight * (log_volume - self.log_volume_target) ** 2 / 2)

    @torch.no_grad()
    def _heights(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Log volumes of the star [simplexes]; for each the squared height, and the foot's coordinates in the face."""
        parameters = local_parameters(self.module)
        device = next(iter(parameters.values())).device
        log_volumes, geometry = [], []
        for face in self._faces:
            products = torch.zeros(len(face.vertices), dtype=torch.float64, device=device)
            for scale, names in self._groups:
                frozen = [[vertex[name] for name in names] for vertex in face.vertices]
                of_module = [parameters[name] for name in names]
                for theta, *others in chunks(of_module, *frozen, on_cpu=PRODUCT_CHUNK_ON_CPU):
                    products += scale**2 * _inner_products(theta, others)
            products = all_reduce_sum(self._sharing, products.cpu(), device)
            height_squared, projection = height_over_face(face.edge_gram, products[1:], products[0])
            log_volumes.append(
                log_volume_with_floor(face.log_volume, height_squared, self.height_floor, len(face.vertices))
            )
            foot = torch.full((len(face.vertices),), 1 / len(face.vertices), dtype=torch.float64)
            foot[1:] += projection
            foot[0] -= projection.sum()
            geometry.append((height_squared, foot))
        return torch.stack(log_volumes), geometry


def _inner_products(theta: Sequence[Tensor], frozen: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of a vertex's offset from the mean of a face with itself and with the face's edges.

    Differences are taken before products, so that float32 loses nothing that matters of vertices which lie close
    together, and sums are float64.

    Args:
        theta: a piece of the vertex's weights.
        frozen: the same piece of each vertex of the face.

    Returns:
        [vertices of the face] float64: the offset's squared length, then its products with the edges that lead from
        the first vertex to the others.
    """
    device, wide = theta[0].device, torch.promote_types(theta[0].dtype, torch.float32)
    # What is moved to the CPU must be there before it is read.
    moved = [[tensor.to(device, non_blocking=device.type != "cpu") for tensor in tensors] for tensors in frozen]
    own, first, *others = (
        (tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten() for tensor in tensors])).flatten().to(wide)
        for tensors in (theta, *moved)
    )
    vectors = own.new_empty(1 + len(others), own.numel())
    offset, *edges = vectors
    # From the face's mean, where the vertex starts: small, so that little cancels in the height. It is folded as
    # points are, so that a vertex which was put there has height 0.
    mean = first
    for number, other in enumerate(others, start=2):
        mean = torch.lerp(mean, other, 1 / number, out=offset)
    torch.sub(own, mean, out=offset)
    for other, edge in zip(others, edges, strict=True):
        torch.sub(other, first, out=edge)
    return (vectors * offset).sum(dim=1, dtype=torch.float64)


def _rounded(weights: Weights) -> Weights:
    # Buffers that count something are no weights.
    return {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in weights.items()}


def _log_volume_of_radius(radius: float, dimensions: Sequence[int]) -> float:
    """The log volume of regular simplexes of some dimensions, all of whose vertices are `radius` from the centroid."""
    log_volumes = [regular_simplex_log_volume(k, math.log(radius * math.sqrt(2 * (k + 1) / k))) for k in dimensions]
    return float(complex_log_volume(torch.stack(log_volumes)))


def scaled_volume_weight(volume_weight: float, structure: SimplicialComplex, vertex: int, random_edge: float) -> float:
    """lambda_j = lambda* / log V of a random complex of the same structure (Benton et al. 2021).

    Independent random vertices in P dimensions are equidistant up to a relative 1/sqrt(P), so each simplex of the
    random complex is taken as regular.

    Args:
        volume_weight: lambda*.
        structure: the complex that grows.
        vertex: the growing vertex; the complex is made of the simplexes that hold it.
        random_edge: the distance of two random vertices, in the units of the weights.

    Returns:
        lambda_j, in nats of loss for a nat of log volume.

    Raises:
        ValueError: the random complex has log V <= 0, for which the rule gives no positive weight.
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
