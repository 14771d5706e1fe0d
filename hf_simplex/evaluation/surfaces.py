"""A loss surface and its file: mean loss and accuracy at points of weight space."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..model.checkpoint import atomic_write
from ..model.complexes import SimplicialComplex
from .surface_points import SurfacePoints

__all__ = ["Surface"]

_TENSORS = ("vertices", "vertex_positions", "coordinates", "positions", "axis_shares", "loss", "accuracy")
_FORMAT = "hf_simplex.surface"


@dataclass(frozen=True)
class Surface:
    """Mean loss and accuracy at points of weight space.

    Attributes:
        points: the points.
        loss: [points] float64, mean over the data, in nats for a negative log-likelihood. It may be inf or NaN far
            from the vertices.
        accuracy: [points] float64, 0 to 1; NaN if the measure has none.

    Raises:
        ValueError: There is not one loss and one accuracy per point.

    Example:
        >>> import torch
        >>> from hf_simplex.evaluation.surface_points import face_points
        >>> from hf_simplex.evaluation.surfaces import Surface
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> weights = [{"w": torch.tensor([value])} for value in (0.0, 4.0)]
        >>> points = face_points(SimplicialComplex(2, [[0, 1]]), weights, ["w"], vertices=(0, 1), resolution=2)
        >>> Surface(points, loss=torch.tensor([0.1, 0.3, 0.1]), accuracy=torch.ones(3)).loss.max()
        tensor(0.3000)
    """

    points: SurfacePoints
    loss: Tensor
    accuracy: Tensor

    def __post_init__(self) -> None:
        expected = (len(self.points.coordinates),)
        if self.loss.shape != expected or self.accuracy.shape != expected:
            raise ValueError(
                f"Expected one loss and one accuracy for each of {expected[0]} points, got shapes "
                f"{list(self.loss.shape)} and {list(self.accuracy.shape)}."
            )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Saves the surface to one safetensors file, atomically.

        Args:
            file: a name that ends in `.safetensors`; an existing file is replaced.

        Raises:
            ValueError: The name does not end in `.safetensors`, or is that of a folder.

        Example::

            surface.save("plane.safetensors")
        """
        target = Path(file)
        if target.suffix != ".safetensors" or target.is_dir():
            raise ValueError(f"A surface is saved as a file named *.safetensors, got {os.fspath(file)!r}.")
        owners = {name: self if name in ("loss", "accuracy") else self.points for name in _TENSORS}
        tensors = {name: getattr(owner, name).contiguous() for name, owner in owners.items()}
        metadata = {
            "format": _FORMAT,
            "kind": self.points.kind,
            "complex": json.dumps(self.points.structure.to_json()),
        }
        with atomic_write(target.parent) as aside:
            save_file(tensors, aside / target.name, metadata=metadata)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Surface":
        """Loads a surface that `save` wrote.

        Args:
            file: the safetensors file.

        Returns:
            The surface, bit for bit.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not complete, or not a surface.

        Example::

            figure = plot_plane(Surface.load("plane.safetensors"))
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {os.fspath(file)!r} to load a surface from.")
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if metadata.get("format") != _FORMAT or set(tensors) != set(_TENSORS):
                raise ValueError(f"it holds {sorted(tensors)} with the metadata {metadata}")
            loss, accuracy = tensors.pop("loss"), tensors.pop("accuracy")
            structure = SimplicialComplex.from_json(json.loads(metadata["complex"]))
            return cls(SurfacePoints(kind=metadata["kind"], structure=structure, **tensors), loss, accuracy)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(file)!r} is not a complete file of Surface.save ({error}). Evaluate the surface again."
            ) from error
