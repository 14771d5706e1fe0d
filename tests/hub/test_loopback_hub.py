"""The loopback Hub answers `huggingface_hub` as the Hub does, in all that publishing and loading rely on."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import (
    CommitOperationAdd,
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
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session
from loopback_hub import LoopbackHub, lead_clients_to

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


# ---- repositories


def test_a_repo_is_created_once(hub: LoopbackHub) -> None:
    url = huggingface_hub.create_repo(REPO)
    assert str(url) == f"{hub.endpoint}/{REPO}" and url.repo_id == REPO
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


def test_a_new_repo_holds_the_hubs_initial_commit(hub: LoopbackHub, api: HfApi) -> None:
    (commit,) = api.list_repo_commits(REPO)
    assert commit.title == "initial commit"
    assert api.list_repo_files(REPO) == [".gitattributes"]
    assert hub.commits(REPO)[0].id == commit.commit_id


def test_branches_and_tags_are_made_once(api: HfApi) -> None:
    first = push(api, {"config.json": b"1"})
    second = push(api, {"config.json": b"2"})
    api.create_branch(REPO, branch="grow/two", revision=first)
    api.create_tag(REPO, tag="v1.0")
    for make in (lambda: api.create_branch(REPO, branch="grow/two"), lambda: api.create_tag(REPO, tag="v1.0")):
        with pytest.raises(HfHubHTTPError) as error:
            make()
        assert status_of(error) == 409
    assert [api.repo_info(REPO, revision=name).sha for name in ("grow/two", "v1.0")] == [first, second]
    api.delete_branch(REPO, branch="grow/two")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(REPO, revision="grow/two")


# ---- uploads


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


def test_a_push_that_is_given_up_leaves_the_repo_as_it_was(hub: LoopbackHub, api: HfApi) -> None:
    before = hub.files(REPO)
    hub.interrupt_uploads(after_objects=2)
    with pytest.raises(RuntimeError, match="Error while uploading 'vertex-"):
        push(api, WEIGHTS)
    assert hub.files(REPO) == before
    assert [upload.path for upload in hub.uploads()] == [None, None], "the objects are in no commit"

    hub.end_faults()
    mark = hub.mark()
    push(api, WEIGHTS)
    assert len(hub.uploads(mark)) == 1
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


def test_a_commit_deletes_files(hub: LoopbackHub, api: HfApi) -> None:
    push(api, {"a.safetensors": b"weights", "a.json": b"{}"})
    api.create_commit(REPO, [CommitOperationDelete("a.json")], commit_message="Tidy")
    assert set(hub.files(REPO)) == {".gitattributes", "a.safetensors"}
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


def test_a_pull_request_leaves_the_main_branch_alone(
    hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = push(api, {"config.json": b"main"})
    monkeypatch.setenv("HF_TOKEN", hub.other_token)  # whoever may read may propose
    operation = CommitOperationAdd("config.json", b"proposed")
    commit = api.create_commit(REPO, [operation], commit_message="Better", create_pr=True)
    assert commit.pr_revision == "refs/pr/1"
    assert commit.pr_url == f"{hub.endpoint}/{REPO}/discussions/1"
    with pytest.raises(HfHubHTTPError, match="Forbidden"):
        push(api, {"config.json": b"imposed"})
    assert api.repo_info(REPO).sha == main
    assert Path(hf_hub_download(REPO, "config.json", revision="refs/pr/1")).read_bytes() == b"proposed"


def test_a_commit_goes_to_the_branch_that_it_names(hub: LoopbackHub, api: HfApi) -> None:
    api.create_branch(REPO, branch="grow")
    push(api, {"config.json": b"{}"}, revision="grow")
    assert "config.json" in hub.files(REPO, "grow")
    assert "config.json" not in hub.files(REPO)
    with pytest.raises(RevisionNotFoundError):
        push(api, {"config.json": b"{}"}, revision="missing")


# ---- cards


CARD = ModelCardData(
    license="apache-2.0",
    tags=["simplex"],
    library_name="transformers",
    pipeline_tag="image-classification",
    model_name="volume",
    eval_results=[EvalResult("image-classification", "cifar100", "CIFAR-100", "accuracy", 0.81)],
)


def test_a_card_with_results_is_accepted_and_read_back(api: HfApi) -> None:
    card = ModelCard(f"---\n{CARD.to_yaml()}\n---\n# Volume\n")
    card.validate()
    card.push_to_hub(REPO)
    assert ModelCard.load(REPO).data.to_dict() == CARD.to_dict()
    info = api.model_info(REPO)
    assert (info.pipeline_tag, info.tags) == ("image-classification", ["simplex"])
    assert info.card_data is not None and info.card_data.eval_results == CARD.eval_results


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("license: [", "not valid YAML"),
        ("just text", "must be a mapping"),
        ("license: my-own", '"license" must be one of'),
        ("datasets: [null]", '"datasets" must be a string or a list of strings'),
        ("pipeline_tag: 3", '"pipeline_tag" must be a string'),
        ("model-index: [{name: v, results: [{task: {}, dataset: {type: d, name: d}}]}]", '"model-index" is not valid'),
    ],
)
def test_a_wrong_card_is_refused_before_anything_is_uploaded(
    hub: LoopbackHub, api: HfApi, metadata: str, complaint: str
) -> None:
    card = f"---\n{metadata}\n---\n# Volume\n"
    with pytest.raises(ValueError, match=complaint):
        push(api, {"README.md": card.encode(), **WEIGHTS})
    assert hub.uploads() == []


# ---- downloads


def test_a_large_file_is_on_another_host_that_gets_no_token(hub: LoopbackHub, api: HfApi) -> None:
    commit = push(api, {"a.safetensors": b"weights", "config.json": b"{}"})
    for path, host in (("a.safetensors", hub.storage_endpoint), ("config.json", hub.endpoint)):
        metadata = get_hf_file_metadata(hf_hub_url(REPO, path))
        blob = hub.repository(REPO).resolve("main").files[path]
        assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit, blob.etag, blob.size)
        assert metadata.location.startswith(host)
        assert get_session().get(metadata.location).content == blob.data
    location = get_hf_file_metadata(hf_hub_url(REPO, "a.safetensors")).location
    assert get_session().get(location, headers={"Authorization": f"Bearer {hub.token}"}).status_code == 400


@pytest.mark.parametrize("revision", ["main", "grow", "v1", "refs/pr/1", "commit"])
def test_a_file_is_found_at_every_kind_of_revision(hub: LoopbackHub, api: HfApi, revision: str) -> None:
    commits = {"v1": push(api, {"config.json": b"v1"})}
    commits["commit"] = commits["v1"]
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="grow")
    commits["grow"] = push(api, {"config.json": b"grow"}, revision="grow")
    commits["refs/pr/1"] = push(api, {"config.json": b"refs/pr/1"}, create_pr=True)
    commits["main"] = push(api, {"config.json": b"main"})
    name = commits["commit"] if revision == "commit" else revision
    content = Path(hf_hub_download(REPO, "config.json", revision=name)).read_text()
    assert content == ("v1" if revision == "commit" else revision)
    (download,) = hub.downloads()
    assert (download.path, download.revision, download.commit) == ("config.json", name, commits[revision])


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


# ---- permissions


def missing_repo(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download("alice/missing", "config.json")


def repo_without_namespace(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download("missing", "config.json")


def missing_revision(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download(REPO, ".gitattributes", revision="missing")


def missing_file(hub: LoopbackHub, api: HfApi) -> None:
    hf_hub_download(REPO, "config.json")


@pytest.mark.parametrize(
    ("ask", "error", "status"),
    [
        (missing_repo, RepositoryNotFoundError, 404),
        (repo_without_namespace, RepositoryNotFoundError, 404),
        (missing_revision, RevisionNotFoundError, 404),
        (missing_file, RemoteEntryNotFoundError, 404),
    ],
)
def test_each_refusal_is_told_from_the_others(
    hub: LoopbackHub, api: HfApi, ask: Callable[[LoopbackHub, HfApi], None], error: type[HfHubHTTPError], status: int
) -> None:
    with pytest.raises(error) as refusal:
        ask(hub, api)
    assert type(refusal.value) is error
    assert status_of(refusal) == status


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


def test_a_token_that_may_only_read_cannot_write(hub: LoopbackHub, api: HfApi) -> None:
    reader = HfApi(token=hub.read_token)
    assert reader.repo_info(REPO).id == REPO
    for write_something in (
        lambda: reader.create_repo("alice/other"),
        lambda: push(reader, {"config.json": b"{}"}),
        lambda: reader.create_tag(REPO, tag="v1"),
    ):
        with pytest.raises(HfHubHTTPError, match="Forbidden") as error:
            write_something()
        assert status_of(error) == 403


def test_an_unknown_token_is_worse_than_none(hub: LoopbackHub, api: HfApi) -> None:
    assert api.model_info(REPO, token=False).id == REPO
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        api.model_info(REPO, token="hf_nobody")
    assert status_of(error) == 401


# ---- the Hub itself


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
        direct.open(f"{hub.endpoint}/api/models/{REPO}", timeout=10)
    assert set(threading.enumerate()) == threads
    with pytest.raises(urllib.error.URLError, match="refused"):
        direct.open(f"{hub.endpoint}/api/models/{REPO}", timeout=10)


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
        "from huggingface_hub import snapshot_download, upload_folder\n"
        f"upload_folder(repo_id={REPO!r}, folder_path={str(folder)!r})\n"
        f"print(snapshot_download({REPO!r}))\n"
    )
    snapshot = Path(hub.run_python(code, home=home).strip())
    assert home in snapshot.parents
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == hub.files(REPO)
    with pytest.raises(AssertionError, match="LocalTokenNotFoundError"):
        hub.run_python("import huggingface_hub; huggingface_hub.whoami()", token=None)
