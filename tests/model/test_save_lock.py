"""One process at a time holds the lock of a folder, for as long as it lives and needs it."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import contents

from hf_simplex.model import save_lock as locks
from hf_simplex.model.atomic_saves import atomic_write
from hf_simplex.model.save_lock import LOCK_FILE, is_locked, save_lock

NAME = "0123456789abcdef"


def test_a_saver_that_waits_too_long_names_the_other(tmp_path: Path) -> None:
    message = rf"Process {os.getpid()} on .* has been saving"
    with save_lock(tmp_path), pytest.raises(OSError, match=message), save_lock(tmp_path, patience=0.1):
        pytest.fail("two owners")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("owner", ["ended", "restarted", "old", "empty", "link"])
def test_the_lock_of_a_dead_owner_is_taken_over(owner: str, tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    content = {"host": locks.socket.gethostname(), "process": os.getpid(), "token": "0" * 16}
    if owner == "ended":
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        content["process"] = process.pid
    if owner == "old":
        content["host"] = "another"
    if owner == "link":
        (tmp_path / "mine").write_text("mine")
        path.symlink_to(tmp_path / "mine")
    else:
        path.write_text("" if owner == "empty" else json.dumps(content))
    if owner not in ("ended", "restarted"):
        os.utime(path, (0, 0), follow_symlinks=False)
    with save_lock(tmp_path, patience=1):
        assert not path.is_symlink() and json.loads(path.read_text())["token"] != content["token"]
    assert contents(tmp_path) == ({"mine": b"mine"} if owner == "link" else {})
    assert not (tmp_path / LOCK_FILE).is_symlink()


def test_the_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "another", "process": 1, "token": "0" * 16}))
    with pytest.raises(OSError, match="Process 1 on another"), save_lock(tmp_path, patience=0.1):
        pytest.fail("two owners")
    assert (tmp_path / LOCK_FILE).exists()


def test_a_lock_lasts_as_long_as_its_owner_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save of more than an hour."""
    monkeypatch.setattr(locks, "_LIFETIME", 2.0)
    with save_lock(tmp_path):
        time.sleep(3)
        assert is_locked(tmp_path)
        with pytest.raises(OSError, match="has been saving"), save_lock(tmp_path, patience=0.1):
            pytest.fail("two owners")
    assert not list(tmp_path.iterdir())


def test_a_lock_is_not_renewed_by_a_former_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_LIFETIME", 0.5)
    with save_lock(tmp_path):
        (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "another", "process": 1, "token": "0" * 16}))
        time.sleep(1.2)
        assert not is_locked(tmp_path)


def test_a_saver_that_has_lost_its_lock_saves_nothing(tmp_path: Path) -> None:
    """It was suspended for an hour, and another process saves."""
    (tmp_path / "config.json").write_text("old")
    other = json.dumps({"host": "another", "process": 1, "token": "0" * 16})
    with pytest.raises(OSError, match="has lost"), atomic_write(tmp_path) as aside:
        (aside / "config.json").write_text("new")
        (tmp_path / LOCK_FILE).write_text(other)
    assert contents(tmp_path) == {"config.json": b"old", LOCK_FILE: other.encode()}


def test_a_lock_that_cannot_be_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(locks.json, "dump", full)
        with save_lock(tmp_path):
            pytest.fail("no lock")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_taker_of_a_lock_left_is_removed(tmp_path: Path) -> None:
    """The lock of a living owner stays: whoever took it by mistake puts it back."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = locks.socket.gethostname()
    for digit, pid in (("0", process.pid), ("1", os.getppid())):
        content = {"host": host, "process": pid, "token": NAME}
        (tmp_path / f"{LOCK_FILE}-{digit * 16}").write_text(json.dumps(content))
    (tmp_path / f"{LOCK_FILE}-mine").write_text("mine")
    with save_lock(tmp_path):
        pass
    assert set(contents(tmp_path)) == {f"{LOCK_FILE}-{'1' * 16}", f"{LOCK_FILE}-mine"}
