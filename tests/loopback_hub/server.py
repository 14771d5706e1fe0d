"""The loopback Hub: an HTTP server on 127.0.0.1 with its repos in memory and a log of requests."""

import itertools
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
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


def foreign_variables() -> list[str]:
    """Environment variables of this process that choose a Hub, cache, user or proxy."""
    prefixes = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return [name for name in os.environ if name.upper().startswith(prefixes)]


@dataclass(frozen=True)
class Account:
    """The user of a token, and the rights of the token."""

    name: str
    organizations: tuple[str, ...] = ()
    can_write: bool = True

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Namespaces of the account's repos."""
        return (self.name, *self.organizations)

    def owns(self, repository: Repository) -> bool:
        """Whether the repo is in a namespace of the account."""
        return repository.namespace in self.namespaces


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
        self.repositories: dict[str, Repository] = {}
        self.failures: list[str] = []
        """Requests to unknown endpoints, and errors of the Hub itself. Either fails a test."""

        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._requests: list[LoggedRequest] = []
        self._uploads: list[Upload] = []
        self._downloads: list[Download] = []
        self._uploads_until_cut: int | None = None
        self._commit_fault: HubError | None = None

        self._server = _Server(self)
        port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.storage_endpoint = f"http://localhost:{port}"
        """LFS objects have another host name, as on the real Hub: within one host, `huggingface_hub` follows redirects
        and misses their headers."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="loopback-hub")
        self._thread.start()

    def __enter__(self) -> "LoopbackHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server and waits for all its threads."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # The log

    def mark(self) -> int:
        """A point in time, for `requests`, `uploads` and `downloads`."""
        with self._lock:
            return next(self._sequence)

    def requests(self, since: int = 0) -> list[LoggedRequest]:
        """Requests since a mark, in the order of their answers."""
        with self._lock:
            return [request for request in self._requests if request.sequence > since]

    def uploads(self, since: int = 0) -> list[Upload]:
        """Files sent to the Hub since a mark: LFS objects, and files within commits."""
        with self._lock:
            return [self._with_path(upload) for upload in self._uploads if upload.sequence > since]

    def downloads(self, since: int = 0) -> list[Download]:
        """Files sent to clients since a mark."""
        with self._lock:
            return [download for download in self._downloads if download.sequence > since]

    def repository(self, repo_id: str) -> Repository:
        """A repo, with all that the Hub keeps of it.

        Raises:
            KeyError: there is no such repo.
        """
        return self.repositories[repo_id]

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first. The last one is the Hub's own initial commit."""
        with self._lock:
            return self.repository(repo_id).log(revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision: content by path."""
        with self._lock:
            return {path: blob.data for path, blob in self.repository(repo_id).resolve(revision).files.items()}

    def _with_path(self, upload: Upload) -> Upload:
        if upload.path is not None:
            return upload
        commits = self.repository(upload.repo_id).history.values()
        paths = (path for commit in commits for path, blob in commit.files.items() if blob.etag == upload.oid)
        return replace(upload, path=next(paths, None))

    # Faults

    def interrupt_uploads(self, after_objects: int = 0) -> None:
        """Cut the connections of all LFS uploads after the next few, until `end_faults`."""
        with self._lock:
            self._uploads_until_cut = after_objects

    def fail_next_commit(
        self, status: int = 500, message: str = "Internal Error - We're working hard to fix it"
    ) -> None:
        """Refuses the next commit with an HTTP status, after the upload of its LFS objects."""
        with self._lock:
            self._commit_fault = HubError(status, message)

    def end_faults(self) -> None:
        """Ends all faults."""
        with self._lock:
            self._uploads_until_cut = None
            self._commit_fault = None

    def raise_commit_fault(self) -> None:
        """Raises the `HubError` of `fail_next_commit`, once."""
        fault, self._commit_fault = self._commit_fault, None
        if fault is not None:
            raise fault

    # Clients in processes of their own

    def environment(self, token: str | None = token, home: Path | None = None) -> dict[str, str]:
        """Environment variables of a client of this Hub.

        Args:
            token: of the logged-in user; None for nobody.
            home: `HF_HOME`; default: the Hub's `client_home`.
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
        """Runs code in a new Python process, as a client of this Hub.

        Args:
            code: the program.
            token, home: see `environment`.
            env: more environment variables.
            cwd: working directory.
            timeout: in seconds.

        Returns:
            The output of the program.

        Raises:
            AssertionError: the program failed. The message holds its output.
            subprocess.TimeoutExpired: the program took too long.
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
        """Logs the upload of a file."""
        sequence = next(self._sequence)
        self._uploads.append(Upload(repo_id, "lfs" if blob.lfs else "regular", blob.etag, blob.size, path, sequence))

    def respond(self, request: Request) -> Response:
        """Answers a request, errors included."""
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
        """Logs a request before its answer is sent, so that a client with the answer finds it in the log."""
        with self._lock:
            account = self.accounts.get(request.token or "")
            user = account.name if account is not None else None
            path = unquote(request.path)
            self._requests.append(
                LoggedRequest(request.method, request.host, path, status, user, next(self._sequence))
            )
            if download is not None:
                self._downloads.append(replace(download, sequence=next(self._sequence)))

    def cuts_upload(self) -> bool:
        """Whether the upload that starts now is cut."""
        with self._lock:
            if not self._uploads_until_cut:
                return self._uploads_until_cut == 0
            self._uploads_until_cut -= 1
            return False


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
        # A client that disconnects or times out is no failure of the Hub.
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
        pass  # the Hub has its own log

    def _serve(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, headers.get("host", ""), url.path, query, headers, b"")

        if self.command == "PUT" and url.path.startswith("/storage/") and hub.cuts_upload():
            hub.log(request, status=0)
            self.close_connection = True
            return

        body = self.rfile.read(int(headers.get("content-length", 0)))
        response = hub.respond(replace(request, body=body))
        hub.log(request, response.status, response.download if self.command == "GET" else None)
        self._send(response)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        # One request a connection, so that no idle connection keeps a thread.
        headers = {"Content-Length": str(len(response.body)), "Connection": "close", **response.headers}
        for name, value in headers.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
