"""What is said when a backbone loads: one line for new and unused weights, and no table of transformers."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import folder

from hf_simplex import SimplexForImageClassification


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Messages of transformers and of this package."""
    kept, loggers = Kept(), [logging.getLogger(name) for name in ("transformers", "hf_simplex")]
    for logger in loggers:
        logger.addHandler(kept)
    yield kept.said
    for logger in loggers:
        logger.removeHandler(kept)


@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
def test_a_new_head_is_one_line(kind: str, tmp_path: Path, said: list[str]) -> None:
    name = folder(kind, tmp_path / "backbone", labels=7)
    said.clear()
    SimplexForImageClassification.from_backbone(name, num_labels=10)
    assert said == [f"The backbone {name} has a new head for 10 labels."]


def test_a_whole_backbone_says_nothing(tmp_path: Path, said: list[str]) -> None:
    name = folder("vit", tmp_path / "backbone", labels=7)
    said.clear()
    SimplexForImageClassification.from_backbone(name)
    assert said == []


def test_missing_and_unused_weights_beside_the_head_are_named(tmp_path: Path, said: list[str]) -> None:
    name = folder("vit", tmp_path / "backbone", labels=7)
    file = name / "model.safetensors"
    weights = load_file(file)
    weights["vit.pooler.dense.bias"] = weights.pop("vit.layernorm.bias")
    save_file(weights, file, metadata={"format": "pt"})
    said.clear()
    SimplexForImageClassification.from_backbone(name, num_labels=10)
    (line,) = said
    assert line == (
        f"The backbone {name} has a new head for 10 labels, and 1 weights that the checkpoint lacks or has in another "
        "shape, newly initialized (vit.layernorm.bias), and 1 weights of the checkpoint without use "
        "(vit.pooler.dense.bias)."
    )


def test_after_an_error_the_table_is_shown(tmp_path: Path, said: list[str]) -> None:
    name = folder("vit", tmp_path / "backbone", labels=7)
    file = name / "model.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] = weights["classifier.bias"][:3].clone()
    save_file(weights, file, metadata={"format": "pt"})
    said.clear()
    with pytest.raises(ValueError, match=r"other sizes\. The report above names the weights"):
        SimplexForImageClassification.from_backbone(name)
    assert sum("LOAD REPORT" in message and "classifier.bias" in message for message in said) == 1
