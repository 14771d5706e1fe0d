"""An ensemble on the Hub is described from its small files and the headers of its large ones."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from tiny import complete
from typer.testing import CliRunner

from hf_simplex import SimplexForImageClassification
from hf_simplex.cli import app
from hf_simplex.hub import ensemble_files
from hf_simplex.hub.stored_ensemble import StoredEnsemble, read_ensemble

ID = "alice/ensemble"
WEIGHTS = ["members.safetensors", *(f"vertex-0000{vertex}.safetensors" for vertex in range(3))]


@pytest.fixture
def folder(hub: LoopbackHub, tmp_path: Path) -> Path:
    complete("resnet").save_pretrained(tmp_path / "ensemble")
    HfApi().create_repo(ID)
    HfApi().upload_folder(repo_id=ID, folder_path=tmp_path / "ensemble")
    return tmp_path / "ensemble"


def downloaded(hub: LoopbackHub, mark: int) -> set[str]:
    return {download.path for download in hub.downloads(mark)}


@pytest.mark.parametrize("first_bytes", [100_000, 64], ids=["in one request", "in two"])
def test_only_headers_of_weights_are_read(
    first_bytes: int, hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_files, "_FIRST_BYTES", first_bytes)
    mark = hub.mark()
    assert read_ensemble(ID) == read_ensemble(folder)
    assert downloaded(hub, mark) == {"config.json", "model.safetensors.index.json"}
    ranges = [request for request in hub.requests(mark) if request.status == 206]
    assert len(ranges) == len(WEIGHTS) * (1 if first_bytes > 64 else 2)
    assert read_ensemble(ID).volumes is not None and sorted(read_ensemble(ID).file_bytes) == WEIGHTS


def test_the_command_tells_the_same_of_a_repository_and_its_folder(hub: LoopbackHub, folder: Path) -> None:
    told, expected = (
        json.loads(CliRunner().invoke(app, ["inspect", str(place), "--json"]).stdout) for place in (ID, folder)
    )
    assert told.pop("ensemble") == ID and expected.pop("ensemble") == str(folder)
    assert told == expected


def test_one_file_that_was_replaced_on_the_hub_is_noticed(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    complete("resnet", seed=5).save_pretrained(tmp_path / "other")
    HfApi().create_tag(ID, tag="v1")
    HfApi().upload_file(path_or_fileobj=tmp_path / "other" / WEIGHTS[1], path_in_repo=WEIGHTS[1], repo_id=ID)
    with pytest.raises(OSError, match=f"{WEIGHTS[1]} of {ID} is of another save"):
        read_ensemble(ID)
    assert read_ensemble(ID, revision="v1") == read_ensemble(folder)
    HfApi().delete_file(WEIGHTS[1], repo_id=ID)
    with pytest.raises(FileNotFoundError, match=f"holds no {WEIGHTS[1]}, which its index names"):
        read_ensemble(ID)
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="adapter_config.json", repo_id=ID)
    with pytest.raises(ValueError, match=r"holds adapter_config\.json"):
        read_ensemble(ID)


def test_a_cached_ensemble_needs_no_hub(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> StoredEnsemble:
        with monkeypatch.context() as patched:
            patched.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
            return read_ensemble(ID)

    with pytest.raises(OSError, match=f"The ensemble '{ID}' could not be loaded"):
        offline()
    SimplexForImageClassification.from_pretrained(ID)
    mark = hub.mark()
    assert offline() == read_ensemble(folder)
    assert not hub.requests(mark)


def test_what_is_not_there_or_no_ensemble_is_named(hub: LoopbackHub, tmp_path: Path) -> None:
    HfApi().create_repo("alice/empty")
    with pytest.raises(FileNotFoundError, match=r"alice/empty holds no model\.safetensors\.index\.json"):
        read_ensemble("alice/empty")
    for name, revision in (("alice/missing", None), ("alice/empty", "v7"), ("not an id", None)):
        with pytest.raises(OSError, match=f"The ensemble '{name}' could not be loaded"):
            read_ensemble(name, revision=revision)
