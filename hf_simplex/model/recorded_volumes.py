"""The volumes that a save records in config.json, so that nobody reads weights to know them.

Nothing here needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .header_digests import digest_of_all
from .index_file import SAVE, Index

__all__ = ["RECORD", "RecordedVolumes", "find_volumes", "volume_record"]

RECORD = "recorded_volumes"
"""Field of config.json."""

_DECIMALS = 10
"""Later ones depend on the order in which a device sums."""


@dataclass(frozen=True)
class RecordedVolumes:
    """What an ensemble's vertices span.

    Attributes:
        parameters_per_vertex: number of parameters that differ between vertices.
        log_volumes: [simplexes] natural logarithms, in units of the weights; None for a simplex without volume.

    Example:
        >>> RecordedVolumes(23, [2.5]).log_volumes
        [2.5]
    """

    parameters_per_vertex: int
    log_volumes: Sequence[float | None]


def volume_record(
    digests: Mapping[str, str],
    parameters_per_vertex: int,
    simplexes: Sequence[Sequence[int]],
    log_volumes: Sequence[float],
) -> dict[str, Any]:
    """Return the record of volumes for config.json, with the digest of the weights that they are of.

    Args:
        digests: the digest of each weight file of this save.
        parameters_per_vertex: see `RecordedVolumes`.
        simplexes: the vertices of each simplex.
        log_volumes: [simplexes] natural logarithms; -inf for a simplex without volume.

    Example:
        >>> volume_record({}, 23, [[0, 1]], [2.5])["simplexes"]
        [{'vertices': [0, 1], 'log_volume': 2.5}]
    """
    return {
        SAVE: digest_of_all(digests),
        "parameters_per_vertex": parameters_per_vertex,
        "simplexes": [
            # JSON has no infinity.
            {"vertices": list(vertices), "log_volume": round(volume, _DECIMALS) if math.isfinite(volume) else None}
            for vertices, volume in zip(simplexes, log_volumes, strict=True)
        ],
    }


def find_volumes(content: Mapping[str, Any], index: Index) -> RecordedVolumes | None:
    """Return the volumes that config.json records, if they are those of these weights and simplexes.

    Args:
        content: of config.json.
        index: of the same ensemble. The digests in it must be those of the files.

    Returns:
        The volumes; None without a record, without digests in the index, or where the record is of other weights or
        other simplexes, or malformed.

    Example:
        >>> digests = {"vertex-00000.safetensors": "0"}
        >>> record = volume_record(digests, 23, [[0]], [0.0])
        >>> find_volumes({"simplexes": [[0]], "recorded_volumes": record}, Index({}, None, digests))
        RecordedVolumes(parameters_per_vertex=23, log_volumes=[0.0])
        >>> find_volumes({"simplexes": [[0]], "recorded_volumes": record}, Index({}, None, {})) is None
        True
    """
    record = content.get(RECORD)
    if not isinstance(record, Mapping) or not index.digests or record.get(SAVE) != digest_of_all(index.digests):
        return None
    number, entries = record.get("parameters_per_vertex"), record.get("simplexes")
    if not isinstance(number, int) or not isinstance(entries, list):
        return None
    if not all(isinstance(entry, Mapping) and _is_volume(entry.get("log_volume", "")) for entry in entries):
        return None
    if [entry.get("vertices") for entry in entries] != content.get("simplexes"):
        return None
    return RecordedVolumes(number, [entry["log_volume"] for entry in entries])


def _is_volume(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and math.isfinite(value))
