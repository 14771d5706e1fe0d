"""The recipe with lists of labels: from an imagefolder with metadata to a calibrated, published-ready ensemble."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_espro
from several_labels import NAMES, several_backbone, write_folder
from tiny import SIZE, folder
from tiny_recipes import KEYS, config, run
from transformers import ViTImageProcessor, pipeline

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_data import load_image_data, with_validation
from hf_simplex.data.image_transforms import build_transforms, with_pixel_values
from hf_simplex.evaluation.multi_label import multi_label_metrics

SETTINGS: dict[str, Any] = {
    "num_vertices": 2,
    "num_members": None,
    "num_train_epochs": 3,
    "learning_rate": 0.01,
    "augment": "none",
    "max_train_examples": None,
    "max_test_examples": None,
    "image_size": SIZE,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_a_run_trains_calibrates_measures_and_writes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_folder(tmp_path / "data", 160)
    backbone = str(folder("vit", tmp_path / "backbone", labels=5))
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    results = run(
        tmp_path, backbone=backbone, data_set=str(tmp_path / "data"), num_components=2, validation_fraction=0.4,
        surface_resolution=2, out_of_distribution="digits", **{**SETTINGS, "max_test_examples": 32}
    )  # fmt: skip
    output = tmp_path / "output"
    model = SimplexForImageClassification.from_pretrained(output / "ensemble")
    assert model.config.problem_type == "multi_label_classification"
    assert tuple(model.config.id2label.values()) == NAMES
    assert set(results) == set(KEYS) and "accuracy" not in results["espro"]
    assert results["espro"]["micro_f1"] > 0.6, "colours tell the labels"
    assert results["espro"]["calibrated"]["nll"] <= results["espro"]["nll"] + 0.02
    assert model.decisions is not None and model.decisions.abstention is None
    assert set(results["espro"]["decisions"]) == {"ood_auroc_mutual_information"}, "and nothing of one answer an image"
    told = capsys.readouterr().out
    assert "Hamming error" in told and "micro F1" in told and "The temperature is" in told
    assert caplog.text.count("Abstention threshold and prediction sets rest on one label") == 1, "said once"
    card = (output / "ensemble" / "README.md").read_text()
    assert "multi-label image classification" in card and "at random and not stratified" in card
    assert {"least_sure.png", "results.json", "run.json"} <= {file.name for file in output.iterdir()}
    # What is on the card is what the saved model predicts.
    record = json.loads((output / "run.json").read_text())
    assert record["images"]["validation"]["images"] == 51
    data = with_validation(load_image_data(tmp_path / "data"), 0.4)
    rows = with_pixel_values(data.test, build_transforms(model.image_processor)[1])
    pixels = torch.stack([rows[index]["pixel_values"] for index in range(len(rows))])
    references = np.stack([rows[index]["labels"].numpy() for index in range(len(rows))])
    found = multi_label_metrics(model(pixels).logits.sigmoid().double().numpy(), references)
    assert found["nll"] == pytest.approx(results["espro"]["calibrated"]["nll"], abs=1e-4)
    assert found["hamming_error"] == pytest.approx(results["espro"]["hamming_error"])
    answer = pipeline("image-classification", model=str(output / "ensemble"))(data.test[0]["image"])
    assert {row["label"] for row in answer} == set(NAMES)


def test_the_strategy_is_chosen_by_binary_losses(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 160)
    backbone = str(folder("vit", tmp_path / "backbone"))
    results = run(
        tmp_path, backbone=backbone, data_set=str(tmp_path / "data"), validation_fraction=0.4, strategy="auto",
        num_modes=2, surface_resolution=0, **{**SETTINGS, "num_train_epochs": 1}
    )  # fmt: skip
    choice = json.loads((tmp_path / "output" / "run.json").read_text())["strategy"]
    assert choice["chosen"] in ("join", "connect") and len(choice["barriers"]) == 1
    assert 0 <= results["espro"]["hamming_error"] <= 1


def mistakes(path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        train_espro.main([str(config(path, **{**SETTINGS, "num_components": 1, **changes}))])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_needs_one_label_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", 160)
    source = {"backbone": str(folder("vit", tmp_path / "backbone")), "data_set": str(tmp_path / "data")}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"target_error": 0.01}, "target_error is 0.01"),
        ({"coverage": 0.8}, "coverage is 0.8"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"probe_head": True}, "probe_head is True"),
    ]
    for number, (changes, message) in enumerate(cases):
        told = mistakes(tmp_path / str(number), capsys, **source, **changes)
        assert message in told and "multi_label_classification" in told
    # A backbone with one problem type and images with the other.
    several_backbone("vit").save_pretrained(tmp_path / "several")
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "several")
    told = mistakes(
        tmp_path, capsys, backbone=str(tmp_path / "several"), data_set="digits", max_train_examples=40,
        max_test_examples=30,
    )  # fmt: skip
    assert "the images of digits have one label each" in told
    told = mistakes(tmp_path, capsys, backbone=None, modes=[source["backbone"]], data_set=source["data_set"])
    assert "have lists of labels" in told
