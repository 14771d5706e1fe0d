"""Headers of safetensors files: names, dtypes and shapes of the tensors, without their values. Nothing needs torch."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FLOATING", "StoredTensor", "WeightHeader", "read_header"]

# The sizes that the format names for whole bytes.
_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""PyTorch's name of each dtype that weights may have."""
# The limit of safetensors.
_LONGEST = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: the format's name, such as `"F32"`.
        shape: the sizes of its dimensions.

    Example:
        >>> StoredTensor("F32", (3, 2)).bytes, StoredTensor("BF16", ()).floating
        (24, 'bfloat16')
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements.

        Example:
            >>> StoredTensor("F32", (3, 2)).elements
            6
        """
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes.

        Example:
            >>> StoredTensor("F16", (3, 2)).bytes
            12
        """
        return self.elements * _BYTES[self.dtype]

    @property
    def floating(self) -> str | None:
        """PyTorch's name of a floating dtype of weights; None for any other dtype.

        Example:
            >>> StoredTensor("I64", ()).floating is None
            True
        """
        return FLOATING.get(self.dtype)


@dataclass(frozen=True)
class WeightHeader:
    """What the header of a weight file says.

    Attributes:
        tensors: by name.
        digest: SHA-256 of the header.
        file_bytes: size of the whole file.

    Example:
        >>> WeightHeader({"bias": StoredTensor("F32", (3,))}, "0f3c", 92).tensors["bias"].shape
        (3,)
    """

    tensors: dict[str, StoredTensor]
    digest: str
    file_bytes: int


def read_header(read: Callable[[int], bytes], file_bytes: int) -> WeightHeader:
    """Read and check the header of a safetensors file.

    Args:
        read: returns so many of the file's first bytes, or all that there are.
        file_bytes: size of the whole file.

    Raises:
        ValueError: the file is empty, cut off, or its header is inconsistent.

    Example:
        >>> header = b'{"bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        >>> content = len(header).to_bytes(8, "little") + header + bytes(4)
        >>> read_header(lambda size: content[:size], len(content)).tensors
        {'bias': StoredTensor(dtype='F32', shape=(1,))}
    """
    start = read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(file_bytes - 8, _LONGEST):
        raise ValueError("the header is cut off or too long")
    header = read(8 + length)[8:]
    if len(header) < length:
        raise ValueError("the header is cut off")
    try:
        content = json.loads(header)
        tensors, ends = {}, []
        for name, entry in content.items():
            if name == "__metadata__":
                continue
            tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]))
            if not all(isinstance(size, int) and size >= 0 for size in tensors[name].shape):
                raise ValueError(f"the shape of {name} is {entry['shape']!r}")
            first, end = entry["data_offsets"]
            if end - first != tensors[name].bytes:
                raise ValueError(f"{name} has {end - first} bytes, and its dtype and shape make {tensors[name].bytes}")
            ends.append((first, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the header cannot be read: {error!r}") from error
    place = 0
    for first, end in sorted(ends):
        if first != place:
            raise ValueError(f"the tensors leave a hole or overlap at byte {place}")
        place = end
    if 8 + length + place != file_bytes:
        raise ValueError(f"the header describes {8 + length + place} bytes")
    return WeightHeader(tensors, hashlib.sha256(header).hexdigest(), file_bytes)
