"""Exports of a centroid with its temperature in the head."""

import logging
from pathlib import Path

import pytest
import torch
from tiny import KINDS, backbone, ensemble, images
from transformers import AutoModelForImageClassification

from hf_simplex.model.calibrated_head import fold_temperature
from hf_simplex.model.decisions import Decisions


@pytest.mark.parametrize("kind", KINDS)
def test_a_centroid_is_exported_with_its_temperature(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    expected = model.write_centroid()(images()).logits / 2.5
    model.decisions = Decisions(temperature=1.1, centroid_temperatures=[2.5])
    model.export_centroid(tmp_path)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(images()).logits, expected, rtol=1e-4, atol=1e-6)
    # The vertices stay as they are.
    torch.testing.assert_close(model.write_centroid()(images()).logits, expected * 2.5, rtol=1e-4, atol=1e-6)


def test_without_decisions_an_export_is_the_centroid_itself(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.export_centroid(tmp_path)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(plain(images()).logits, model.write_centroid()(images()).logits)


class Squashed(torch.nn.Module):
    """A head that is not linear: a division of its weights does not divide the logits."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden).tanh()


def test_a_head_that_is_not_linear_is_left_alone() -> None:
    module = backbone("vit")
    module.classifier = Squashed(module.classifier)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert not fold_temperature(module, 2.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_an_uncalibrated_export_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("transformers").propagate = True
    model = ensemble("resnet")
    model.decisions = Decisions(centroid_temperatures=[2.0])
    monkeypatch.setattr("hf_simplex.model.pretrained_simplex.fold_temperature", lambda *_: False)
    model.export_centroid(tmp_path)
    assert "exported without its temperature" in caplog.text
