"""All members in one pass: the same logits as one after the other, and shared layers computed once."""

from typing import Any

import pytest
import torch
from test_vertex_parameters import grown
from tiny import batches, images
from torch import nn

from hf_simplex import SimplexForImageClassification

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
@pytest.mark.parametrize("choice", ["all", "head", "lora"])
def test_a_batch_of_members_gives_their_logits(choice: str, kind: str) -> None:
    model = grown(choice, kind)
    expected = model(images(), output_member_probabilities=True)
    assert model.materialize(batched=True) == model.num_materialized == 4
    found = model(images(), output_member_probabilities=True)
    assert torch.allclose(found.member_probabilities, expected.member_probabilities, atol=1e-5)
    assert torch.allclose(found.member_energies, expected.member_energies, atol=1e-4)
    model.dematerialize()
    assert model.num_materialized == 0
    assert torch.equal(model(images()).logits, expected.logits)


def test_a_batch_follows_a_cast_and_is_dropped_by_a_change() -> None:
    model = grown(LORA)
    expected = model(images()).logits
    model.materialize(batched=True)
    model.double()
    assert torch.allclose(model(images().double()).logits, expected, atol=1e-6)
    model.float()
    model.set_members([[1.0, 0.0, 0.0]], batches=batches())
    assert model.num_materialized == 0
    assert torch.allclose(model(images()).logits, model.backbone_at([1.0, 0.0, 0.0])(images()).logits.log_softmax(-1))


class Calls:
    """The number of images that pass a layer, over all its calls."""

    def __init__(self, layer: nn.Module) -> None:
        self.images = 0
        layer.register_forward_hook(self.count)

    def count(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.images += len(inputs[0])


@pytest.mark.parametrize("batched", [False, True])
def test_layers_before_the_first_difference_see_the_images_once(batched: bool) -> None:
    model = grown(["*layers.1", "head"])
    calls = Calls(model.backbone.vit.layers[0].mlp.fc1)
    if batched:
        model.materialize(batched=True)
    model(images())
    assert calls.images == (6 if batched else 6 * 4)


def test_members_that_differ_in_nothing_are_computed_once() -> None:
    model = grown("head")
    model.set_members([[1.0, 0.0, 0.0]] * 3)
    model.materialize(batched=True)
    found = model(images(), output_member_probabilities=True).member_probabilities
    assert found.shape == (6, 3, 3) and torch.equal(found[:, 0], found[:, 2])


def test_a_batch_needs_all_members_and_no_graph() -> None:
    model = grown("head")
    with pytest.raises(ValueError, match="A batch needs all 4 members ready"):
        model.materialize(max_bytes=1, batched=True)
    with pytest.raises(ValueError, match="two ways"):
        model.materialize(cuda_graph=True, batched=True)


class BranchesOnValues(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if float(inputs.sum()) > 0 else -inputs


def test_a_backbone_that_cannot_be_mapped_is_named() -> None:
    model: SimplexForImageClassification = grown(["*layers.0", "head"])
    model.backbone.vit.layers[1].mlp = BranchesOnValues()
    model.materialize(batched=True)
    with pytest.raises(RuntimeError, match=r"ViTForImageClassification cannot run its members as one batch.*without"):
        model(images())
