"""Refuses weights that accelerate would fetch layer by layer: vertices are mixed, not called."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["no_offloading"]


@contextmanager
def no_offloading(name_or_path: str | os.PathLike[str], device_map: Any) -> Iterator[list[nn.Module]]:
    """Yield a list for the model that is loaded in the context, and check that all of its weights are in memory.

    accelerate offloads to the CPU or the disk by hooks that fetch the weights of a layer when it is called. Nobody
    calls a vertex: points are mixed from its weights.

    Args:
        name_or_path: of the ensemble.
        device_map: the argument of `from_pretrained`.

    Raises:
        ValueError: a part of the model is offloaded.

    Example:
        >>> with no_offloading("ensemble", "cpu") as loaded:
        ...     loaded.append(nn.Linear(2, 1))
    """
    if isinstance(device_map, Mapping) and (
        asked := [part for part, device in device_map.items() if device == "disk"]
    ):
        raise _refusal(name_or_path, asked[0] or "all of it")
    loaded: list[nn.Module] = []
    try:
        yield loaded
    except ValueError as error:
        # transformers asks for a folder where the map that it made puts something on the disk.
        if device_map is not None and "offload_folder" in str(error):
            raise _refusal(name_or_path, "a part") from error
        raise
    for model in loaded:
        for name, tensor in model.state_dict().items():
            if tensor.is_meta:
                raise _refusal(name_or_path, name)


def _refusal(name_or_path: str | os.PathLike[str], part: str) -> ValueError:
    return ValueError(
        f"The device map offloads {part} of {name_or_path} to the disk or to the CPU, but an ensemble mixes the "
        "weights of its vertices, so that all must be in memory. Leave device_map out, or give one device, such as "
        "'cuda:0'. On a CPU the weights stay in their files until they are read. dtype='bfloat16', num_members= and "
        "simplex= need less memory."
    )
