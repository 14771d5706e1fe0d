"""Layers that keep something computed from their weights in evaluation mode follow when a point is written."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LevitConfig,
    LevitForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from hf_simplex import SimplexForImageClassification

SIZE = 64


def levit() -> PreTrainedModel:
    config = LevitConfig(
        hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 3], depths=[1] * 3, image_size=SIZE, num_labels=3
    )
    return LevitForImageClassification(config).eval()


def efficientformer() -> PreTrainedModel:
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": "efficientformerv2_s0",
            "num_classes": 3,
            "model_args": {"img_size": SIZE},
            "pretrained_cfg": {"input_size": [3, SIZE, SIZE], "num_classes": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
        }
    )
    return TimmWrapperForImageClassification(config).eval()


@pytest.mark.parametrize("kind", [levit, efficientformer])
def test_each_point_has_its_own_attention_biases(kind: type) -> None:
    torch.manual_seed(0)
    model = SimplexForImageClassification.from_backbone(kind())
    model.add_vertex()
    biases = [name for name in model.vertex_parameter_names if name.endswith("attention_biases")]
    assert biases
    with torch.no_grad():
        for name in biases:
            model.weights[1][name].add_(5 * torch.randn_like(model.weights[1][name]))
    pixel_values = torch.randn(2, 3, SIZE, SIZE)

    @torch.no_grad()
    def logits(coordinates: list[float]) -> Tensor:
        return model.backbone_at(coordinates)(pixel_values).logits

    first, second = logits([1.0, 0.0]), logits([0.0, 1.0])
    assert not torch.equal(first, second)
    assert torch.equal(logits([1.0, 0.0]), first)
    model.reset_backbone()
    assert torch.equal(logits([0.0, 1.0]), second)
