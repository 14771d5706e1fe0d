"""Digests of weight files: which tensors a file holds, without a comparison of all of them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["holds_same_tensors", "sort_metadata", "tensor_digest"]


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 digest of names, dtypes, shapes and values of tensors on the CPU.

    Example:
        >>> import torch
        >>> tensor_digest({"bias": torch.zeros(3)})[:8]
        '81b174d9'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def holds_same_tensors(one: Path, other: Path) -> bool:
    """Return whether two safetensors files hold the same tensors. Their metadata may differ.

    Example::

        holds_same_tensors(Path("ensemble/vertex-00000.safetensors"), Path("copy/vertex-00000.safetensors"))
    """
    headers, offsets = [], []
    for path in (one, other):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            headers.append({**json.loads(file.read(length)), "__metadata__": None})
            offsets.append(8 + length)
    if headers[0] != headers[1]:
        return False
    with open(one, "rb") as first, open(other, "rb") as second:
        first.seek(offsets[0])
        second.seek(offsets[1])
        while chunk := first.read(1 << 20):
            if chunk != second.read(1 << 20):
                return False
        return not second.read(1)


def sort_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Put the metadata of a safetensors file in order: safetensors writes them in a random one.

    Raises:
        ValueError: the file has other metadata.

    Example::

        save_file(tensors, path, metadata=metadata)
        sort_metadata(path, metadata)
    """
    with open(path, "r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        ordered = json.dumps({"__metadata__": dict(sorted(metadata.items()))}, separators=(",", ":"))[:-1].encode()
        if json.loads(header)["__metadata__"] != metadata or not header.startswith(b'{"__metadata__":{'):
            raise ValueError(f"{path} has other metadata than {metadata}: is this another version of safetensors?")
        file.seek(8)
        file.write(ordered)
