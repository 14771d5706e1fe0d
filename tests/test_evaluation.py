"""The comparison's numbers are those of each way to predict, and its costs are counted."""

from pathlib import Path

import pytest
import torch
from test_modeling_simplex import ensemble
from tiny import Images
from transformers import TrainingArguments

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation import compare
from hf_simplex.metrics import classification_metrics


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_each_result_equals_a_direct_computation(kind: str, tmp_path: Path) -> None:
    parts = [ensemble(kind, members=3), ensemble(kind, members=2, seed=5)]
    for part, epochs in zip(parts, (2.0, 1.0), strict=True):
        part.config.provenance["stages"] = [{"vertex": vertex, "epochs": epochs} for vertex in range(1, 3)]
    model = SimplexForImageClassification.unite(parts)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, per_device_eval_batch_size=5)
    results = compare(model, Images(17), args, given_mode_epochs=10.0)

    data = Images(17)
    with torch.no_grad():
        modes = [
            model.backbone_at([float(index == mode) for index in range(6)])(data.pixel_values).logits.softmax(-1)
            for mode in (0, 3)
        ]
        expected = {
            "backbone": modes[0],
            "deep_ensemble": torch.stack(modes).mean(0),
            "centroid": model.write_centroid(0)(data.pixel_values).logits.softmax(-1),
            "simplex": parts[0](data.pixel_values).logits.softmax(-1),
            "espro": model(data.pixel_values).logits.softmax(-1),
        }
    assert list(results) == list(expected)
    for name, probabilities in expected.items():
        for metric, value in classification_metrics(probabilities.numpy(), data.labels.numpy()).items():
            assert results[name][metric] == pytest.approx(value, abs=1e-5), (name, metric)  # type: ignore[literal-required]
    assert {name: result["training_epochs"] for name, result in results.items()} == {
        "backbone": 10.0,
        "deep_ensemble": 20.0,
        "centroid": 14.0,
        "simplex": 14.0,
        "espro": 26.0,
    }
    assert {name: result["forward_passes"] for name, result in results.items()} == {
        "backbone": 1,
        "deep_ensemble": 2,
        "centroid": 1,
        "simplex": 3,
        "espro": 5,
    }
    assert not hasattr(model.config, "output_member_probabilities")
