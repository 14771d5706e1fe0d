"""The fixture `hub`: a loopback Hub, and `huggingface_hub` and transformers of this process as its clients."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants, hf_api
from huggingface_hub.utils import _http
from loopback_hub import LoopbackHub

LOOPBACK_NAMES = ("127.0.0.1", "localhost")
CLIENT_TIMEOUT = 10.0  # seconds


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A fresh Hub without repos. The user `hub.user` is logged in, and `HF_HOME` is a fresh directory.

    Afterwards the test fails if a client asked for something that the Hub does not know.
    """
    with LoopbackHub(client_home=tmp_path / "hf_home") as loopback_hub:
        lead_clients_to(loopback_hub, monkeypatch)
        yield loopback_hub
        close_session()
    assert not loopback_hub.failures, "\n".join(loopback_hub.failures)


def lead_clients_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a client of a Hub, until `monkeypatch` is undone.

    `huggingface_hub` reads its environment variables when it is imported, long before there is a Hub. So, beside the
    variables (which child processes read), this changes what it made of them. No request can go anywhere else.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in hub.environment().items():
        monkeypatch.setenv(name, value)

    home = str(hub.client_home)
    changed: dict[str, Any] = {
        name: value.replace(constants.ENDPOINT, hub.endpoint).replace(constants.HF_HOME, home)
        for name, value in vars(constants).items()
        if isinstance(value, str) and value.startswith((constants.ENDPOINT, constants.HF_HOME))
    }
    # The public Hub stays what it is for the code that rewrites its URLs to those of the endpoint.
    changed = {name: value for name, value in changed.items() if "DEFAULT" not in name and "URL_HOME" not in name}
    changed |= {
        "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset({_http._url_origin(hub.endpoint)}))
    # The functions at the top level of huggingface_hub are methods of this object.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    lead_transformers_to(hub, monkeypatch)

    close_session()
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", loopback_client)
    # Retries are tried for what they do, not for how long they wait.
    assert _http.http_backoff.__kwdefaults__ is not None
    for name in ("base_wait_time", "max_wait_time"):
        monkeypatch.setitem(_http.http_backoff.__kwdefaults__, name, 0.01)


def lead_transformers_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make transformers a client of a Hub: its shared `HfApi`, and its cache of code for `trust_remote_code`."""
    from transformers import dynamic_module_utils
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    modules = str(hub.client_home / "modules")
    for module in (transformers_hub, dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", modules)
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
