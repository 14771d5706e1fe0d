"""An ensemble that version 0.1.0 wrote loads and predicts as it did."""

import json
from pathlib import Path

import torch
from tiny import images

from hf_simplex import SimplexForImageClassification

ENSEMBLE = Path(__file__).parent / "fixtures" / "ensemble-0.1.0"


def test_ensemble_of_version_0_1_0_predicts_as_before() -> None:
    expected = json.loads((ENSEMBLE / "expected_predictions.json").read_text("utf-8"))
    model = SimplexForImageClassification.from_pretrained(ENSEMBLE)
    output = model(images(4, seed=5), output_member_probabilities=True)
    torch.testing.assert_close(output.logits, torch.tensor(expected["logits"]))
    torch.testing.assert_close(output.member_probabilities, torch.tensor(expected["member_probabilities"]))
