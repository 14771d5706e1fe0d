"""Seeded mutations of JSON documents and bytes."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["mutate_bytes", "mutate_header", "mutate_json", "mutate_start"]

ODD: tuple[Callable[[], Any], ...] = tuple(
    (lambda value=value: copy.deepcopy(value))
    for value in (
        None, True, False, 0, 1, -1, 2, 7, 10**6, 10**9, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"),
        float("inf"), "", "x", "0", "/etc/passwd", "../secret", "a\x00b", "é", "float16", "vit", [], {}, [[]], [0],
        [None], {"": 0}, {"a": {"b": []}}, ["mode"] * 50, [[0, 1]] * 20, [0] * 3000, "x" * 5000,
    )
)  # fmt: skip


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield node, key
        yield from _places(value)


def _mutate_once(document: Any, rng: random.Random) -> None:
    places = list(_places(document))
    if not places:
        return
    container, key = rng.choice(places)
    other, other_key = rng.choice(places)
    kind = rng.randrange(8)
    if kind <= 2:
        container[key] = rng.choice(ODD)()
    elif kind == 3:
        del container[key]
    elif kind == 4:
        container[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(container[key])
    elif kind == 5 and isinstance(container, dict):
        container[rng.choice(["", "x", str(key) + "_", "num_labels", "auto_map", "dtype"])] = container.pop(key)
    elif kind == 6 and isinstance(container[key], int | float):
        container[key] = container[key] * rng.choice([-1, 2, 1000]) + rng.choice([-1, 0, 1])
    elif kind == 7 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[key] = [container[key]]


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """A document with one to three changes: other values, keys gone, swapped, renamed, repeated; or broken text."""
    if rng.random() < 0.1:
        return mutate_bytes(content, rng)
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _mutate_once(document, rng)
    if rng.random() < 0.01:
        return b"[" * 100_000
    return json.dumps(document).encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are flipped, cut off, removed, repeated or inserted."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 8, 50))
        kind = rng.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place:place] = rng.randbytes(length)
    return bytes(changed)


def mutate_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header and the same data."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    header = mutate_json(header, rng)
    if rng.random() < 0.1:
        return rng.randbytes(8) + header + data
    return len(header).to_bytes(8, "little") + header + data


def mutate_start(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with other first bytes, and cut off: loading does not look at the data after them."""
    length = 8 + int.from_bytes(content[:8], "little")
    return mutate_bytes(content[: min(length, 2000)], rng)
