"""Record of a run: package versions, hardware, and results as a table."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from ...evaluation.comparison import Result
from ...version import __version__

__all__ = ["hardware", "table", "versions"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the results depend on.

    Example:
        >>> from hf_simplex.training.recipe.run_record import versions
        >>> "torch" in versions()
        True
    """
    packages = ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "safetensors")
    found = {"python": platform.python_version(), "hf-simplex": __version__}
    return found | {package: version(package) for package in packages}


def hardware() -> dict[str, Any]:
    """Machine type, number of CPU cores, and names of the GPUs.

    Example:
        >>> from hf_simplex.training.recipe.run_record import hardware
        >>> sorted(hardware())
        ['cores', 'gpus', 'machine']
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "gpus": gpus}


def table(results: dict[str, Result]) -> str:
    """Format results as text, one line a model; with the calibrated NLL and ECE where a temperature was fitted.

    Example::

        print(table(results))
    """
    # Optional, and slow to import.
    import pandas as pd

    epochs: Any = {"training_epochs": "{:g}".format}
    rows = {}
    for name, result in results.items():
        rows[name] = {key: value for key, value in result.items() if isinstance(value, int | float)}
        for key in ("nll", "ece"):
            if "calibrated" in result:
                rows[name][f"calibrated_{key}"] = result["calibrated"][key]
    columns = [column for column in next(iter(rows.values())) if column != "deep_ensemble_equivalent"]
    frame = pd.DataFrame.from_dict(rows, orient="index")[columns]
    return str(frame.to_string(float_format="{:.4f}".format, formatters=epochs))
