"""What cannot train is refused before anything is trained, and the check leaves no trace."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from growing import trainer, weights
from tiny import KINDS, Images, backbone, images, same
from transformers import ResNetConfig, ResNetForImageClassification

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments


@pytest.mark.parametrize("kind", KINDS)
def test_the_dry_step_changes_no_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = trainer(tmp_path / "with", kind, points_per_step=2)
    with_it.grow()
    monkeypatch.setattr(SimplexTrainer, "check_batches", lambda *_: None)
    without = trainer(tmp_path / "without", kind, points_per_step=2)
    without.grow()
    for vertex in range(3):
        assert same(weights(with_it.simplex, vertex), weights(without.simplex, vertex))
    assert same(with_it.simplex.state_dict(), without.simplex.state_dict())


def test_the_dry_step_leaves_weights_statistics_and_random_states(tmp_path: Path) -> None:
    run = trainer(tmp_path, "resnet")
    before = copy.deepcopy(run.simplex.backbone.state_dict())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run.check_batches(["mode", "connector"])
    assert same(run.simplex.backbone.state_dict(), before)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(p.grad is None for p in run.simplex.backbone.parameters()) and run.optimizer is None
    assert run.simplex.backbone.config.problem_type is None and run.model is run.simplex
    assert run._signature_columns is None


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Vertices that were trained: none, in the tests that use this."""
    trained: list[int] = []
    monkeypatch.setattr(SimplexTrainer, "train_vertex", lambda self, vertex, *_: trained.append(vertex))
    yield trained
    assert not trained


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        ({"number": 25}, "mode"),
        ({"points_per_step": 8}, "connector"),
        ({"number": 27, "points_per_step": 2}, "connector"),
        ({"per_device_train_batch_size": 1}, "mode"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_one_image_under_batch_norm_is_refused_before_training(
    arguments: dict[str, Any], role: str, tmp_path: Path, untrained: list[int]
) -> None:
    with pytest.raises(ValueError, match=rf"A {role} cannot train .*BatchNorm needs several images"):
        trainer(tmp_path, "one_pixel", model=one_pixel(), **arguments).grow()


def one_pixel() -> SimplexForImageClassification:
    """A backbone whose last BatchNorm layer sees one pixel of each image."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8], depths=[1, 1, 1], layer_type="basic", num_labels=3)
    return SimplexForImageClassification.from_backbone(ResNetForImageClassification(config), fine_tuned=False)


@pytest.mark.parametrize("arguments", [{"number": 25, "dataloader_drop_last": True}, {"number": 26}])
def test_batches_of_several_images_train(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert len(trainer(tmp_path, model=one_pixel(), num_vertices=2, **arguments).grow()) == 2


def test_fewer_images_than_a_batch_of_several_processes_are_repeated_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = trainer(tmp_path, number=3)
    monkeypatch.setattr(SimplexTrainingArguments, "world_size", 2)
    loss = run._dry_loss
    monkeypatch.setattr(
        run, "_dry_loss", lambda module, inputs: (seen.append(len(inputs["labels"])), loss(module, inputs))[1]
    )
    run.check_batches(["mode"])
    assert seen == [8]


def test_images_of_another_size_are_refused_before_training(tmp_path: Path, untrained: list[int]) -> None:
    run = trainer(tmp_path, "vit")
    run.train_dataset.pixel_values = torch.zeros(24, 3, 20, 20)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"'pixel_values': \[8, 3, 20, 20\].*size of the images"):
        run.grow()


def test_a_backbone_without_logits_or_loss_is_refused_before_training(
    tmp_path: Path, untrained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = backbone("vit")
    model = SimplexForImageClassification.from_backbone(module, fine_tuned=False)
    forward = type(module).forward
    for kept, message in (("logits", "loss"), ("loss", r"no logits; expected \[batch, 3\]")):

        def cut(self: Any, kept: str = kept, **inputs: Any) -> dict[str, Any]:
            return {kept: forward(self, **inputs)[kept]}

        with monkeypatch.context() as patched:
            patched.setattr(type(module), "forward", cut)
            with pytest.raises(ValueError, match=message):
                trainer(tmp_path, model=model, remove_unused_columns=False).grow()


def test_a_label_out_of_range_names_image_and_label(tmp_path: Path) -> None:
    message = r"Image 20 has the label 7, but the model has 3 labels: expected 0 to 2"
    run = trainer(tmp_path, "vit")
    run.train_dataset.labels[20] = 7  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=message):
        run.grow()
    rows = {"pixel_values": Images(24).pixel_values.tolist(), "labels": [*[0] * 20, 7, *[1] * 3]}
    for name in ("train_dataset", "eval_dataset"):
        again = trainer(tmp_path / name, "vit")
        setattr(again, name, datasets.Dataset.from_dict(rows))
        with pytest.raises(ValueError, match=message):
            again.grow()
        assert again.simplex.config.roles == ["pretrained"] and "stages" not in again.simplex.config.provenance


@pytest.mark.parametrize("kind", ["resnet", "timm", "vit"])
def test_several_labels_of_an_image_are_refused(kind: str, tmp_path: Path) -> None:
    examples = [{"pixel_values": image, "labels": torch.tensor([1.0, 0.0, 1.0])} for image in images(8)]
    model = SimplexForImageClassification.from_backbone(backbone(kind), fine_tuned=False)
    args = SimplexTrainingArguments(str(tmp_path), num_vertices=1, use_cpu=True, report_to="none")
    message = r"torch.float32 \[8, 3\].*multi_label_classification.*one integer for each image"
    with pytest.raises(ValueError, match=message):
        SimplexTrainer(model, args, train_dataset=examples).grow()


def test_soft_labels_train_with_a_loss_of_their_own(tmp_path: Path) -> None:
    examples = [{"pixel_values": image, "labels": torch.tensor([0.5, 0.5, 0.0])} for image in images(8)]
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    args = SimplexTrainingArguments(
        str(tmp_path), num_vertices=1, num_train_epochs=1, use_cpu=True, report_to="none", disable_tqdm=True
    )

    def loss(output: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output.logits, labels)

    trainer = SimplexTrainer(model, args, train_dataset=examples, compute_loss_func=loss)
    assert trainer.grow()[0]["loss"] == pytest.approx(1.1, abs=0.3)
