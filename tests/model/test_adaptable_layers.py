"""Low-rank adapters merge into the weights of their layers; layers where they would not get none."""

from pathlib import Path

import pytest
import torch
from tiny import backbone, images
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    BitForImageClassification,
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.adaptable_layers import is_adaptable


class Padded(nn.Conv2d):
    """Pads by itself, as TensorFlow does: still linear in its weight."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(inputs, (0, 1, 0, 1)))


class Standardized(nn.Conv2d):
    """As in Big Transfer."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = (self.weight - self.weight.mean()) / (self.weight.std() + 1e-6)
        return nn.functional.conv2d(inputs, weight, self.bias)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(2, 3), True),
        (nn.Conv2d(2, 3, 3), True),
        (nn.Embedding(2, 3), True),
        (Padded(2, 3, 3), True),
        (Standardized(2, 3, 3), False),
        (zero(Standardized(2, 3, 3)), False),
        (nn.Conv2d(2, 3, 3, dilation=2), False),
        (nn.Conv2d(2, 3, 3, padding_mode="reflect"), False),
        (nn.MultiheadAttention(2, 1).out_proj, False),
        (nn.ReLU(), False),
    ],
)
def test_layers_that_compute_w_x_plus_b_are_adaptable(layer: nn.Module, expected: bool) -> None:
    before = [parameter.clone() for parameter in layer.parameters()]
    assert is_adaptable(layer) is expected
    assert all(torch.equal(parameter, old) for parameter, old in zip(layer.parameters(), before, strict=True))


def bit() -> BitForImageClassification:
    config = BitConfig(embedding_size=8, hidden_sizes=[16, 16], depths=[1, 1], num_groups=4, num_labels=3)
    return BitForImageClassification(config).eval()


def test_a_convolution_that_standardizes_its_weight_is_refused_by_name() -> None:
    settings = {"peft_type": "LORA", "r": 2, "target_modules": ["conv1"]}
    with pytest.raises(
        ValueError, match=r"layers\.0\.conv1, .* this WeightStandardizedConv2d computes something else"
    ):
        SimplexForImageClassification.from_backbone(bit(), vertex_parameters=settings)


def test_convolutions_keep_their_stride_and_the_export_is_the_vertex(tmp_path: Path) -> None:
    """MobileNet pads its input by the stride of the convolution that comes next."""
    torch.manual_seed(0)
    config = MobileNetV1Config(depth_multiplier=0.25, num_labels=3, classifier_dropout_prob=0.0)
    model = SimplexForImageClassification.from_backbone(
        MobileNetV1ForImageClassification(config).eval(),
        vertex_parameters={"peft_type": "LORA", "r": 2, "modules_to_save": []},
    )
    with torch.no_grad():
        for parameter in model.vertices[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model.backbone_at([1.0]).double()(images().double()).logits
    model.export_vertex(0, tmp_path)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).double()
    assert torch.allclose(plain(images().double()).logits, expected, atol=1e-4)


@pytest.mark.parametrize("excluded", [["q_proj", "fc1"], r".*\.(q_proj|fc1)"])
def test_excluded_modules_get_no_adapters_by_default(excluded: list[str] | str) -> None:
    settings = {"peft_type": "LORA", "r": 2, "exclude_modules": excluded}
    model = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=settings)
    names = {name.partition(".lora_")[0].rpartition(".")[2] for name in model.vertex_parameter_names if "lora" in name}
    assert names == {"k_proj", "v_proj", "o_proj", "fc2", "projection"}


def test_a_backbone_with_a_base_layer_of_its_own_has_no_adapters() -> None:
    """timm's dla names its first convolution so."""
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": "dla46x_c",
            "num_classes": 3,
            "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
        }
    )
    module = TimmWrapperForImageClassification(config)
    assert any(".base_layer" in name for name, _ in module.named_parameters())
    model = SimplexForImageClassification.from_backbone(module, vertex_parameters="head")
    assert model.vertex_parameter_names == ["timm_model.fc.weight", "timm_model.fc.bias"]
