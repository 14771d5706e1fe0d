"""Savers exclude each other, readers see one save, and nobody's files are touched."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import SIZE, complete, contents, ensemble, images, same_tensors
from transformers import AutoConfig, ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.model_card import write_card
from hf_simplex.model.atomic_saves import atomic_write, finish_saves
from hf_simplex.model.remote_code import write_inference_code
from hf_simplex.model.save_lock import LOCK_FILE

NAME = "0123456789abcdef"


def tree(directory: Path) -> dict[str, object]:
    """All entries, with links as links."""
    return {
        str(path.relative_to(directory)): os.readlink(path)
        if path.is_symlink()
        else path.is_file() and path.read_bytes()
        for path in directory.rglob("*")
    }


# ---- links and strangers' folders -------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [".saved-", ".saving-"])
def test_a_link_named_as_a_save_moves_nothing(prefix: str, tmp_path: Path) -> None:
    """A cloned repository can hold links to folders of the user."""
    model = ensemble("vit")
    model.save_pretrained(tmp_path / "ensemble")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("mine")
    manifest = {"format": "hf-simplex save 1", "files": ["config.json"], "removed": []}
    (mine / ".save.json").write_text(json.dumps(manifest))
    for name in (f"{prefix}x", f"{prefix}{NAME}"):
        (tmp_path / "ensemble" / name).symlink_to(mine)
    before = tree(tmp_path)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path / "ensemble"), model)
    finish_saves(tmp_path / "ensemble")
    assert tree(tmp_path) == before
    model.save_pretrained(tmp_path / "ensemble")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "no JSON",
        {"format": "another", "files": ["config.json"], "removed": []},
        {"format": "hf-simplex save 1", "files": ["../config.json"], "removed": []},
        {"format": "hf-simplex save 1", "files": [], "removed": ["../notes.txt"]},
    ],
    ids=["none", "no JSON", "other format", "outside", "removes outside"],
)
def test_a_folder_of_somebody_else_stays(manifest: object, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    path = tmp_path / "ensemble"
    for prefix in (".saved-", ".saving-"):
        (path / f"{prefix}{NAME}").mkdir(parents=True)
        (path / f"{prefix}{NAME}" / "config.json").write_text("theirs")
        if manifest is not None:
            (path / f"{prefix}{NAME}" / ".save.json").write_text(json.dumps(manifest))
    before = tree(tmp_path)
    with atomic_write(path):
        pass
    assert tree(tmp_path) == before


def test_links_among_the_files_of_a_committed_save_are_not_moved(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "ensemble" / f".saved-{NAME}"
    folder.mkdir(parents=True)
    (folder / "README.md").symlink_to(tmp_path / "secret")
    (folder / ".save.json").write_text(
        json.dumps({"format": "hf-simplex save 1", "files": ["README.md"], "removed": []})
    )
    finish_saves(tmp_path / "ensemble")
    assert tree(tmp_path) == {"secret": b"secret", "ensemble": False}


# ---- killed saves ------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from hf_simplex.model.atomic_saves import atomic_write
replace, calls = os.replace, []
def killed(*args):
    calls.append(args)
    if len(calls) == int(sys.argv[2]):
        os._exit(9)
    replace(*args)
os.replace = killed
def listed(folder):
    return {name for name in ("old", "new") if (folder / name).exists()}
with atomic_write(sys.argv[1], listed) as aside:
    (aside / "config.json").write_text("new")
    (aside / "new").write_text("new")
"""


@pytest.mark.parametrize("call", [1, 2, 3])
def test_the_next_save_cleans_what_a_killed_one_left(call: int, tmp_path: Path) -> None:
    for name in ("config.json", "old", "notes.txt"):
        (tmp_path / name).write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(call)])
    assert killed.returncode == 9 and (tmp_path / LOCK_FILE).exists()
    with atomic_write(tmp_path) as aside:
        (aside / "card").write_text("card")
    done = {"config.json": b"new", "new": b"new"} if call > 1 else {"config.json": b"old", "old": b"old"}
    assert contents(tmp_path) == {**done, "notes.txt": b"old", "card": b"card"}
    assert not list(tmp_path.glob(".sav*"))


@pytest.mark.parametrize("left", [{}, {".saving.json": ""}, {".save.json": '{"form'}], ids=["mark", "cut", "manifest"])
def test_a_save_killed_while_it_marks_its_folder_is_cleaned_up(left: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / f".saving-{NAME}"
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_text(content)
    finish_saves(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_save_killed_within_its_manifest_is_cleaned_up(tmp_path: Path) -> None:
    with atomic_write(tmp_path) as aside:
        mark = (aside / ".saving.json").read_text()
    folder = tmp_path / f".saving-{NAME}"
    folder.mkdir()
    for name, content in {".saving.json": mark, ".save.json": '{"form', "config.json": "new"}.items():
        (folder / name).write_text(content)
    finish_saves(tmp_path)
    assert not list(tmp_path.iterdir())


def leave_committed(model: SimplexForImageClassification, directory: Path) -> None:
    """A save that was killed when it had decided."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        replace, calls = os.replace, []

        def cut(*args: Path) -> None:
            calls.append(args)
            if len(calls) > 1:
                raise KeyboardInterrupt
            replace(*args)

        patch.setattr(os, "replace", cut)
        model.save_pretrained(directory)


def two_ensembles() -> list[SimplexForImageClassification]:
    models = [complete("vit"), complete("vit", seed=10)]
    for model, mean in zip(models, (0.25, 0.75), strict=True):
        model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[mean] * 3)
    return models


def mean_of(model: SimplexForImageClassification) -> float:
    assert model.image_processor is not None
    return float(model.image_processor.image_mean[0])


def test_the_image_processor_of_a_killed_save_is_read(tmp_path: Path) -> None:
    one, other = two_ensembles()
    one.save_pretrained(tmp_path)
    leave_committed(other, tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert same_tensors(loaded, other) and mean_of(loaded) == 0.75


def test_the_image_processor_goes_with_the_weights_that_were_read(tmp_path: Path) -> None:
    """It is read at first use, when another process may have saved."""
    one, other = two_ensembles()
    one.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    assert same_tensors(loaded, one) and mean_of(loaded) == 0.25
    assert mean_of(SimplexForImageClassification.from_pretrained(tmp_path)) == 0.75


def test_code_beside_a_killed_save_refers_to_its_configuration(tmp_path: Path) -> None:
    one, other = two_ensembles()
    one.save_pretrained(tmp_path)
    leave_committed(other, tmp_path)
    write_inference_code(tmp_path)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path), other)


def test_a_link_in_a_committed_save_is_not_read(tmp_path: Path) -> None:
    one, other = two_ensembles()
    one.save_pretrained(tmp_path / "ensemble")
    other.save_pretrained(tmp_path / "outside")
    folder = tmp_path / "ensemble" / f".saved-{NAME}"
    folder.mkdir()
    files = sorted(path.name for path in (tmp_path / "outside").iterdir())
    for name in files:
        (folder / name).symlink_to(tmp_path / "outside" / name)
    (folder / ".save.json").write_text(json.dumps({"format": "hf-simplex save 1", "files": files, "removed": []}))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
    assert same_tensors(loaded, one) and mean_of(loaded) == 0.25


def test_an_export_that_is_cut_short_is_refused_and_completed(tmp_path: Path) -> None:
    """transformers reads no files aside, and would mix two exports."""
    one, other = two_ensembles()
    one.export_centroid(tmp_path / "export")
    other.export_centroid(tmp_path / "other")
    replace, seen = os.replace, []

    def cut(source: Path, target: Path) -> None:
        seen.append(Path(target).name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", cut)
        other.export_centroid(tmp_path / "export")
    assert seen[1:] == ["model.safetensors", "preprocessor_config.json"]
    with pytest.raises(ValueError, match=r"config\.json"):
        AutoConfig.from_pretrained(tmp_path / "export")
    finish_saves(tmp_path / "export")
    assert contents(tmp_path / "export") == contents(tmp_path / "other")


def test_a_full_disk_is_named_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file where it fails to write an open one."""
    (tmp_path / "config.json").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught, atomic_write(tmp_path) as aside:
        (aside / "config.json").write_text("new")
    assert caught.value.errno == errno.ENOSPC and contents(tmp_path) == {"config.json": b"old"}


def test_a_save_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_write(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()


# ---- two savers --------------------------------------------------------------------------------------------------


def test_savers_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    def save(name: str) -> None:
        with atomic_write(tmp_path):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=save, args=(str(index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 8 and order[::2] == order[1::2]
    assert not list(tmp_path.iterdir())


# ---- readers beside a saver --------------------------------------------------------------------------------------

SAVER = """
import sys
from tiny import ensemble
models = [ensemble("vit", seed=seed) for seed in (0, 10)]
print("ready", flush=True)
while True:
    for model in models:
        model.save_pretrained(sys.argv[1])
"""


def test_a_reader_beside_a_saver_gets_one_save(tmp_path: Path) -> None:
    models = [ensemble("vit", seed=seed) for seed in (0, 10)]
    models[0].save_pretrained(tmp_path)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert saver.stdout is not None and saver.stdout.readline() == b"ready\n"
        seen = set()
        for _ in range(40):
            loaded = SimplexForImageClassification.from_pretrained(tmp_path)
            seen.add(next(index for index, model in enumerate(models) if same_tensors(loaded, model)))
        assert saver.poll() is None, "the reader stopped the saver"
        assert seen == {0, 1}
    finally:
        saver.kill()
        saver.wait()


def test_files_of_two_saves_are_refused(tmp_path: Path) -> None:
    one, other = ensemble("vit"), ensemble("vit", seed=10)
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    for name in ("vertex-00001.safetensors", "config.json"):
        former = (tmp_path / "one" / name).read_bytes()
        (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(OSError, match=rf"{name}.* of (another|different) saves?"):
            SimplexForImageClassification.from_pretrained(tmp_path / "one")
        (tmp_path / "one" / name).write_bytes(former)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path / "one"), one)


def test_unchanged_vertices_keep_their_bytes(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path)
    before = contents(tmp_path)
    for _ in range(3):
        # safetensors orders metadata at random.
        SimplexForImageClassification.from_pretrained(tmp_path).save_pretrained(tmp_path)
        assert contents(tmp_path) == before
    with torch.no_grad():
        next(model.vertices[1].parameters()).add_(1)
    model.save_pretrained(tmp_path)
    after = contents(tmp_path)
    changed = {"vertex-00001.safetensors", "model.safetensors.index.json", "config.json"}
    assert {name for name in after if after[name] != before[name]} == changed


# ---- permissions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_have_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    model = complete("resnet")
    former = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "new" / "ensemble")
        write_inference_code(tmp_path / "new" / "ensemble")
        write_card(model, tmp_path / "new" / "ensemble")
        model.export_centroid(tmp_path / "new" / "centroid")
    finally:
        os.umask(former)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert {"config.json", "README.md", "model.safetensors", "pipeline_simplex.py"} <= {path.name for path in found}
    wrong = {
        str(path): oct(mode) for path, mode in found.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


def test_loading_from_a_folder_that_nobody_may_write_to(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.save_pretrained(tmp_path / "ensemble")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ensemble").iterdir()}
    entry = (tmp_path / "ensemble").stat().st_mtime_ns
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "ensemble")
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ensemble").iterdir()} == before
    assert (tmp_path / "ensemble").stat().st_mtime_ns == entry
