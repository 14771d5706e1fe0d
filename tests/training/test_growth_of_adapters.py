"""A growth in which vertices share weights: what trains, what is stored, and a resumed run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from growing import CHECKPOINTED, Recorder, assert_the_same_growth, interrupted, trainer
from safetensors import safe_open
from tiny import Images, backbone
from torch import nn

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.training.dry_step import dry_step
from hf_simplex.training.growth import random_edge

CHOICES: list[Any] = ["head", {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}]


def start(choice: Any, kind: str = "vit") -> SimplexForImageClassification:
    return SimplexForImageClassification.from_backbone(backbone(kind), fine_tuned=False, vertex_parameters=choice)


@pytest.mark.parametrize("choice", CHOICES)
def test_only_what_differs_is_trained_and_saved(choice: Any, tmp_path: Path) -> None:
    model = start(choice)
    shared = {name: tensor.clone() for name, tensor in model.shared.tensors().items()}
    run = trainer(tmp_path, model=model, volume_weight=0.05, volume_weight_scaling="none", **CHECKPOINTED)
    recorder = Recorder(model)
    run.add_callback(recorder)
    run.grow()
    size = sum(model.weights[0][name].numel() for name in model.vertex_parameter_names)
    assert [sum(p.numel() for p in optimized) for optimized in recorder.optimized] == [size] * 3
    assert all(torch.equal(tensor, shared[name]) for name, tensor in model.shared.tensors().items())
    for name in model.vertex_parameter_names:
        assert not torch.equal(model.weights[0][name], model.weights[1][name]), name
    checkpoint = next((tmp_path / "vertex-00001").glob("checkpoint-*/model.safetensors"))
    with safe_open(checkpoint, "pt") as opened:
        assert set(opened.keys()) == set(model.vertex_parameter_names)
    # Outside its training, the backbone is saved whole.
    model.backbone.save_pretrained(tmp_path / "whole")
    with safe_open(tmp_path / "whole" / "model.safetensors", "pt") as opened:
        assert len(opened.keys()) == len(model.backbone.state_dict())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_resumed_growth_is_the_same_bit_for_bit(choice: Any, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", model=start(choice), **CHECKPOINTED)
    whole.grow()
    interrupted(tmp_path / "cut", 1, 2, model=start(choice), **CHECKPOINTED)
    resumed = trainer(tmp_path / "cut", model=start(choice), **CHECKPOINTED)
    resumed.grow(resume_from_checkpoint=True)
    assert_the_same_growth(resumed, whole)


def test_other_vertex_parameters_are_another_run(tmp_path: Path) -> None:
    interrupted(tmp_path, 1, 1, model=start("head"), **CHECKPOINTED)
    with pytest.raises(ValueError, match=r"vertex_parameters was \['classifier'\] and is 'all'"):
        trainer(tmp_path, model=start("all"), **CHECKPOINTED).grow(resume_from_checkpoint=True)


def test_the_random_edge_is_that_of_what_differs() -> None:
    whole, head, adapters = (random_edge(start(choice)) for choice in ("all", *CHOICES))
    assert 0 < head < whole and adapters > 0


class UsesTheWeightItself(nn.Module):
    """As some attention layers do: the adapter of `layer` would have no part in the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.layer.weight, self.layer.bias)  # type: ignore[arg-type]


def test_an_adapter_without_part_in_the_loss_is_refused_before_training(tmp_path: Path) -> None:
    model = start(CHOICES[1])
    attention: Any = model.backbone.vit.layers[1].attention
    attention.q_proj = UsesTheWeightItself(attention.q_proj)
    batch = {"pixel_values": Images().pixel_values[:4], "labels": Images().labels[:4]}

    def loss_of(module: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        output = module(**inputs)
        return output.loss, output

    with pytest.raises(ValueError, match=r"adapters of vit\.layers\.1\.attention\.q_proj\.layer get no gradient"):
        dry_step(model.backbone.train(), batch, loss_of, role="mode", num_labels=3)


def test_bfloat16_and_cpu_placement_of_frozen_vertices(tmp_path: Path) -> None:
    """The points of both placements are those of vertices that share the rest."""
    runs: dict[str, SimplexTrainer] = {}
    for placement in ("device", "cpu", "bfloat16"):
        runs[placement] = trainer(tmp_path / placement, model=start(CHOICES[1]), frozen_vertices=placement)
        runs[placement].grow()
    reference = runs["device"].simplex.weights[2]
    for name in runs["device"].simplex.vertex_parameter_names:
        assert torch.equal(runs["cpu"].simplex.weights[2][name], reference[name]), name
        assert torch.allclose(runs["bfloat16"].simplex.weights[2][name], reference[name], atol=0.05), name
