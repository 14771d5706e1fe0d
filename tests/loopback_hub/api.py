"""The endpoints of the Hub that `huggingface_hub` 2.x calls, with the answers that it reads.

Sources: the client's own source (`hf_api.py`, `_commit_api.py`, `lfs.py`, `file_download.py`), the LFS batch API
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), and headers seen from huggingface.co.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from .card import card_metadata, check_card
from .errors import HubError
from .messages import Download, Request, Response
from .repository import Blob, Commit, PullRequest, Repository, ignored

if TYPE_CHECKING:
    from .server import Account, LoopbackHub

Endpoint = Callable[..., Response]
ROUTES: list[tuple[str, re.Pattern[str], Endpoint]] = []

REPO_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>models|datasets)/{REPO_ID}"
PAGE = rf"/(?:(?P<kind>datasets)/)?{REPO_ID}"
STORAGE = rf"/storage/(?P<kind>models|datasets)/{REPO_ID}/(?P<oid>[0-9a-f]{{64}})"
REVISION = r"(?P<revision>[^/]+)"
FILE_PATH = r"(?P<path>.+)"

LFS_MEDIA_TYPE = "application/vnd.git-lfs+json"


def route(methods: str, pattern: str) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint for methods (separated by spaces) and a pattern of the quoted path.

    The named groups of the pattern become keyword arguments, unquoted. Earlier routes win.
    """

    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.extend((method, re.compile(pattern), endpoint) for method in methods.split())
        return endpoint

    return register


def answer(hub: "LoopbackHub", request: Request) -> Response:
    """The answer to a request.

    Raises:
        HubError: the answer is an error; status 501 means that no endpoint is known for the request.
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
    # huggingface.co sends no X-Error-Code here: the client takes a 401 from an https:// repo URL for a missing repo.
    # This server speaks plain http, so it has to name the code for the client to raise the same exception.
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


def _readable(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Repository:
    account = _account(hub, request)
    repository = hub.repositories.get((kind.removesuffix("s"), repo_id))
    if repository is None or (repository.private and (account is None or not account.owns(repository))):
        # Nobody learns from the answer whether a private repo exists.
        raise _unauthorized() if account is None else HubError(404, "Repository not found", "RepoNotFound")
    return repository


def _writable(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Repository:
    repository = _readable(hub, request, kind, repo_id)
    _writer(hub, request, repository.namespace)
    return repository


def _check_gate(hub: "LoopbackHub", request: Request, repository: Repository) -> None:
    account = _account(hub, request)
    if not repository.gated or (account is not None and account.owns(repository)):
        return
    restricted = f"Access to {repository.type} {repository.id} is restricted"
    if account is None:
        message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
        raise HubError(401, message, "GatedRepo")
    raise HubError(403, f"{restricted} and you are not in the authorized list.", "GatedRepo")


@route("GET", "/api/whoami-v2")
def whoami(hub: "LoopbackHub", request: Request) -> Response:
    account = _account(hub, request)
    if account is None:
        raise HubError(401, "Invalid username or password.")
    organizations = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in account.organizations]
    token = {"displayName": "loopback", "role": "write" if account.can_write else "read"}
    auth = {"type": "access_token", "accessToken": token}
    return Response.of_json({"type": "user", "name": account.name, "orgs": organizations, "auth": auth})


@route("GET", f"{API}/auth-check")
def auth_check(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Response:
    _check_gate(hub, request, _readable(hub, request, kind, repo_id))
    return Response()


# Repos --------------------------------------------------------------------------------------------------------------


@route("POST", "/api/repos/create")
def create_repo(hub: "LoopbackHub", request: Request) -> Response:
    content = request.json()
    account = _writer(hub, request, content.get("organization"))
    repo_type = content.get("type") or "model"
    if repo_type not in ("model", "dataset"):
        raise HubError(400, f"the loopback Hub keeps models and datasets only, not a {repo_type}")
    repo_id = f"{content.get('organization') or account.name}/{content['name']}"
    existing = hub.repositories.get((repo_type, repo_id))
    if existing is not None:
        # Clients that do not mind an existing repo read its URL from the refusal.
        refusal = {"error": f"You already created this {repo_type} repo: {repo_id}", "url": _page_url(hub, existing)}
        return Response.of_json(refusal, 409)
    private = content.get("visibility") == "private"
    repository = Repository(repo_type, repo_id, private)
    hub.repositories[repo_type, repo_id] = repository
    return Response.of_json({"url": _page_url(hub, repository), "name": repo_id, "private": private})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: "LoopbackHub", request: Request) -> Response:
    content = request.json()
    account = _writer(hub, request)
    repo_id = f"{content.get('organization') or account.name}/{content['name']}"
    repository = _writable(hub, request, f"{content.get('type') or 'model'}s", repo_id)
    del hub.repositories[repository.type, repository.id]
    return Response.of_json({})


@route("PUT", f"{API}/settings")
def update_settings(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Response:
    repository = _writable(hub, request, kind, repo_id)
    content = request.json()
    if "visibility" in content:
        repository.private = content["visibility"] == "private"
    repository.gated = content.get("gated", repository.gated)
    return Response.of_json({"private": repository.private, "gated": repository.gated})


@route("GET", f"{API}/refs")
def list_refs(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Response:
    repository = _readable(hub, request, kind, repo_id)

    def refs(prefix: str, targets: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": target}
            for ref, target in targets.items()
            if ref.startswith(prefix)
        ]

    tags = {f"refs/tags/{name}": target for name, target in repository.tags.items()}
    content = {"branches": refs("refs/heads/", repository.heads), "tags": refs("refs/tags/", tags), "converts": []}
    if request.flag("include_prs"):
        content["pullRequests"] = refs("refs/pr/", repository.heads)
    return Response.of_json(content)


@route("POST", f"{API}/branch/(?P<branch>[^/]+)")
def create_branch(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, branch: str) -> Response:
    repository = _writable(hub, request, kind, repo_id)
    if f"refs/heads/{branch}" in repository.heads:
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    repository.heads[f"refs/heads/{branch}"] = repository.resolve(request.json().get("startingPoint", "main")).id
    return Response.of_json({})


@route("DELETE", f"{API}/branch/(?P<branch>[^/]+)")
def delete_branch(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, branch: str) -> Response:
    repository = _writable(hub, request, kind, repo_id)
    if branch == "main":
        raise HubError(403, "The branch main cannot be deleted")
    if repository.heads.pop(f"refs/heads/{branch}", None) is None:
        raise HubError(404, f"Reference does not exist: refs/heads/{branch}", "RevisionNotFound")
    return Response.of_json({})


@route("POST", f"{API}/tag/{REVISION}")
def create_tag(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = _writable(hub, request, kind, repo_id)
    tag = request.json()["tag"]
    if tag in repository.tags:
        raise HubError(409, f"Tag reference exists already: {tag}")
    repository.tags[tag] = repository.resolve(revision).id
    return Response.of_json({})


@route("DELETE", f"{API}/tag/(?P<tag>[^/]+)")
def delete_tag(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, tag: str) -> Response:
    repository = _writable(hub, request, kind, repo_id)
    if repository.tags.pop(tag, None) is None:
        raise HubError(404, f"Tag does not exist: {tag}", "RevisionNotFound")
    return Response.of_json({})


@route("GET", f"{API}/discussions")
def list_discussions(hub: "LoopbackHub", request: Request, kind: str, repo_id: str) -> Response:
    repository = _readable(hub, request, kind, repo_id)
    discussions = [
        {
            "num": pull_request.number,
            "title": pull_request.title,
            "author": {"name": pull_request.author},
            "createdAt": _timestamp(pull_request.date),
            "status": "draft",
            "isPullRequest": True,
            "repo": {"name": repository.id, "type": repository.type},
        }
        for pull_request in repository.pull_requests
    ]
    return Response.of_json({"discussions": discussions, "count": len(discussions), "start": 0})


def _page_url(hub: "LoopbackHub", repository: Repository) -> str:
    return f"{hub.endpoint}/{repository.url_path}"


def _timestamp(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# What is in a revision ----------------------------------------------------------------------------------------------


def _lfs_info(blob: Blob, id_name: str) -> dict[str, Any]:
    return {id_name: blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}


def _last_commit(repository: Repository, commit: Commit, path: str) -> dict[str, str]:
    for ancestor in repository.log(commit.id):
        if any(changed == path or changed.startswith(f"{path}/") for changed in ancestor.changed):
            return {"id": ancestor.id, "title": ancestor.title, "date": _timestamp(ancestor.date)}
    raise AssertionError(f"no commit made {path}")


def _entry(repository: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any] | None:
    """What tree and paths-info say of a file or folder; None where there is no such one."""
    entry: dict[str, Any]
    if path in commit.files:
        blob = commit.files[path]
        entry = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": path}
        if blob.lfs:
            entry["lfs"] = _lfs_info(blob, "oid")
        if expand:
            entry["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
    else:
        content = [(name, blob.git_oid) for name, blob in commit.files.items() if name.startswith(f"{path}/")]
        if not content:
            return None
        tree_oid = hashlib.sha1(json.dumps(sorted(content)).encode()).hexdigest()
        entry = {"type": "directory", "oid": tree_oid, "size": 0, "path": path}
    if expand:
        entry["lastCommit"] = _last_commit(repository, commit, path)
    return entry


def _entries(repository: Repository, commit: Commit, paths: Iterable[str], expand: bool) -> list[dict[str, Any]]:
    entries = (_entry(repository, commit, path, expand) for path in paths)
    return [entry for entry in entries if entry is not None]


def _listing(commit: Commit, folder: str, recursive: bool) -> list[str]:
    """Files and folders below a folder, sorted."""
    prefix = f"{folder}/" if folder else ""
    paths: set[str] = set()
    for path in commit.files:
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            depths = range(1, len(parts) + 1) if recursive else [1]
            paths.update(prefix + "/".join(parts[:depth]) for depth in depths)
    return sorted(paths)


@route("GET", f"{API}/tree/{REVISION}(?:/{FILE_PATH})?")
def tree(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
    repository = _readable(hub, request, kind, repo_id)
    commit = repository.resolve(revision)
    paths = _listing(commit, path, request.flag("recursive"))
    if path and not paths:
        raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", {"X-Repo-Commit": commit.id})

    start = int(request.query.get("cursor", ["0"])[0])
    stop = start + hub.tree_page_size
    headers = {}
    if stop < len(paths):
        query = {name: values[0] for name, values in request.query.items()} | {"cursor": str(stop)}
        headers["Link"] = f'<{hub.endpoint}{request.path}?{urlencode(query)}>; rel="next"'
    content = _entries(repository, commit, paths[start:stop], request.flag("expand"))
    return Response.of_json(content, headers=headers)


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repository = _readable(hub, request, kind, repo_id)
    form = parse_qs(request.body.decode())
    expand = form.get("expand", ["false"])[0].lower() == "true"
    content = _entries(repository, repository.resolve(revision), form.get("paths", []), expand)
    return Response.of_json(content)


@route("GET", f"{API}/commits/{REVISION}")
def list_commits(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str) -> Response:
    commits = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.description,
            "authors": [{"user": commit.author}],
            "date": _timestamp(commit.date),
        }
        for commit in _readable(hub, request, kind, repo_id).log(revision)
    ]
    return Response.of_json(commits)


@route("GET", f"{API}(?:/revision/{REVISION})?")
def repo_info(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
    repository = _readable(hub, request, kind, repo_id)
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
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        **_card_info(commit),
    }
    if repository.type == "model":
        info |= {"modelId": repository.id, **_model_info(commit, info["cardData"])}
    return Response.of_json(info)


def _card_info(commit: Commit) -> dict[str, Any]:
    card = card_metadata(commit.files["README.md"].data.decode()) if "README.md" in commit.files else {}
    tags = card.get("tags") or []
    return {"cardData": card, "tags": [tags] if isinstance(tags, str) else tags}


def _config(commit: Commit) -> dict[str, Any]:
    """The model's `config.json`; empty where there is none, or it is no JSON: the Hub keeps anything."""
    try:
        config = json.loads(commit.files["config.json"].data)
    except (KeyError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _model_info(commit: Commit, card: dict[str, Any]) -> dict[str, Any]:
    """What the Hub derives from a model's card, else from its `config.json`."""
    config = _config(commit)
    architectures = config.get("architectures") or []
    info: dict[str, Any] = {"config": {key: config[key] for key in ("architectures", "model_type") if key in config}}
    if architectures:
        info["library_name"] = "transformers"
    if any(name.endswith("ForImageClassification") for name in architectures):
        info["pipeline_tag"] = "image-classification"
    info |= {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if key in card}
    return info


# Downloads ----------------------------------------------------------------------------------------------------------


@route("HEAD GET", f"{PAGE}/resolve/{REVISION}/{FILE_PATH}")
def resolve(
    hub: "LoopbackHub", request: Request, repo_id: str, revision: str, path: str, kind: str = "models"
) -> Response:
    """Redirects, as the Hub does: a regular file to a cache on the same host, an LFS object to another host."""
    repository = _readable(hub, request, kind, repo_id)
    _check_gate(hub, request, repository)
    commit, blob = repository.file(revision, path)
    if blob.lfs:
        storage_path = f"/storage/{kind}/{repo_id}/{blob.sha256}"
        query = {"path": path, "revision": revision, "commit": commit.id}
        location = f"{hub.storage_endpoint}{_signed(hub, 'GET', storage_path, query)}"
    else:
        cache_path = f"/api/resolve-cache/{kind}/{repo_id}/{commit.id}/{quote(path)}"
        location = f"{cache_path}?{urlencode({'revision': revision, 'etag': blob.etag})}"
    headers = {
        "Location": location,
        "X-Repo-Commit": commit.id,
        "X-Linked-Etag": f'"{blob.etag}"',
        "X-Linked-Size": str(blob.size),
        "Accept-Ranges": "bytes",
    }
    return Response(302 if blob.lfs else 307, f"Redirecting to {location}".encode(), headers)


@route(
    "HEAD GET", rf"/api/resolve-cache/(?P<kind>models|datasets)/{REPO_ID}/(?P<commit_id>[0-9a-f]{{40}})/{FILE_PATH}"
)
def resolve_cache(
    hub: "LoopbackHub", request: Request, kind: str, repo_id: str, commit_id: str, path: str
) -> Response:
    repository = _readable(hub, request, kind, repo_id)
    _, blob = repository.file(commit_id, path)
    download = Download(repo_id, path, request.query["revision"][0], commit_id, 0, blob.size)
    return _content(request, blob, download, {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit_id})


@route("HEAD GET", STORAGE)
def download_object(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, oid: str) -> Response:
    _check_signature(hub, request)
    objects = hub.repositories[kind.removesuffix("s"), repo_id].objects
    blob = Blob(objects[oid], lfs=True)
    path, revision, commit_id = (request.query[name][0] for name in ("path", "revision", "commit"))
    download = Download(repo_id, path, revision, commit_id, 0, blob.size)
    # The storage has ETags of its own, so a client must take the X-Linked-Etag of the redirect.
    return _content(request, blob, download, {"ETag": f'"storage-{oid[:16]}"'})


def _content(request: Request, blob: Blob, download: Download, headers: dict[str, str]) -> Response:
    """A file, or the range of it that the request asks for."""
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    start, stop = 0, blob.size
    requested = re.fullmatch(
        r"bytes=(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<tail>\d+))", request.headers.get("range", "")
    )
    if requested is not None:
        if requested["tail"]:
            start = max(blob.size - int(requested["tail"]), 0)
        else:
            start = int(requested["first"])
            stop = min(int(requested["last"]) + 1, stop) if requested["last"] else stop
        if start >= stop:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{blob.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    sent = replace(download, first_byte=start, num_bytes=stop - start)
    return Response(200 if requested is None else 206, blob.data[start:stop], headers, sent)


def _signed(hub: "LoopbackHub", method: str, path: str, query: dict[str, str]) -> str:
    """A path that the storage serves to whoever has it, without a token."""
    return f"{path}?{urlencode(query | {'signature': _signature(hub, method, path)})}"


def _signature(hub: "LoopbackHub", method: str, path: str) -> str:
    return hmac.new(hub.signing_key, f"{method} {path}".encode(), "sha256").hexdigest()


def _check_signature(hub: "LoopbackHub", request: Request) -> None:
    if "authorization" in request.headers:
        raise HubError(400, "the storage takes signed URLs only: a client must not send it the user's token")
    signature = request.query.get("signature", [""])[0]
    method = "GET" if request.method == "HEAD" else request.method
    if not hmac.compare_digest(signature, _signature(hub, method, request.path)):
        raise HubError(403, "the signature does not fit the URL")


# Uploads ------------------------------------------------------------------------------------------------------------


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: "LoopbackHub", request: Request) -> Response:
    errors, warnings = check_card(request.json()["content"])
    content = {
        name: [{"message": message} for message in messages]
        for name, messages in (("errors", errors), ("warnings", warnings))
    }
    return Response.of_json(content, 400 if errors else 200)


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Tells which files go to LFS, which are ignored, and which are there already."""
    repository, ref = _commit_target(hub, request, kind, repo_id, revision)
    commit = repository.resolve(ref)
    content = request.json()
    git_ignore = content.get("gitIgnore")
    if git_ignore is None and ".gitignore" in commit.files:
        git_ignore = commit.files[".gitignore"].data.decode()
    files = []
    for file in content["files"]:
        path = file["path"]
        mode = repository.upload_mode(commit, path, file["size"], base64.b64decode(file["sample"]))
        info = {"path": path, "uploadMode": mode, "shouldIgnore": ignored(git_ignore or "", path)}
        if path in commit.files:
            info["oid"] = commit.files[path].etag
        files.append(info)
    return Response.of_json({"files": files})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
def lfs_batch(hub: "LoopbackHub", request: Request, repo_id: str, kind: str = "models") -> Response:
    """Tells where to upload LFS objects; an object that the repo has already needs no upload."""
    repository = _readable(hub, request, kind, repo_id)
    content = request.json()
    # For a pull request the client names no ref: it needs no right to write to one.
    _writer(hub, request, repository.namespace if "ref" in content else None)
    objects = []
    for wanted in content["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repository.objects:
            storage_path = f"/storage/{kind}/{repo_id}/{wanted['oid']}"
            upload_url = f"{hub.storage_endpoint}{_signed(hub, 'PUT', storage_path, {})}"
            verify_url = f"{_page_url(hub, repository)}.git/info/lfs/verify"
            entry["actions"] = {"upload": {"href": upload_url}, "verify": {"href": verify_url}}
        objects.append(entry)
    return Response.of_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": LFS_MEDIA_TYPE})


@route("PUT", STORAGE)
def upload_object(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, oid: str) -> Response:
    _check_signature(hub, request)
    blob = Blob(request.body, lfs=True)
    if blob.sha256 != oid:
        raise HubError(400, f"the content has the sha256 {blob.sha256}, not {oid}")
    hub.repositories[kind.removesuffix("s"), repo_id].objects[oid] = blob.data
    hub.record_upload(repo_id, blob)
    return Response(headers={"ETag": f'"{oid[:32]}"'})


@route("POST", rf"{PAGE}\.git/info/lfs/verify")
def lfs_verify(hub: "LoopbackHub", request: Request, repo_id: str, kind: str = "models") -> Response:
    repository = _readable(hub, request, kind, repo_id)
    content = request.json()
    if len(repository.objects.get(content["oid"], b"")) != content["size"]:
        raise HubError(404, f"there is no object {content['oid']} of {content['size']} bytes")
    return Response.of_json({})


@route("POST", f"{API}/commit/{REVISION}")
def commit(hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Takes a commit as NDJSON: a header, then one operation a line."""
    hub.raise_commit_fault()
    repository, ref = _commit_target(hub, request, kind, repo_id, revision)
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
        elif key == "deletedFolder":
            folder = value["path"].rstrip("/") + "/"
            deletions.update([path for path in parent.files if path.startswith(folder)] or [folder])
        elif key != "header":
            raise HubError(400, f"unknown operation in a commit: {key!r}")
    if "README.md" in additions:
        errors, _ = check_card(additions["README.md"].decode())
        if errors:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))

    pull_request = None
    if request.flag("create_pr"):
        pull_request = PullRequest(len(repository.pull_requests) + 1, header["summary"], account.name)
        ref = pull_request.ref
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
    url = _page_url(hub, repository)
    content = {"success": True, "commitOid": new.id, "commitUrl": f"{url}/commit/{new.id}", "hookOutput": ""}
    if pull_request is not None:
        repository.pull_requests.append(pull_request)
        content["pullRequestUrl"] = f"{url}/discussions/{pull_request.number}"
    return Response.of_json(content)


def _commit_target(
    hub: "LoopbackHub", request: Request, kind: str, repo_id: str, revision: str
) -> tuple[Repository, str]:
    """The repo and the ref that a commit will move, or from which its pull request will start."""
    repository = _readable(hub, request, kind, repo_id)
    # Who may read a repo may open a pull request on it.
    _writer(hub, request, None if request.flag("create_pr") else repository.namespace)
    ref = repository.ref(revision)
    if ref is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return repository, ref
