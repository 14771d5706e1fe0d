"""Executes the notebooks of the documentation, and writes their outputs into them.

python -m notebooks connect_two_models --check
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from notebooks.outputs import kept_outputs, machine_paths

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--check", action="store_true", help="keep the outputs of the files as they are")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for a cell")
    args = parser.parse_args()
    files = [FOLDER / f"{name}.ipynb" for name in args.names] or sorted(FOLDER.glob("*.ipynb"))
    for file in files:
        notebook, began = nbformat.read(file, as_version=4), time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            # A reader's first run: in an empty folder.
            client = NotebookClient(notebook, timeout=args.timeout, resources={"metadata": {"path": directory}})
            client.execute()
            found = machine_paths(notebook, Path(directory))
        print(f"{file.name}: {time.monotonic() - began:.0f} s", flush=True)
        if found:
            raise SystemExit(f"{file.name} shows paths of this machine: {found}")
        if not args.check:
            for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
                cell.outputs, cell.execution_count, cell.metadata = kept_outputs(cell), number + 1, {}
            notebook.metadata = {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            }
            nbformat.validate(notebook)
            nbformat.write(notebook, file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
