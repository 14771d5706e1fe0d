"""The fixture `hub`: a loopback Hub, and `huggingface_hub` and transformers of this process as its clients."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants, hf_api
from huggingface_hub.utils import _http
from loopback_hub import LoopbackHub, foreign_variables

LOOPBACK_NAMES = ("127.0.0.1", "localhost")
CLIENT_TIMEOUT = 10.0  # seconds


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A fresh Hub without repos. The user `hub.user` is logged in, and `HF_HOME` is a fresh directory.

    A test that is to be nobody calls `monkeypatch.delenv("HF_TOKEN")`; one that is to be someone else,
    `monkeypatch.setenv("HF_TOKEN", hub.other_token)`. A test fails if a client asked for what the Hub does not know.
    """
    with LoopbackHub(client_home=tmp_path / "hf_home") as loopback_hub:
        lead_clients_to(loopback_hub, monkeypatch)
        yield loopback_hub
        close_session()
    assert not loopback_hub.failures, "\n".join(loopback_hub.failures)


def lead_clients_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a client of a Hub, until `monkeypatch` is undone.

    `huggingface_hub` reads its environment variables when it is imported, long before there is a Hub. So, beside the
    variables (which child processes read), this changes what it made of them. No request can leave the machine.
    """
    for name in foreign_variables():
        monkeypatch.delenv(name)
    for name, value in hub.environment().items():
        monkeypatch.setenv(name, value)
    lead_huggingface_hub_to(hub, monkeypatch)
    lead_transformers_to(hub, monkeypatch)


def lead_huggingface_hub_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change what `huggingface_hub` made of the environment into what it would make of it now."""
    # Run once more, its own code tells what the variables mean.
    for name, value in runpy.run_path(str(constants.__file__)).items():
        old = getattr(constants, name, value)
        if name.startswith("__") or value == old:
            continue
        # Some modules have their own copies of some names.
        for module in [module for key, module in sys.modules.items() if key.startswith("huggingface_hub")]:
            if name in vars(module) and vars(module)[name] is old:
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset({_http._url_origin(hub.endpoint)}))
    # The functions at the top level of huggingface_hub are methods of this object.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)

    close_session()
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", loopback_client)
    # Retries are tested for what they do, not for how long they wait.
    waits = _http.http_backoff.__kwdefaults__
    assert waits is not None
    for name in ("base_wait_time", "max_wait_time"):
        assert name in waits
        monkeypatch.setitem(waits, name, 0.01)


def lead_transformers_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change what transformers made of the environment: its `HfApi`, and its cache of code for `trust_remote_code`."""
    from transformers import dynamic_module_utils
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    for module in (transformers_hub, dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(hub.client_home / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


def loopback_client() -> Any:
    """The HTTP client that `huggingface_hub` would make, with a timeout, and without a way off this machine."""
    client = _http.default_client_factory()
    client.timeout = CLIENT_TIMEOUT
    client.event_hooks["request"].append(_stay_on_loopback)
    return client


def _stay_on_loopback(request: Any) -> None:
    if request.url.host not in LOOPBACK_NAMES:
        raise RuntimeError(f"a test must not leave the machine, but asked for {request.method} {request.url}")
