"""The command `hf-simplex demo`: what it does without serving, and its mistakes."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from tiny_explorer import explored, named, pictures
from typer.testing import CliRunner, Result

from hf_simplex import SimplexForImageClassification
from hf_simplex.cli import app
from hf_simplex.explorer.app import ImageStore
from hf_simplex.explorer.exploration import find_exploration, vertices_digest
from hf_simplex.hub.publishing import publish_folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "ensemble"
    named("vit").save_pretrained(folder)
    return folder


def test_a_taken_port_is_named(ensemble: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = invoke(ensemble, "--port", port)
    assert result.exit_code == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in result.stderr and "--port" in result.stderr


def test_without_gradio_it_says_what_to_install(ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = invoke(ensemble)
    assert result.exit_code == 2 and 'pip install "hf-simplex[demo]"' in result.stderr


def test_mistakes(ensemble: Path, tmp_path: Path) -> None:
    assert "--compute needs --data-set" in invoke(ensemble, "--compute").stderr
    assert "no such folder" in invoke("./nowhere").stderr
    (tmp_path / "mine.txt").touch()
    assert "holds other files" in invoke(ensemble, "--export", tmp_path).stderr


def test_a_file_of_other_weights_is_not_shown(ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = named("vit")
    other.vertices[0].get_parameter(next(iter(other.weights[0]))).data.add_(1.0)
    explored(other).save(ensemble)
    served: list[Any] = []
    monkeypatch.setattr("hf_simplex.explorer.app.launch", lambda blocks, **options: served.append(blocks))
    result = invoke(ensemble)
    assert result.exit_code == 0 and "other weights" in result.stderr and len(served) == 1
    result = invoke(ensemble, "--export", tmp_path / "space")
    assert result.exit_code == 0 and "other weights" in result.stderr and "shows no loss surfaces" in result.stderr
    assert not (tmp_path / "space" / "ensemble" / "explorer").exists()
    (ensemble / "explorer" / "explorer.safetensors").unlink()


def test_export_and_push(hub: LoopbackHub, ensemble: Path, tmp_path: Path) -> None:
    result = invoke(ensemble, "--export", tmp_path / "space", "--push", "alice/demo")
    assert result.exit_code == 0, result.output
    assert "no explorer/ folder" in result.stderr
    assert (tmp_path / "space" / "app.py").read_bytes() == hub.files("alice/demo")["app.py"]


def test_an_answer_is_forgotten_after_others() -> None:
    store = ImageStore(2)
    answers: list[Any] = [object() for _ in range(3)]
    tokens = [store.keep(answer) for answer in answers]
    assert store.find(tokens[0]) is None and store.find(tokens[2]) is answers[2]
    assert store.find(None) is None and store.find(["no", "token"]) is None


def test_the_command_computes_on_a_folder_and_keeps_the_file(
    hub: LoopbackHub, ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ensemble"
    shutil.copytree(ensemble, folder)
    shutil.rmtree(folder / "explorer", ignore_errors=True)
    for number, example in enumerate(pictures(30)):
        for split in ("train", "validation"):
            # A folder has a name that every file system takes.
            place = tmp_path / "pets" / split / f"class-{example['label']}"
            place.mkdir(parents=True, exist_ok=True)
            example["image"].save(place / f"{split}-{number}.png")
    served: list[Any] = []
    monkeypatch.setattr("hf_simplex.explorer.app.launch", lambda blocks, **options: served.append(blocks))
    result = invoke(folder, "--data-set", tmp_path / "pets", "--labels-by-position", "--compute")
    assert result.exit_code == 0, result.stderr
    found = find_exploration(folder)
    assert found is not None and len(found.images) >= 20 and len(served) == 1
    assert found.vertices == vertices_digest(SimplexForImageClassification.from_pretrained(folder))
    assert "not kept" not in result.stderr
    publish_folder(ensemble, "alice/ensemble")
    result = invoke("alice/ensemble", "--data-set", tmp_path / "pets", "--labels-by-position", "--compute")
    assert result.exit_code == 0 and "alice/ensemble is no folder" in result.stderr and len(served) == 2
