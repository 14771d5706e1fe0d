"""The system's Chromium, driven by Playwright, and a server of the app in this process."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from hf_simplex.explorer.about import About, describe
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.app import build_app, launch

__all__ = ["chromium", "serving"]


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A headless Chromium, with further arguments. Without one, the tests fail and say what to install."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail(
            "The tests of the explorer need Chromium: apt-get install chromium, then run them again. To leave them "
            "out, ignore tests/explorer/test_browser.py and test_image_sources.py there."
        )
    with sync_playwright() as playwright:
        # Root has no sandbox, and containers have little shared memory.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *arguments]
        )
        yield browser
        browser.close()


@contextmanager
def serving(answers: Answers, name: str = "ensemble", compute: Any = None) -> Iterator[str]:
    """The address of the app, which is served meanwhile."""
    about = describe(answers.model, ".")
    blocks = build_app(answers, About(name, about.facts, about.structure, about.card, about.pictures), compute)
    try:
        _, address, _ = launch(blocks, prevent_thread_lock=True, quiet=True)
        yield address
    finally:
        blocks.close()
