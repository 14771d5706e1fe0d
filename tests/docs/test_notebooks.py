"""The notebooks run from top to bottom with names of the Hub, and show what they print without paths of a machine."""

import re
import runpy
from pathlib import Path

import matplotlib
import nbformat
import pytest
import world
from huggingface_hub import HfFileSystem
from loopback_hub import LoopbackHub
from notebooks.outputs import kept_outputs, machine_paths

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NAMES = [file.stem for file in FILES]
SWITCH = "ON_THE_HUB = False"


def code(file: Path) -> list[str]:
    """The code cells, without magic commands."""
    cells = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    return [re.sub(r"^%.*$", "", cell, flags=re.MULTILINE) for cell in cells]


@pytest.fixture
def on_the_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    HfFileSystem.clear_instance_cache()
    # The notebooks take 1,000 images of a larger data set, which has no validation split.
    monkeypatch.setitem(world.SPLITS, "train", 1000)
    monkeypatch.setitem(world.SPLITS, "test", 700)
    here = tmp_path / "here"
    here.mkdir()
    world.furnish(hub, here)
    monkeypatch.chdir(here)
    matplotlib.use("agg")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
@pytest.mark.usefixtures("on_the_hub")
def test_every_cell_runs_with_names_of_the_hub(file: Path) -> None:
    first, *others = code(file)
    assert first.startswith(SWITCH)
    # One epoch on tiny stand-ins: whether the code is right, not what comes of it.
    cells = [re.sub(r"EPOCHS = \d+$", "EPOCHS = 1", cell, flags=re.MULTILINE) for cell in others]
    text = "\n".join([first.replace(SWITCH, "ON_THE_HUB = True"), *cells])
    Path("notebook.py").write_text(text, "utf-8")
    runpy.run_path("notebook.py", run_name="notebook")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_notebook_is_as_the_last_run_left_it(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(kept_outputs(cell) == cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert machine_paths(notebook, Path.home()) == []
    assert file.stat().st_size < 1_000_000


def test_the_index_names_every_notebook() -> None:
    text = (FILES[0].parent / "index.md").read_text("utf-8")
    assert set(re.findall(r"\((\w+)\.ipynb\)", text)) == set(NAMES)
