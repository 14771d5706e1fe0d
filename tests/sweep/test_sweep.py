"""A sample of the sweep: kinds that are built in ways of their own. `make sweep` takes all."""

from typing import Any

import pytest

from sweep.backbones import Kind, kinds
from sweep.steps import CHOICES, run
from sweep.table import PAGE, page, read

PASSED, REFUSED = "passed", "refused"


@pytest.mark.parametrize(
    ("library", "name", "architecture", "expected"),
    [
        # Tied weights.
        ("timm", "coat", "coat_tiny", {"all": PASSED, "lora": PASSED}),
        # Class attention; parameters that belong to no layer.
        ("timm", "cait", "cait_xxs24_224", {"all": PASSED}),
        # BatchNorm and weights whose strides are permuted.
        ("timm", "convnext", "test_convnext", {"all": PASSED, "lora": PASSED}),
        # A fused projection whose weights are used without a call of its layer.
        ("timm", "beit", "beit_base_patch16_224", {"head": PASSED, "lora": REFUSED}),
        # Index buffers that are not persistent.
        ("transformers", "LevitForImageClassification", None, dict.fromkeys(CHOICES, PASSED)),
        # Index buffers of windows.
        ("transformers", "SwinForImageClassification", None, dict.fromkeys(CHOICES, PASSED)),
        # Convolutions that standardize their weights.
        ("transformers", "BitForImageClassification", None, {"head": PASSED, "lora": REFUSED}),
        # Padding by the stride of a convolution that has an adapter.
        ("transformers", "MobileNetV1ForImageClassification", None, {"lora": PASSED}),
        # Two heads and no loss.
        ("transformers", "DeiTForImageClassificationWithTeacher", None, {"all": REFUSED}),
    ],
)
def test_a_sample_of_the_sweep(library: str, name: str, architecture: str | None, expected: dict[str, str]) -> None:
    outcome = run(Kind(library, name), architecture, tuple(expected))
    assert {choice: life.partition(":")[0] for choice, life in outcome.lives.items()} == expected, outcome.lives


def row(name: str, *lives: str) -> dict[str, Any]:
    return {
        "library": "timm", "name": name, "architecture": name, "image_size": 32, "parameters": 10,
        "lives": dict(zip(CHOICES, lives, strict=True)),
    }  # fmt: skip


def test_the_page_counts_each_kind_once_and_names_reasons() -> None:
    rows = [
        row("a", PASSED, PASSED, PASSED),
        row("b", PASSED, PASSED, "refused: no layer for adapters"),
        row("c", PASSED, "export: OSError: full", PASSED),
        row("d", *["not built: ImportError: natten"] * 3),
    ]
    text = page({"versions": {"timm": "1"}, "rows": rows})
    assert "| timm | 4 | 1 | 1 | 1 | 1 |" in text
    assert "- b (lora): refused: `no layer for adapters`" in text
    assert "- c (head): export: `OSError: full`" in text
    assert "- d: not built: `ImportError: natten`" in text


def test_the_page_in_the_documentation_is_that_of_the_results() -> None:
    assert PAGE.read_text() == page(read())


def test_every_kind_in_the_results_exists() -> None:
    """A kind that a library has dropped would stay in the table."""
    known = {(kind.library, kind.name) for kind in kinds()}
    assert {(row["library"], row["name"]) for row in read()["rows"]} <= known
