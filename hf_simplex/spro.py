"""SPRO: one vertex grows while all others stay, so that points of its simplexes have low loss and large volume."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from .complexes import SimplicialComplex
from .geometry import (
    complex_log_volume,
    height_over_face,
    log_volume_with_floor,
    regular_simplex_log_volume,
    sample_complex,
    simplex_log_volume,
)
from .sharding import local, local_parameters, sharded_like, sharing_processes, sum_over
from .weight_space import Weights, alike, blocks, copy_weights, pieces, trainable_names, weights_moved_to, write_point

HEIGHT_FLOOR = 1e-4
"""Part of the weights' norm that is added, in quadrature, to every height: it bounds the pull on a flat simplex."""


@dataclass(frozen=True)
class VolumeTerm:
    """The log volume of the growing vertex's simplexes and what it adds to the objective.

    Attributes:
        log_volume: natural logarithm of the summed volume; finite also where the volume is 0.
        regularizer: `-volume_weight * log_volume`, in nats like the loss.
    """

    log_volume: float
    regularizer: float


class _Face:
    """The fixed part of one simplex: its frozen vertices, what their inner products say, and its volume."""

    def __init__(self, vertices: Sequence[Weights], indices: Sequence[int], names: Sequence[str]) -> None:
        self.indices = indices
        self.vertices: Sequence[Weights] = [vertices[index] for index in indices]
        self.log_volume = float(simplex_log_volume(blocks(self.vertices, names)))
        edges = len(indices) - 1
        self.edge_gram = torch.zeros(edges, edges, dtype=torch.float64)
        for name in names:
            block = self.edges(name)
            self.edge_gram += (block @ block.T).cpu()

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

    An engine that divides the module among processes (FSDP2) may do so before or after this; if after, call
    `shard_vertices` then. Processes that share one copy of the weights must be given the same points.

    Args:
        module: the weights of the growing vertex, its trainable parameters; any engine may wrap it.
        vertices: the weights of all vertices by parameter name. Those of the growing vertex are storage: the module's
            weights are kept there while the module holds a point.
        structure: the complex; `vertices` are its vertices.
        vertex: index of the growing vertex.
        volume_weight: lambda_j, in nats of loss for a nat of log volume; 0 leaves the volume term out.
        sampling: how a simplex is chosen when the vertex is in several: `"equal"` or `"volume"`.

    Raises:
        ValueError: the vertex is its simplex's only one, so that nothing spans the simplex.
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
    ) -> None:
        self.module = module
        self.vertices = vertices
        self.vertex = vertex
        self.volume_weight = volume_weight
        self.sampling = sampling
        self.names = trainable_names(module)
        self.star, self.star_vertices = structure.sub_complex(structure.simplexes_with(vertex))
        faces = [
            [index for index in structure.simplexes[s] if index != vertex] for s in structure.simplexes_with(vertex)
        ]
        if not all(faces):
            raise ValueError(f"Vertex {vertex} is the only vertex of a simplex: it is a mode, trained without SPRO.")
        self._faces = [_Face(vertices, face, self.names) for face in faces]
        norm = math.sqrt(sum(float(vertices[faces[0][0]][name].double().square().sum()) for name in self.names))
        self.height_floor = HEIGHT_FLOOR * norm
        """A height far below those that training reaches: keeps log volume and gradient finite at height 0."""
        self._log_volumes: Tensor | None = None
        self.shard_vertices()

    def shard_vertices(self) -> None:
        """Divide the vertices among processes as the module is; without effect where it is not.

        Raises:
            ValueError: the engine divides the parameters of the module in several ways.
        """
        self._sharing = sharing_processes(self.module)
        if self._sharing is None:
            return
        self.vertices = [sharded_like(vertex, self.module) for vertex in self.vertices]
        for face in self._faces:
            face.vertices = [self.vertices[index] for index in face.indices]

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
        write_point(
            self.module, self.vertices, [(index in others) / len(others) for index in range(len(self.vertices))]
        )
        if jitter:
            for parameter in self.module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                scale = jitter * parameter.square().mean().sqrt()
                parameter.add_(noise.to(parameter) * scale)
        copy_weights(self.module, self.vertices[self.vertex])

    def draw(self, num_points: int, generator: Generator) -> list[list[float]]:
        """Draw points uniformly from the simplexes that hold the vertex: [points, all vertices] coordinates."""
        if self.sampling == "volume" and self._log_volumes is None:
            self._log_volumes, _ = self._heights()
        local = sample_complex(
            self.star, num_points, sampling=self.sampling, log_volumes=self._log_volumes, generator=generator
        )
        coordinates = torch.zeros(num_points, len(self.vertices), dtype=torch.float64)
        coordinates[:, self.star_vertices] = local
        return coordinates.tolist()

    @contextmanager
    def at(self, coordinates: Sequence[float]) -> Iterator[float]:
        """While the context lasts the module holds the point at `coordinates`; yields the vertex's own coordinate."""
        with weights_moved_to(self.module, self.vertices, coordinates, self.vertex):
            yield coordinates[self.vertex]

    @torch.no_grad()
    def add_volume_gradient(self, scale: float = 1.0) -> VolumeTerm:
        """Add the gradient of `-volume_weight * log V` to the `.grad` of the module, which holds the vertex.

        With h_s the height of the vertex over the frozen face of simplex s, and r_s the perpendicular from that face
        to the vertex, log V = log sum_s V_s has the gradient sum_s (V_s / V) r_s / h_s^2; the perpendicular is a mix
        of the vertices, so no copy of the weight space is needed.

        Args:
            scale: factor of what is added, for gradients that a loss scaler has multiplied.

        Returns:
            The term's value at the vertex, not multiplied by `scale`.
        """
        self._log_volumes, geometry = self._heights()
        log_volume = float(complex_log_volume(self._log_volumes))
        if self.volume_weight:
            shares = torch.softmax(self._log_volumes, dim=0)
            for face, share, (height_squared, foot) in zip(self._faces, shares, geometry, strict=True):
                factor = scale * self.volume_weight * float(share) / (float(height_squared) + self.height_floor**2)
                self._add_perpendicular(face, foot.tolist(), -factor)
        return VolumeTerm(log_volume, -self.volume_weight * log_volume)

    def _add_perpendicular(self, face: _Face, foot: Sequence[float], factor: float) -> None:
        """Add `factor` times the perpendicular from the foot, given by its coordinates in a face, to the gradients."""
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        theta = [local(p.detach()) for p in parameters.values()]
        gradients = [local(p.grad) for p in parameters.values() if p.grad is not None]
        frozen = [[vertex[name] for name in parameters] for vertex in face.vertices]
        for own, gradient, *others in pieces(theta, gradients, *frozen):
            # Small where the vertex is near the face, so it must be there before it meets the large factor.
            wide = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in own]
            perpendicular = torch._foreach_sub(wide, alike(others[0], wide), alpha=foot[0])
            for coordinate, other in zip(foot[1:], others[1:], strict=True):
                torch._foreach_sub_(perpendicular, alike(other, wide), alpha=coordinate)
            torch._foreach_add_(gradient, perpendicular, alpha=factor)

    def volume_term(self) -> VolumeTerm:
        """The term's value at the vertex, which the module holds; no gradient is touched."""
        self._log_volumes, _ = self._heights()
        log_volume = float(complex_log_volume(self._log_volumes))
        return VolumeTerm(log_volume, -self.volume_weight * log_volume)

    @torch.no_grad()
    def _heights(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Log volumes of the star [simplexes]; for each the squared height, and the foot's coordinates in the face."""
        parameters = local_parameters(self.module)
        device = next(iter(parameters.values())).device
        log_volumes, geometry = [], []
        for face in self._faces:
            frozen = [[vertex[name] for name in parameters] for vertex in face.vertices]
            products = torch.zeros(len(frozen), dtype=torch.float64, device=device)
            for theta, *others in pieces(list(parameters.values()), *frozen):
                products += _inner_products(theta, others)
            products = sum_over(self._sharing, products.cpu(), device)
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
    wide = torch.promote_types(theta[0].dtype, torch.float32)
    own, first, *others = (
        (tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten() for tensor in tensors]))
        .flatten()
        .to(theta[0].device, wide)
        for tensors in (theta, *frozen)
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
