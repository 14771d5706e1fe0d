"""The loopback Hub: an HTTP server on 127.0.0.1 that keeps its repos in memory and a record of what clients did."""

import itertools
import os
import secrets
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .api import answer
from .errors import HubError
from .messages import Download, LoggedRequest, Request, Response, Upload
from .repository import Blob, Commit, Repository

REQUEST_TIMEOUT = 10.0  # seconds without a byte from the client
MAX_CONNECTIONS = 32
BLOCK_SIZE = 64 * 1024  # bytes


def foreign_variables() -> list[str]:
    """The environment variables of this process that would lead a client to another Hub, cache, user or proxy."""
    prefixes = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return [name for name in os.environ if name.upper().startswith(prefixes)]


@dataclass(frozen=True)
class Account:
    """Who is behind a token, and what the token may do."""

    name: str
    organizations: tuple[str, ...] = ()
    can_write: bool = True

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where the account may have repos."""
        return (self.name, *self.organizations)

    def owns(self, repository: Repository) -> bool:
        """Whether the repo is in one of the account's namespaces."""
        return repository.namespace in self.namespaces


@dataclass
class Interruption:
    """Cuts connections in the middle of a transfer."""

    after_bytes: int = 0
    after_transfers: int = 0
    attempts: int | None = 0

    def strikes(self) -> bool:
        """Whether the transfer that starts now is to be cut."""
        if self.attempts == 0:
            return False
        if self.after_transfers > 0:
            self.after_transfers -= 1
            return False
        if self.attempts is not None:
            self.attempts -= 1
        return True


class LoopbackHub:
    """A Hub for tests. Use it as a context manager, or call `close`.

    Args:
        client_home: the `HF_HOME` of the processes that `run_python` starts.
    """

    user = "alice"
    organization = "acme"
    other_user = "bob"
    token = "hf_alice"
    read_token = "hf_alice_read_only"
    other_token = "hf_bob"

    def __init__(self, client_home: Path) -> None:
        self.client_home = client_home
        self.accounts = {
            self.token: Account(self.user, (self.organization,)),
            self.read_token: Account(self.user, (self.organization,), can_write=False),
            self.other_token: Account(self.other_user),
        }
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.signing_key = secrets.token_bytes(32)
        self.tree_page_size = 1000
        self.failures: list[str] = []
        """What no test should see: requests that the Hub does not know, and errors of its own."""

        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._requests: list[LoggedRequest] = []
        self._uploads: list[Upload] = []
        self._downloads: list[Download] = []
        self._upload_interruption = Interruption()
        self._download_interruption = Interruption()
        self._commit_fault: HubError | None = None

        self._server = _Server(self)
        port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.storage_endpoint = f"http://localhost:{port}"
        """LFS objects are on a host of another name, as on the real Hub: `huggingface_hub` follows redirects within
        one host by itself and would then miss the headers of the redirect."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="loopback-hub")
        self._thread.start()

    def __enter__(self) -> "LoopbackHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server; returns when all its threads have ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What clients did

    def mark(self) -> int:
        """A point in time, to ask for what happened since."""
        with self._lock:
            return next(self._sequence)

    def requests(self, since: int = 0) -> list[LoggedRequest]:
        """All requests since a mark, in the order in which they were answered."""
        with self._lock:
            return [request for request in self._requests if request.sequence > since]

    def uploads(self, since: int = 0) -> list[Upload]:
        """Files whose content was sent to the Hub since a mark: whole LFS objects, and files within commits."""
        with self._lock:
            return [self._with_path(upload) for upload in self._uploads if upload.sequence > since]

    def downloads(self, since: int = 0) -> list[Download]:
        """Files that were sent to clients since a mark; not those whose transfer was cut."""
        with self._lock:
            return [download for download in self._downloads if download.sequence > since]

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repo as the Hub keeps it.

        Raises:
            KeyError: there is no such repo.
        """
        return self.repositories[repo_type, repo_id]

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[Commit]:
        """The commits of a revision, the newest first; the last one is the Hub's own initial commit."""
        with self._lock:
            return self.repository(repo_id, repo_type).log(revision)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Path to content of all files of a revision."""
        with self._lock:
            files = self.repository(repo_id, repo_type).resolve(revision).files
            return {path: blob.data for path, blob in files.items()}

    def _with_path(self, upload: Upload) -> Upload:
        if upload.path is not None:
            return upload
        commits = (
            commit
            for repository in self.repositories.values()
            if repository.id == upload.repo_id
            for commit in repository.history.values()
        )
        paths = (path for commit in commits for path, blob in commit.files.items() if blob.etag == upload.oid)
        return replace(upload, path=next(paths, None))

    # Faults

    def interrupt_uploads(self, after_bytes: int = 0, after_objects: int = 0, attempts: int | None = 1) -> None:
        """Cut connections in the middle of LFS uploads.

        Args:
            after_bytes: how much of the object is read before the connection is cut.
            after_objects: how many uploads go well before that.
            attempts: how many uploads are cut (a client tries each object up to 6 times); None for all to come.
        """
        with self._lock:
            self._upload_interruption = Interruption(after_bytes, after_objects, attempts)

    def interrupt_downloads(self, after_bytes: int = 0, after_files: int = 0, attempts: int | None = 1) -> None:
        """Cut connections in the middle of downloads; arguments as for `interrupt_uploads`."""
        with self._lock:
            self._download_interruption = Interruption(after_bytes, after_files, attempts)

    def fail_next_commit(
        self, status: int = 500, message: str = "Internal Error - We're working hard to fix it"
    ) -> None:
        """Refuse the next commit with an HTTP status; its LFS objects are on the Hub by then."""
        with self._lock:
            self._commit_fault = HubError(status, message)

    def end_faults(self) -> None:
        """From now on all goes well."""
        with self._lock:
            self._upload_interruption = Interruption()
            self._download_interruption = Interruption()
            self._commit_fault = None

    def raise_commit_fault(self) -> None:
        """Called by the server at the start of a commit.

        Raises:
            HubError: as `fail_next_commit` asked for.
        """
        fault, self._commit_fault = self._commit_fault, None
        if fault is not None:
            raise fault

    # Clients in processes of their own

    def environment(self, token: str | None = token, home: Path | None = None) -> dict[str, str]:
        """The environment variables that lead a client here and nowhere else.

        Args:
            token: of the user who is logged in; None for nobody.
            home: `HF_HOME`; by default that of the Hub's `client_home`.
        """
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home or self.client_home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return variables if token is None else variables | {"HF_TOKEN": token}

    def run_python(
        self,
        code: str,
        token: str | None = token,
        home: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120.0,
    ) -> str:
        """Run code in a fresh Python process whose Hub this is.

        Args:
            code: the program.
            token, home: see `environment`.
            env: more environment variables.
            cwd: the directory to run in.
            timeout: in seconds.

        Returns:
            What the program printed.

        Raises:
            AssertionError: the program failed; the message has its output.
            subprocess.TimeoutExpired: it took too long.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in foreign_variables()}
        process = subprocess.run(
            [sys.executable, "-c", code],
            env=inherited | self.environment(token, home) | dict(env or {}),
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, f"exit status {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    # Called by the server

    def record_upload(self, repo_id: str, blob: Blob, path: str | None = None) -> None:
        """Note that the content of a file has arrived."""
        sequence = next(self._sequence)
        self._uploads.append(Upload(repo_id, "lfs" if blob.lfs else "regular", blob.etag, blob.size, path, sequence))

    def respond(self, request: Request) -> Response:
        """The answer to a request, also where that is an error."""
        with self._lock:
            try:
                response = answer(self, request)
            except HubError as error:
                response = Response.of_error(error, as_json="/resolve/" not in request.path)
                if error.status == 501:
                    self.failures.append(error.message)
            except Exception:
                self.failures.append(traceback.format_exc())
                response = Response(500, traceback.format_exc().encode())
            return response

    def log(self, request: Request, status: int, download: Download | None = None) -> None:
        """Note a request, before its answer leaves: a client that has the answer finds the request in the log."""
        with self._lock:
            account = self.accounts.get(request.token or "")
            user = account.name if account is not None else None
            path = unquote(request.path)
            self._requests.append(
                LoggedRequest(request.method, request.host, path, status, user, next(self._sequence))
            )
            if download is not None:
                self._downloads.append(replace(download, sequence=next(self._sequence)))

    def cut_upload_after(self) -> int | None:
        """After how many bytes the upload that starts now is cut; None where it is not."""
        with self._lock:
            return self._upload_interruption.after_bytes if self._upload_interruption.strikes() else None

    def cut_download_after(self) -> int | None:
        """After how many bytes the download that starts now is cut; None where it is not."""
        with self._lock:
            return self._download_interruption.after_bytes if self._download_interruption.strikes() else None


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them

    def __init__(self, hub: LoopbackHub) -> None:
        self.hub = hub
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away, or says nothing for too long, is no failure of the Hub.
        if not isinstance(sys.exception(), OSError):
            self.hub.failures.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_TIMEOUT
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the hub keeps a log of its own

    def _serve(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, headers.get("host", ""), url.path, query, headers, b"")

        uploading = self.command == "PUT" and url.path.startswith("/storage/")
        limit = hub.cut_upload_after() if uploading else None
        body = bytearray()
        for block in self._body_blocks(headers):
            body += block
            if limit is not None and len(body) >= limit:
                break
        if limit is not None:
            hub.log(request, status=0)
            self.close_connection = True
            return

        request = replace(request, body=bytes(body))
        response = hub.respond(request)
        sending = response.download is not None and self.command == "GET"
        limit = hub.cut_download_after() if sending else None
        if limit is None:
            hub.log(request, response.status, response.download if sending else None)
        else:
            hub.log(request, status=0)
        self._send(response, limit)

    def _body_blocks(self, headers: Mapping[str, str]) -> Iterator[bytes]:
        remaining = int(headers.get("content-length", 0))
        while remaining > 0:
            block = self.rfile.read(min(remaining, BLOCK_SIZE))
            if not block:
                raise ConnectionError("the client went away in the middle of a body")
            remaining -= len(block)
            yield block

    def _send(self, response: Response, limit: int | None) -> None:
        self.send_response(response.status)
        # One request a connection: no idle connection keeps a thread, and a fault hits one request only.
        headers = {"Content-Length": str(len(response.body)), "Connection": "close", **response.headers}
        for name, value in headers.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[:limit])
