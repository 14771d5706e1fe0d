"""Serves an ensemble of hf-simplex on Inference Endpoints. It is published as handler.py, and imports nothing of ours.

An endpoint calls `EndpointHandler(path)` once, then the handler with each request.
"""

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from PIL import Image
from transformers import pipeline

__all__ = ["EndpointHandler"]

_PARAMETERS = ("top_k",)


class EndpointHandler:
    """Answers requests with what the pipeline `simplex-image-classification` returns, as JSON values.

    Args:
        path: folder of the repository. Its inference code is used, or hf-simplex where that is installed.

    Raises:
        OSError, ValueError: the folder holds no ensemble, or a broken one.

    Example::

        handler = EndpointHandler("repository")
        handler({"inputs": base64.b64encode(Path("cat.png").read_bytes()).decode(), "parameters": {"top_k": 3}})
    """

    def __init__(self, path: str = "") -> None:
        with suppress(ImportError):
            # Registers the pipeline. Without it, the code in the repository is used.
            import_module("hf_simplex")
        # transformers' types list its own tasks alone.
        build: Any = pipeline
        self.classify = build("simplex-image-classification", model=path, trust_remote_code=True)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Classify the image or the images of a request.

        Args:
            data: `inputs` is an image or a list of images. An image is the base64 text of an image file, also as a
                data URL, its bytes, or a `PIL.Image`. URLs and paths are not opened: a request must not make the
                server read them. `parameters` may hold `top_k`, 1 or more.

        Returns:
            The pipeline's dictionary for an image, a list of them for a list.

        Raises:
            ValueError: `inputs` is missing, an image cannot be read, or a parameter is unknown or has a wrong value.
        """
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError("The request has no 'inputs': expected {\"inputs\": IMAGE or [IMAGE, ...]}.")
        inputs, parameters = data["inputs"], _checked(data.get("parameters"))
        images = [_image(number, entry) for number, entry in enumerate(inputs if _is_list(inputs) else [inputs])]
        results: list[dict[str, Any]] = self.classify(images, **parameters) if images else []
        return results if _is_list(inputs) else results[0]


def _is_list(inputs: Any) -> bool:
    return isinstance(inputs, list | tuple)


def _checked(parameters: Any) -> dict[str, Any]:
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise ValueError(f"parameters is {parameters!r:.100}: expected a dictionary of {', '.join(_PARAMETERS)}.")
    if unknown := [name for name in parameters if name not in _PARAMETERS]:
        raise ValueError(f"The parameter {unknown[0]!r:.100} is unknown: expected {', '.join(_PARAMETERS)}.")
    top_k = parameters.get("top_k")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k is {top_k!r:.100}: expected a whole number of 1 or more.")
    return {} if top_k is None else {"top_k": top_k}


def _image(number: int, entry: Any) -> Any:
    if isinstance(entry, Image.Image | bytes | bytearray):
        return entry
    expected = "expected the base64 text of an image file, its bytes, or a PIL image"
    if not isinstance(entry, str):
        raise ValueError(f"Image {number} is a {type(entry).__name__}: {expected}.")
    head, comma, body = entry.partition(",")
    text = body if comma and head.startswith("data:") and head.endswith(";base64") else entry
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"Image {number} ({entry[:40]!r}) is no base64 text: {expected}. URLs and paths are not opened."
        ) from error
