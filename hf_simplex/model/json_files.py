"""Reads JSON files that may be broken."""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json"]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: the file cannot be read.
        ValueError: the content is no JSON object. The message names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "config.json")
        ...     _ = file.write_text('{"model_type": "simplex"}')
        ...     read_json(file)
        {'model_type': 'simplex'}
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file that can be read ({error}). Restore or re-save it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; expected a JSON object. Restore or re-save it.")
    return content
