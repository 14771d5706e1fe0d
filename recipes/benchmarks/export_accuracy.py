"""Accuracy, NLL and time of exported graphs beside the model: PyTorch, ONNX Runtime, and int8.

    python recipes/benchmarks/export_accuracy.py --ensemble output/quickstart/ensemble --data_set digits --threads 1

The images are the test images of the run that trained the ensemble. `onnx` is `hf-simplex export --format onnx`, and
`int8` adds `--quantize int8`. `int8_convolutions` also quantizes the convolutions, which the package does not offer:
ONNX Runtime has kernels for them with unsigned weights only.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from measure import alternating, parser, ratio, report, start
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.recorded_splits import load_recorded_split
from hf_simplex.data.split_records import record_of_run
from hf_simplex.evaluation.data_sets import LabelledInputs
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.export.export_graph import Point, export_graph
from hf_simplex.model.problem_types import refuse_several

Predict = Callable[[Tensor], np.ndarray]


def test_images(model: SimplexForImageClassification, data_set: str) -> tuple[Tensor, np.ndarray]:
    """Pixel values and labels of the images that the run held out for testing."""
    refuse_several(model.config, "This benchmark measures", "Give an ensemble of one label an image.")
    record = record_of_run(model.config.provenance, data_set)
    if record is None:
        raise SystemExit(f"error: the ensemble has no record of a run on {data_set}.")
    loaded = load_recorded_split(data_set, record, "test")
    inputs = LabelledInputs(model, loaded.images, loaded.label_names)
    rows = [inputs[index] for index in range(len(inputs))]
    return torch.stack([row["pixel_values"] for row in rows]), np.array([row["labels"] for row in rows])


def session(file: Path, threads: int) -> Predict:
    """ONNX Runtime on a file, from pixel values to logits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    # All outputs are computed, as a caller of the uncertainties needs them.
    names = [output.name for output in opened.get_outputs()]

    def predict(pixel_values: Tensor) -> np.ndarray:
        found = dict(zip(names, opened.run(names, {"pixel_values": pixel_values.numpy()}), strict=True))
        return np.asarray(found["logits"])

    return predict


def ways(
    model: SimplexForImageClassification, point: Point | None, folder: Path, threads: int
) -> Iterator[tuple[str, Predict, float | None]]:
    """Name, function from pixel values to logits, and size of the file in MB of each way to predict."""
    if point is None:
        yield "pytorch", lambda pixel_values: model(pixel_values).logits.numpy(), None
    else:
        temperatures = [1.0] if model.decisions is None else model.decisions.centroid_temperatures
        centroid: Any = model.write_centroid(point.index)
        yield "pytorch", lambda pixel_values: (centroid(pixel_values).logits / temperatures[0]).numpy(), None
    whole = export_graph(model, folder / "onnx", point=point).file
    small = export_graph(model, folder / "int8", point=point, quantize="int8").file
    smaller = folder / "convolutions.onnx"
    quantize_dynamic(whole, smaller, op_types_to_quantize=["Conv", "MatMul", "Gemm"], weight_type=QuantType.QUInt8)
    for name, file in (("onnx", whole), ("int8", small), ("int8_convolutions", smaller)):
        yield name, session(file, threads), file.stat().st_size / 1e6


def metrics(predict: Predict, pixel_values: Tensor, labels: np.ndarray) -> Mapping[str, float]:
    """Metrics on all images, in batches of 100."""
    logits = np.concatenate([predict(batch) for batch in pixel_values.split(100)])
    return classification_metrics(torch.from_numpy(logits).double().softmax(-1).numpy(), labels)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    model = SimplexForImageClassification.from_pretrained(args.ensemble)
    model.materialize()
    pixel_values, labels = test_images(model, args.data_set)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for part, point in (("centroid", Point("centroid", 0)), ("ensemble", None)):
            found = list(ways(model, point, Path(directory, part), args.threads))
            seconds = {
                size: alternating(
                    {name: partial(predict, pixel_values[:size]) for name, predict, _ in found},
                    args.rounds,
                    device,
                    args.clock,
                )
                for size in args.batch_sizes
            }
            reference = metrics(found[0][1], pixel_values, labels)
            for name, predict, megabytes in found:
                measured = metrics(predict, pixel_values, labels)
                row: dict[str, Any] = {"part": part, "way": name, "images": len(labels), "megabytes": megabytes}
                row |= {"error_percent": 100 * (1 - measured["accuracy"]), "nll": measured["nll"]}
                row["nll_minus_pytorch"] = measured["nll"] - reference["nll"]
                for size, of_size in seconds.items():
                    row[f"batch_{size}"] = ratio(of_size, name, "pytorch")
                rows.append(row)
            # After each part: an interrupted run keeps its results.
            result = report(args, device, rows)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "export_accuracy")
    found.add_argument("--ensemble", type=Path, default=Path("output/quickstart/ensemble"))
    found.add_argument("--data_set", default="digits", help="The data set of the run that trained the ensemble.")
    found.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 32])
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
