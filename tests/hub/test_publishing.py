"""Publishing is one commit that holds all or nothing, sends what is new, and destroys nothing of anybody's."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny import (
    SIZE,
    Trap,
    backbone,
    batches,
    complete,
    contents,
    ensemble,
    forget_digests,
    images,
    same_tensors,
)
from transformers import ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import write_card
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.decisions import Decisions
from hf_simplex.model.remote_code import write_inference_code

ID = "alice/ensemble"
INDEX = "model.safetensors.index.json"
CODE = {"modeling_simplex.py", "configuration_simplex.py", "pipeline_simplex.py", "subset.py", "weight_space.py"}


def sent(hub: LoopbackHub, mark: int) -> set[str]:
    return {str(upload.path) for upload in hub.uploads(mark)}


def vertices(*numbers: int) -> set[str]:
    return {f"vertex-{number:05d}.safetensors" for number in numbers}


def titles(hub: LoopbackHub, revision: str = "main") -> list[str]:
    return [commit.title for commit in hub.commits(ID, revision)][:-1]


def test_one_commit_holds_everything(hub: LoopbackHub) -> None:
    model = complete("resnet")
    commit = model.push_to_hub(ID, commit_message="First", commit_description="of all", private=True, tags=["digits"])
    assert titles(hub) == ["First"] and hub.commits(ID)[0].description == "of all"
    assert commit.oid == hub.commits(ID)[0].id and hub.repository(ID).private
    files = hub.files(ID)
    weights = {*vertices(0, 1, 2), "members.safetensors", INDEX}
    assert weights | {"config.json", "preprocessor_config.json", "README.md"} | CODE <= files.keys()
    assert {Path(name).suffix for name in files} == {".safetensors", ".json", ".md", ".py", ""}, ".gitattributes"
    card = ModelCard(files["README.md"].decode())
    assert {"simplex", "mode-connectivity", "ensemble", "digits"} <= set(card.data.tags)
    loaded = SimplexForImageClassification.from_pretrained(ID)
    assert same_tensors(loaded, model) and torch.equal(loaded(images()).logits, model(images()).logits)
    assert loaded.image_processor.to_dict() == {**model.image_processor.to_dict(), "transparency": "white"}


def test_what_is_there_already_is_not_sent_again(hub: LoopbackHub) -> None:
    model = complete("resnet")
    model.push_to_hub(ID)
    mark = hub.mark()
    model.push_to_hub(ID)
    assert not sent(hub, mark) and len(titles(hub)) == 1, "nothing changed, so there is nothing to commit"
    model.add_vertex()
    model.draw_members(2, batches=batches())
    model.push_to_hub(ID)
    assert sent(hub, mark) == vertices(3) | {"members.safetensors", "config.json", INDEX, "README.md"}
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), model)


def test_a_smaller_ensemble_takes_the_files_of_a_larger_one_along(hub: LoopbackHub) -> None:
    SimplexForImageClassification.disjoint_union([complete("resnet"), complete("resnet", 5)]).push_to_hub(ID)
    api = HfApi()
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="vertex-notes.txt", repo_id=ID)
    larger = hub.commits(ID)[0].id
    small = SimplexForImageClassification.from_backbone(backbone("vit"))
    small.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    small.push_to_hub(ID, include_code=False)
    assert {name for name in hub.files(ID) if name.endswith(".safetensors")} == vertices(0), "no members' either"
    assert hub.files(ID)["vertex-notes.txt"] == b"mine"
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), small)
    assert len(SimplexForImageClassification.from_pretrained(ID, revision=larger).vertices) == 6


def test_branches_and_pull_requests(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (complete(seed=seed) for seed in (0, 3, 6))
    first.push_to_hub(ID)
    second.push_to_hub(ID, revision="larger", commit_message="On a branch")
    assert titles(hub) == ["Upload ensemble"] and titles(hub, "larger") == ["On a branch", "Upload ensemble"]
    proposed = third.push_to_hub(ID, create_pr=True, token=hub.other_token)
    assert proposed.pr_revision == "refs/pr/1" and len(titles(hub)) == 1
    for model, revision in ((first, "main"), (second, "larger"), (third, "refs/pr/1")):
        assert same_tensors(SimplexForImageClassification.from_pretrained(ID, revision=revision), model)


def test_a_folder_is_published_as_it_is_and_stays_as_it_is(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, Evidence(data_set="digits"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name in ("training_args.bin", "notes.txt", ".hidden.md", "vertex-00007.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    (tmp_path / "vertex-00000").mkdir()
    (tmp_path / "vertex-00000" / "checkpoint.png").touch()
    before = contents(tmp_path)
    publish_folder(tmp_path, ID)
    assert contents(tmp_path) == before
    files = hub.files(ID)
    assert {"picture.png", "README.md", *vertices(0, 1, 2)} <= files.keys()
    assert not {"training_args.bin", "notes.txt", ".hidden.md", "vertex-00007.safetensors"} & files.keys()
    assert "vertex-00000/checkpoint.png" not in files
    card = files["README.md"].decode()
    assert 'from_pretrained("alice/ensemble")' in card and "# ensemble\n" in card and "digits-simplex" not in card
    assert "auto_map" in json.loads(files["config.json"]) and "auto_map" not in json.loads(before["config.json"])


def test_links_are_not_published(hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cloned repository can hold links to the user's files."""
    path = tmp_path / "ensemble"
    complete().save_pretrained(path)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "id.md").write_text("my secret")
    for name in ("notes.md", "README.md", "code.py"):
        (path / name).symlink_to(secret / "id.md")
    (path / "pictures.png").symlink_to(secret)
    publish_folder(path, ID)
    assert not any(b"my secret" in content for content in hub.files(ID).values())
    assert not {"notes.md", "code.py", "pictures.png"} & hub.files(ID).keys()
    assert all(name in caplog.text for name in ("notes.md", "README.md", "code.py", "pictures.png"))
    for name in ("config.json", "vertex-00001.safetensors", INDEX):
        content = (path / name).read_bytes()
        (secret / name).write_bytes(content)
        (path / name).unlink()
        (path / name).symlink_to(secret / name)
        with pytest.raises(ValueError, match=rf"{name} in .* is a link to .*secret"):
            publish_folder(path, "alice/links")
        (path / name).unlink()
        (path / name).write_bytes(content)
    assert "alice/links" not in hub.repositories


def test_a_snapshot_of_the_cache_is_published(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.push_to_hub(ID)
    snapshot = Path(snapshot_download(ID, cache_dir=tmp_path / "cache"))
    assert (snapshot / "vertex-00000.safetensors").is_symlink()
    (tmp_path / "blobs").mkdir()
    for folder in (tmp_path, tmp_path / "blobs"):
        (folder / "secret.md").write_text("my secret")
        (snapshot / f"{folder.name}.md").symlink_to(folder / "secret.md")
    publish_folder(snapshot, "alice/copy")
    copied = hub.files("alice/copy")
    assert same_tensors(SimplexForImageClassification.from_pretrained("alice/copy"), model)
    assert hub.files(ID).keys() == copied.keys() and b"my secret" not in b"".join(copied.values())


def test_a_card_of_version_0_1_0_stays_with_its_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    """Version 0.1.0 wrote the same tensors without digests."""
    model = complete()
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, Evidence(data_set="digits"))
    for file in tmp_path.glob("*.safetensors"):
        save_file(load_file(file), file, metadata={"format": "pt"})
    forget_digests(tmp_path)
    SimplexForImageClassification.from_pretrained(tmp_path).push_to_hub(ID)
    assert "digits" in hub.files(ID)["README.md"].decode()


def test_without_its_code_an_ensemble_does_not_speak_of_it(hub: LoopbackHub) -> None:
    complete().push_to_hub(ID, include_code=False)
    files = hub.files(ID)
    assert not any(name.endswith(".py") for name in files) and "auto_map" not in json.loads(files["config.json"])
    assert "trust_remote_code" not in files["README.md"].decode()


def test_code_that_is_no_longer_wanted_goes(hub: LoopbackHub, tmp_path: Path) -> None:
    complete().save_pretrained(tmp_path)
    write_inference_code(tmp_path)
    (tmp_path / "mine.py").write_text("print()\n")
    publish_folder(tmp_path, ID)
    assert hub.files(ID).keys() >= CODE | {"mine.py"}
    publish_folder(tmp_path, ID, include_code=False)
    files = hub.files(ID)
    assert {name for name in files if name.endswith(".py")} == {"mine.py"}
    assert not {"auto_map", "custom_pipelines"} & json.loads(files["config.json"]).keys()
    HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="members.py", repo_id=ID)
    publish_folder(tmp_path, ID, include_code=False)
    assert hub.files(ID)["members.py"] == b"theirs", "no config.json says that it is of the ensemble"


def test_a_loaded_ensemble_keeps_its_card_while_it_is_the_same(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, Evidence(data_set="digits", hardware="Hardware: an abacus."), repository="bob/other")
    folder = SimplexForImageClassification.from_pretrained(tmp_path)
    folder.push_to_hub(ID)
    card = hub.files(ID)["README.md"].decode()
    assert "trained on `digits`" in card and "bob/other" not in card
    SimplexForImageClassification.from_pretrained(ID).push_to_hub("alice/copy")
    copied = hub.files("alice/copy")["README.md"].decode()
    assert "trained on `digits`" in copied and '"alice/copy"' in copied and "alice/ensemble" not in copied
    folder.add_vertex()
    folder.draw_members(2)
    folder.push_to_hub(ID)
    assert "digits" not in hub.files(ID)["README.md"].decode(), "what was known is of another ensemble"


def test_other_weights_do_not_keep_the_card(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, Evidence(data_set="digits"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in loaded.vertices[1].parameters():
            parameter.add_(0.1)
    loaded.push_to_hub(ID)
    assert "digits" not in hub.files(ID)["README.md"].decode(), "what was known is of other weights"


def test_other_decisions_do_not_keep_the_card(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.decisions = Decisions(temperature=2.0)
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, Evidence(data_set="digits"))
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    loaded.push_to_hub(ID)
    assert "trained on `digits`" in hub.files(ID)["README.md"].decode()
    loaded.decisions = Decisions(temperature=3.0)
    loaded.push_to_hub(ID)
    card = hub.files(ID)["README.md"].decode()
    assert "temperature is 3" in card and "temperature is 2" not in card


def test_the_card_is_that_of_the_revision_that_was_loaded(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    for name in ("first", "second"):
        write_card(model, tmp_path, Evidence(data_set=name))
        publish_folder(tmp_path, ID)
    first = hub.commits(ID)[1].id
    SimplexForImageClassification.from_pretrained(ID, revision=first).push_to_hub("alice/copy")
    card = hub.files("alice/copy")["README.md"].decode()
    assert "trained on `first`" in card and "trained on `second`" not in card


def test_what_somebody_wrote_on_the_hub_stays(hub: LoopbackHub) -> None:
    model = complete()
    model.push_to_hub(ID)
    card = hub.files(ID)["README.md"].decode()
    edited = card.replace("# ensemble\n", "# My digits\n\nRead this first.\n", 1) + "\n## Thanks\n\nto all.\n"
    edited = edited.replace("tags:\n", "license: mit\nlanguage: en\ntags:\n- mine\n", 1)
    HfApi().upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=ID)
    model.add_vertex()
    model.draw_members(5)
    model.push_to_hub(ID)
    again = ModelCard(hub.files(ID)["README.md"].decode())
    assert again.text.startswith("\n# My digits\n\nRead this first.\n") and "## Thanks\n\nto all." in again.text
    assert "5 members" in again.text and "3 members" not in again.text and again.text.count("## Structure") == 1
    assert again.data.license == "mit" and again.data.language == "en"
    assert {"mine", "simplex"} <= set(again.data.tags)


def test_the_examples_of_a_card_name_the_account(hub: LoopbackHub) -> None:
    complete().push_to_hub("ensemble")
    card = hub.files(ID)["README.md"].decode()
    assert 'from_pretrained("alice/ensemble")' in card and '"ensemble"' not in card


def test_text_on_the_hub_stays_beside_a_folder_with_text(hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    file = write_card(model, tmp_path)
    file.write_text(file.read_text() + "\n## Mine\n")
    publish_folder(tmp_path, ID)
    card = hub.files(ID)["README.md"].decode()
    HfApi().upload_file(path_or_fileobj=f"{card}\nTheirs.\n".encode(), path_in_repo="README.md", repo_id=ID)
    publish_folder(tmp_path, ID)
    again = hub.files(ID)["README.md"].decode()
    assert "## Mine" in again and "Theirs." in again
    file.write_text(file.read_text() + "\nTheirs.\n\nAnd more of mine.\n")
    publish_folder(tmp_path, ID)
    assert "And more of mine." in hub.files(ID)["README.md"].decode()


# ---- refusals: nothing is published, nothing local is lost -------------------------------------------------------


def test_an_interrupted_upload_publishes_nothing_and_goes_on_where_it_was(hub: LoopbackHub) -> None:
    model = complete("resnet")
    model.push_to_hub(ID)
    published = hub.files(ID)
    changed = complete("resnet", seed=3)
    hub.interrupt_uploads(after_objects=1)
    mark = hub.mark()
    with pytest.raises(OSError, match="Nothing was published to alice/ensemble"):
        changed.push_to_hub(ID)
    assert hub.files(ID) == published and same_tensors(SimplexForImageClassification.from_pretrained(ID), model)
    arrived = hub.uploads(mark)
    assert arrived, "some objects were on the Hub before the connection was cut"
    hub.end_faults()
    mark = hub.mark()
    changed.push_to_hub(ID)
    assert not {upload.oid for upload in arrived} & {upload.oid for upload in hub.uploads(mark)}
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), changed)


def test_a_hub_out_of_reach_is_one_oserror(hub: LoopbackHub) -> None:
    hub.close()
    with pytest.raises(OSError, match="Nothing was published to alice/ensemble"):
        complete().push_to_hub(ID)


def test_a_commit_that_fails_publishes_nothing(hub: LoopbackHub) -> None:
    hub.fail_next_commit()
    with pytest.raises(OSError, match=r"Nothing was published.*Try again"):
        complete().push_to_hub(ID)
    assert not titles(hub)


def test_a_commit_that_fails_leaves_no_branch_and_names_an_empty_repository(hub: LoopbackHub) -> None:
    hub.fail_next_commit()
    with pytest.raises(OSError, match=r"Nothing was published.*The repository alice/ensemble exists and is empty"):
        complete().push_to_hub(ID, revision="larger")
    assert set(hub.repository(ID).heads) == {"refs/heads/main"}


def test_a_public_repository_that_was_to_be_private_is_named(
    hub: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    model = complete()
    model.push_to_hub(ID, private=False)
    assert "public" not in caplog.text
    model.push_to_hub(ID, private=True)
    assert "alice/ensemble exists and is public" in caplog.text and not hub.repository(ID).private
    model.push_to_hub("alice/secret", private=True)
    assert "alice/secret" not in caplog.text


def test_somebody_elses_commit_meanwhile_is_not_undone(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    complete().push_to_hub(ID)
    create_commit = HfApi.create_commit

    def commit_first(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(HfApi, "create_commit", create_commit)
        self.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id=ID, commit_message="Theirs")
        return create_commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", commit_first)
    with pytest.raises(OSError, match=r"Nothing was published.*Publish again"):
        complete(seed=3).push_to_hub(ID)
    assert titles(hub) == ["Theirs", "Upload ensemble"]


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, ID, "hf auth login"),
        ("hf_of_nobody", ID, "hf auth login"),
        (LoopbackHub.read_token, ID, "may write"),
        (LoopbackHub.other_token, ID, "may write"),
    ],
    ids=["no token", "wrong token", "token that may only read", "token of somebody else"],
)
def test_who_may_not_write_is_told_so(
    token: str | None, repo_id: str, message: str, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match=rf"Nothing was published to {repo_id}.*{message}"):
        complete().push_to_hub(repo_id, token=token)
    assert not hub.repositories and not hub.uploads()


def test_revisions_that_cannot_be_made_are_named(hub: LoopbackHub) -> None:
    model = complete()
    model.push_to_hub(ID)
    with pytest.raises(OSError, match=r"Nothing was published.*refs/pr/7"):
        model.push_to_hub(ID, revision="refs/pr/7")


def invalid_yaml(card: str) -> str:
    return card.replace("pipeline_tag: image-classification", "pipeline_tag: [image", 1)


def invalid_license(card: str) -> str:
    return card.replace("tags:\n", "license: my-own\ntags:\n", 1)


def invalid_results(card: str) -> str:
    return card.replace("tags:\n", "model-index:\n- name: x\n  results:\n  - task: {}\ntags:\n", 1)


@pytest.mark.parametrize("spoil", [invalid_yaml, invalid_license, invalid_results])
def test_a_card_with_invalid_metadata_is_named(spoil: Callable[[str], str], hub: LoopbackHub, tmp_path: Path) -> None:
    model = complete()
    model.save_pretrained(tmp_path)
    file = write_card(model, tmp_path)
    file.write_text(spoil(file.read_text()))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"metadata .*{file}"):
        publish_folder(tmp_path, ID)
    assert contents(tmp_path) == before and not hub.repositories and not hub.uploads()


def test_a_repository_of_another_model_is_left_alone(hub: LoopbackHub) -> None:
    backbone("vit").push_to_hub(ID)
    before = hub.files(ID)
    for revision in (None, "new"):
        with pytest.raises(ValueError, match=r"alice/ensemble holds another model \(model_type 'vit'\)"):
            complete().push_to_hub(ID, revision=revision)
    assert hub.files(ID) == before and set(hub.repository(ID).heads) == {"refs/heads/main"}


def test_a_folder_that_is_not_whole_is_not_published(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        publish_folder(tmp_path / "nothing", ID)
    with pytest.raises(FileNotFoundError, match="not an ensemble"):
        publish_folder(tmp_path, ID)
    complete().save_pretrained(tmp_path)
    data = (tmp_path / "vertex-00001.safetensors").read_bytes()
    (tmp_path / "vertex-00001.safetensors").write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"vertex-00001.*not a whole"):
        publish_folder(tmp_path, ID)
    assert not hub.requests()


@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
def test_weights_that_do_not_fit_the_configuration_are_not_published(
    kind: str, hub: LoopbackHub, tmp_path: Path
) -> None:
    ensemble(kind).save_pretrained(tmp_path)
    write_card(ensemble(kind), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["members"], config["roles"], config["simplexes"] = [], ["mode"], [[0]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        publish_folder(tmp_path, ID)
    assert not hub.requests()
    ensemble(kind).save_pretrained(tmp_path)
    publish_folder(tmp_path, ID)
    assert titles(hub) == ["Upload ensemble"]


def test_a_broken_card_on_the_hub_is_named_by_its_repository(hub: LoopbackHub) -> None:
    model = complete()
    model.push_to_hub(ID)
    broken = invalid_results(hub.files(ID)["README.md"].decode())
    # The Hub takes no such card any more, but has old ones.
    hub.repository(ID).commit("refs/heads/main", "Old", "", "alice", {"README.md": broken.encode()}, {})
    for pushed in (model, SimplexForImageClassification.from_pretrained(ID)):
        with pytest.raises(ValueError, match=r"README\.md in alice/ensemble cannot be read"):
            pushed.push_to_hub(ID)
