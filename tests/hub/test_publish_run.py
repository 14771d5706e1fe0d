"""A trainer publishes in one commit, and its card tells what the published ensemble returns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from test_publishing import ID, titles
from tiny import SIZE, Images, backbone, ensemble, same_tensors
from transformers import ViTImageProcessor

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.model.decisions import Decisions


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


def test_a_trainer_publishes_ensemble_card_and_pictures_in_one_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("resnet"))
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    args = SimplexTrainingArguments(
        str(tmp_path / "run"),
        num_vertices=2,
        num_members=2,
        max_steps=2,
        batch_norm_images=8,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        push_to_hub=True,
        hub_model_id=ID,
        save_steps=1,
        learning_rate=0.05,
    )
    trainer = SimplexTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=Images(9))
    trainer.train()
    trainer.push_to_hub(commit_message="Trained", tags="tiny")
    assert titles(hub) == ["Trained"]
    files = hub.files(ID)
    assert "reliability.png" in files and not any("/" in name or name.endswith(".bin") for name in files)
    card = ModelCard(files["README.md"].decode())
    assert "learning_rate: 0.05" in card.text and "On 9 test images" in card.text and "tiny" in card.data.tags
    assert {result.metric_name for result in card.data.eval_results} == {
        "Accuracy (ESPRO)",
        "NLL (ESPRO)",
        "ECE (ESPRO)",
    }
    assert same_tensors(SimplexForImageClassification.from_pretrained(ID), model)
    with pytest.raises(ValueError, match="blocking=False"):
        trainer.push_to_hub(blocking=False)


def test_a_trainer_publishes_without_results_where_there_can_be_none(hub: LoopbackHub, tmp_path: Path) -> None:
    model = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    model.set_members([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    args = SimplexTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, hub_model_id=ID)
    unlabelled = [{"pixel_values": row["pixel_values"]} for row in (Images(9)[index] for index in range(9))]
    trainer = SimplexTrainer(model=model, args=args, train_dataset=Images(), eval_dataset=unlabelled)
    trainer.push_to_hub()
    assert titles(hub) == ["End of training"]
    card = ModelCard(hub.files(ID)["README.md"].decode())
    assert "Not evaluated" in card.text and not card.data.eval_results
