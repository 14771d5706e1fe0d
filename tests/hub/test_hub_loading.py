"""Ensembles are loaded by their Hub id: which files that takes, and what it says when that cannot be."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from safetensors.torch import save_file
from tiny import Trap, batches, ensemble, forget_digests, images, same_tensors
from transformers import AutoModelForImageClassification

from hf_simplex import SimplexForImageClassification
from hf_simplex.model import open_ensemble

ID = "alice/ensemble"
VERTEX = "vertex-00001.safetensors"


def upload(model: SimplexForImageClassification, directory: Path, repo_id: str = ID, **arguments: Any) -> Path:
    """The files of an ensemble in a repository, whatever publishing would make of them."""
    model.save_pretrained(directory)
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, private=arguments.pop("private", False))
    api.upload_folder(repo_id=repo_id, folder_path=directory, **arguments)
    return directory


def united(kind: str = "vit", members: int = 2) -> SimplexForImageClassification:
    return SimplexForImageClassification.disjoint_union([ensemble(kind, members, seed=seed) for seed in (0, 5)])


def downloaded(hub: LoopbackHub, mark: int) -> set[str]:
    return {download.path for download in hub.downloads(mark)}


def vertices(*numbers: int) -> set[str]:
    return {f"vertex-{number:05d}.safetensors" for number in numbers}


def test_a_part_of_an_ensemble_downloads_the_vertices_that_it_needs(hub: LoopbackHub, tmp_path: Path) -> None:
    whole = united("resnet")
    upload(whole, tmp_path / "whole")
    always = {"config.json", "model.safetensors.index.json", "members.safetensors"}

    mark = hub.mark()
    part = SimplexForImageClassification.from_pretrained(ID, simplex=1)
    assert downloaded(hub, mark) == always | vertices(3, 4, 5)
    assert torch.equal(part(images()).logits, ensemble("resnet", 2, seed=5)(images()).logits)

    mark = hub.mark()
    two = SimplexForImageClassification.from_pretrained(ID, num_members=2, cache_dir=tmp_path / "cache")
    assert downloaded(hub, mark) == always | vertices(0, 1, 2)
    assert two.config.members == [member[:3] for member in whole.config.members[:2]]
    assert str(tmp_path / "cache") not in str(hub.client_home) and (tmp_path / "cache").is_dir()

    mark = hub.mark()
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), whole)
    assert downloaded(hub, mark) == vertices(0, 1, 2), "the rest is in the cache"


def test_a_cached_ensemble_needs_no_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ensemble("vit")
    upload(model, tmp_path / "whole")
    with pytest.raises(OSError, match="alice/ensemble"):
        SimplexForImageClassification.from_pretrained(ID, local_files_only=True)
    SimplexForImageClassification.from_pretrained(ID, num_members=1)
    mark = hub.mark()
    for arguments in ({}, {"simplex": 0}):
        found = SimplexForImageClassification.from_pretrained(ID, local_files_only=True, **arguments)
        assert same_tensors(found, model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), model)
    assert not hub.requests(mark)


def test_a_revision_is_loaded_as_it_was(hub: LoopbackHub, tmp_path: Path) -> None:
    old = ensemble("vit")
    upload(old, tmp_path / "old")
    HfApi().create_tag(ID, tag="v1")
    new = ensemble("vit", seed=3)
    upload(new, tmp_path / "new")
    for arguments in ({}, {"simplex": 0}):
        found = SimplexForImageClassification.from_pretrained(ID, revision="v1", **arguments)
        assert same_tensors(found, old) and found.config.members == old.config.members
        assert same_tensors(SimplexForImageClassification.from_pretrained(ID, **arguments), new)


def test_all_files_are_of_one_commit_whatever_is_committed_meanwhile(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    old = ensemble("vit")
    upload(old, tmp_path / "old")
    check_files = open_ensemble.check_files

    def commit_meanwhile(*args: Any, **kwargs: Any) -> Any:
        upload(ensemble("vit", seed=3), tmp_path / "new")
        return check_files(*args, **kwargs)

    monkeypatch.setattr(open_ensemble, "check_files", commit_meanwhile)
    found = SimplexForImageClassification.from_pretrained(ID)
    assert same_tensors(found, old) and found.config.members == old.config.members


def test_dtype_and_device_map_are_those_of_transformers(hub: LoopbackHub, tmp_path: Path) -> None:
    model = ensemble("resnet")
    upload(model, tmp_path / "whole")
    for arguments in ({}, {"num_members": 3}):
        found = AutoModelForImageClassification.from_pretrained(
            ID, dtype=torch.bfloat16, device_map="auto", **arguments
        )
        assert found.dtype == torch.bfloat16 and found.vertices[0].tensors().keys() == model.weights[0].keys()
        assert all(
            torch.equal(tensor, model.weights[1][name].to(tensor.dtype)) for name, tensor in found.weights[1].items()
        )
        assert torch.allclose(found(images().bfloat16()).logits, model(images()).logits, atol=0.1)


def test_a_private_ensemble_is_for_those_with_its_token(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ensemble("vit")
    upload(model, tmp_path / "whole", private=True)
    for token in (None, hub.other_token, "hf_of_nobody"):
        if token is None:
            monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(OSError, match="'alice/ensemble' could not be loaded"):
            SimplexForImageClassification.from_pretrained(ID, token=token, num_members=1)
    assert not hub.downloads()
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID, token=hub.read_token, num_members=3), model)


def test_what_the_hub_does_not_have_is_named(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="'alice/nothing' could not be loaded"):
        SimplexForImageClassification.from_pretrained("alice/nothing")
    upload(ensemble("vit"), tmp_path / "whole")
    with pytest.raises(OSError, match=r"could not be loaded.*v9"):
        SimplexForImageClassification.from_pretrained(ID, revision="v9")
    with pytest.raises(ValueError, match="num_members is 4: expected 1 to 3"):
        SimplexForImageClassification.from_pretrained(ID, num_members=4)
    HfApi().delete_file(VERTEX, ID)
    with pytest.raises(FileNotFoundError, match=f"holds no {VERTEX}"):
        SimplexForImageClassification.from_pretrained(ID, force_download=True)


def test_pickles_in_a_repository_are_not_even_downloaded(hub: LoopbackHub, tmp_path: Path) -> None:
    model = ensemble("vit")
    model.save_pretrained(tmp_path / "whole")
    names = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin")
    for name in names:
        (tmp_path / "whole" / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    upload(model, tmp_path / "whole")
    assert set(names) <= hub.files(ID).keys()
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), model)
    HfApi().create_repo("alice/other")
    adapter = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "alice/other"}).encode()
    HfApi().upload_file(path_or_fileobj=adapter, path_in_repo="adapter_config.json", repo_id=ID)
    mark = hub.mark()
    with pytest.raises(ValueError, match=f"{ID} holds adapter_config.json"):
        SimplexForImageClassification.from_pretrained(ID)
    assert not any("alice/other" in request.path for request in hub.requests(mark)), "it asks no second repository"
    assert not downloaded(hub, 0) & set(names) and not (tmp_path / "opened").exists()


def test_another_models_file_in_a_repository_is_not_even_downloaded(hub: LoopbackHub, tmp_path: Path) -> None:
    model = ensemble("vit")
    upload(model, tmp_path / "whole")
    save_file({name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}, tmp_path / "zeros")
    HfApi().upload_file(path_or_fileobj=tmp_path / "zeros", path_in_repo="model.safetensors", repo_id=ID)
    for arguments in ({}, {"num_members": 3}):
        with pytest.raises(ValueError, match=f"{ID} holds model.safetensors"):
            SimplexForImageClassification.from_pretrained(ID, **arguments)
    assert "model.safetensors" not in downloaded(hub, 0)


# ---- headers and configurations that lie ------------------------------------------------------------------------


def change_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Rewrite the JSON header of a safetensors file; the bytes of its tensors stay."""

    def apply(path: Path) -> None:
        data = (path / VERTEX).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (path / VERTEX).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return apply


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in sorted(header.items()) if name.endswith("weight"))


def overlap(header: dict[str, Any]) -> None:
    one, other = [entry for name, entry in sorted(header.items()) if name.endswith("bias")][:2]
    size = other["data_offsets"][1] - other["data_offsets"][0]
    other["data_offsets"] = [one["data_offsets"][0], one["data_offsets"][0] + size]


def drop_tail(path: Path) -> None:
    data = (path / VERTEX).read_bytes()
    (path / VERTEX).write_bytes(data[:-4])


def half_precision(path: Path) -> None:
    """All tensors as bfloat16, but the header calls them float16, which has as many bytes."""
    model = ensemble("vit")
    model.to(torch.bfloat16).save_pretrained(path)
    change_header(lambda header: first(header).update(dtype="F16"))(path)


LIES = {
    "truncated": (drop_tail, "not a whole safetensors file"),
    "overlapping": (change_header(overlap), "not a whole safetensors file"),
    "longer": (change_header(lambda header: first(header).update(shape=[10**6, 10**6])), "not a whole safetensors"),
    "dtype of other size": (change_header(lambda header: first(header).update(dtype="F64")), "not a whole"),
    "integers for weights": (change_header(lambda header: first(header).update(dtype="I32")), "of dtype torch.int32"),
    "another half precision": (half_precision, "of dtype torch.float16"),
}


@pytest.mark.parametrize(("lie", "message"), LIES.values(), ids=LIES)
def test_a_header_that_lies_is_found_out(lie: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path)
    lie(tmp_path)
    forget_digests(tmp_path)
    for arguments in ({}, {"simplex": 0}):
        with pytest.raises(ValueError, match=rf"{VERTEX}.*{message}"):
            SimplexForImageClassification.from_pretrained(tmp_path, **arguments)


def test_weights_of_the_right_shape_in_the_wrong_place_are_found_out(tmp_path: Path) -> None:
    """A part reads of each file only what the index says is there."""
    model = ensemble("vit")
    model.save_pretrained(tmp_path)
    name = sorted(model.weights[0])[0]
    save_file({f"vertices.0.{name}": torch.zeros(1)}, tmp_path / VERTEX, metadata={"format": "pt"})
    forget_digests(tmp_path)
    with pytest.raises(ValueError, match=r"missing keys, vertices\.1"):
        SimplexForImageClassification.from_pretrained(tmp_path, simplex=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "local-dir:/etc"}, "'local-dir:/etc'; expected a timm model name"),
        ({"architecture": "../../secret"}, "'../../secret'; expected a timm model name"),
        ({"architecture": "hf-hub:mallory/net"}, "'hf-hub:mallory/net'; expected"),
        ({"model_args": {"checkpoint_path": "/tmp/trap.pth"}}, "checkpoint_path='/tmp/trap.pth', which names other"),
    ],
)
def test_a_configuration_that_points_elsewhere_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = ensemble("timm")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"].update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for loader in (SimplexForImageClassification, AutoModelForImageClassification):
        with pytest.raises(ValueError, match=message):
            loader.from_pretrained(tmp_path)


def test_growth_goes_on_from_a_part(hub: LoopbackHub, tmp_path: Path) -> None:
    upload(united("resnet"), tmp_path / "whole")
    part = SimplexForImageClassification.from_pretrained(ID, simplex=0)
    assert part.add_vertex() == 3
    part.draw_members(2, batches=batches())
    assert part(images()).logits.isfinite().all()
