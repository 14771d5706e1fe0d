"""The numbers of the explorer: what an ensemble, its parts and its points say of an image. No app is needed."""

import copy
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from ..evaluation.label_names import label_names_of
from ..model.configuration_simplex import CONNECTOR
from ..model.coordinates import centroid_coordinates, vertex_coordinates
from ..model.image_pixels import load_rgb
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.pipeline_simplex import SimplexImageClassificationPipeline
from ..model.point_writing import write_point_and_buffers
from ..model.problem_types import refuse_several
from ..model.uncertainty import mutual_information
from .exploration import Exploration
from .flat_statistics import FlatStatistics

__all__ = ["MAX_PIXELS", "NOT_SHOWN", "Answer", "Answers", "PointAnswer", "Score", "answers_of"]

MAX_PIXELS = 50_000_000
"""Largest number of pixels of an image. Decoded, that is 150 MB."""

NOT_SHOWN = (
    "The explorer shows",
    "Use pipeline('simplex-image-classification') or hf-simplex predict, which give each label its own probability.",
)
"""Why a multi-label ensemble has no explorer, for `refuse_several`."""

_AT_ONCE = 8
"""Images of the validation batch that a drag waits for at most."""

_NEAR = 1e-6
"""Coordinates that differ by no more are the same point."""


@dataclass(frozen=True)
class Answer:
    """What an ensemble and its parts say of an image.

    Attributes:
        pixel_values: [1, channels, height, width], of the image.
        result: of the pipeline `simplex-image-classification`, with all labels.
        members: [members, labels] float32 probabilities of each member, without a temperature.
        parts: probabilities [labels] by the name of a part: one mode, the plain ensemble of the modes, the centroid
            and the ensemble.

    Example::

        answers.ask(answers.read("cat.png")).result["labels"][0]
    """

    pixel_values: Tensor
    result: dict[str, Any]
    members: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class PointAnswer:
    """What the model at one point says of an image.

    Attributes:
        coordinates: [vertices] of the point that answered. It is the nearest known one where BatchNorm statistics
            between the known points are missing.
        probabilities: [labels] float32, without a temperature.
        loss: NLL on the validation batch, interpolated between computed points, in nats; None where unknown.
        accuracy: the same, 0 to 1.

    Example::

        answers.at(pixel_values, [0.5, 0.5, 0.0]).probabilities.argmax()
    """

    coordinates: tuple[float, ...]
    probabilities: Tensor
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Score:
    """How good a point is on the cached validation batch.

    Attributes:
        nll: mean negative log-likelihood in nats.
        accuracy: 0 to 1.
        images: their number.

    Example:
        >>> Score(nll=0.2, accuracy=0.95, images=100).images
        100
    """

    nll: float
    accuracy: float
    images: int


class Answers:
    """Answers questions about an ensemble, from several threads.

    Args:
        model: an ensemble with members and an image processor.
        exploration: what was computed of it; None if nothing was.
        device: such as `"cpu"`; default: a GPU, if there is one.

    Attributes:
        exploration: as given.
        names: of the labels.

    Raises:
        ValueError: the ensemble is multi-label or has no image processor, or the exploration is of other vertices.

    Example::

        answers = Answers(model, find_exploration("ensemble"))
        answers.ask(answers.read("cat.png")).result["abstain"]
    """

    def __init__(
        self,
        model: SimplexForImageClassification,
        exploration: Exploration | None = None,
        *,
        device: str | None = None,
    ) -> None:
        refuse_several(model.config, *NOT_SHOWN)
        self.model = model
        self.names = label_names_of(model)
        self._classify = SimplexImageClassificationPipeline(
            model=model, image_processor=model.image_processor, device=device
        )
        self._lock = threading.Lock()
        self._weights = model.weights
        self._backbone: Any = copy.deepcopy(model.backbone).eval()
        self._flat = FlatStatistics(self._backbone)
        structure = model.config.complex
        vertices = range(structure.num_vertices)
        self._of_vertices = [self._flat.of(model.vertex_statistics(vertex)) for vertex in vertices]
        self._known = [
            (tuple(vertex_coordinates(structure, vertex).tolist()), self._of_vertices[vertex]) for vertex in vertices
        ]
        for coordinates, tree in zip(model.config.members, model.members, strict=False):
            self._known.append((tuple(coordinates), self._flat.of(dict(tree.named_buffers()))))
        for simplex, tree in enumerate(model.centroids):
            centroid = tuple(centroid_coordinates(structure, simplex).tolist())
            self._known.append((centroid, self._flat.of(dict(tree.named_buffers()))))
        self.exploration: Exploration | None = None
        self._batch: Tensor | None = None
        if exploration is not None:
            self.explore_with(exploration)

    def explore_with(self, exploration: Exploration) -> None:
        """Take what was computed.

        Args:
            exploration: of this ensemble.

        Raises:
            ValueError: see `Exploration.check_fit`.

        Example::

            answers.explore_with(explore_data_set(answers.model, "digits"))
        """
        exploration.check_fit(self.model)
        images = exploration.images[: exploration.batch]
        self._batch = torch.cat([self._pixel_values(PIL.Image.fromarray(image.numpy())) for image in images])
        self.exploration = exploration

    @property
    def is_interpolated(self) -> bool:
        """Whether BatchNorm statistics between computed points are interpolated.

        Example::

            answers.is_interpolated
        """
        return bool(self._flat.channels) and self.exploration is not None

    @property
    def jumps(self) -> bool:
        """Whether only the points with known BatchNorm statistics can be shown.

        Example::

            answers.jumps   # True: the ensemble has BatchNorm, and nothing was computed
        """
        return bool(self._flat.channels) and self.exploration is None

    def known_points(self) -> list[tuple[float, ...]]:
        """Points whose BatchNorm statistics the ensemble holds: vertices, members and centroids.

        Example::

            answers.known_points()[0]   # (1.0, 0.0, 0.0)
        """
        return list(dict.fromkeys(coordinates for coordinates, _ in self._known))

    def recomputed_members(self) -> list[bool]:
        """Tell which members lie at a vertex, but have other BatchNorm statistics, so that they predict otherwise.

        Example::

            answers.recomputed_members()   # [True, True] for "modes with recomputed statistics"
        """
        members = self._known[len(self._of_vertices) :]
        found = [False] * len(self.model.config.members)
        for number, _ in enumerate(self.model.members):
            coordinates, statistics = members[number]
            if 1.0 in coordinates:
                found[number] = not torch.equal(statistics, self._of_vertices[coordinates.index(1.0)])
        return found

    def read(self, source: Any) -> Tensor:
        """Read an image as the pipeline does.

        Args:
            source: a path, or see `model.image_pixels.load_rgb`.

        Returns:
            Pixel values [1, channels, height, width] float32.

        Raises:
            ValueError: the file is no image, is broken, or has more than `MAX_PIXELS` pixels. The message is for the
                person who gave it.

        Example::

            answers.read("cat.png").shape
        """
        try:
            with warnings.catch_warnings():
                # Pillow warns of large images. The limit below is stricter.
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                if isinstance(source, str | os.PathLike) and os.path.isfile(source):
                    with PIL.Image.open(source) as image:
                        _check_size(*image.size)
                return self._pixel_values(load_rgb(source))
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"This image is too large: at most {MAX_PIXELS:,} pixels. Scale it down.") from error
        except PIL.UnidentifiedImageError as error:
            raise ValueError("This file is no image that can be read. Give a PNG, JPEG, WebP, GIF or TIFF.") from error
        except _TooLargeError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # Pillow's readers raise many types
            raise ValueError(f"This image cannot be read: {error}") from error

    def ask(self, pixel_values: Tensor) -> Answer:
        """Ask the ensemble and its parts about an image.

        Args:
            pixel_values: of `read`.

        Raises:
            ValueError: the probabilities are not finite.

        Example::

            answers.ask(answers.read("cat.png")).parts["centroid"]
        """
        classify: Any = self._classify
        with self._lock:
            outputs = self._forward(pixel_values)
            parts = self._parts(pixel_values)
        result = classify.postprocess(outputs, top_k=len(self.names))
        parts["ensemble"] = outputs["logits"][0].softmax(dim=-1)
        return Answer(pixel_values, result, outputs["member_probabilities"][0], parts)

    @torch.no_grad()
    def at(self, pixel_values: Tensor, coordinates: Sequence[float]) -> PointAnswer:
        """Ask the model at a point about an image.

        Vertices are mixed at the coordinates, and BatchNorm statistics are interpolated between computed points.

        Args:
            pixel_values: of `read`.
            coordinates: [vertices] barycentric coordinates of a point of a region; see `Exploration.regions`.

        Raises:
            ValueError: the coordinates are not those of a point that can be shown.

        Example::

            answers.at(answers.read("cat.png"), [0.5, 0.5, 0.0]).loss
        """
        with self._lock:
            coordinates = self._write(coordinates)
            probabilities = self._probabilities(pixel_values)[0]
        found = None if self.exploration is None else self.exploration.loss_at(coordinates)
        return PointAnswer(tuple(coordinates), probabilities, *(found or (None, None)))

    @torch.no_grad()
    def score(self, coordinates: Sequence[float]) -> Score | None:
        """Compute loss and accuracy of a point on the cached validation batch.

        Args:
            coordinates: as for `at`.

        Returns:
            The score of the model that `at` asks; None without a batch.

        Raises:
            ValueError: as `at`.

        Example::

            answers.score([0.5, 0.5, 0.0]).accuracy
        """
        if self.exploration is None or self._batch is None:
            return None
        found = []
        for images in self._batch.split(_AT_ONCE):
            # In between, a drag gets its turn.
            with self._lock:
                self._write(coordinates)
                found.append(self._logits(images))
        logits = torch.cat(found)
        labels = self.exploration.labels[: self.exploration.batch]
        nll = torch.nn.functional.cross_entropy(logits.double(), labels)
        right = (logits.argmax(dim=-1) == labels).double().mean()
        return Score(float(nll), float(right), len(labels))

    def gallery(self) -> list[tuple[int, Answer, float]]:
        """Ask about the validation images on which the members disagree most.

        Returns:
            Index of the image, its answer, and the mutual information in nats; from the most.

        Example::

            answers.gallery()[0]
        """
        if self.exploration is None:
            return []
        found = []
        for index in self.exploration.gallery:
            image = PIL.Image.fromarray(self.exploration.images[index].numpy())
            answer = self.ask(self._pixel_values(image))
            found.append((index, answer, float(mutual_information(answer.members))))
        return found

    def _pixel_values(self, image: PIL.Image.Image) -> Tensor:
        classify: Any = self._classify
        pixel_values: Tensor = classify.preprocess(image)["pixel_values"]
        return pixel_values

    def _forward(self, pixel_values: Tensor) -> Any:
        classify: Any = self._classify
        return classify.forward({"pixel_values": pixel_values})

    def _parts(self, pixel_values: Tensor) -> dict[str, Tensor]:
        config = self.model.config
        structure = config.complex
        modes = [vertex for vertex, role in enumerate(config.roles) if role != CONNECTOR] or [0]
        of_modes = []
        for mode in modes:
            self._write(vertex_coordinates(structure, mode).tolist())
            of_modes.append(self._probabilities(pixel_values)[0])
        parts = {f"one model (mode {modes[0]})": of_modes[0]}
        if len(modes) > 1:
            parts[f"plain ensemble of {len(modes)} modes"] = torch.stack(of_modes).mean(dim=0)
        centroid = tuple(centroid_coordinates(structure, 0).tolist())
        if len(structure.simplexes[0]) > 1 and (not self._flat.channels or self._exact(centroid) is not None):
            self._write(centroid)
            name = "centroid" if len(structure.simplexes) == 1 else "centroid of simplex 0"
            parts[name] = self._probabilities(pixel_values)[0]
        return parts

    def _logits(self, pixel_values: Tensor) -> Tensor:
        device = next(self._backbone.parameters()).device
        with torch.no_grad():
            logits: Tensor = self._backbone(pixel_values=pixel_values.to(device)).logits
        return logits.float().cpu()

    def _probabilities(self, pixel_values: Tensor) -> Tensor:
        return self._logits(pixel_values).softmax(dim=-1)

    def _exact(self, coordinates: Sequence[float]) -> Tensor | None:
        for known, statistics in self._known:
            if max(abs(own - other) for own, other in zip(known, coordinates, strict=True)) <= _NEAR:
                return statistics
        return None

    def _write(self, coordinates: Sequence[float]) -> Sequence[float]:
        """Write a point, or the nearest known one, into the backbone of this object. Returns what was written."""
        coordinates = self._checked(coordinates)
        statistics = None
        if self._flat.channels:
            statistics = self._exact(coordinates)
            if statistics is None and self.exploration is not None:
                statistics = self.exploration.statistics_at_point(coordinates, self._of_vertices)
            if statistics is None:
                point = torch.tensor(coordinates)
                distances = [float((torch.tensor(known) - point).square().sum()) for known, _ in self._known]
                coordinates, statistics = self._known[distances.index(min(distances))]
        write_point_and_buffers(self._backbone, self._weights, coordinates, None)
        if statistics is not None:
            self._flat.write(statistics)
        return coordinates

    def _checked(self, coordinates: Sequence[float]) -> list[float]:
        number = self.model.config.num_vertices
        values = [float(value) for value in coordinates]
        if len(values) != number or not all(-_NEAR <= value <= 1 + _NEAR for value in values):
            raise ValueError(f"Expected {number} coordinates between 0 and 1, got {values}.")
        values = [min(max(value, 0.0), 1.0) for value in values]
        if abs((total := sum(values)) - 1) > 1e-3:
            raise ValueError(f"Expected coordinates with sum 1, got {total}.")
        values = [value / total for value in values]
        inside = self.model.config.complex.holds([vertex for vertex, value in enumerate(values) if value > 0])
        if not inside and (self.exploration is None or self.exploration.region_of(values) is None):
            raise ValueError(f"The point {values} lies outside of the complex.")
        return values


def answers_of(
    model: SimplexForImageClassification,
    exploration: Exploration | None,
    warn: Callable[[str], Any],
    *,
    device: str | None = None,
) -> Answers:
    """Answer questions about an ensemble, without what was computed where that is of other weights.

    Args:
        model: see `Answers`.
        exploration: see `Answers`.
        warn: takes a line that says why it is left out.
        device: see `Answers`.

    Raises:
        ValueError: the ensemble has no image processor.

    Example::

        answers_of(model, find_exploration("ensemble"), print)
    """
    answers = Answers(model, device=device)
    if exploration is not None:
        try:
            answers.explore_with(exploration)
        except ValueError as error:
            warn(str(error))
    return answers


class _TooLargeError(Exception):
    """An image has too many pixels."""


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _TooLargeError(
            f"This image has {width:,} × {height:,} pixels, more than {MAX_PIXELS:,}. Scale it down first."
        )
