"""The loopback Hub answers the real clients, `huggingface_hub` and transformers, as the Hub does."""

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_fixtures import hub as hub  # the fixture, for when no conftest brings it
from hub_fixtures import lead_clients_to
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import get_session
from loopback_hub import LoopbackHub
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

REPO = "alice/volume"
WEIGHTS = {f"vertex-{i:05d}.safetensors": bytes([i]) * 50_000 for i in range(3)}


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """The client, with an empty repo `REPO` on the Hub."""
    api = HfApi()
    api.create_repo(REPO)
    return api


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def push(api: HfApi, files: dict[str, bytes], **options: Any) -> str:
    """Commit files to `REPO`; returns the commit id."""
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(REPO, operations, commit_message="Upload", **options).oid


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


# Repos


def test_a_repo_is_created_once_and_its_url_is_told_twice(hub: LoopbackHub) -> None:
    url = huggingface_hub.create_repo(REPO)
    assert str(url) == f"{hub.endpoint}/{REPO}"
    assert url.repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="already created") as error:
        huggingface_hub.create_repo(REPO)
    assert status_of(error) == 409
    assert huggingface_hub.create_repo(REPO, exist_ok=True) == url


def test_a_name_without_a_namespace_is_in_the_users_own(hub: LoopbackHub) -> None:
    assert huggingface_hub.create_repo("volume").repo_id == REPO
    assert huggingface_hub.create_repo("acme/volume").repo_id == "acme/volume"
    with pytest.raises(HfHubHTTPError, match="Forbidden") as error:
        huggingface_hub.create_repo("bob/volume")
    assert status_of(error) == 403


def test_a_deleted_repo_is_gone(api: HfApi) -> None:
    assert api.repo_exists(REPO)
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_a_new_repo_holds_the_hubs_initial_commit(hub: LoopbackHub, api: HfApi) -> None:
    (commit,) = api.list_repo_commits(REPO)
    assert commit.title == "initial commit"
    assert api.list_repo_files(REPO) == [".gitattributes"]
    assert hub.commits(REPO)[0].id == commit.commit_id


def test_who_am_i(hub: LoopbackHub) -> None:
    account = HfApi().whoami()
    assert account["name"] == "alice"
    assert [organization["name"] for organization in account["orgs"]] == ["acme"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami(token="hf_nobody")


def test_branches_and_tags_come_and_go(api: HfApi) -> None:
    first = push(api, {"config.json": b"1"})
    second = push(api, {"config.json": b"2"})
    api.create_branch(REPO, branch="grow/two", revision=first)
    api.create_tag(REPO, tag="v1.0")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(REPO, branch="grow/two")
    assert status_of(error) == 409
    api.create_branch(REPO, branch="grow/two", exist_ok=True)

    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "grow/two": first}
    assert {ref.ref: ref.target_commit for ref in refs.tags} == {"refs/tags/v1.0": second}

    api.delete_branch(REPO, branch="grow/two")
    api.delete_tag(REPO, tag="v1.0")
    refs = api.list_repo_refs(REPO)
    assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1.0")
    with pytest.raises(HfHubHTTPError, match="main"):
        api.delete_branch(REPO, branch="main")


# Uploads


def test_weights_go_to_lfs_and_text_into_the_commit(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    files = {"vertex-00000.safetensors": b"weights", "config.json": b"{}", "pictures/surface.png": b"\x89PNG\0"}
    mark = hub.mark()
    commit = api.upload_folder(repo_id=REPO, folder_path=write(tmp_path / "out", files), commit_message="Grow")

    assert {upload.path: upload.storage for upload in hub.uploads(mark)} == {
        "vertex-00000.safetensors": "lfs",
        "pictures/surface.png": "lfs",  # binary, though no pattern names it
        "config.json": "regular",
    }
    newest, initial = hub.commits(REPO)
    assert (newest.id, newest.title, newest.author) == (commit.oid, "Grow", "alice")
    assert newest.parent == initial.id
    assert newest.changed == set(files)
    assert {path: data for path, data in hub.files(REPO).items() if path != ".gitattributes"} == files


def test_a_second_push_transfers_only_the_new_vertex_and_what_changed(
    hub: LoopbackHub, api: HfApi, tmp_path: Path
) -> None:
    folder = write(tmp_path / "out", {**WEIGHTS, "config.json": b"3 vertices", "members.safetensors": b"members"})
    api.upload_folder(repo_id=REPO, folder_path=folder)
    write(folder, {"vertex-00003.safetensors": b"new" * 9, "config.json": b"4 vertices"})

    mark = hub.mark()
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert {upload.path for upload in hub.uploads(mark)} == {"vertex-00003.safetensors", "config.json"}
    assert hub.commits(REPO)[0].changed == {"vertex-00003.safetensors", "config.json"}


def test_a_push_of_nothing_new_makes_no_commit(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    folder = write(tmp_path / "out", {**WEIGHTS, "config.json": b"{}"})
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    mark = hub.mark()
    second = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert second.oid == first.oid
    assert hub.uploads(mark) == []
    assert len(hub.commits(REPO)) == 2


def test_an_upload_that_is_cut_once_is_tried_again(hub: LoopbackHub, api: HfApi) -> None:
    hub.interrupt_uploads(after_bytes=20_000)
    push(api, WEIGHTS)
    puts = [request.status for request in hub.requests() if request.method == "PUT"]
    assert sorted(puts) == [0, 200, 200, 200]
    assert WEIGHTS.items() <= hub.files(REPO).items()


@pytest.mark.parametrize("after_bytes", [0, 20_000, 50_000])
def test_a_push_that_is_given_up_leaves_the_repo_as_it_was(hub: LoopbackHub, api: HfApi, after_bytes: int) -> None:
    before = hub.files(REPO)
    hub.interrupt_uploads(after_bytes, after_objects=2, attempts=None)
    with pytest.raises(RuntimeError, match="Error while uploading 'vertex-"):
        push(api, WEIGHTS)
    assert hub.files(REPO) == before
    assert [upload.path for upload in hub.uploads()] == [None, None]  # in no commit

    hub.end_faults()
    mark = hub.mark()
    push(api, WEIGHTS)
    (upload,) = hub.uploads(mark)
    assert {upload.path for upload in hub.uploads()} == set(WEIGHTS)
    assert upload.size == 50_000
    assert WEIGHTS.items() <= hub.files(REPO).items()


def test_a_commit_that_fails_costs_no_second_upload(hub: LoopbackHub, api: HfApi) -> None:
    hub.fail_next_commit(503, "the Hub is busy")
    with pytest.raises(HfHubHTTPError, match="the Hub is busy"):
        push(api, {**WEIGHTS, "config.json": b"{}"})
    assert len(hub.commits(REPO)) == 1

    mark = hub.mark()
    push(api, {**WEIGHTS, "config.json": b"{}"})
    assert [upload.path for upload in hub.uploads(mark)] == ["config.json"]


def test_a_commit_names_the_parent_that_it_expects(api: HfApi) -> None:
    first = push(api, {"config.json": b"1"})
    second = push(api, {"config.json": b"2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        push(api, {"config.json": b"3"}, parent_commit=first)
    assert status_of(error) == 412
    assert push(api, {"config.json": b"3"}, parent_commit=second) != second


def test_files_are_deleted_and_copied_within_a_commit(hub: LoopbackHub, api: HfApi) -> None:
    push(api, {"a.safetensors": b"weights", "a.json": b"{}", "old/b.json": b"1", "old/c/d.json": b"2"})
    mark = hub.mark()
    operations: list[CommitOperationDelete | CommitOperationCopy] = [
        CommitOperationDelete("old/"),
        CommitOperationDelete("a.json"),
        CommitOperationCopy("a.safetensors", "copy.safetensors"),
    ]
    api.create_commit(REPO, operations, commit_message="Tidy")
    assert set(hub.files(REPO)) == {".gitattributes", "a.safetensors", "copy.safetensors"}
    assert hub.uploads(mark) == []
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("missing.json", REPO)


def test_a_commit_cannot_name_an_object_that_was_never_uploaded(hub: LoopbackHub, api: HfApi) -> None:
    operation = CommitOperationAdd("a.safetensors", b"weights")
    operation._is_uploaded, operation._upload_mode = True, "lfs"
    with pytest.raises(BadRequestError, match="never uploaded"):
        api.create_commit(REPO, [operation], commit_message="Lie")
    assert len(hub.commits(REPO)) == 1


def test_an_upload_that_arrives_damaged_is_not_kept(hub: LoopbackHub, api: HfApi) -> None:
    operation = CommitOperationAdd("a.safetensors", b"weights")
    operation.path_or_fileobj = b"damaged"
    with pytest.raises(RuntimeError, match="Error while uploading") as error:
        api.create_commit(REPO, [operation], commit_message="Upload")
    assert "the content has the sha256" in str(error.value.__cause__)
    assert hub.uploads() == []
    assert hub.repository(REPO).objects == {}


def test_ignored_files_stay_here(hub: LoopbackHub, api: HfApi) -> None:
    push(api, {".gitignore": b"# local\n*.tmp\nruns/\n", "a.tmp": b"1", "runs/b.json": b"2", "config.json": b"3"})
    push(api, {"c.tmp": b"4", "d.json": b"5"})
    assert set(hub.files(REPO)) == {".gitattributes", ".gitignore", "config.json", "d.json"}


def test_a_pull_request_leaves_the_main_branch_alone(
    hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = push(api, {"config.json": b"main"})
    monkeypatch.setenv("HF_TOKEN", hub.other_token)  # who may read may propose
    operation = CommitOperationAdd("config.json", b"proposed")
    commit = api.create_commit(REPO, [operation], commit_message="Better", create_pr=True)
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert commit.pr_url == f"{hub.endpoint}/{REPO}/discussions/1"
    with pytest.raises(HfHubHTTPError, match="Forbidden"):
        push(api, {"config.json": b"imposed"})

    assert api.repo_info(REPO).sha == main
    assert Path(hf_hub_download(REPO, "config.json", revision="refs/pr/1")).read_bytes() == b"proposed"
    (discussion,) = api.get_repo_discussions(REPO)
    assert (discussion.title, discussion.author, discussion.git_reference) == ("Better", "bob", "refs/pr/1")
    (pull_request,) = api.list_repo_refs(REPO, include_pull_requests=True).pull_requests or []
    assert pull_request.target_commit == commit.oid


def test_a_commit_goes_to_the_branch_that_it_names(hub: LoopbackHub, api: HfApi) -> None:
    api.create_branch(REPO, branch="grow")
    push(api, {"config.json": b"{}"}, revision="grow")
    assert "config.json" in hub.files(REPO, "grow")
    assert "config.json" not in hub.files(REPO)
    with pytest.raises(RevisionNotFoundError):
        push(api, {"config.json": b"{}"}, revision="missing")


# Cards

CARD = ModelCardData(
    license="apache-2.0",
    tags=["simplex"],
    datasets=["cifar100"],
    library_name="transformers",
    pipeline_tag="image-classification",
    model_name="volume",
    eval_results=[
        EvalResult("image-classification", "cifar100", "CIFAR-100", "accuracy", 0.81, metric_name="Accuracy"),
    ],
)


def test_a_card_with_results_is_accepted_and_read_back(api: HfApi) -> None:
    card = ModelCard(f"---\n{CARD.to_yaml()}\n---\n# Volume\n")
    card.validate()
    card.push_to_hub(REPO)
    assert ModelCard.load(REPO).data.to_dict() == CARD.to_dict()

    info = api.model_info(REPO)
    assert info.pipeline_tag == "image-classification"
    assert info.tags == ["simplex"]
    assert info.card_data is not None
    assert info.card_data.eval_results == CARD.eval_results
    assert info.model_index == CARD.to_dict()["model-index"]


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("license: [", "not valid YAML"),
        ("just text", "must be a mapping"),
        ("license: my-own", '"license" must be one of'),
        ("datasets: [null]", '"datasets" must be a string or a list of strings'),
        ("pipeline_tag: 3", '"pipeline_tag" must be a string'),
        ("model-index: accuracy", r"model-index\" is required and must be a list"),
        ("model-index: [{name: v}]", r"model-index\[0\].results"),
        ("model-index: [{results: [{}]}]", r"model-index\[0\].name"),
        ("model-index: [{name: v, results: [{dataset: {type: d, name: d}}]}]", r"results\[0\].task"),
        ("model-index: [{name: v, results: [{task: {type: t}, dataset: {type: d}}]}]", r"results\[0\].dataset.name"),
        ("model-index: [{name: v, results: [{metrics: [{type: accuracy}]}]}]", r"metrics\[0\].value"),
    ],
)
def test_a_wrong_card_is_refused_before_anything_is_uploaded(
    hub: LoopbackHub, api: HfApi, metadata: str, complaint: str
) -> None:
    card = f"---\n{metadata}\n---\n# Volume\n"
    with pytest.raises(ValueError, match=complaint):
        push(api, {"README.md": card.encode(), **WEIGHTS})
    assert hub.uploads() == []

    # Also where a client commits it without asking first.
    content = {"content": base64.b64encode(card.encode()).decode(), "path": "README.md", "encoding": "base64"}
    lines = [{"key": "header", "value": {"summary": "Card"}}, {"key": "file", "value": content}]
    response = get_session().post(
        f"{hub.endpoint}/api/models/{REPO}/commit/main",
        content=b"\n".join(json.dumps(line).encode() for line in lines),
        headers={"Authorization": f"Bearer {hub.token}"},
    )
    assert response.status_code == 400
    assert len(hub.commits(REPO)) == 1


@pytest.mark.parametrize(
    ("card", "warning"),
    [
        (b"# No metadata", "empty or missing yaml metadata"),
        (b"---\npipeline_tag: simplex\n---\n", "not in the official list"),
    ],
)
def test_a_doubtful_card_is_accepted_with_a_warning(hub: LoopbackHub, api: HfApi, card: bytes, warning: str) -> None:
    with pytest.warns(UserWarning, match=warning):
        push(api, {"README.md": card})
    assert hub.files(REPO)["README.md"] == card


# What is in a revision


def test_model_info_tells_commit_files_and_sizes(api: HfApi) -> None:
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 3}
    commit = push(api, {"config.json": json.dumps(config).encode(), "a.safetensors": b"weights"})
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.author, info.sha, info.private) == (REPO, "alice", commit, False)
    assert (info.pipeline_tag, info.library_name) == ("image-classification", "transformers")
    assert info.config == {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert siblings["a.safetensors"].size == 7
    assert siblings["a.safetensors"].lfs is not None
    assert siblings["config.json"].lfs is None
    first = api.list_repo_commits(REPO)[-1].commit_id
    assert [sibling.rfilename for sibling in api.model_info(REPO, revision=first).siblings or []] == [".gitattributes"]


def test_a_tree_lists_files_and_folders(api: HfApi) -> None:
    push(api, {"a.safetensors": b"weights", "pictures/surface.svg": b"<svg/>"})
    last = push(api, {"pictures/rings/moons.svg": b"<svg>moons</svg>"})
    top = {entry.path: entry for entry in api.list_repo_tree(REPO)}
    assert set(top) == {".gitattributes", "a.safetensors", "pictures"}
    weights = top["a.safetensors"]
    assert isinstance(weights, RepoFile)
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.size) == (7, 7)
    assert isinstance(top["pictures"], RepoFolder)

    below = [entry.path for entry in api.list_repo_tree(REPO, "pictures", recursive=True)]
    assert below == ["pictures/rings", "pictures/rings/moons.svg", "pictures/surface.svg"]
    expanded = {entry.path: entry for entry in api.list_repo_tree(REPO, expand=True)}
    commit = expanded["pictures"].last_commit
    assert commit is not None
    assert commit["oid"] == last
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "missing"))


def test_a_long_tree_comes_in_pages(hub: LoopbackHub, api: HfApi) -> None:
    files = {f"{i:02d}.json": b"{}" for i in range(7)}
    push(api, files)
    hub.tree_page_size = 3
    mark = hub.mark()
    assert api.list_repo_files(REPO) == [".gitattributes", *files]
    assert len(hub.requests(mark)) == 3


def test_paths_info_skips_what_is_missing(api: HfApi) -> None:
    push(api, {"a.safetensors": b"weights", "pictures/surface.svg": b"<svg/>"})
    entries = api.get_paths_info(REPO, ["a.safetensors", "pictures", "missing.json"], expand=True)
    assert [entry.path for entry in entries] == ["a.safetensors", "pictures"]
    assert all(entry.last_commit is not None for entry in entries)


# Downloads


def test_a_large_file_is_announced_here_and_fetched_from_the_other_host(hub: LoopbackHub, api: HfApi) -> None:
    commit = push(api, {"a.safetensors": b"weights"})
    metadata = get_hf_file_metadata(hf_hub_url(REPO, "a.safetensors"))
    oid = hub.repository(REPO).resolve("main").files["a.safetensors"].sha256
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit, oid, 7)
    assert metadata.location.startswith(hub.storage_endpoint)
    assert get_session().get(metadata.location).content == b"weights"

    with_token = get_session().get(metadata.location, headers={"Authorization": f"Bearer {hub.token}"})
    assert with_token.status_code == 400
    unsigned = get_session().get(metadata.location.replace("signature=", "signature=0"))
    assert unsigned.status_code == 403


def test_a_small_file_is_behind_a_redirect_within_the_host(hub: LoopbackHub, api: HfApi) -> None:
    commit = push(api, {"config.json": b"{}"})
    metadata = get_hf_file_metadata(hf_hub_url(REPO, "config.json"))
    blob = hub.repository(REPO).resolve("main").files["config.json"]
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit, blob.git_oid, 2)
    assert metadata.location.startswith(f"{hub.endpoint}/api/resolve-cache/")


@pytest.mark.parametrize("name", ["main", "grow", "v1", "refs/pr/1", "commit", "short"])
def test_a_file_is_found_at_every_kind_of_revision(hub: LoopbackHub, api: HfApi, name: str) -> None:
    commits = {"first": push(api, {"a.safetensors": b"first", "config.json": b"first"})}
    api.create_tag(REPO, tag="v1")
    for revision in ("main", "grow"):
        if revision != "main":
            api.create_branch(REPO, branch=revision)
        data = revision.encode()
        commits[revision] = push(api, {"a.safetensors": data, "config.json": data}, revision=revision)
    proposed = {"a.safetensors": b"proposed", "config.json": b"proposed"}
    commits["proposed"] = push(api, proposed, create_pr=True)

    content = {"v1": "first", "refs/pr/1": "proposed", "commit": "first", "short": "first"}.get(name, name)
    revision = {"commit": commits["first"], "short": commits["first"][:7]}.get(name, name)
    for path in ("a.safetensors", "config.json"):
        mark = hub.mark()
        assert Path(hf_hub_download(REPO, path, revision=revision)).read_bytes() == content.encode()
        (download,) = hub.downloads(mark)
        assert (download.path, download.revision, download.commit) == (path, revision, commits[content])


def test_only_the_files_that_are_asked_for_are_downloaded(hub: LoopbackHub, api: HfApi) -> None:
    push(api, {**WEIGHTS, "config.json": b"{}"})
    mark = hub.mark()
    snapshot_download(REPO, allow_patterns=["config.json", "vertex-00001.*"])
    assert {download.path for download in hub.downloads(mark)} == {"config.json", "vertex-00001.safetensors"}

    mark = hub.mark()
    snapshot_download(REPO, allow_patterns=["*.safetensors"])
    assert {download.path for download in hub.downloads(mark)} == set(WEIGHTS) - {"vertex-00001.safetensors"}

    push(api, {"vertex-00002.safetensors": b"grown", "config.json": b"{'grown': 1}"})
    mark = hub.mark()
    folder = Path(snapshot_download(REPO, allow_patterns=["*.safetensors"]))
    assert {download.path for download in hub.downloads(mark)} == {"vertex-00002.safetensors"}
    assert (folder / "vertex-00002.safetensors").read_bytes() == b"grown"


def test_a_download_that_is_cut_goes_on_where_it_stopped(
    hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what the client keeps of a cut transfer
    weights = bytes(range(256)) * 400
    push(api, {"a.safetensors": weights})
    hub.interrupt_downloads(after_bytes=30_000)
    assert Path(hf_hub_download(REPO, "a.safetensors")).read_bytes() == weights
    (download,) = hub.downloads()
    assert (download.first_byte, download.num_bytes) == (30_000, len(weights) - 30_000)


@pytest.mark.parametrize(
    ("requested", "status", "data"),
    [("0-3", 206, b"0123"), ("7-", 206, b"789"), ("-2", 206, b"89"), ("8-99", 206, b"89"), ("10-", 416, None)],
)
@pytest.mark.parametrize("path", ["digits.safetensors", "digits.txt"])
def test_ranges_of_a_file_can_be_read(
    hub: LoopbackHub, api: HfApi, path: str, requested: str, status: int, data: bytes | None
) -> None:
    push(api, {path: b"0123456789"})
    response = get_session().get(hf_hub_url(REPO, path), headers={"Range": f"bytes={requested}"})
    assert response.status_code == status
    assert data is None or response.content == data


def test_datasets_have_a_room_of_their_own(hub: LoopbackHub, api: HfApi) -> None:
    api.create_repo(REPO, repo_type="dataset")
    operations = [
        CommitOperationAdd("train.parquet", b"rows"),
        CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n"),
    ]
    api.create_commit(REPO, operations, commit_message="Rows", repo_type="dataset")
    assert api.dataset_info(REPO).card_data is not None
    assert Path(hf_hub_download(REPO, "train.parquet", repo_type="dataset")).read_bytes() == b"rows"
    assert "train.parquet" in hub.files(REPO, repo_type="dataset")
    assert "train.parquet" not in hub.files(REPO)


# Who may do what


def missing_repo(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download("alice/missing", "config.json")


def repo_without_namespace(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download("missing", "config.json")


def missing_revision(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download(REPO, ".gitattributes", revision="missing")


def missing_file(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download(REPO, "config.json")


def gated_repo(hub: LoopbackHub, api: HfApi) -> None:
    api.update_repo_settings(REPO, gated="manual")
    hf_hub_download(REPO, ".gitattributes", token=hub.other_token)


def gated_weights_without_token(hub: LoopbackHub, api: HfApi) -> None:
    push(api, WEIGHTS)
    api.update_repo_settings(REPO, gated="auto")
    assert api.model_info(REPO, token=False).gated == "auto"  # what the repo is, everybody may know
    hf_hub_download(REPO, "vertex-00000.safetensors", token=False)


@pytest.mark.parametrize(
    ("ask", "error", "status"),
    [
        (missing_repo, RepositoryNotFoundError, 404),
        (repo_without_namespace, RepositoryNotFoundError, 404),
        (missing_revision, RevisionNotFoundError, 404),
        (missing_file, RemoteEntryNotFoundError, 404),
        (gated_repo, GatedRepoError, 403),
        (gated_weights_without_token, GatedRepoError, 401),
    ],
)
def test_each_refusal_is_told_from_the_others(
    hub: LoopbackHub, api: HfApi, ask: Callable[[LoopbackHub, HfApi], None], error: type[HfHubHTTPError], status: int
) -> None:
    with pytest.raises(error) as refusal:
        ask(hub, api)
    assert type(refusal.value) is error
    assert status_of(refusal) == status


def test_clients_remember_that_a_file_does_not_exist(hub: LoopbackHub, api: HfApi) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "config.json")
    commit = hub.commits(REPO)[0].id
    assert huggingface_hub.try_to_load_from_cache(REPO, "config.json", revision=commit) is not None
    assert not api.file_exists(REPO, "config.json")


def test_a_private_repo_looks_like_none_to_everyone_else(
    hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create_repo("alice/secret", private=True)
    assert api.repo_info("alice/secret").private
    assert hf_hub_download("alice/secret", ".gitattributes", token=hub.read_token)

    def refusal(repo_id: str) -> tuple[int, str | None]:
        with pytest.raises(RepositoryNotFoundError) as error:
            api.repo_info(repo_id)
        return status_of(error), error.value.server_message

    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    assert refusal("alice/secret") == refusal("alice/missing") == (404, "Repository not found")
    monkeypatch.delenv("HF_TOKEN")
    assert refusal("alice/secret") == refusal("alice/missing") == (401, "Invalid username or password.")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("alice/secret", "config.json")
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/secret")


def test_a_private_repo_can_be_made_public(hub: LoopbackHub, api: HfApi) -> None:
    api.create_repo("acme/secret", private=True)
    assert not HfApi(token=hub.other_token).repo_exists("acme/secret")
    api.update_repo_settings("acme/secret", private=False)
    assert HfApi(token=hub.other_token).repo_exists("acme/secret")
    api.auth_check("acme/secret")


def test_a_token_that_may_only_read_cannot_write(hub: LoopbackHub, api: HfApi) -> None:
    reader = HfApi(token=hub.read_token)
    assert reader.repo_info(REPO).id == REPO
    for write_something in (
        lambda: reader.create_repo("alice/other"),
        lambda: push(reader, {"config.json": b"{}"}),
        lambda: reader.create_tag(REPO, tag="v1"),
        lambda: reader.delete_repo(REPO),
    ):
        with pytest.raises(HfHubHTTPError, match="Forbidden") as error:
            write_something()
        assert status_of(error) == 403


def test_an_unknown_token_is_worse_than_none(hub: LoopbackHub, api: HfApi) -> None:
    assert api.model_info(REPO, token=False).id == REPO
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        api.model_info(REPO, token="hf_nobody")
    assert status_of(error) == 401


# The Hub itself


def test_an_endpoint_that_the_hub_lacks_is_reported(hub: LoopbackHub, api: HfApi) -> None:
    for url, hint in (
        (f"{hub.endpoint}/api/trending", ""),
        (f"{hub.endpoint}/api/models/{REPO}/xet-write-token/main", "XET=1"),
    ):
        response = get_session().get(url)
        assert response.status_code == 501
        assert hint in hub.failures.pop()
    # The storage is on the other host only, and nothing else is there.
    for url in (f"{hub.storage_endpoint}/api/models/{REPO}", f"{hub.endpoint}/storage/models/{REPO}/{'0' * 64}"):
        assert get_session().get(url).status_code == 501
        hub.failures.pop()


def test_clients_cannot_leave_the_machine(hub: LoopbackHub) -> None:
    with pytest.raises(RuntimeError, match="must not leave the machine"):
        get_session().get("https://huggingface.co/api/models")


def test_clients_are_led_back_when_a_test_ends(tmp_path: Path) -> None:
    def state() -> list[object]:
        shared = huggingface_hub.hf_api.api.endpoint, huggingface_hub.utils._http._HUB_ORIGINS
        values = {name: value for name, value in vars(constants).items() if isinstance(value, (str, bool))}
        return [shared, values, hf_hub_url(REPO, "config.json")]

    before = state()
    with LoopbackHub(tmp_path) as hub, pytest.MonkeyPatch.context() as monkeypatch:
        lead_clients_to(hub, monkeypatch)
        assert hf_hub_url(REPO, "config.json").startswith(hub.endpoint)
        assert str(tmp_path) in constants.HF_HUB_CACHE
        assert state() != before
    assert state() == before


def test_a_closed_hub_leaves_no_thread_and_no_socket(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with LoopbackHub(tmp_path) as hub, pytest.raises(urllib.error.HTTPError, match="401"):
        direct.open(f"{hub.endpoint}/api/whoami-v2", timeout=10)
    assert set(threading.enumerate()) == threads
    with pytest.raises(urllib.error.URLError, match="refused"):
        direct.open(f"{hub.endpoint}/api/whoami-v2", timeout=10)


def test_a_client_of_a_hub_that_is_gone_uses_its_cache(hub: LoopbackHub, api: HfApi) -> None:
    push(api, {"config.json": b"{}"})
    path = hf_hub_download(REPO, "config.json")
    hub.close()
    assert hf_hub_download(REPO, "config.json") == path
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "other.json")


def test_a_fresh_process_needs_nothing_but_the_environment(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    folder = write(tmp_path / "out", {**WEIGHTS, "config.json": b"{}"})
    home = tmp_path / "other_home"
    code = (
        "from huggingface_hub import snapshot_download, upload_folder, whoami\n"
        f"upload_folder(repo_id={REPO!r}, folder_path={str(folder)!r})\n"
        f"print(whoami()['name'], snapshot_download({REPO!r}))\n"
    )
    name, snapshot = hub.run_python(code, home=home).split()
    assert name == "alice"
    assert home in Path(snapshot).parents
    assert {path.name: path.read_bytes() for path in Path(snapshot).iterdir()} == hub.files(REPO)
    with pytest.raises(AssertionError, match="LocalTokenNotFoundError"):
        hub.run_python("import huggingface_hub; huggingface_hub.whoami()", token=None)


# transformers


def tiny_resnet(num_labels: int = 3) -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=num_labels)
    return ResNetForImageClassification(config)


def tiny_vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    return ViTForImageClassification(config)


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    state, other_state = model.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(tensor, other_state[name]) for name, tensor in state.items())


@pytest.mark.parametrize("make", [tiny_resnet, tiny_vit])
def test_a_model_that_is_pushed_is_the_model_that_is_loaded(
    hub: LoopbackHub, make: Callable[[], PreTrainedModel]
) -> None:
    model = make()
    model.push_to_hub(REPO, private=True)
    assert set(hub.files(REPO)) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert_same_weights(AutoModelForImageClassification.from_pretrained(REPO), model)


def test_a_revision_of_a_model_stays_what_it_was(hub: LoopbackHub) -> None:
    old, new = tiny_resnet(num_labels=3), tiny_resnet(num_labels=5)
    old.push_to_hub(REPO)
    huggingface_hub.create_tag(REPO, tag="v1")
    new.push_to_hub(REPO, revision="grown")
    new.push_to_hub(REPO, commit_message="Five labels")
    assert hub.commits(REPO)[0].title == "Five labels"
    for revision, model in (("v1", old), ("grown", new), ("main", new), (hub.commits(REPO)[1].id, old)):
        assert_same_weights(AutoModelForImageClassification.from_pretrained(REPO, revision=revision), model)


def test_a_push_of_a_sharded_model_transfers_the_shards_that_changed(hub: LoopbackHub) -> None:
    model = tiny_vit()
    model.push_to_hub(REPO, max_shard_size="5KB")
    shards = {path for path in hub.files(REPO) if path.endswith(".safetensors")}
    assert len(shards) > 2

    with torch.no_grad():
        model.state_dict()["classifier.bias"] += 1
    mark = hub.mark()
    model.push_to_hub(REPO, max_shard_size="5KB")
    (upload,) = hub.uploads(mark)
    assert upload.path in shards

    mark = hub.mark()
    assert_same_weights(AutoModelForImageClassification.from_pretrained(REPO), model)
    assert shards <= {download.path for download in hub.downloads(mark)}


def test_a_private_model_does_not_load_without_a_token(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_resnet().push_to_hub(REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="private repository"):
        AutoModelForImageClassification.from_pretrained(REPO)
    AutoModelForImageClassification.from_pretrained(REPO, token=hub.read_token)


def test_a_pipeline_finds_its_task_on_the_hub(hub: LoopbackHub) -> None:
    tiny_resnet().push_to_hub(REPO)
    ViTImageProcessor(size={"height": 8, "width": 8}).push_to_hub(REPO)
    assert type(AutoImageProcessor.from_pretrained(REPO)).__name__.startswith("ViTImageProcessor")
    classify = pipeline(model=REPO)
    assert classify.task == "image-classification"


def test_code_that_a_repo_brings_runs_where_it_is_trusted(hub: LoopbackHub, api: HfApi) -> None:
    code = (
        "from transformers import PreTrainedConfig\n\n"
        "class VolumeConfig(PreTrainedConfig):\n    model_type = 'volume'\n    dimension = {}\n"
    )
    config = {"model_type": "volume", "auto_map": {"AutoConfig": "configuration_volume.VolumeConfig"}}
    for dimension in (2, 3):
        push(
            api,
            {"config.json": json.dumps(config).encode(), "configuration_volume.py": code.format(dimension).encode()},
        )
        assert AutoConfig.from_pretrained(REPO, trust_remote_code=True).dimension == dimension
    assert (hub.client_home / "modules" / "transformers_modules").is_dir()


def test_a_trainer_pushes_what_it_trained(hub: LoopbackHub, tmp_path: Path) -> None:
    model = tiny_resnet()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dataset = [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(images)]
    args = TrainingArguments(
        str(tmp_path / "out"), push_to_hub=True, hub_model_id=REPO, max_steps=1, report_to="none", use_cpu=True
    )
    trainer = Trainer(model, args, train_dataset=dataset)
    trainer.train()
    trainer.push_to_hub(commit_message="Trained")
    assert hub.commits(REPO)[0].title == "Trained"
    assert_same_weights(AutoModelForImageClassification.from_pretrained(REPO), model)
