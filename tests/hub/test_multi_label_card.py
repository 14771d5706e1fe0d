"""The card, the repository and the endpoint of a multi-label ensemble."""

import base64
import io
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from several_labels import SeveralImages, several_ensemble
from tiny import PICTURE

from hf_simplex import SimplexTrainer, SimplexTrainingArguments
from hf_simplex.evaluation.multi_label import multi_label_metrics
from hf_simplex.hub.endpoint_handler import EndpointHandler
from hf_simplex.hub.model_index import SEVERAL_METRICS, is_generated
from hf_simplex.model.decisions import Decisions

ID = "alice/scenes"


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_published_card_measures_what_the_ensemble_returns(
    calibrated: bool, hub: LoopbackHub, tmp_path: Path
) -> None:
    model, test = several_ensemble(), SeveralImages(30, seed=7)
    test.labels[:, 2] = 0
    if calibrated:
        model.decisions = Decisions(temperature=2.0, centroid_temperatures=[0.5])
    args = SimplexTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, hub_model_id=ID)
    SimplexTrainer(model=model, args=args, train_dataset=SeveralImages(), eval_dataset=test).push_to_hub()
    card = ModelCard(hub.files(ID)["README.md"].decode())
    probabilities = model(test.pixel_values).logits.sigmoid().double().numpy()
    expected = multi_label_metrics(probabilities, test.labels)
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == pytest.approx({name: expected[name] for name in SEVERAL_METRICS}, abs=2e-6)
    assert all(is_generated(result) for result in card.data.eval_results)
    assert card.data.pipeline_tag == "image-classification" and card.data.metrics == list(SEVERAL_METRICS)
    assert "mean of the members' sigmoid" in card.text and "softmax" not in card.text
    assert ".logits.sigmoid()" in card.text and 'answer["abstain"]' not in card.text
    assert "leave out 1 label that no test image has" in card.text
    rows = [line for line in card.text.splitlines() if line.startswith(("| |", "|---|---|", "| ESPRO"))][:3]
    assert len({row.count("|") for row in rows}) == 1 and "| micro F1 | macro F1 | mAP |" in rows[0]
    assert f"| {expected['micro_f1']:.4f} |" in rows[2]
    assert "sum of the squared errors of yes and no, which is twice the mean of (p - y)^2: 0 to 2" in card.text
    assert "decisions at each confidence" in card.text and "risk_coverage" not in card.text
    assert "reliability.png" in hub.files(ID) and "risk_coverage.png" not in hub.files(ID)


def test_a_metric_that_is_not_defined_has_no_entry(hub: LoopbackHub, tmp_path: Path) -> None:
    """The Hub refuses NaN in the metadata of a card."""
    model, test = several_ensemble(), SeveralImages(20, seed=7)
    test.labels[:] = 0
    args = SimplexTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True, hub_model_id=ID)
    SimplexTrainer(model=model, args=args, train_dataset=SeveralImages(), eval_dataset=test).push_to_hub()
    metadata = ModelCard(hub.files(ID)["README.md"].decode()).data
    values = {result.metric_type: result.metric_value for result in metadata.eval_results}
    assert {"nll", "ece", "hamming_error"} <= values.keys() and "macro_f1" not in values
    assert ".nan" not in metadata.to_yaml().lower()


def test_the_endpoint_answers_with_each_labels_probability(tmp_path: Path) -> None:
    model = several_ensemble()
    model.save_pretrained(tmp_path, include_code=True)
    stream = io.BytesIO()
    PICTURE.save(stream, "png")
    request = {"inputs": base64.b64encode(stream.getvalue()).decode(), "parameters": {"top_k": 3}}
    answer = EndpointHandler(str(tmp_path))(request)
    assert isinstance(answer, dict)
    logits = model(**model.image_processor(PICTURE, return_tensors="pt")).logits[0]
    found = sorted(row["score"] for row in answer["labels"])
    assert found == pytest.approx(sorted(logits.sigmoid().tolist()), abs=1e-6)
    assert answer["abstain"] is None and answer["prediction_set"] is None
