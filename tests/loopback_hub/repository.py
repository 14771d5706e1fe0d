"""One repo of the Hub: commits, branches, tags and LFS objects."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property

from .errors import HubError

# The first commit of every repo holds this file. Its patterns choose the files in LFS.
LFS_EXTENSIONS = (
    "7z arrow bin bz2 ckpt gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth safetensors"
)
GIT_ATTRIBUTES = "".join(
    f"*.{extension} filter=lfs diff=lfs merge=lfs -text\n" for extension in LFS_EXTENSIONS.split()
)
REGULAR_FILE_LIMIT = 10 * 1024 * 1024  # bytes; the Hub keeps larger files in LFS, whatever they are


@dataclass(frozen=True)
class Blob:
    """The content of one file, kept in git (`lfs=False`) or in the LFS storage."""

    data: bytes
    lfs: bool

    @property
    def size(self) -> int:
        """Bytes of content, not of an LFS pointer."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 of the content: the id of an LFS object."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS object."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def git_oid(self) -> str:
        """Hex sha1 that git gives to the blob; to the pointer where the content is in LFS."""
        stored = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        """The id that the Hub gives to the content: sha256 for LFS, git's sha1 for the rest."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """One state of the files of a repo."""

    id: str
    parent: str | None
    title: str
    description: str
    author: str
    date: datetime
    files: Mapping[str, Blob]
    changed: frozenset[str]
    """Paths that the commit added, changed or deleted."""


@dataclass
class Repository:
    """One model repo."""

    id: str
    private: bool
    heads: dict[str, str] = field(default_factory=dict)
    """Full ref (`refs/heads/main`, `refs/pr/1`) to commit id."""
    tags: dict[str, str] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256, committed or not."""

    def __post_init__(self) -> None:
        self.commit("refs/heads/main", "initial commit", "", "system", {".gitattributes": GIT_ATTRIBUTES.encode()}, {})

    @property
    def namespace(self) -> str:
        """The user or organization that owns the repo."""
        return self.id.split("/")[0]

    def ref(self, revision: str) -> str | None:
        """The full name of a branch or pull request; None if there is none."""
        return next((ref for ref in (revision, f"refs/heads/{revision}") if ref in self.heads), None)

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or commit id.

        Raises:
            HubError: 404 RevisionNotFound.
        """
        ref = self.ref(revision)
        commit_id = self.heads[ref] if ref is not None else self.tags.get(revision.removeprefix("refs/tags/"))
        commit = self.history.get(commit_id or revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def log(self, revision: str) -> list[Commit]:
        """The commits of a revision, the newest first."""
        commits = []
        commit: Commit | None = self.resolve(revision)
        while commit is not None:
            commits.append(commit)
            commit = self.history[commit.parent] if commit.parent is not None else None
        return commits

    def file(self, revision: str, path: str) -> tuple[Commit, Blob]:
        """One file of a revision.

        Raises:
            HubError: 404 RevisionNotFound, or 404 EntryNotFound with the commit, which clients remember.
        """
        commit = self.resolve(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.id})
        return commit, commit.files[path]

    def upload_mode(self, commit: Commit, path: str, size: int, sample: bytes) -> str:
        """Where the content of a new file belongs: `"lfs"` or `"regular"`.

        Args:
            commit: the state on which the new file will be put; its `.gitattributes` decide.
            path: the path of the file.
            size: its size in bytes.
            sample: its first bytes; a NUL byte marks binary content, which the Hub keeps out of git.
        """
        attributes = commit.files.get(".gitattributes")
        lines = attributes.data.decode().splitlines() if attributes is not None else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        matched = any(fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)
        return "lfs" if matched or size > REGULAR_FILE_LIMIT or b"\0" in sample else "regular"

    def commit(
        self,
        ref: str,
        title: str,
        description: str,
        author: str,
        additions: Mapping[str, bytes],
        lfs_additions: Mapping[str, str],
        deletions: frozenset[str] = frozenset(),
        parent: Commit | None = None,
    ) -> Commit:
        """Add a commit to a ref.

        Args:
            ref: full name of the ref to move; it is made where it does not exist.
            title, description, author: what the log shows.
            additions: path to content, of files kept in git.
            lfs_additions: path to sha256, of files kept in LFS.
            deletions: paths to delete; additions are made after deletions.
            parent: the commit to build on; the head of `ref` by default.

        Raises:
            HubError: 404 EntryNotFound for a deletion of what is not there, 400 for an LFS file without its object.
        """
        if parent is None and ref in self.heads:
            parent = self.history[self.heads[ref]]
        files = dict(parent.files) if parent is not None else {}
        for path in deletions:
            if path not in files:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        files |= {path: Blob(data, lfs=False) for path, data in additions.items()}
        for path, oid in lfs_additions.items():
            if oid not in self.objects:
                raise HubError(400, f"LFS pointer of {path} points to object {oid}, which was never uploaded")
            files[path] = Blob(self.objects[oid], lfs=True)

        entries = [(path, files[path].git_oid) for path in sorted(files)]
        parent_id = parent.id if parent is not None else None
        # The number of commits so far makes two commits with the same content two commits.
        identity = json.dumps([self.id, parent_id, title, description, author, entries, len(self.history)])
        commit = Commit(
            id=hashlib.sha1(identity.encode()).hexdigest(),
            parent=parent_id,
            title=title,
            description=description,
            author=author,
            date=datetime.now(UTC),
            files=files,
            changed=frozenset({*additions, *lfs_additions, *deletions}),
        )
        self.history[commit.id] = commit
        self.heads[ref] = commit.id
        return commit
