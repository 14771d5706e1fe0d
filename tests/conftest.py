"""Fixtures of all tests: a loopback Hub, no network without it, and quick garbage collection."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session
from loopback_hub import LoopbackHub, lead_clients_to

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="How often test_killed.py kills the recipe.")


@pytest.fixture(scope="module", autouse=True)
def _garbage_collection_skips_imported_modules() -> Iterator[None]:
    """accelerate collects garbage twice a stage. To scan all imported modules takes ten times as long as the stage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_hub_by_accident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to the real Hub fail at once, instead of waiting for the network."""
    if "hub" not in request.fixturenames:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A loopback Hub without repos. The user `hub.user` is logged in, and `HF_HOME` is a fresh directory.

    To log out, call `monkeypatch.delenv("HF_TOKEN")`; to be somebody else, `monkeypatch.setenv("HF_TOKEN",
    hub.other_token)`. A test fails after a request to an unknown endpoint.
    """
    with LoopbackHub(client_home=tmp_path / "hf_home") as loopback_hub:
        lead_clients_to(loopback_hub, monkeypatch)
        yield loopback_hub
        close_session()
    assert not loopback_hub.failures, "\n".join(loopback_hub.failures)
