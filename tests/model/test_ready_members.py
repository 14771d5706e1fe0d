"""Materialized members predict what streamed members predict."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import KINDS, backbone, batches, ensemble, images, same_tensors
from transformers import (
    AutoModelForImageClassification,
)


@pytest.mark.parametrize("kind", KINDS)
def test_materialized_members_predict_the_same_bits_as_streamed_ones(kind: str) -> None:
    model = ensemble(kind)
    keys, streamed = model.state_dict().keys(), model(images(), output_member_probabilities=True)
    one = sum(tensor.numel() * tensor.element_size() for tensor in model.backbone.state_dict().values())
    for max_bytes, ready in ((None, 3), (2 * one + one // 2, 2), (0, 0)):
        assert model.materialize(max_bytes) == ready
        # The working backbone is free for other points meanwhile.
        model.backbone_at([0.0, 1.0, 0.0])
        found = model(images(), output_member_probabilities=True)
        assert torch.equal(found.logits, streamed.logits)
        assert torch.equal(found.member_probabilities, streamed.member_probabilities)
        assert model.state_dict().keys() == keys
    model.materialize()
    twin = copy.deepcopy(model).double()
    assert torch.allclose(twin(images().double()).logits, streamed.logits, atol=1e-5)
    assert torch.equal(model(images()).logits, streamed.logits)
    model.dematerialize()
    assert torch.equal(model(images()).logits, streamed.logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.draw_members(3, seed=5, batches=batches()),
        lambda model: model.replace_with(ensemble("resnet", seed=6)),
        lambda model: model.load_state_dict(ensemble("resnet", seed=6).state_dict()),
        lambda model: (model.backbone_at([0.0, 1.0, 0.0]), model.store_vertex(0)),
    ],
    ids=["members", "replace_with", "load_state_dict", "store_vertex"],
)
def test_a_change_of_weights_or_members_drops_materialized_members(change: Any) -> None:
    model, other = ensemble("resnet"), ensemble("resnet")
    model.materialize()
    for either in (model, other):
        change(either)
    assert torch.equal(model(images()).logits, other(images()).logits)


def test_with_members_does_not_share_materialized_members() -> None:
    model = ensemble("vit")
    model.materialize()
    other = model.with_members([[0.0, 1.0, 0.0]], [])
    assert torch.allclose(other(images()).logits, backbone("vit", 1)(images()).logits.log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_materialized_member_is_exported_with_the_weights_of_a_streamed_one(kind: str, tmp_path: Path) -> None:
    model = ensemble(kind)
    for member in range(3):
        model.export_member(member, tmp_path / f"streamed-{member}")
    model.materialize()
    model.backbone_at([0.0, 1.0, 0.0])
    for member in range(3):
        model.export_member(member, tmp_path / f"materialized-{member}")
        streamed, materialized = (
            AutoModelForImageClassification.from_pretrained(tmp_path / f"{how}-{member}")
            for how in ("streamed", "materialized")
        )
        assert same_tensors(materialized, streamed)
        assert same_tensors(materialized, model.member_backbone(member))


def test_materialized_members_do_not_predict_during_training(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.materialize()
    model.growing = 2
    for ask in (lambda: model(images()), lambda: model.export_member(0, tmp_path / "member")):
        with pytest.raises(RuntimeError, match="Vertex 2 is being trained"):
            ask()
    assert not (tmp_path / "member").exists()


def test_negative_bytes_and_missing_members_are_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes is -1"):
        ensemble("vit").materialize(-1)
    model = ensemble("vit")
    model.add_vertex()
    with pytest.raises(RuntimeError, match="has no members"):
        model.materialize()
