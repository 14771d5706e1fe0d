"""Corrupted images with several labels are measured by the metrics of several labels."""

from pathlib import Path

import pytest
from several_labels import several_ensemble, write_folder
from transformers import TrainingArguments

from hf_simplex.data.image_columns import labels_of
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.comparison import predict_members, predict_parts, results_of
from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
from hf_simplex.evaluation.multi_label import multi_label_metrics
from hf_simplex.evaluation.shift import evaluate_under_shift
from hf_simplex.model.decisions import Decisions
from hf_simplex.plots.shift import plot_shift

pytest.importorskip("imagecorruptions")


def test_shift_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "data", 40)
    test, model = load_image_data(tmp_path / "data").test, several_ensemble()
    model.decisions = Decisions(temperature=2.0)
    _, transform = build_transforms(model.image_processor)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", dataloader_pin_memory=False)
    rows = evaluate_under_shift(
        {"ensemble": model}, test, transform, args, corruptions=["fog"], severities=[5], image_size=32
    )
    clean = predict_members(model, with_pixel_values(test, transform), args, collate)
    mean = clean.probabilities.mean(axis=1)
    expected = multi_label_metrics(mean, labels_of(test))
    assert {name: rows[0][name] for name in expected} == pytest.approx(expected)  # type: ignore[literal-required]
    scaled = multi_label_metrics(SEVERAL_LABELS.scale_temperature(mean, 2.0), labels_of(test))
    assert rows[0]["calibrated_nll"] == pytest.approx(scaled["nll"]) and rows[1]["nll"] != rows[0]["nll"]
    assert plot_shift(rows).axes[0].get_ylabel() == "micro F1 (%)"
    predictions, references = predict_parts(model, with_pixel_values(test, transform), args, data_collator=collate)
    results = results_of(predictions, references)
    assert results["espro"]["nll"] == pytest.approx(expected["nll"])
