"""Exports a point or the whole ensemble as one graph, in a folder with the layout of optimum."""

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, logging

from ..model.backbones import set_labels
from ..model.calibrated_head import random_images
from ..model.checkpoint import atomic_write
from ..model.coordinates import vertex_coordinates
from ..model.image_processors import save_image_processor
from ..model.low_rank_adapters import merged
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.tensor_tree import first_non_finite
from .graphs import (
    ENSEMBLE_OUTPUTS,
    POINT_OUTPUTS,
    PointGraph,
    ensemble_graph,
    on_cpu_in_float32,
    use_plain_attention,
)
from .programs import INPUT, check_installed, quantize_weights, run_onnx, trace, write_onnx, write_torch

__all__ = ["FORMATS", "MAX_FILE_BYTES", "QUANTIZATIONS", "TOLERANCE", "ExportedGraph", "Point", "export_graph"]

FORMATS = ("onnx", "torch")
QUANTIZATIONS = ("int8",)

MAX_FILE_BYTES = 2**30
"""1 GiB. A file of ONNX itself cannot hold more than 2 GiB."""

TOLERANCE = 1e-3
"""Largest difference between the outputs of a graph and of the model, as a part of the largest output or of 1."""

_CHECKED_BATCHES = (1, 3)
_ONNX, _INT8, _TORCH = "model.onnx", "model_quantized.onnx", "model.pt2"
_FILES = (CONFIG_NAME, IMAGE_PROCESSOR_NAME, _ONNX, _INT8, f"{_ONNX}.data", f"{_INT8}.data", _TORCH)

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Point:
    """Which point of an ensemble to export.

    Attributes:
        kind: `"centroid"`, `"vertex"` or `"member"`.
        index: of the simplex, the vertex or the member.

    Raises:
        ValueError: the kind is unknown.

    Example:
        >>> str(Point("centroid", 0))
        'the centroid of simplex 0'
    """

    kind: str
    index: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("centroid", "vertex", "member"):
            raise ValueError(f"kind is {self.kind!r}: choose from centroid, vertex and member.")

    def __str__(self) -> str:
        return f"the centroid of simplex {self.index}" if self.kind == "centroid" else f"{self.kind} {self.index}"


@dataclass(frozen=True)
class ExportedGraph:
    """What `export_graph` wrote.

    Attributes:
        file: the graph.
        temperature: T in it; None where none was fitted for it.
        difference: largest difference of an output from the model's, on a few random images.

    Example:
        >>> ExportedGraph(Path("model.onnx"), 1.5, 1e-6).temperature
        1.5
    """

    file: Path
    temperature: float | None
    difference: float


def export_graph(
    model: SimplexForImageClassification,
    directory: str | os.PathLike[str],
    *,
    format: str = "onnx",
    point: Point | None = None,
    quantize: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> ExportedGraph:
    """Export an ensemble, or one point of it, as one graph for batches of any size.

    The graph takes `pixel_values`, [batch, channels, height, width] float32, with height and width of the image
    processor. A point returns `logits`. An ensemble returns calibrated `logits` and the uncertainties in
    `graphs.ENSEMBLE_OUTPUTS`. The folder holds `model.onnx` (or `model_quantized.onnx`, or `model.pt2` for
    `torch.export.load`), config.json of the backbone with the labels, and preprocessor_config.json. Backbones of timm
    keep the settings of the image processor in config.json. Under `hf_simplex`, config.json says what was exported,
    with the temperature and, for an ensemble, its decisions.

    The temperature of a centroid, of the ensemble, and of its only member is part of the graph. None was fitted for
    other points: a warning says so. Low-rank adapters of a point are merged into its weights. The graph is in float32,
    whatever the dtype of the model. Its outputs are compared with the model's before anything is written.

    Args:
        model: the ensemble. It is not changed.
        directory: created if it does not exist.
        format: `"onnx"` or `"torch"`.
        point: default: the whole ensemble.
        quantize: `"int8"` writes an ONNX graph with the weights of matrix products in 8 bits, however far its
            outputs are from the model's; see `programs.quantize_weights`.
        max_file_bytes: larger weights of an ONNX graph go into a file beside it, in bytes.

    Returns:
        The file, the temperature in it, and how far its outputs are from the model's.

    Raises:
        ImportError: a package that ONNX needs is missing.
        IndexError: the point does not exist.
        ValueError: `directory` is a file or already holds an export or a model, an argument is unknown, or a weight
            is not finite.
        RuntimeError: the members are not drawn yet; the backbone cannot be traced or converted; ONNX Runtime cannot
            run the graph; or the graph does not give what the model does.

    Example::

        export_graph(model, "onnx/")
        export_graph(model, "centroid/", point=Point("centroid", 0))
    """
    _check(directory, format, quantize)
    model = on_cpu_in_float32(model)
    module, temperature, outputs = _module(model, point)
    if (name := first_non_finite(module.state_dict())) is not None:
        raise ValueError(f"{name} is not finite, so nothing is exported to {directory}. Train it again.")
    settings = model.config.backbone_config, model.image_processor
    images = [random_images(*settings, number) for number in _CHECKED_BATCHES]
    with torch.no_grad():
        expected = [(batch, module(batch)) for batch in images]
    if format == "onnx":
        use_plain_attention(module)
    program = trace(module, images[0][0])
    name = _TORCH if format == "torch" else _INT8 if quantize else _ONNX
    with atomic_write(directory, last=CONFIG_NAME) as aside:
        if format == "torch":
            write_torch(program, aside / name)
        elif quantize is None:
            write_onnx(program, aside / name, max_file_bytes)
        else:
            with tempfile.TemporaryDirectory(dir=aside) as whole:
                write_onnx(program, Path(whole, _ONNX), max_file_bytes)
                quantize_weights(Path(whole, _ONNX), aside / name)
        difference = _compare(expected, aside / name, exact=quantize is None)
        _write_config(_config(model, point, temperature, outputs), aside / CONFIG_NAME)
        save_image_processor(model.image_processor, aside)
    return ExportedGraph(Path(directory, name), temperature, difference)


def _check(directory: str | os.PathLike[str], format: str, quantize: str | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: choose from {', '.join(FORMATS)}.")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize is {quantize!r}: choose from {', '.join(QUANTIZATIONS)}, or leave it out.")
    if quantize is not None and format != "onnx":
        raise ValueError(f"quantize is {quantize!r}, which ONNX Runtime does: choose the format onnx.")
    if os.path.isfile(directory):
        raise ValueError(f"{directory} is a file: give a folder to export to.")
    if present := [name for name in _FILES if os.path.lexists(os.path.join(directory, name))]:
        raise ValueError(f"{directory} already holds a model ({present[0]}). Give another output folder.")
    if format == "onnx":
        check_installed()


def _module(
    model: SimplexForImageClassification, point: Point | None
) -> tuple[nn.Module, float | None, Mapping[str, str]]:
    """The module to trace, its temperature and its outputs."""
    decisions = model.decisions
    if point is None:
        return ensemble_graph(model), None if decisions is None else decisions.temperature, ENSEMBLE_OUTPUTS
    temperature = None
    if point.kind == "centroid":
        backbone = model.write_centroid(point.index)
        if decisions is not None and decisions.centroid_temperatures:
            temperature = decisions.centroid_temperatures[point.index]
    elif point.kind == "member":
        backbone = model.member_backbone(point.index)
        if decisions is not None and len(model.config.members) == 1:
            temperature = decisions.temperature
    else:
        backbone = _vertex(model, point.index)
    if decisions is not None and temperature is None:
        logger.warning("No temperature was fitted for %s: its logits are not calibrated.", point)
    return PointGraph(merged(backbone), temperature or 1.0).eval(), temperature, POINT_OUTPUTS


def _vertex(model: SimplexForImageClassification, vertex: int) -> PreTrainedModel:
    if not 0 <= vertex < model.config.num_vertices:
        raise IndexError(f"There is no vertex {vertex}: the vertices are 0 to {model.config.num_vertices - 1}.")
    return model.backbone_at(vertex_coordinates(model.config.complex, vertex).tolist())


@torch.no_grad()
def _compare(expected: Sequence[tuple[Tensor, Mapping[str, Tensor]]], file: Path, *, exact: bool) -> float:
    """The largest difference between the outputs of a graph and those that are expected for batches of images.

    Raises:
        RuntimeError: with `exact`, one exceeds the tolerance.
    """
    program: Any = torch.export.load(file).module() if file.suffix == ".pt2" else None
    largest = 0.0
    for batch, outputs in expected:
        found = run_onnx(file, batch) if program is None else program(batch)
        for name, output in outputs.items():
            difference = (torch.as_tensor(found[name]) - output).abs().max().item()
            # A comparison with NaN is false.
            if exact and not difference <= TOLERANCE * max(1.0, output.abs().max().item()):
                raise RuntimeError(
                    f"The graph does not give what the model does: {name} differs by {difference:.1e} for "
                    f"{len(batch)} random images. Nothing was written. Export another format."
                )
            largest = max(largest, difference)
    return largest


def _config(
    model: SimplexForImageClassification, point: Point | None, temperature: float | None, outputs: Mapping[str, str]
) -> Any:
    """The backbone's configuration, by which optimum and transformers know labels and image size."""
    config: Any = copy.deepcopy(model.backbone.config)
    set_labels(config, model.config.id2label, model.config.label2id)
    config.architectures, config.dtype = [type(model.backbone).__name__], torch.float32
    described: dict[str, Any] = {
        "exported": "the ensemble" if point is None else str(point),
        "temperature": temperature,
        "input": {INPUT: "[batch, channels, height, width]"},
        "outputs": dict(outputs),
    }
    if point is None:
        described |= {"members": len(model.config.members), "decisions": model.config.decisions}
    config.hf_simplex = described
    return config


def _write_config(config: Any, file: Path) -> None:
    """Write a configuration with numbers and names of the labels; timm's has names only, and optimum reads both."""
    config.save_pretrained(file.parent)
    saved = {"id2label": config.id2label, "label2id": config.label2id} | json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(saved, indent=2) + "\n", "utf-8")
