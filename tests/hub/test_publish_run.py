"""A trainer's card tells what the published ensemble returns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from tiny import Images, ensemble

from hf_simplex import SimplexTrainer, SimplexTrainingArguments
from hf_simplex.model.decisions import Decisions

ID = "alice/digits"


def test_a_calibrated_ensemble_is_published_with_calibrated_results(hub: LoopbackHub, tmp_path: Path) -> None:
    model = ensemble("vit")
    model.draw_members(2)
    model.decisions = Decisions(temperature=2.0, centroid_temperatures=[0.5])
    args = SimplexTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, hub_model_id=ID)
    trainer = SimplexTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(9))
    trainer.push_to_hub()
    card = ModelCard(hub.files(ID)["README.md"].decode())
    batch = torch.stack([Images(9)[index]["pixel_values"] for index in range(9)])
    labels = [int(Images(9)[index]["labels"]) for index in range(9)]
    with torch.no_grad():
        returned = model(batch).logits.softmax(-1).double().numpy()
    nll = float(-np.log(returned[range(9), labels]).mean())
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["NLL (ESPRO, calibrated)"] == pytest.approx(nll, abs=1e-5), "of what the model returns"
    lines = {line.split("|")[1].strip(): line.split("|") for line in card.text.splitlines() if line.startswith("| ")}
    assert float(lines["ESPRO"][4]) == pytest.approx(nll, abs=6e-5)
    assert lines["backbone"][4].strip() == "" and float(lines["centroid"][4]) > 0
    assert "pictures of predictions are at the temperature" in card.text
