"""A broken checkpoint is refused with the culprit's name, and a save either happens or leaves everything as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_modeling_simplex import ensemble

from hf_simplex import SimplexForImageClassification
from hf_simplex.checkpoint import written_aside


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def change_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        data = json.loads((path / name).read_text())
        change(data)
        (path / name).write_text(json.dumps(data))

    return apply


def misname(file: str) -> Callable[[Path], None]:
    def change(index: dict) -> None:
        first = next(iter(index["weight_map"]))
        index["weight_map"][first] = file

    return change_json("model.safetensors.index.json", change)


def cut_tensors(path: Path) -> None:
    tensors = load_file(path / "vertex-00001.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path / "vertex-00001.safetensors", metadata={"format": "pt"})


def misshape(path: Path) -> None:
    tensors = load_file(path / "vertex-00001.safetensors")
    name = next(name for name in tensors if name.endswith("classifier.1.weight"))
    tensors[name] = torch.zeros(7, 7)
    save_file(tensors, path / "vertex-00001.safetensors", metadata={"format": "pt"})


fewer_vertices = change_json(
    "config.json", lambda config: config.update(simplexes=[[0, 1]], roles=["mode", "mode"], members=[])
)

BREAKAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty file", lambda path: (path / "vertex-00001.safetensors").write_bytes(b""), "vertex-00001.*0 bytes"),
    (
        "cut file",
        lambda path: (path / "vertex-00001.safetensors").write_bytes(
            (path / "vertex-00001.safetensors").read_bytes()[:-5]
        ),
        "vertex-00001",
    ),
    ("garbage", lambda path: (path / "members.safetensors").write_bytes(b"not safetensors at all"), "members"),
    ("lost file", lambda path: (path / "vertex-00002.safetensors").unlink(), "vertex-00002"),
    ("lost index", lambda path: (path / "model.safetensors.index.json").unlink(), "index.json"),
    ("broken index", lambda path: (path / "model.safetensors.index.json").write_text("{"), "index.json"),
    ("outside", misname("../secret.safetensors"), r"\.\./secret"),
    ("absolute", misname("/secret.safetensors"), "/secret"),
    ("pickle", misname("pytorch_model.bin"), "pytorch_model.bin"),
    ("lost tensor", cut_tensors, "missing keys"),
    ("other shape", misshape, "mismatched|shape|size"),
    ("lost vertex", change_json("config.json", lambda config: config.update(simplexes=[[0, 1, 5]])), "vertex 5"),
    ("bad member", change_json("config.json", lambda config: config.update(members=[[0.9, 0.9, 0]])), "sum to 1"),
    ("more vertices", fewer_vertices, "unexpected keys"),
]


@pytest.mark.parametrize(("breakage", "message"), [b[1:] for b in BREAKAGES], ids=[b[0] for b in BREAKAGES])
def test_a_broken_checkpoint_names_what_is_wrong_and_stays_as_it_is(
    breakage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ensemble"
    ensemble("resnet").save_pretrained(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    breakage(path)
    before = contents(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=message):
        SimplexForImageClassification.from_pretrained(path)
    assert contents(tmp_path) == before


def test_other_label_counts_are_refused(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trained for 3 labels and cannot have 4"):
        SimplexForImageClassification.from_pretrained(tmp_path, num_labels=4)


def test_pickles_are_not_asked_for(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only read from safetensors"):
        SimplexForImageClassification.from_pretrained(tmp_path, use_safetensors=False)


def test_a_save_that_fails_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble("resnet").save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    calls = []

    def full_disk(*args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError("No space left on device")
        save_file(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("hf_simplex.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ensemble("resnet", seed=5).save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_a_smaller_ensemble_replaces_a_larger_one_and_nothing_else(tmp_path: Path) -> None:
    ensemble("resnet").save_pretrained(tmp_path)
    for name in ("notes.txt", "vertex-mine.safetensors", "README.md"):
        (tmp_path / name).write_text("mine")
    small = SimplexForImageClassification.from_backbone(ensemble("resnet").backbone)
    small.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("vertex-0*")) == ["vertex-00000.safetensors"]
    assert all(
        (tmp_path / name).read_text() == "mine" for name in ("notes.txt", "vertex-mine.safetensors", "README.md")
    )
    SimplexForImageClassification.from_pretrained(tmp_path)


def test_a_file_is_no_folder_to_save_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        ensemble("vit").save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_files_written_aside_take_their_places_together(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(KeyError), written_aside(tmp_path) as aside:
        (aside / "config.json").write_text("new")
        raise KeyError
    assert contents(tmp_path) == {"config.json": b"old"}
    with written_aside(tmp_path) as aside:
        (aside / "config.json").write_text("new")
    assert contents(tmp_path) == {"config.json": b"new"}
