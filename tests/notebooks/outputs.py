"""Outputs of notebooks: which are kept, and what they may not show."""

import re
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

KEPT = ("image/png", "text/markdown", "text/plain")
# Home folders and the like. A relative path may stand for any machine.
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|var|mnt|content|Users)/[\w./-]*")


def kept_outputs(cell: NotebookNode) -> list[NotebookNode]:
    """What a cell printed and showed, without what it wrote to stderr: warnings name paths, bars depend on time."""
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if "data" in output:
            output.data = {kind: value for kind, value in output.data.items() if kind in KEPT}
            output.metadata = {}
            if "execution_count" in output:
                output.execution_count = None
        kept.append(output)
    return kept


def machine_paths(notebook: NotebookNode, folder: Path) -> list[str]:
    """Absolute paths in the outputs that are kept."""
    found: list[str] = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        for output in kept_outputs(cell):
            texts: list[Any] = [output.get("text", ""), *output.get("data", {}).values()]
            text = "\n".join(value for value in texts if not _is_picture(value))
            found += [str(folder)] * (str(folder) in text) + ABSOLUTE.findall(text)
    return found


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("iVBOR")
