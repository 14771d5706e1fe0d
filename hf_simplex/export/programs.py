"""Traces a module with torch.export, and writes the program as a file of torch or of ONNX."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    import numpy as np

__all__ = ["INPUT", "check_installed", "quantize_weights", "run_onnx", "trace", "write_onnx", "write_torch"]

INPUT = "pixel_values"
"""Name of the only input, [batch, channels, height, width] float32."""

_TRACED_IMAGES = 2
"""torch.export treats a batch size of 0 or 1 as a constant."""

_BATCH = {INPUT: {0: Dim("batch")}}
_LOCAL = ("stack_trace", "torch_fn", "from_node")
"""What torch notes on each operation: names and lines of the source files on this machine."""


def check_installed() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        ImportError: a package is missing. The message says how to install it.

    Example:
        >>> check_installed()
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f"ONNX needs {name}: pip install 'hf-simplex[onnx]' ({error}).") from error


@torch.no_grad()
def trace(module: nn.Module, image: Tensor) -> ExportedProgram:
    """Trace a module for batches of any size of images of one size.

    Args:
        module: in evaluation mode, from `pixel_values` to a dictionary of tensors.
        image: [channels, height, width], any values.

    Returns:
        The program, without the names of source files.

    Raises:
        RuntimeError: the code of the backbone cannot be traced, or works for one batch size only.

    Example:
        >>> class Sum(nn.Module):
        ...     def forward(self, pixel_values):
        ...         return {"logits": pixel_values.sum(dim=(1, 2))}
        >>> program = trace(Sum(), torch.zeros(3, 4, 4))
        >>> program.module()(torch.ones(5, 3, 4, 4))["logits"].shape
        torch.Size([5, 4])
    """
    images = torch.stack([image] * _TRACED_IMAGES)
    try:
        program = torch.export.export(module, (images,), dynamic_shapes=_BATCH)
    except Exception as error:
        # torch raises errors of a dozen classes here, some of them its own, with pages of text.
        raise RuntimeError(
            f"torch.export cannot trace this backbone for batches of any size. {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                for name in _LOCAL:
                    node.meta.pop(name, None)
    return program


def write_torch(program: ExportedProgram, file: Path) -> None:
    """Write a program for `torch.export.load`.

    Example::

        write_torch(trace(module, image), Path("model.pt2"))
    """
    torch.export.save(program, file)


def write_onnx(program: ExportedProgram, file: Path, max_file_bytes: int) -> None:
    """Write a program as ONNX, by torch's own exporter.

    Args:
        program: from `trace`.
        file: the weights of a large graph are written beside it, to a file with `.data` after its name.
        max_file_bytes: largest size of weights that go into `file` itself, in bytes.

    Raises:
        RuntimeError: an operation of the backbone has no counterpart in ONNX.

    Example::

        write_onnx(trace(module, image), Path("model.onnx"), 2**30)
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    images = program.example_inputs[0][0]
    try:
        exported: Any = torch.onnx.export(
            program,
            (images,),
            dynamo=True,
            dynamic_shapes=_BATCH,
            input_names=[INPUT],
            output_names=_output_names(program),
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        # Its own text says where to report it, in colors of a terminal. The cause says what is wrong.
        cause = error.__cause__ or error
        raise RuntimeError(
            f"torch.onnx cannot convert this backbone. {type(cause).__name__}: {' '.join(str(cause).split())[:400]}"
        ) from error
    # They name lines of source files on this machine.
    ClearMetadataAndDocStringPass()(exported.model)
    large = sum(value.const_value.nbytes for value in exported.model.graph.initializers.values()) > max_file_bytes
    exported.save(file, external_data=large)


def quantize_weights(source: Path, target: Path) -> None:
    """Write a graph with int8 weights of its matrix products: dynamic quantization by ONNX Runtime.

    Each output channel has a scale of its own. Activations are quantized while the graph runs. Convolutions stay in
    float32: ONNX Runtime has slow kernels for them in int8, and activations with one scale for a whole batch lose
    accuracy.

    Args:
        source: the ONNX file; external data are read beside it, and temporary files written there.
        target: the new file. Its weights lie beside it if they do in `source`.

    Example::

        quantize_weights(Path("float/model.onnx"), Path("small/model_quantized.onnx"))
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic, shape_inference

    large = source.with_name(f"{source.name}.data").exists()
    prepared = source.with_name(f"prepared-{source.name}")
    # torch's exporter has optimized the graph, and knows its shapes: without this, ONNX Runtime asks for it.
    shape_inference.quant_pre_process(
        source, prepared, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=large
    )
    quantize_dynamic(
        prepared,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )


def run_onnx(file: Path, pixel_values: Tensor) -> Mapping[str, "np.ndarray"]:
    """Run a graph with ONNX Runtime on the CPU.

    Args:
        file: the ONNX file.
        pixel_values: [batch, channels, height, width] float32.

    Returns:
        The outputs by name.

    Raises:
        RuntimeError: ONNX Runtime cannot read the file, or lacks an operation of it.

    Example::

        run_onnx(Path("model.onnx"), images)["logits"]
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {INPUT: pixel_values.numpy()}), strict=True))
    except Exception as error:
        # Its dozen error classes have no base of their own.
        raise RuntimeError(
            f"ONNX Runtime cannot run the graph. {type(error).__name__}: {' '.join(str(error).split())[:400]}"
        ) from error


def _output_names(program: ExportedProgram) -> list[str]:
    spec = program.call_spec.out_spec
    assert spec is not None
    return list(spec.context)
