"""A broken checkpoint is refused with the culprit's name, and a save either happens or leaves everything as it was."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import KINDS, Trap, batches, contents, ensemble, folder, forget_digests, images, same_tensors
from transformers import AutoModelForImageClassification
from transformers.utils.hub import get_checkpoint_shard_files

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.stored_ensemble import read_ensemble
from hf_simplex.model.checkpoint import atomic_write, check_target, read_index
from hf_simplex.model.index_file import file_of_tensor

INDEX = "model.safetensors.index.json"
VERTEX = "vertex-00001.safetensors"


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

    return change_json(INDEX, change)


def rename_tensor(new: str) -> Callable[[Path], None]:
    """Another name for a tensor, in the index."""

    def change(index: dict) -> None:
        first = next(iter(index["weight_map"]))
        index["weight_map"][new] = index["weight_map"].pop(first)

    return change_json(INDEX, change)


def index_is(content: object) -> Callable[[Path], object]:
    return lambda path: (path / INDEX).write_text(json.dumps(content))


def config_with(**changes: object) -> Callable[[Path], None]:
    return change_json("config.json", lambda config: config.update(changes))


def config_without(name: str) -> Callable[[Path], None]:
    return change_json("config.json", lambda config: config.pop(name))


def overwrite(name: str, start: bytes) -> Callable[[Path], object]:
    """Other bytes at the beginning of a file."""
    return lambda path: (path / name).write_bytes(start + (path / name).read_bytes()[len(start) :])


def cut(name: str, keep: Callable[[int], int]) -> Callable[[Path], object]:
    """So many bytes of a file of such a size are kept."""
    return lambda path: os.truncate(path / name, keep((path / name).stat().st_size))


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Other tensors in a file."""

    def apply(path: Path) -> None:
        forget_digests(path)
        tensors = load_file(path / VERTEX)
        change(tensors)
        save_file(tensors, path / VERTEX, metadata={"format": "pt"})

    return apply


def misshape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("classifier.1.weight"))
    tensors[name] = torch.zeros(7, 7)


def all_in_one_file(path: Path) -> None:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in ensemble("resnet").state_dict().items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def add_adapter(path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "alice/other"}
    (path / "adapter_config.json").write_text(json.dumps(adapter))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (cut(VERTEX, lambda size: 0), r"vertex-00001.*\(0 bytes\)"),
    "cut file": (cut(VERTEX, lambda size: size - 5), "vertex-00001.* not a whole safetensors file"),
    "half a file": (cut(VERTEX, lambda size: size // 2), "vertex-00001.* not a whole safetensors file"),
    "cut header": (cut(VERTEX, lambda size: 40), "vertex-00001.* not a whole safetensors file"),
    "garbage": (lambda path: (path / "members.safetensors").write_bytes(b"not safetensors at all"), "members"),
    "garbage in the header": (overwrite(VERTEX, bytes(8 * [255])), "vertex-00001.* not a whole safetensors file"),
    "lost file": (lambda path: (path / "vertex-00002.safetensors").unlink(), "vertex-00002"),
    "lost members": (lambda path: (path / "members.safetensors").unlink(), "holds no members.safetensors"),
    "lost index": (lambda path: (path / INDEX).unlink(), f"holds no {INDEX}"),
    "broken index": (lambda path: (path / INDEX).write_text("{"), f"{INDEX} is not an index"),
    "binary index": (lambda path: (path / INDEX).write_bytes(b"\xff\x00"), f"{INDEX} is not an index"),
    "index of another shape": (index_is(["vertex-00000.safetensors"]), f"{INDEX} is not an index"),
    "index without map": (index_is({"metadata": {}}), "'weight_map'"),
    "index without metadata": (index_is({"weight_map": {"a": VERTEX}}), "'metadata'"),
    "index of nothing": (index_is({"metadata": {}, "weight_map": {}}), "no tensors"),
    "outside": (misname("../secret.safetensors"), r"names '\.\./secret.safetensors'"),
    "outside, as on Windows": (misname("..\\secret.safetensors"), "names '.*secret.safetensors'"),
    "absolute": (misname("/secret.safetensors"), "names '/secret.safetensors'"),
    "deeper": (misname("deeper/secret.safetensors"), "names 'deeper/secret.safetensors'"),
    "pickle": (misname("pytorch_model.bin"), "names 'pytorch_model.bin'"),
    "number for a file": (index_is({"metadata": {}, "weight_map": {"a": 5}}), "names 5"),
    "tensor of another model": (rename_tensor("classifier.weight"), "names the tensor 'classifier.weight'"),
    "tensor without a dot": (rename_tensor("weight"), "names the tensor 'weight'"),
    "tensor of another part": (rename_tensor("edges.0.head.weight"), "names the tensor 'edges.0.head.weight'"),
    "tensor of no number": (rename_tensor("vertices.x.head.weight"), "names the tensor 'vertices.x.head.weight'"),
    "another model's file": (all_in_one_file, "holds model.safetensors, which transformers would load in place"),
    "adapter": (add_adapter, "holds adapter_config.json, which makes transformers load an adapter"),
    "lost tensor": (rewrite(lambda tensors: tensors.pop(sorted(tensors)[0])), "missing keys"),
    "other shape": (rewrite(misshape), "mismatched"),
    "config is no JSON": (lambda path: (path / "config.json").write_text("{"), "config.json"),
    "lost vertex": (config_with(simplexes=[[0, 1, 5]]), "vertex 5"),
    "lost roles": (config_without("roles"), "the 1 vertices"),
    "unknown role": (config_with(roles=["mode", "corner", "mode"]), "'corner'"),
    "unknown sampling": (config_with(sampling="some"), "'some'"),
    "member that sums to more": (config_with(members=[[0.9, 0.9, 0]] * 3), "sum to 1"),
    "negative member": (config_with(members=[[1.5, -0.5, 0]] * 3), "negative"),
    "member of other length": (config_with(members=[[0.5, 0.5]] * 3), "3 coordinates"),
    "member outside": (
        config_with(simplexes=[[0, 1], [1, 2]], members=[[0.5, 0.0, 0.5]] * 3),
        "outside the complex",
    ),
    "provenance is a list": (config_with(provenance=["digits"]), r"provenance is \['digits'\]"),
    "provenance is a word": (config_with(provenance="digits"), "provenance is 'digits'"),
    "stage without vertex": (config_with(provenance={"stages": [{"epochs": 1}]}), r"stages .* \[{'epochs': 1}\]"),
    "start that is no vertex": (config_with(provenance={"stages": [{"vertex": 1, "start": "a"}]}), "'start'"),
    "stages of another form": (config_with(provenance={"stages": {"vertex": 0}}), "stages .* {'vertex': 0}"),
    "more members": (config_with(members=[[1, 0, 0]] * 4), "missing keys, members.3"),
    "fewer members": (config_with(members=[[1, 0, 0]]), "unexpected keys, members.1"),
    "fewer vertices": (config_with(simplexes=[[0, 1]], roles=["mode", "mode"], members=[]), "unexpected keys"),
    "more vertices": (config_with(simplexes=[[0, 1, 2, 3]], roles=["mode"] * 4, members=[]), "missing keys, vert"),
    "other backbone": (
        change_json("config.json", lambda config: config["backbone_config"].update(hidden_sizes=[8, 12])),
        "mismatched",
    ),
    "no backbone": (config_without("backbone_config"), "no backbone_config"),
    "unknown backbone": (config_with(backbone_config={"model_type": "no_such_model"}), "'no_such_model'"),
    "other labels": (config_with(id2label={"0": "a"}, label2id={"a": 0}), "trained for 3 labels and cannot have 1"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an ensemble that is in order."""
    path = tmp_path_factory.mktemp("whole")
    ensemble("resnet").save_pretrained(path)
    return contents(path)


NEED_THE_BACKBONE = ("other backbone", "unknown backbone")
"""Only who builds the backbone sees these."""


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_checkpoint_names_what_is_wrong_and_stays_as_it_is(
    breakage: Callable[[Path], object], message: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Loading names it, and so does reading the headers alone."""
    path = tmp_path / "ensemble"
    path.mkdir()
    for name, content in whole.items():
        (path / name).write_bytes(content)
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    breakage(path)
    before = contents(tmp_path)
    for loader in (SimplexForImageClassification, AutoModelForImageClassification):
        with pytest.raises((ValueError, OSError, RuntimeError), match=message):
            loader.from_pretrained(path)
    with pytest.raises((ValueError, OSError, RuntimeError), match=message):
        SimplexForImageClassification.from_pretrained(path, simplex=0)
    if (breakage, message) not in [BREAKAGES[name] for name in NEED_THE_BACKBONE]:
        with pytest.raises((ValueError, OSError, RuntimeError), match=message):
            read_ensemble(path)
    assert contents(tmp_path) == before


def test_other_label_counts_are_refused(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trained for 3 labels and cannot have 4"):
        SimplexForImageClassification.from_pretrained(tmp_path, num_labels=4)


def test_what_is_not_there_or_no_ensemble_is_named(tmp_path: Path) -> None:
    for name in ("no/such", tmp_path / "no" / "such"):
        with pytest.raises(OSError, match=r"no.such"):
            SimplexForImageClassification.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match=r"not an ensemble.*from_backbone"):
        SimplexForImageClassification.from_pretrained(folder("vit", tmp_path / "backbone"))


def test_pickles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ensemble("vit")
    model.save_pretrained(tmp_path)
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(ValueError, match="only read from safetensors"):
        SimplexForImageClassification.from_pretrained(tmp_path, use_safetensors=False)
    config_with(transformers_weights="adapter_model.bin")(tmp_path)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path), model)
    add_adapter(tmp_path)
    with pytest.raises(ValueError, match=r"holds adapter_config.json"):
        SimplexForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds adapter_config.json"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_is_the_standard_one_and_a_vertex_is_one_file(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    model.save_pretrained(tmp_path)
    files, metadata = get_checkpoint_shard_files(tmp_path, tmp_path / INDEX)
    state = model.state_dict()
    assert sorted(metadata["all_checkpoint_keys"]) == sorted(state)
    assert metadata["total_size"] == sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert metadata["total_parameters"] == sum(tensor.numel() for tensor in state.values())
    found = {Path(file).name: load_file(file) for file in files}
    assert sorted(name for tensors in found.values() for name in tensors) == sorted(state)
    for file, tensors in found.items():
        assert all(metadata["weight_map"][name] == file_of_tensor(name) == file for name in tensors)
        assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())
    for vertex in range(3):
        names = {name.removeprefix(f"vertices.{vertex}.") for name in found[f"vertex-{vertex:05d}.safetensors"]}
        assert names == set(model.backbone.state_dict())


def failing(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The same function on a disk that is full at one call, counted from 1."""
    calls = []

    def on_full_disk(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise OSError("No space left on device")
        return function(*args, **kwargs)

    return on_full_disk


@pytest.mark.parametrize(
    ("what", "call"),
    [("hf_simplex.model.checkpoint.save_file", 2), ("hf_simplex.SimplexConfig.save_pretrained", 1), ("os.replace", 1)],
)
def test_a_save_that_fails_leaves_the_old_checkpoint_whole(
    what: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ensemble"
    ensemble("resnet").save_pretrained(path)
    (path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    other = ensemble("resnet", seed=5)
    functions = {
        "hf_simplex.model.checkpoint.save_file": save_file,
        "hf_simplex.SimplexConfig.save_pretrained": type(other.config).save_pretrained,
        "os.replace": os.replace,
    }
    monkeypatch.setattr(what, failing(functions[what], call))
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(path)
    assert contents(tmp_path) == before
    assert sorted(entry.name for entry in path.iterdir()) == sorted(Path(name).name for name in before)


@pytest.mark.parametrize("call", range(1, 7))
def test_a_save_that_is_cut_short_happened_wholly_or_not_at_all(call: int, tmp_path: Path) -> None:
    model = ensemble("vit")
    model.save_pretrained(tmp_path)
    before, small = contents(tmp_path), model(images()).logits
    model.add_vertex()
    model.draw_members(2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.replace", failing(os.replace, call))
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob(".saving*"))
    assert all((tmp_path / name).read_bytes() == before[name] for name in before if name.startswith("vertex"))
    # The first rename decides. Loading reads what was decided, and writes nothing.
    expected = small if call == 1 else model(images()).logits
    left = contents(tmp_path)
    for loader in (SimplexForImageClassification, AutoModelForImageClassification):
        assert torch.equal(loader.from_pretrained(tmp_path)(images()).logits, expected)
    assert contents(tmp_path) == left
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob(".sav*"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()).logits, model(images()).logits)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_smaller_ensemble_replaces_a_larger_one_and_nothing_else(kind: str, tmp_path: Path) -> None:
    large = ensemble(kind)
    large.save_pretrained(tmp_path)
    mine = ["notes.txt", "README.md", "vertex-mine.safetensors", "vertex-00009.safetensors", "folder/vertex-00002"]
    (tmp_path / "folder").mkdir()
    for name in mine:
        (tmp_path / name).write_text("mine")
    small = SimplexForImageClassification.from_backbone(large.backbone)
    small.save_pretrained(tmp_path)
    ours = ["config.json", INDEX, "vertex-00000.safetensors"]
    assert sorted(contents(tmp_path)) == sorted([*mine, *ours, *(["members.safetensors"] if kind == "resnet" else [])])
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path), small)


def test_statistics_that_are_no_longer_known_are_removed(tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path)
    model.add_vertex()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "members.safetensors").exists()
    model.draw_members(2, batches=batches())
    model.save_pretrained(tmp_path)
    assert same_tensors(SimplexForImageClassification.from_pretrained(tmp_path), model)


def test_files_that_no_index_names_are_a_users_own(tmp_path: Path) -> None:
    for name in ("members.safetensors", "vertex-00001.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / INDEX).write_text("{")
    SimplexForImageClassification.from_backbone(ensemble("vit").backbone).save_pretrained(tmp_path)
    assert (tmp_path / "members.safetensors").read_text() == "mine"
    assert (tmp_path / "vertex-00001.safetensors").read_text() == "mine"
    SimplexForImageClassification.from_pretrained(tmp_path)


def test_a_model_of_another_kind_is_never_replaced(tmp_path: Path) -> None:
    model = ensemble("vit")
    folder("vit", tmp_path / "backbone")
    model.save_pretrained(tmp_path / "ensemble")
    folder("resnet", tmp_path / "resnet")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.json").write_text('{"mine": 1}')
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes((tmp_path / "backbone/model.safetensors").read_bytes())
    before = contents(tmp_path)
    for name, message in (
        ("backbone", "model_type 'vit', and a model of type 'simplex'"),
        ("settings", "model_type None, and a model of type 'simplex'"),
        ("weights", "model.safetensors, which transformers would load in place"),
    ):
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(tmp_path / name)
    for name, message in (
        ("ensemble", "model_type 'simplex', and a model of type 'vit'"),
        ("settings", "model_type None, and a model of type 'vit'"),
        ("resnet", "model_type 'resnet', and a model of type 'vit'"),
    ):
        for export in (model.export_centroid, lambda path: model.export_vertex(0, path)):
            with pytest.raises(ValueError, match=message):
                export(tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("arguments", [{"safe_serialization": False}, {"state_dict": {}}, {"variant": "fp16"}])
def test_what_a_save_would_not_do_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.* was given"):
        ensemble("vit").save_pretrained(tmp_path / "ensemble", **arguments)
    assert not (tmp_path / "ensemble").exists()
    ensemble("vit").save_pretrained(tmp_path / "ensemble", safe_serialization=True, state_dict=None, variant=None)


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path / "ensemble", is_main_process=False)
    assert not (tmp_path / "ensemble").exists()


def test_a_file_is_no_folder_to_save_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        ensemble("vit").save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="is a file"):
        ensemble("vit").export_centroid(tmp_path / "file")
    with pytest.raises(ValueError, match="is a file"):
        check_target(tmp_path / "file", "simplex")
    assert (tmp_path / "file").read_text() == "mine"


def test_files_written_aside_take_their_places_together(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path) as aside:
        (aside / "config.json").write_text("new")
        raise KeyError
    assert contents(tmp_path) == {"config.json": b"old"}
    with atomic_write(tmp_path) as aside:
        (aside / "config.json").write_text("new")
    assert contents(tmp_path) == {"config.json": b"new"}


def test_the_folder_of_a_run_names_its_ensemble(tmp_path: Path) -> None:
    ensemble("timm").save_pretrained(tmp_path / "run" / "ensemble")
    for read in (read_index, read_ensemble):
        with pytest.raises(FileNotFoundError) as caught:
            read(tmp_path / "run")
        assert f"Its ensemble is {tmp_path / 'run' / 'ensemble'}." in str(caught.value)
