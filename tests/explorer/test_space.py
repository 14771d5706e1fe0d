"""A Space starts from its own files, and is published in one commit, over nobody's app."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, RepoCard
from loopback_hub import LoopbackHub
from tiny import folder
from tiny_explorer import explored, named, pictures

from hf_simplex import SimplexForImageClassification
from hf_simplex.explorer.exploration import Exploration
from hf_simplex.explorer.space import publish_space, write_space


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "<b>digits</b>"
    model = named("vit")
    model.save_pretrained(folder)
    explored(model).save(folder)
    return folder


START = """
import sys, runpy
assert not any("site-packages/hf_simplex" in path for path in sys.path)
space = runpy.run_path("app.py")
import hf_simplex
assert hf_simplex.__file__.startswith(sys.argv[1]), hf_simplex.__file__
from hf_simplex.explorer.app import launch
_, address, _ = launch(space["demo"], prevent_thread_lock=True, quiet=True)
from gradio_client import Client, handle_file
asked, wander, _ = Client(address, verbose=False).predict(handle_file(sys.argv[2]), api_name="/_ask")
assert "sx-members" in asked and wander["batch"] == 24, (asked, wander)
space["demo"].close()
"""


def test_a_written_space_starts_on_its_own(ensemble: Path, tmp_path: Path) -> None:
    space, image = tmp_path / "space", tmp_path / "image.png"
    written = write_space(ensemble, space, Exploration.load(ensemble / "explorer" / "explorer.safetensors"))
    assert {"app.py", "README.md", "requirements.txt", "ensemble/config.json"} <= set(written)
    assert {f"hf_simplex/explorer/static/{name}.js" for name in ("paths", "wander")} <= set(
        written
    ) and "ensemble/explorer/explorer.safetensors" in written
    card = (space / "README.md").read_text("utf-8")
    data = RepoCard(card, ignore_metadata_errors=False).data.to_dict()
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and "<b>" not in card
    requirements = (space / "requirements.txt").read_text()
    assert "gradio==" in requirements and "torch" in requirements and "pytest" not in requirements
    assert "peft>=" in requirements, "an ensemble of adapters needs it"
    pictures()[0]["image"].save(image)
    environment = {**os.environ, "PYTHONPATH": str(space), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", START, str(space), str(image)]
    found = subprocess.run(command, cwd=space, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    assert set(write_space(ensemble, space)) < set(written), "an own Space is replaced"


def test_a_space_starts_without_what_was_computed_for_other_weights(
    ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of an ensemble on the Hub may have changed since."""
    other = named("vit")
    other.vertices[0].get_parameter(next(iter(other.weights[0]))).data.add_(1.0)
    write_space(ensemble, tmp_path / "space", explored(other))
    monkeypatch.chdir(tmp_path / "space")
    space = runpy.run_path("app.py")
    assert "other weights" in capsys.readouterr().out
    assert space["demo"].title == f"{ensemble.name}: simplex explorer"


def test_other_files_stay(ensemble: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        write_space(ensemble, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").rename(tmp_path / "app.py")
    (tmp_path / "app.py").write_bytes(b"\xff mine")
    with pytest.raises(ValueError, match="holds other files"):
        write_space(ensemble, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        write_space(ensemble, tmp_path / "app.py")


def test_an_ensemble_without_an_image_processor_is_no_space(ensemble: Path, tmp_path: Path) -> None:
    shutil.copytree(ensemble, tmp_path / "ensemble")
    (tmp_path / "ensemble" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no image processor"):
        write_space(tmp_path / "ensemble", tmp_path / "space")
    assert not (tmp_path / "space").exists()
    backbone = folder("timm", tmp_path / "backbone")
    SimplexForImageClassification.from_backbone(backbone).save_pretrained(tmp_path / "timm")
    assert "app.py" in write_space(tmp_path / "timm", tmp_path / "space"), "config.json holds the one of timm"


def test_a_link_in_a_space_is_not_written_through(ensemble: Path, tmp_path: Path) -> None:
    space, mine = tmp_path / "space", tmp_path / "mine"
    for place in (space, mine):
        place.mkdir()
    (space / "app.py").write_text("# hf_simplex explorer Space")
    (space / "hf_simplex").symlink_to(mine)
    with pytest.raises(ValueError, match="hf_simplex is a link to a folder"):
        write_space(ensemble, space)
    assert not any(mine.iterdir()) and [file.name for file in sorted(space.iterdir())] == ["app.py", "hf_simplex"]


def test_a_space_is_one_commit(hub: LoopbackHub, ensemble: Path) -> None:
    address = publish_space(ensemble, "alice/demo", Exploration.load(ensemble / "explorer" / "explorer.safetensors"))
    assert "alice/demo" in address
    files = hub.files("alice/demo")
    assert {"app.py", "requirements.txt", "ensemble/explorer/explorer.safetensors"} <= files.keys()
    assert [commit.title for commit in hub.commits("alice/demo")][:-1] == ["Upload explorer"]
    publish_space("alice/elsewhere", "alice/demo")
    files = hub.files("alice/demo")
    assert not any(name.startswith("ensemble/") for name in files), "the former ensemble goes with the same commit"
    assert b'ENSEMBLE = "alice/elsewhere"' in files["app.py"] and b"alice/elsewhere" in files["README.md"]


def test_another_app_is_not_replaced(hub: LoopbackHub, ensemble: Path) -> None:
    api = HfApi()
    api.create_repo("alice/app", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"print(1)", path_in_repo="app.py", repo_id="alice/app", repo_type="space")
    with pytest.raises(ValueError, match="another app"):
        publish_space(ensemble, "alice/app")
    assert hub.files("alice/app")["app.py"] == b"print(1)"


def test_a_space_of_another_kind_is_not_replaced(hub: LoopbackHub, ensemble: Path) -> None:
    api = HfApi()
    api.create_repo("alice/pages", repo_type="space", space_sdk="static")
    for name in ("index.html", "README.md"):
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=name, repo_id="alice/pages", repo_type="space")
    with pytest.raises(ValueError, match="other files"):
        publish_space(ensemble, "alice/pages")
    assert hub.files("alice/pages")["README.md"] == b"mine"
