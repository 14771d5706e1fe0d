"""Digests of the headers of weight files, which hold the digests of their tensors. Nothing here needs torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["digest_of_all", "header_digest"]


def header_digest(path: Path) -> str:
    """Return the SHA-256 digest of a safetensors header, which holds names, shapes and the digest of the tensors.

    Example::

        header_digest(Path("ensemble/vertex-00000.safetensors"))
    """
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(int.from_bytes(file.read(8), "little"))).hexdigest()


def digest_of_all(digests: Mapping[str, str]) -> str:
    """Return one digest for the digests of several files.

    Example:
        >>> len(digest_of_all({"vertex-00000.safetensors": "0"}))
        64
    """
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()
