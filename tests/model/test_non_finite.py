"""Numbers that are not finite are neither kept as statistics nor saved, and said when loaded."""

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import backbone, batches, contents, ensemble, forget_digests

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_layers


def test_an_infinite_pixel_gives_no_statistics_and_names_point_and_layer() -> None:
    model = ensemble("resnet")
    before = model.config.members
    bad = batches()
    bad[1]["pixel_values"][3, 0, 2, 2] = float("inf")
    first = next(iter(batch_norm_layers(model.backbone)))
    with pytest.raises(ValueError, match=re.escape(f"{first!r} at the point [0.5, 0.5, 0.0] are not finite")):
        model.set_members([[0.5, 0.5, 0.0]], batches=bad)
    assert model.config.members == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    model = ensemble("resnet")
    model.save_pretrained(tmp_path / "ensemble")
    before = contents(tmp_path / "ensemble")
    with torch.no_grad():
        model.weights[1]["classifier.1.bias"][0] = value
    with pytest.raises(ValueError, match=r"vertices\.1\..*bias is not finite"):
        model.save_pretrained(tmp_path / "ensemble")
    assert contents(tmp_path / "ensemble") == before
    with pytest.raises(ValueError, match=r"classifier\.1\.bias is not finite"):
        model.export_vertex(1, tmp_path / "vertex")
    assert not (tmp_path / "vertex").exists()
    model.export_vertex(0, tmp_path / "vertex")


def test_weights_that_are_not_finite_are_said_when_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "hf_simplex"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    SimplexForImageClassification.from_backbone(backbone("vit")).save_pretrained(tmp_path)
    SimplexForImageClassification.from_pretrained(tmp_path)
    assert "not finite" not in caplog.text
    # A version before this check wrote such files.
    file = tmp_path / "vertex-00000.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("bias"))
    tensors[name][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    forget_digests(tmp_path)
    SimplexForImageClassification.from_pretrained(tmp_path)
    assert re.search(r"bias of .* is not finite", caplog.text)
