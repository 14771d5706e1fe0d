"""Shows notebooks as pages: cells and their outputs become Markdown, and MyST reads that.

myst-nb and nbsphinx would bring a database or pandoc along, and execute nothing that `make notebooks` does not.
"""

import json
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


class NotebookParser(MystParser):
    """Reads `.ipynb` files as MyST Markdown."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the notebook's text into `document`."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def as_markdown(notebook: dict[str, Any]) -> str:
    """Write the cells of a notebook and their outputs one below the other.

    Raises:
        ValueError: A cell or an output is of a kind that has no place on a page.
    """
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code":
            # A magic command is for the notebook, and no Python.
            lines = [line for line in source.splitlines() if not line.startswith("%")]
            blocks.append(_fenced("\n".join(lines), "python"))
            blocks += [_output(output) for output in cell["outputs"]]
        else:
            raise ValueError(f"A notebook has a cell of the type {cell['cell_type']!r}; expected markdown or code.")
    return "\n\n".join(blocks) + "\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _fenced("".join(output["text"]).rstrip("\n"), "text")
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell above draws](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    if "text/plain" in data:
        return _fenced("".join(data["text/plain"]), "text")
    raise ValueError(f"A notebook has an output that no page can show: {output['output_type']!r} of {sorted(data)}.")


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text}\n````"


def setup(app: Sphinx) -> None:
    """Register the parser for files that end in `.ipynb`."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
