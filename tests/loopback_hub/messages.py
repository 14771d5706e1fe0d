"""Requests and responses without sockets, and the records that the Hub keeps of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import HubError


@dataclass(frozen=True)
class Download:
    """A file that the Hub sent to a client."""

    repo_id: str
    path: str
    revision: str
    """The revision as the client named it."""
    commit: str
    """The commit that the revision stood for."""
    sequence: int = 0


@dataclass(frozen=True)
class Upload:
    """A file whose content a client sent to the Hub, and that the Hub kept."""

    repo_id: str
    storage: Literal["lfs", "regular"]
    oid: str
    """sha256 of an LFS object, git's sha1 of a regular file."""
    size: int
    path: str | None
    """None for an LFS object in no commit yet: the upload of an object does not tell its path."""
    sequence: int = 0


@dataclass(frozen=True)
class LoggedRequest:
    """One request that reached the Hub."""

    method: str
    host: str
    path: str
    """Unquoted, without the query."""
    status: int
    """HTTP status of the answer; 0 where the connection was cut."""
    user: str | None
    sequence: int = 0


@dataclass(frozen=True)
class Request:
    """A request with its whole body."""

    method: str
    host: str
    path: str
    """Quoted, so that a slash within a revision can be told from one between path segments."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def token(self) -> str | None:
        """The user token, where the client sent one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else None

    def flag(self, name: str) -> bool:
        """A boolean query parameter, False by default."""
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            HubError: 400 where it is not.
        """
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"the body is not JSON: {error}") from error


@dataclass(frozen=True)
class Response:
    """An answer with its whole body; the body of an answer to HEAD is not sent, only its length."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    download: Download | None = None

    @classmethod
    def of_json(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """An answer whose body is `content` as JSON."""
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    @classmethod
    def of_error(cls, error: HubError, as_json: bool) -> "Response":
        """The Hub's API explains an error in JSON, its file endpoints in plain text."""
        headers = {"X-Error-Message": error.message.replace("\n", " "), **error.headers}
        if error.code is not None:
            headers["X-Error-Code"] = error.code
        if as_json:
            return cls.of_json({"error": error.message}, error.status, headers)
        return cls(error.status, error.message.encode(), {"Content-Type": "text/plain; charset=utf-8", **headers})
