"""The small files of an ensemble and the headers of its large ones, in a folder or on the Hub.

Nothing here needs torch.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..model.atomic_saves import committed_saves, is_regular_file
from ..model.index_file import INDEX_NAME, missing_file, missing_index, not_whole
from .weight_headers import WeightHeader, read_header

__all__ = ["EnsembleFiles", "FolderFiles", "HubFiles"]

# A header of a vertex has about 100 bytes for each tensor.
_FIRST_BYTES = 100_000


class EnsembleFiles(Protocol):
    """Where the files of an ensemble are read.

    Example::

        files: EnsembleFiles = FolderFiles(Path("ensemble"))
    """

    name: str
    """The folder or Hub id."""
    commit: str | None
    """The Hub commit; None for a folder."""

    def find(self, file: str) -> Path | None:
        """Return the path of a small file here; None if there is none.

        Example::

            files.find("config.json")
        """

    def holds(self, file: str) -> bool:
        """Return whether there is such a file.

        Example::

            files.holds("adapter_config.json")
        """

    def header(self, file: str) -> WeightHeader:
        """Read the header of a weight file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is empty, cut off, or its header is inconsistent.

        Example::

            files.header("vertex-00000.safetensors").tensors
        """


class FolderFiles(EnsembleFiles):
    """The files in a folder. Those of a save that was killed after its commit are found where they are.

    Args:
        folder: of the ensemble.

    Example:
        >>> FolderFiles(Path("no-such-folder")).find("config.json") is None
        True
    """

    def __init__(self, folder: Path) -> None:
        self.name = os.fspath(folder)
        self.commit: str | None = None
        self._folder = folder

    def find(self, file: str) -> Path | None:
        """Return the path of a file; None if there is none.

        Example:
            >>> FolderFiles(Path("no-such-folder")).find("config.json") is None
            True
        """
        for folder in committed_saves(self._folder):
            if is_regular_file(folder / file):
                return folder / file
        return self._folder / file if (self._folder / file).is_file() else None

    def holds(self, file: str) -> bool:
        """Return whether the folder itself has such a file.

        Example:
            >>> FolderFiles(Path("no-such-folder")).holds("config.json")
            False
        """
        return (self._folder / file).is_file()

    def header(self, file: str) -> WeightHeader:
        """Read the header of a weight file, see `EnsembleFiles`.

        Example::

            FolderFiles(Path("ensemble")).header("vertex-00000.safetensors").tensors
        """
        path = self.find(file)
        if path is None:
            raise missing_file(self.name, file)
        return _header_of(path)


class HubFiles(EnsembleFiles):
    """The files in a repository, at one commit.

    Small files come to the cache, of weight files only the headers are read. Weight files in the cache are read there.

    Args:
        repo_id: Hub id.
        revision: branch, tag or commit; default: main.
        token: default: that of the logged-in account.

    Raises:
        OSError: the repository or revision does not exist, is not in reach, or the token has no access to it.
        FileNotFoundError: it has no index.

    Example::

        HubFiles("me/resnet50-simplex").header("vertex-00000.safetensors").file_bytes
    """

    def __init__(self, repo_id: str, revision: str | None = None, token: str | None = None) -> None:
        self.name = repo_id
        self.commit: str | None = None
        self._revision, self._token = revision, token
        index = self.find(INDEX_NAME)
        if index is None:
            raise missing_index(repo_id)
        # .../snapshots/<commit>/<file>
        self.commit = self._revision = index.parent.name

    def find(self, file: str) -> Path | None:
        """Return the path of a file in the cache, after a download; None if there is none.

        Raises:
            OSError: the repository or revision does not exist, is not in reach, or the token has no access to it.

        Example::

            files.find("config.json")
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, file, revision=self._revision, token=self._token))
        except LocalEntryNotFoundError as error:
            raise _not_loaded(self.name, error) from error
        except EntryNotFoundError:
            return None
        except (OSError, HFValidationError) as error:
            raise _not_loaded(self.name, error) from error

    def holds(self, file: str) -> bool:
        """Return whether the repository has such a file. Without a network, the cache is looked at.

        Example::

            files.holds("adapter_config.json")
        """
        from huggingface_hub import HfApi

        try:
            return HfApi(token=self._token).file_exists(self.name, file, revision=self._revision)
        except Exception:
            # The errors of a connection are those of the HTTP library, which is not the same in all versions.
            return self._cached(file) is not None

    def header(self, file: str) -> WeightHeader:
        """Read the header of a weight file, of the cache or by range requests, see `EnsembleFiles`.

        Raises:
            OSError: the repository is not in reach.

        Example::

            files.header("vertex-00000.safetensors").file_bytes
        """
        from huggingface_hub.errors import EntryNotFoundError

        if (path := self._cached(file)) is not None:
            return _header_of(path)
        try:
            first, size = self._first_bytes(file, _FIRST_BYTES)
        except EntryNotFoundError as error:
            raise missing_file(self.name, file) from error
        return _checked(
            f"{file} of {self.name}",
            lambda number: first[:number] if number <= len(first) else self._first_bytes(file, number)[0],
            size,
        )

    def _cached(self, file: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.name, file, revision=self._revision)
        return Path(path) if isinstance(path, str) else None

    def _first_bytes(self, file: str, number: int) -> tuple[bytes, int]:
        """So many bytes of a file, and the size of the whole file."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(self.name, file, revision=self._revision)
        headers = {
            **build_hf_headers(token=self._token),
            "Range": f"bytes=0-{number - 1}",
            "Accept-Encoding": "identity",
        }
        try:
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                found = b""
                # A server may ignore the range and send the whole file.
                for piece in response.iter_bytes():
                    found += piece
                    if len(found) >= number:
                        break
                total = response.headers.get("content-range", "").rpartition("/")[2]
                return found[:number], int(total or response.headers["content-length"])
        except OSError:
            raise
        except Exception as error:
            # See `holds`.
            raise _not_loaded(self.name, error) from error


def _header_of(path: Path) -> WeightHeader:
    with open(path, "rb") as file:

        def read(size: int) -> bytes:
            file.seek(0)
            return file.read(size)

        return _checked(path, read, os.fstat(file.fileno()).st_size)


def _checked(path: str | os.PathLike[str], read: Callable[[int], bytes], size: int) -> WeightHeader:
    try:
        return read_header(read, size)
    except ValueError as error:
        raise not_whole(path, size, error) from error


def _not_loaded(name: str, error: Exception) -> OSError:
    return OSError(f"The ensemble {name!r} could not be loaded: {error}")
