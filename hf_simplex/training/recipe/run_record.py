"""What a recipe writes down of its run: versions, hardware, results as a table."""

import os
import platform
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch

from ...evaluation.comparison import Result
from ...version import __version__


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    packages = ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "safetensors")
    found = {"python": platform.python_version(), "hf-simplex": __version__}
    return found | {package: version(package) for package in packages}


def hardware() -> dict[str, Any]:
    """What the run had to work with."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "gpus": gpus}


def table(results: dict[str, Result]) -> str:
    """The results as text, a line each."""
    epochs: Any = {"training_epochs": "{:g}".format}
    frame = pd.DataFrame.from_dict(results, orient="index")
    return str(frame.to_string(float_format="{:.4f}".format, formatters=epochs))
