"""Makes `huggingface_hub` and transformers of this process clients of a loopback Hub."""

import runpy
import sys
from typing import Any

import pytest
from huggingface_hub import close_session, constants, hf_api
from huggingface_hub.utils import _http

from .server import LoopbackHub, foreign_variables

LOOPBACK_NAMES = ("127.0.0.1", "localhost")
CLIENT_TIMEOUT = 10.0  # seconds


def lead_clients_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process a client of a Hub until `monkeypatch` is undone. No request can leave the machine.

    Child processes read the environment variables. `huggingface_hub` read them on import, so its constants are changed
    as well.
    """
    for name in foreign_variables():
        monkeypatch.delenv(name)
    for name, value in hub.environment().items():
        monkeypatch.setenv(name, value)
    lead_huggingface_hub_to(hub, monkeypatch)
    lead_transformers_to(hub, monkeypatch)


def lead_huggingface_hub_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates what `huggingface_hub` read from the environment on import."""
    # Run again, its own code interprets the variables.
    for name, value in runpy.run_path(str(constants.__file__)).items():
        old = getattr(constants, name, value)
        if name.startswith("__") or value == old:
            continue
        # Some modules have copies of some names.
        for module in [module for key, module in sys.modules.items() if key.startswith("huggingface_hub")]:
            if name in vars(module) and vars(module)[name] is old:
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset({_http._url_origin(hub.endpoint)}))
    # The top-level functions of huggingface_hub are methods of this object.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)

    close_session()
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", loopback_client)
    # Retries do not wait.
    waits = _http.http_backoff.__kwdefaults__
    assert waits is not None
    for name in ("base_wait_time", "max_wait_time"):
        assert name in waits
        monkeypatch.setitem(waits, name, 0.01)


def lead_transformers_to(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates what transformers read from the environment: its `HfApi`, and its cache for `trust_remote_code`."""
    from transformers import dynamic_module_utils
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    for module in (transformers_hub, dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(hub.client_home / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


def loopback_client() -> Any:
    """The HTTP client of `huggingface_hub`, with a timeout and confined to this machine."""
    client = _http.default_client_factory()
    client.timeout = CLIENT_TIMEOUT
    client.event_hooks["request"].append(_stay_on_loopback)
    return client


def _stay_on_loopback(request: Any) -> None:
    if request.url.host not in LOOPBACK_NAMES:
        raise RuntimeError(f"a test must not leave the machine, but asked for {request.method} {request.url}")
