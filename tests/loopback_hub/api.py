"""The endpoints of the Hub that publishing and loading call, with the answers that `huggingface_hub` 2.x reads.

Sources: the client's source (`hf_api.py`, `_commit_api.py`, `lfs.py`, `file_download.py`), the LFS batch API
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), and headers from huggingface.co.
"""

import base64
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from .card import card_errors, card_metadata
from .errors import HubError
from .messages import Download, Request, Response
from .repository import Blob, Commit, Repository

if TYPE_CHECKING:
    from .server import Account, LoopbackHub

Endpoint = Callable[..., Response]
ROUTES: list[tuple[str, re.Pattern[str], Endpoint]] = []

REPO_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
# One namespace holds models, data sets and Spaces: no test gives two of them the same name.
KINDS = "(?:models|datasets|spaces)"
API = rf"/api/{KINDS}/{REPO_ID}"
PAGE = rf"/(?:(?:datasets|spaces)/)?{REPO_ID}"
STORAGE = rf"/storage/{REPO_ID}/(?P<oid>[0-9a-f]{{64}})"
REVISION = r"(?P<revision>[^/]+)"
FILE_PATH = r"(?P<path>.+)"

LFS_MEDIA_TYPE = "application/vnd.git-lfs+json"


def route(methods: str, pattern: str) -> Callable[[Endpoint], Endpoint]:
    """Registers an endpoint for methods, separated by spaces, and a pattern of the quoted path.

    The named groups of the pattern become unquoted keyword arguments. Earlier routes win.
    """

    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.extend((method, re.compile(pattern), endpoint) for method in methods.split())
        return endpoint

    return register


def answer(hub: "LoopbackHub", request: Request) -> Response:
    """Answers a request.

    Raises:
        HubError: the answer is an error. Status 501 means an unknown endpoint.
    """
    for method, pattern, endpoint in ROUTES:
        match = pattern.fullmatch(request.path)
        if match is not None and method == request.method and _right_host(hub, request):
            groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            return endpoint(hub, request, **groups)
    hint = " (it has no Xet storage: set HF_HUB_DISABLE_XET=1)" if "xet" in request.path else ""
    raise HubError(501, f"the loopback Hub has no endpoint {request.method} {request.host}{request.path}{hint}")


def _right_host(hub: "LoopbackHub", request: Request) -> bool:
    in_storage = request.path.startswith("/storage/")
    return request.host == (hub.storage_endpoint if in_storage else hub.endpoint).removeprefix("http://")


# Who may do what ----------------------------------------------------------------------------------------------------


def _unauthorized() -> HubError:
    # The client takes a 401 from an https:// repo URL for a missing repo. Over plain http it needs X-Error-Code.
    headers = {"WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"'}
    return HubError(401, "Invalid username or password.", "RepoNotFound", headers)


def _account(hub: "LoopbackHub", request: Request) -> "Account | None":
    if request.token is None:
        return None
    account = hub.accounts.get(request.token)
    if account is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return account


def _writer(hub: "LoopbackHub", request: Request, namespace: str | None = None) -> "Account":
    """The account behind a request that changes something in a namespace (its own by default)."""
    account = _account(hub, request)
    if account is None:
        raise _unauthorized()
    if not account.can_write or (namespace is not None and namespace not in account.namespaces):
        raise HubError(403, f"Forbidden: your token may not write to the namespace {namespace or account.name}")
    return account


def _readable(hub: "LoopbackHub", request: Request, repo_id: str) -> Repository:
    account = _account(hub, request)
    repository = hub.repositories.get(repo_id)
    if repository is None or (repository.private and (account is None or not account.owns(repository))):
        # The answer does not tell whether a private repo exists.
        raise _unauthorized() if account is None else HubError(404, "Repository not found", "RepoNotFound")
    return repository


def _writable(hub: "LoopbackHub", request: Request, repo_id: str) -> Repository:
    repository = _readable(hub, request, repo_id)
    _writer(hub, request, repository.namespace)
    return repository


@route("GET", "/api/whoami-v2")
def whoami(hub: "LoopbackHub", request: Request) -> Response:
    account = _account(hub, request)
    if account is None:
        raise _unauthorized()
    token = {"displayName": "test", "role": "write" if account.can_write else "read"}
    return Response.of_json({"type": "user", "name": account.name, "auth": {"accessToken": token}})


# Repos --------------------------------------------------------------------------------------------------------------


@route("POST", "/api/repos/create")
def create_repo(hub: "LoopbackHub", request: Request) -> Response:
    content = request.json()
    account = _writer(hub, request, content.get("organization"))
    repo_id = f"{content.get('organization') or account.name}/{content['name']}"
    url = f"{hub.endpoint}/{repo_id}"
    if repo_id in hub.repositories:
        # With exist_ok=True, clients read the URL from the refusal.
        return Response.of_json({"error": f"You already created this model repo: {repo_id}", "url": url}, 409)
    private = content.get("visibility") == "private"
    hub.repositories[repo_id] = Repository(repo_id, private)
    return Response.of_json({"url": url, "name": repo_id, "private": private})


@route("POST", f"{API}/branch/(?P<branch>[^/]+)")
def create_branch(hub: "LoopbackHub", request: Request, repo_id: str, branch: str) -> Response:
    repository = _writable(hub, request, repo_id)
    if f"refs/heads/{branch}" in repository.heads:
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    repository.heads[f"refs/heads/{branch}"] = repository.resolve(request.json().get("startingPoint", "main")).id
    return Response.of_json({})


@route("DELETE", f"{API}/branch/(?P<branch>[^/]+)")
def delete_branch(hub: "LoopbackHub", request: Request, repo_id: str, branch: str) -> Response:
    repository = _writable(hub, request, repo_id)
    if branch == "main":
        raise HubError(403, "The branch main cannot be deleted")
    if repository.heads.pop(f"refs/heads/{branch}", None) is None:
        raise HubError(404, f"Reference does not exist: refs/heads/{branch}", "RevisionNotFound")
    return Response.of_json({})


@route("POST", f"{API}/tag/{REVISION}")
def create_tag(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Response:
    repository = _writable(hub, request, repo_id)
    tag = request.json()["tag"]
    if tag in repository.tags:
        raise HubError(409, f"Tag reference exists already: {tag}")
    repository.tags[tag] = repository.resolve(revision).id
    return Response.of_json({})


def _timestamp(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# What is in a revision ----------------------------------------------------------------------------------------------


def _lfs_info(blob: Blob, id_name: str) -> dict[str, Any]:
    return {id_name: blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}


@route("GET", f"{API}/tree/{REVISION}(?:/{FILE_PATH})?")
def tree(hub: "LoopbackHub", request: Request, repo_id: str, revision: str, path: str = "") -> Response:
    """Lists what is in a folder, and below it if asked. Data sets are looked up in folders that are not there."""
    commit = _readable(hub, request, repo_id).resolve(revision)
    prefix = f"{path}/" if path else ""
    found = sorted(file for file in commit.files if file.startswith(prefix))
    if path and not found:
        raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", {"X-Repo-Commit": commit.id})
    above = {str(folder) for file in found for folder in PurePosixPath(file).parents if str(folder).startswith(prefix)}
    folders = sorted(above - {".", path})
    if not request.flag("recursive"):
        found, folders = (
            [name for name in names if "/" not in name.removeprefix(prefix)] for names in (found, folders)
        )
    entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
    return Response.of_json(entries + [_entry(commit, file) for file in found])


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Response:
    commit = _readable(hub, request, repo_id).resolve(revision)
    paths = parse_qs(request.body.decode()).get("paths", [])
    return Response.of_json([_entry(commit, path) for path in paths if path in commit.files])


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    blob = commit.files[path]
    entry = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": path}
    return entry | ({"lfs": _lfs_info(blob, "oid")} if blob.lfs else {})


@route("GET", f"{API}/commits/{REVISION}")
def list_commits(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Response:
    commits = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.description,
            "authors": [{"user": commit.author}],
            "date": _timestamp(commit.date),
        }
        for commit in _readable(hub, request, repo_id).log(revision)
    ]
    return Response.of_json(commits)


@route("GET", f"{API}(?:/revision/{REVISION})?")
def repo_info(hub: "LoopbackHub", request: Request, repo_id: str, revision: str = "main") -> Response:
    repository = _readable(hub, request, repo_id)
    commit = repository.resolve(revision)
    siblings = []
    for path, blob in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if request.flag("blobs"):
            sibling |= {"size": blob.size, "blobId": blob.git_oid}
            if blob.lfs:
                sibling["lfs"] = _lfs_info(blob, "sha256")
        siblings.append(sibling)
    info = {
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.id,
        "lastModified": _timestamp(commit.date),
        "createdAt": _timestamp(repository.log("main")[-1].date),
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "modelId": repository.id,
        **_card_info(commit),
    }
    return Response.of_json(info)


def _card_info(commit: Commit) -> dict[str, Any]:
    card = card_metadata(commit.files["README.md"].data.decode()) if "README.md" in commit.files else {}
    tags = card.get("tags") or []
    known = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    return {"cardData": card, "tags": [tags] if isinstance(tags, str) else tags, **known}


# Downloads ----------------------------------------------------------------------------------------------------------


@route("HEAD GET", f"{PAGE}/resolve/{REVISION}/{FILE_PATH}")
def resolve(hub: "LoopbackHub", request: Request, repo_id: str, revision: str, path: str) -> Response:
    """Redirects as the Hub does: a regular file to a cache on the same host, an LFS object to another host."""
    commit, blob = _readable(hub, request, repo_id).file(revision, path)
    query = urlencode({"path": path, "revision": revision, "commit": commit.id})
    if blob.lfs:
        location = f"{hub.storage_endpoint}/storage/{repo_id}/{blob.sha256}?{query}"
    else:
        location = f"/api/resolve-cache/models/{repo_id}/{commit.id}/{quote(path)}?{query}"
    headers = {
        "Location": location,
        "X-Repo-Commit": commit.id,
        "X-Linked-Etag": f'"{blob.etag}"',
        "X-Linked-Size": str(blob.size),
    }
    return Response(302 if blob.lfs else 307, f"Redirecting to {location}".encode(), headers)


@route("HEAD GET", rf"/api/resolve-cache/{KINDS}/{REPO_ID}/(?P<commit_id>[0-9a-f]{{40}})/{FILE_PATH}")
def resolve_cache(hub: "LoopbackHub", request: Request, repo_id: str, commit_id: str, path: str) -> Response:
    _, blob = _readable(hub, request, repo_id).file(commit_id, path)
    download = Download(repo_id, path, request.query["revision"][0], commit_id)
    return _content(request, blob, download, {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit_id})


@route("HEAD GET", STORAGE)
def download_object(hub: "LoopbackHub", request: Request, repo_id: str, oid: str) -> Response:
    _check_storage_request(request)
    path, revision, commit_id = (request.query[name][0] for name in ("path", "revision", "commit"))
    # The storage has its own ETags. A client has to take the X-Linked-Etag of the redirect.
    blob = Blob(hub.repositories[repo_id].objects[oid], lfs=True)
    download = Download(repo_id, path, revision, commit_id)
    return _content(request, blob, download, {"ETag": f'"storage-{oid[:16]}"'})


def _content(request: Request, blob: Blob, download: Download, headers: dict[str, str]) -> Response:
    """A file, or the bytes of it that the client asked for, which are no download."""
    headers = {"Content-Type": "application/octet-stream", **headers}
    if (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))) is None:
        return Response(200, blob.data, headers, download)
    first, last = int(wanted[1]), min(int(wanted[2]), blob.size - 1)
    if first > last:
        raise HubError(416, "Requested range not satisfiable")
    return Response(
        206, blob.data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{blob.size}"}
    )


def _check_storage_request(request: Request) -> None:
    if "authorization" in request.headers:
        raise HubError(400, "a client must not send the user's token to the storage")


# Uploads ------------------------------------------------------------------------------------------------------------


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: "LoopbackHub", request: Request) -> Response:
    errors = [{"message": message} for message in card_errors(request.json()["content"])]
    return Response.of_json({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Response:
    """Tells which files go to LFS, and which the repo already has."""
    repository, ref = _commit_target(hub, request, repo_id, revision)
    commit = repository.resolve(ref)
    content = request.json()
    files = []
    for file in content["files"]:
        path = file["path"]
        mode = repository.upload_mode(commit, path, file["size"], base64.b64decode(file["sample"]))
        info = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if path in commit.files:
            info["oid"] = commit.files[path].etag
        files.append(info)
    return Response.of_json({"files": files})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
def lfs_batch(hub: "LoopbackHub", request: Request, repo_id: str) -> Response:
    """Tells where to upload LFS objects. An object that the repo already has needs no upload."""
    repository = _readable(hub, request, repo_id)
    content = request.json()
    # Without a ref the upload is for a pull request, which anybody may open.
    _writer(hub, request, repository.namespace if "ref" in content else None)
    objects = []
    for wanted in content["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repository.objects:
            upload_url = f"{hub.storage_endpoint}/storage/{repo_id}/{wanted['oid']}"
            verify_url = f"{hub.endpoint}/{repo_id}.git/info/lfs/verify"
            entry["actions"] = {"upload": {"href": upload_url}, "verify": {"href": verify_url}}
        objects.append(entry)
    return Response.of_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": LFS_MEDIA_TYPE})


@route("PUT", STORAGE)
def upload_object(hub: "LoopbackHub", request: Request, repo_id: str, oid: str) -> Response:
    _check_storage_request(request)
    blob = Blob(request.body, lfs=True)
    if blob.sha256 != oid:
        raise HubError(400, f"the content has the sha256 {blob.sha256}, not {oid}")
    hub.repositories[repo_id].objects[oid] = blob.data
    hub.record_upload(repo_id, blob)
    return Response(headers={"ETag": f'"{oid[:32]}"'})


@route("POST", rf"{PAGE}\.git/info/lfs/verify")
def lfs_verify(hub: "LoopbackHub", request: Request, repo_id: str) -> Response:
    repository = _readable(hub, request, repo_id)
    content = request.json()
    if len(repository.objects.get(content["oid"], b"")) != content["size"]:
        raise HubError(404, f"there is no object {content['oid']} of {content['size']} bytes")
    return Response.of_json({})


@route("POST", f"{API}/commit/{REVISION}")
def commit(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Response:
    """Makes a commit from NDJSON: a header, then one operation a line."""
    hub.raise_commit_fault()
    repository, ref = _commit_target(hub, request, repo_id, revision)
    account = _writer(hub, request)
    operations = [json.loads(line) for line in request.body.splitlines() if line]
    header = next(operation["value"] for operation in operations if operation["key"] == "header")
    parent = repository.resolve(header.get("parentCommit") or ref)

    additions: dict[str, bytes] = {}
    lfs_additions: dict[str, str] = {}
    deletions: set[str] = set()
    for operation in operations:
        key, value = operation["key"], operation["value"]
        if key == "file":
            additions[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            lfs_additions[value["path"]] = value["oid"]
        elif key == "deletedFile":
            deletions.add(value["path"])
        elif key != "header":
            raise HubError(400, f"unknown operation in a commit: {key!r}")
    if "README.md" in additions and (errors := card_errors(additions["README.md"].decode())):
        raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))

    if is_pull_request := request.flag("create_pr"):
        ref = f"refs/pr/{1 + sum(head.startswith('refs/pr/') for head in repository.heads)}"
    elif parent.id != repository.heads[ref]:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    new = repository.commit(
        ref,
        header["summary"],
        header.get("description", ""),
        account.name,
        additions,
        lfs_additions,
        frozenset(deletions),
        parent,
    )
    for path in additions:
        hub.record_upload(repo_id, new.files[path], path)
    url = f"{hub.endpoint}/{repo_id}"
    content = {"success": True, "commitOid": new.id, "commitUrl": f"{url}/commit/{new.id}", "hookOutput": ""}
    if is_pull_request:
        content["pullRequestUrl"] = f"{url}/discussions/{ref.removeprefix('refs/pr/')}"
    return Response.of_json(content)


def _commit_target(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> tuple[Repository, str]:
    """The repo, and the ref that a commit moves or a pull request starts from."""
    repository = _readable(hub, request, repo_id)
    # Whoever may read a repo may open a pull request.
    _writer(hub, request, None if request.flag("create_pr") else repository.namespace)
    ref = repository.ref(revision)
    if ref is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return repository, ref
