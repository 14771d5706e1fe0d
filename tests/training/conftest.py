"""Garbage collection that does not look through all imported modules."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _imported_modules_are_no_garbage() -> Iterator[None]:
    """Each stage collects garbage. With all imported modules this takes ten times as long as the stage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
