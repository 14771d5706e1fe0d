"""The training step of a connector: points drawn for a batch, the part of the batch at each, the volume term."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.random_streams import stream
from ..model.sharding import replica_index
from .arguments import SimplexTrainingArguments
from .spro import GrowingVertex
from .volume_term import VolumeTerm

__all__ = ["ConnectorStep", "DrawnPoint", "Part", "StepStreams", "split_batch"]


@dataclass(frozen=True)
class Part:
    """The part of a batch that one point of a step sees.

    Args:
        inputs: Keyword arguments of the model.
        share: Weight of its loss in the mean over the points. The shares of a batch add up to 1.

    Example::

        for part in split_batch(batch, 2, "split"):
            loss = loss + part.share * model(**part.inputs).loss
    """

    inputs: dict[str, Any]
    share: float


def split_batch(inputs: Mapping[str, Any], points: int, point_batches: str) -> list[Part]:
    """Split a batch among the points of a step, or give each point the full batch.

    Args:
        inputs: Tensors [batch, ...] by name; other values go to every point.
        points: Number of points (H).
        point_batches: "split" or "full".

    Returns:
        One part per point. With "split" and fewer images than points, one part per image.

    Example:
        >>> import torch
        >>> from hf_simplex.training.step import split_batch
        >>> [part.share for part in split_batch({"labels": torch.arange(8)}, 3, "split")]
        [0.375, 0.375, 0.25]
    """
    if point_batches == "full":
        return [Part(dict(inputs), 1 / points) for _ in range(points)]
    size = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
    parts = []
    for rows in torch.arange(size).tensor_split(min(points, size)):
        chosen = slice(int(rows[0]), int(rows[-1]) + 1)
        own = {name: value[chosen] if _is_batched(value, size) else value for name, value in inputs.items()}
        parts.append(Part(own, len(rows) / size))
    return parts


def _is_batched(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size


class StepStreams:
    """A random stream for each batch of a stage.

    A stream depends on the seed, the replica of the weights, the step, and the batch within the step. So a resumed run
    draws the same points. Processes with separate replicas draw different points; processes that share a replica draw
    the same points.

    Args:
        seed: Seed of the stage.
        module: The backbone, plain or sharded by FSDP2.
        process_index: Index of this process.

    Example:
        >>> import torch
        >>> from hf_simplex.training.step import StepStreams
        >>> streams = StepStreams(seed=0, module=torch.nn.Linear(2, 2), process_index=0)
        >>> announced = streams.following(step_ends=True)
        >>> torch.equal(torch.rand(2, generator=announced), torch.rand(2, generator=streams.next(0)))
        True
    """

    def __init__(self, seed: int, module: nn.Module, process_index: int) -> None:
        self._seed = seed
        self._module = module
        self._process_index = process_index
        self._step, self._batch = -1, 0

    def next(self, step: int) -> torch.Generator:
        """Return the stream of the next batch, which belongs to optimizer step `step`.

        Example::

            points = growing.draw(4, streams.next(trainer.state.global_step))
        """
        self._step, self._batch = (step, self._batch + 1) if step == self._step else (step, 0)
        return self._stream(self._step, self._batch)

    def following(self, step_ends: bool) -> torch.Generator:
        """Return the stream of the batch after the present one.

        Args:
            step_ends: Whether the optimizer steps after the present batch (gradient accumulation).

        Example::

            streams.following(step_ends=True)   # the stream that `next` will return for the next step
        """
        return self._stream(self._step + 1, 0) if step_ends else self._stream(self._step, self._batch + 1)

    def _stream(self, step: int, batch: int) -> torch.Generator:
        return stream(self._seed, replica_index(self._module, self._process_index), step, batch)


@dataclass(frozen=True)
class DrawnPoint:
    """A point of a step.

    Args:
        part: Its part of the batch.
        point: Barycentric coordinates [vertices].
        following: The next point, or None if nothing is fetched in advance.

    Example::

        for drawn in step.draw(batch, global_step, step_ends=True):
            print(drawn.point, drawn.part.share)
    """

    part: Part
    point: list[float]
    following: list[float] | None


class ConnectorStep:
    """The steps of a stage that trains a connector.

    Args:
        growing: The SPRO objective of the connector.
        args: Arguments of the stage.

    Example::

        step = ConnectorStep(growing, args)
        for drawn in step.draw(batch, global_step, step_ends=True):
            with step.at(drawn):
                step.weighted(model(**drawn.part.inputs).loss).backward()
        step.add_volume_gradient(global_step)
    """

    def __init__(self, growing: GrowingVertex, args: SimplexTrainingArguments) -> None:
        self.growing = growing
        self._points = args.points_per_step
        self._point_batches = args.point_batches
        self._volume_interval = args.volume_interval
        self._streams = StepStreams(args.seed, growing.module, args.process_index)
        self._factors: tuple[float, float] | None = None
        self._volume_term: VolumeTerm | None = None

    def draw(self, inputs: Mapping[str, Any], step: int, step_ends: bool) -> list[DrawnPoint]:
        """Draw the points of a batch.

        Args:
            inputs: The batch.
            step: Number of optimizer steps so far.
            step_ends: Whether the optimizer steps after this batch.

        Returns:
            One drawn point per part of the batch, in order.

        Example::

            drawn = step.draw(batch, trainer.state.global_step, step_ends=True)
        """
        parts = split_batch(inputs, self._points, self._point_batches)
        points = self.growing.draw(len(parts), self._streams.next(step))
        following: list[list[float] | None] = [*points[1:], None]
        if self.growing.fetches:
            # Assumes that the next batch has as many parts. Otherwise its first point is fetched when needed.
            following[-1] = self.growing.draw(len(parts), self._streams.following(step_ends))[0]
        return [DrawnPoint(*drawn) for drawn in zip(parts, points, following, strict=True)]

    @contextmanager
    def at(self, drawn: DrawnPoint) -> Iterator[None]:
        """Swap a drawn point into the module for the duration of the context. `weighted` then weights its loss.

        Args:
            drawn: A point from `draw`.

        Example::

            with step.at(drawn):
                step.weighted(model(**drawn.part.inputs).loss).backward()
        """
        with self.growing.at(drawn.point) as coordinate:
            if drawn.following is not None:
                self.growing.prefetch(drawn.following)
            self._factors = drawn.part.share, drawn.part.share * coordinate
            try:
                yield
            finally:
                self._factors = None

    def weighted(self, loss: Tensor) -> Tensor:
        """Weight a loss: its value by the point's share, its gradient also by the coordinate of the vertex.

        By the chain rule, dL/dtheta = c dL/dphi at the point phi = F + c theta. Outside `at` the loss is unchanged.

        Args:
            loss: Scalar.

        Example::

            with step.at(drawn):
                step.weighted(loss).backward()
        """
        if self._factors is None:
            return loss
        value, gradient = self._factors
        return value * loss.detach() + gradient * (loss - loss.detach())

    def add_volume_gradient(self, step: int, loss_scale: float = 1.0) -> None:
        """Add the gradient of the volume term, if it is due at this step.

        Args:
            step: Number of optimizer steps so far, including those before a resume.
            loss_scale: Factor that a gradient scaler has put on the loss.

        Example::

            step.add_volume_gradient(trainer.state.global_step)   # after the backward passes
        """
        if (step + 1) % self._volume_interval:
            return
        self._volume_term = None
        if self.growing.volume_weight:
            self._volume_term = self.growing.add_volume_gradient(self._volume_interval * loss_scale)

    def logs(self, loss: float) -> dict[str, float]:
        """Return log_volume, regularizer [nats] and the share of the regularizer in the objective, for the log.

        The values are from the last step at which the volume gradient was added.

        Args:
            loss: Loss in the same log, in nats.

        Example::

            trainer.log({"loss": loss, **step.logs(loss)})
        """
        if self._volume_term is None:
            self._volume_term = self.growing.volume_term()
        term = self._volume_term
        magnitude = abs(loss) + abs(term.regularizer)
        return {
            "log_volume": term.log_volume,
            "regularizer": term.regularizer,
            "regularizer_share": abs(term.regularizer) / magnitude if magnitude else 0.0,
        }
