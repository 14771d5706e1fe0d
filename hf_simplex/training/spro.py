"""SPRO, simplicial pointwise random optimization: trains a vertex for low loss and large volume of its simplexes.

One vertex theta trains while the others are frozen. The objective is eq. 1 of Benton et al. 2021, "Loss Surface
Simplexes for Mode Connecting Volumes and Fast Ensembling"::

    min over theta:  1/H sum_h L(phi_h) - lambda_j log V(K)

with H points phi_h drawn uniformly from the complex K of the simplexes that hold theta.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from ..model.complexes import SimplicialComplex
from ..model.sampling import sample_complex
from ..model.volumes import complex_log_volume
from ..model.weight_space import Weights, copy_weights, write_point
from .placement import VertexPlacement
from .volume_measure import VOLUME_MEASURES
from .volume_term import StarVolume, VolumeTerm, log_volume_of_radius

__all__ = ["GrowingVertex"]


class GrowingVertex:
    """The SPRO objective for one vertex of a complex, on any module with any loss (Benton et al. 2021, eq. 1).

    The module that trains *is* the growing vertex. With theta for its weights, c for its coordinate and F for the mix
    of the frozen vertices, a point is phi = F + c theta, and dL/dtheta = c dL/dphi. Points are drawn only from the
    simplexes that hold the vertex, since other points have no gradient.

    An engine may shard (FSDP2) or move the module before or after construction. If after, then call `place_vertices`.
    Processes that shard one replica of the weights must be given the same points.

    Args:
        module: holds the growing vertex in its trainable parameters; any engine may wrap it. Parameters that do not
            require gradients are the same at all points, and take no part in points and volumes.
        vertices: the weights of all vertices by the names of the trainable parameters. Those of the growing vertex
            store the module's weights while it holds a point. If `frozen_vertices` is not `"device"`, give vertices on
            the CPU. They are not changed, except for that storage if the module is on the CPU too.
        structure: the complex of the vertices.
        vertex: index of the growing vertex.
        volume_weight: lambda_j, in nats of loss per nat of log volume; 0 leaves the volume term out.
        sampling: how points choose among several simplexes of the vertex: `"equal"` or `"volume"`.
        volume_measure: `"weights"`: the volume of the weights (Benton et al. 2021). `"normalized"`: of weights in
            units of each tensor's norm in the first frozen vertex.
        volume_target: None lets the volume grow without bound (Benton et al. 2021). A number pulls it to the volume of
            regular simplexes with this radius, from centroid to vertex, relative to the norm of the first frozen
            vertex. The volume term is then lambda_j (log V - log V_target)^2 / 2.
        frozen_vertices: `"device"`: the frozen vertices stay where they are given. `"bfloat16"`: rounded, on the
            module's device; points and volumes are those of the rounded vertices, with a relative error of at most
            2**-8 per weight. `"cpu"`: on the CPU, fetched for each point; the points equal those of `"device"`.

    Raises:
        ValueError: the vertex is the only one of a simplex; a choice is unknown; or the target is not positive.

    Example::

        growing = GrowingVertex(module, vertices, SimplicialComplex(3, [[0, 1, 2]]), 2, volume_weight=1e-4)
        growing.start_at_mean()
        for inputs, labels in batches:
            points = growing.draw(num_points, generator)
            for coordinates in points:
                with growing.at(coordinates) as coordinate:  # the module holds phi
                    (coordinate * loss(module(inputs), labels) / num_points).backward()
            growing.add_volume_gradient()  # the module holds theta again
            optimizer.step()
            optimizer.zero_grad()
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
        if volume_measure not in VOLUME_MEASURES:
            raise ValueError(f"volume_measure is {volume_measure!r}: choose from {', '.join(VOLUME_MEASURES)}.")
        if volume_target is not None and not (math.isfinite(volume_target) and volume_target > 0):
            raise ValueError(f"volume_target is {volume_target}: expected a positive number, or None.")
        self.module = module
        self._given = vertices
        self.vertex = vertex
        self.volume_weight = volume_weight
        self.sampling = sampling
        star = structure.simplexes_with(vertex)
        self.star, self.star_vertices = structure.sub_complex(star)
        faces = [[index for index in structure.simplexes[s] if index != vertex] for s in star]
        if not all(faces):
            raise ValueError(f"Vertex {vertex} is the only vertex of a simplex: it is a mode, trained without SPRO.")
        self.placement = VertexPlacement(module, vertices, vertex, frozen_vertices)
        self.star_volume = StarVolume(self.placement, faces, volume_measure, reference=vertices[faces[0][0]])
        self.log_volume_target: float | None = None
        """The log volume of regular simplexes of the target's radius."""
        if volume_target is not None:
            dimensions = [len(face) for face in faces]
            self.log_volume_target = log_volume_of_radius(volume_target * self.star_volume.norm, dimensions)
        self.place_vertices()

    @torch.no_grad()
    def start_at_mean(self, jitter: float = 0.0, generator: Generator | None = None) -> None:
        """Set the module to the mean of the frozen vertices of its simplexes (Benton et al. 2021).

        Args:
            jitter: standard deviation of Gaussian noise, relative to the root mean square of each parameter.
            generator: generator of the noise.

        Raises:
            RuntimeError: the module is sharded already.

        Example::

            growing.start_at_mean(jitter=0.01, generator=torch.Generator().manual_seed(0))
        """
        if self.placement.group is not None:
            raise RuntimeError("A vertex starts at the mean of whole weights: call start_at_mean before sharding.")
        others = [index for index in self.star_vertices if index != self.vertex]
        write_point(self.module, self._given, [(index in others) / len(others) for index in range(len(self.vertices))])
        if jitter:
            for parameter in filter(lambda parameter: parameter.requires_grad, self.module.parameters()):
                noise = torch.randn(parameter.shape, generator=generator)
                scale = jitter * parameter.square().mean().sqrt()
                parameter.add_(noise.to(parameter) * scale)
        copy_weights(self.module, self.vertices[self.vertex])

    # ---- the objective -------------------------------------------------------------------------------------------

    def draw(self, num_points: int, generator: Generator) -> list[list[float]]:
        """Draw points uniformly from the simplexes that hold the vertex.

        Args:
            num_points: H.
            generator: a CPU generator.

        Returns:
            [points, all vertices] barycentric coordinates.

        Example::

            points = growing.draw(5, torch.Generator().manual_seed(0))
        """
        # Computed from the present weights, so that a resumed run draws the same points.
        log_volumes = None
        if self.sampling == "volume" and len(self.star.simplexes) > 1:
            log_volumes = _log_volumes(self.star_volume)
        drawn = sample_complex(
            self.star, num_points, sampling=self.sampling, log_volumes=log_volumes, generator=generator
        )
        coordinates = torch.zeros(num_points, len(self.vertices), dtype=torch.float64)
        coordinates[:, self.star_vertices] = drawn
        return coordinates.tolist()

    @contextmanager
    def at(self, coordinates: Sequence[float]) -> Iterator[float]:
        """Swap the point phi at `coordinates` into the module for the duration of the context.

        Args:
            coordinates: [vertices] barycentric coordinates.

        Yields:
            c, the coordinate of the growing vertex, by which the loss is multiplied.

        Example::

            with growing.at(points[0]) as coordinate:
                (coordinate * loss(module(inputs), labels)).backward()
        """
        with self.placement.at(coordinates):
            yield coordinates[self.vertex]

    @torch.no_grad()
    def add_volume_gradient(self, scale: float = 1.0) -> VolumeTerm:
        """Add the gradient of the volume term to the `.grad` of the module, which holds the vertex.

        With h_s the height of the vertex over the frozen face of simplex s, and r_s the perpendicular from the face to
        the vertex, log V = log sum_s V_s has the gradient sum_s (V_s / V) r_s / h_s^2.

        Args:
            scale: factor of the gradient, such as a loss scale or the number of steps between two calls.

        Returns:
            The value of the term at the vertex, without `scale`.

        Example::

            growing.add_volume_gradient().regularizer   # call it before optimizer.step()
        """
        heights = self.star_volume.heights()
        log_volumes = torch.stack([height.log_volume for height in heights])
        term = self._term(log_volumes)
        if self.volume_weight:
            # Minus the derivative of the regularizer with respect to log V.
            pull = scale * self.volume_weight
            if self.log_volume_target is not None:
                pull *= self.log_volume_target - term.log_volume
            for height, share in zip(heights, torch.softmax(log_volumes, dim=0), strict=True):
                factor = pull * float(share) / (height.squared + self.star_volume.height_floor**2)
                self.star_volume.add_perpendicular(height, -factor)
        return term

    def volume_term(self) -> VolumeTerm:
        """Return the value of the volume term. The module must hold the vertex; its `.grad` does not change.

        Example::

            growing.volume_term().log_volume
        """
        return self._term(_log_volumes(self.star_volume))

    def _term(self, log_volumes: Tensor) -> VolumeTerm:
        log_volume = float(complex_log_volume(log_volumes))
        if self.log_volume_target is None:
            return VolumeTerm(log_volume, -self.volume_weight * log_volume)
        return VolumeTerm(log_volume, self.volume_weight * (log_volume - self.log_volume_target) ** 2 / 2)

    # ---- where the vertices are ----------------------------------------------------------------------------------

    @property
    def vertices(self) -> Sequence[Weights]:
        """The weights of all vertices as placed: whole, or the local shards.

        Example::

            growing.vertices[growing.vertex]   # storage of the growing vertex
        """
        return self.placement.vertices

    def place_vertices(self) -> None:
        """Shard the vertices as the module is, and move the frozen ones, after an engine has wrapped the module.

        Raises:
            ValueError: the engine shards the parameters of the module in several ways.

        Example::

            fully_shard(module)
            growing.place_vertices()
        """
        self.placement.place()

    @property
    def fetches(self) -> bool:
        """Whether an accelerator fetches points from the CPU, so that `prefetch` saves time.

        Example::

            growing.fetches   # False on a CPU
        """
        return self.placement.fetches

    def prefetch(self, coordinates: Sequence[float]) -> None:
        """Start to fetch the frozen part of the next point while the module works on another, if `fetches`.

        Args:
            coordinates: [vertices] barycentric coordinates of the next point. `at` still accepts any other point.

        Example::

            with growing.at(points[0]):
                growing.prefetch(points[1])
        """
        self.placement.prefetch(coordinates)


def _log_volumes(star_volume: StarVolume) -> Tensor:
    return torch.stack([height.log_volume for height in star_volume.heights()])
