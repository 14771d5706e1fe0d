import os

import pytest
from hub_fixtures import hub as hub

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="How often test_killed.py kills the recipe.")


@pytest.fixture(autouse=True)
def _no_hub_by_accident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for the Hub outside the loopback one fails at once instead of waiting for the network."""
    if "hub" not in request.fixturenames:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
