"""Calibration, comparison and surfaces of ensembles whose vertices share weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibrate import Noise
from test_vertex_parameters import grown
from tiny import Images, batches, images
from torch import nn
from transformers import default_data_collator

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.barriers import measure_barriers
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points

CHOICES: list[Any] = ["head", {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}, "lora"]


@pytest.mark.parametrize("choice", CHOICES[:2])
@pytest.mark.parametrize("kind", ["vit"])
def test_calibration_chooses_and_is_kept(choice: Any, kind: str, tmp_path: Path) -> None:
    model = grown(choice, kind)
    model.config.roles = ["mode", "mode", "connector"]
    decisions = model.calibrate(Noise(80), batches=batches())
    assert decisions is not None and len(decisions.selection["candidates"]) > 4
    assert all(not parameter.requires_grad for parameter in model.shared.parameters())
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert loaded.decisions == decisions
    assert torch.equal(loaded(images()).logits, model(images()).logits)


@pytest.mark.parametrize(("choice", "kind"), [("head", "resnet"), (CHOICES[1], "vit"), ("lora", "timm")])
def test_a_surface_is_that_of_points_evaluated_directly(choice: Any, kind: str) -> None:
    model = grown(choice, kind)
    points = plane_points(model.config.complex, model.weights, model.vertex_parameter_names, resolution=3, margin=0.0)
    data = [default_data_collator([Images()[index] for index in range(6)])]
    surface = model_surface(model, points, data, batch_norm_batches=batches())
    # At a vertex, backbone_at takes the statistics that the vertex keeps.
    between = [min(row) >= 0 and max(row) < 1 for row in points.coordinates.tolist()]
    for row, loss, is_between in zip(points.coordinates.tolist(), surface.loss.tolist(), between, strict=True):
        if is_between:
            logits = model.backbone_at(row, batches=batches())(data[0]["pixel_values"]).logits
            expected = nn.functional.cross_entropy(logits, data[0]["labels"]).item()
            assert loss == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert any(between)


def test_barriers_of_modes_that_share_weights() -> None:
    """Heads alone make a convex problem: the loss between two of them lies nowhere above the straight line."""
    model = grown("head", vertices=2)
    data = [default_data_collator([Images()[index] for index in range(12)])]
    (barrier,) = measure_barriers(model.backbone_at([1.0, 0.0]), model.weights, data)
    assert barrier.height <= 1e-6 and not barrier.is_real
