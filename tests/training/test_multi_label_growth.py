"""A growth with several labels an image trains by binary cross-entropy, and refuses what needs one label."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from several_labels import MULTI, SeveralImages, several_backbone
from tiny import KINDS, backbone, images
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import IterableDataset
from transformers import TrainingArguments, default_data_collator

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.evaluation.barriers import measure_barriers
from hf_simplex.evaluation.comparison import predict_members
from hf_simplex.evaluation.multi_label import multi_label_metrics
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.model.weight_space import trainable_names
from hf_simplex.training.linear_probe import fit_head


def grower(path: Path, kind: str = "vit", dataset: Any = None, model: Any = None, **changes: Any) -> SimplexTrainer:
    settings: dict[str, Any] = {
        "num_vertices": 2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    options = {name: changes.pop(name) for name in ("compute_loss_func", "data_collator") if name in changes}
    args = SimplexTrainingArguments(str(path), **{**settings, **changes})
    if model is None:
        model = SimplexForImageClassification.from_backbone(several_backbone(kind), fine_tuned=False)
    return SimplexTrainer(model, args, train_dataset=SeveralImages() if dataset is None else dataset, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_modes_and_connectors_learn_several_labels(kind: str, tmp_path: Path) -> None:
    trainer = grower(tmp_path, kind, SeveralImages(48), num_train_epochs=8)
    before = trainer.simplex.backbone_at([1.0]).eval()
    images_of = trainer.train_dataset
    pixels, labels = images_of.pixel_values, images_of.labels
    start = binary_cross_entropy_with_logits(before(pixel_values=pixels).logits, labels).item()
    stages = trainer.grow()
    assert [stage["role"] for stage in stages] == ["mode", "connector"]
    assert all(stage["loss"] < start for stage in stages)
    loss = trainer.simplex(pixels, labels=labels).loss.item()
    assert loss < 0.8 * start
    evaluated = trainer.evaluate(images_of)
    assert evaluated["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_step_is_one_of_binary_cross_entropy_with_accumulation_too(tmp_path: Path) -> None:
    """SGD on the mean loss of all images, in one batch or in two that are accumulated."""
    images_of = SeveralImages(16)
    module = several_backbone("vit").train()
    loss = binary_cross_entropy_with_logits(module(pixel_values=images_of.pixel_values).logits, images_of.labels)
    loss.backward()
    expected = module.classifier.weight.detach() - 0.1 * module.classifier.weight.grad
    for size, accumulated in ((16, 1), (8, 2)):
        trainer = grower(
            tmp_path,
            dataset=images_of,
            num_vertices=1,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        report = trainer.grow()[0]
        torch.testing.assert_close(trainer.simplex.weights[0]["classifier.weight"], expected, rtol=1e-3, atol=1e-6)
        assert report["loss"] == pytest.approx(loss.item(), rel=1e-3)


class Relabelled(SeveralImages):
    def __init__(self, labels: Any) -> None:
        super().__init__(8)
        self.given = labels

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixel_values[index], "labels": self.given}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([1.0, 0.0]), r"Image 0 has the labels .*expected 3 numbers, 1.0 where"),
        (torch.tensor([1.0, 0.0, 2.0]), r"Image 0 has the labels .*multi_label_classification"),
        (2, r"Image 0 has the labels 2, but problem_type is 'multi_label_classification'"),
        (torch.tensor([1, 0, 1]), r"labels of torch.int64 \[8, 3\].*expected torch.float32 \[batch, 3\]"),
    ],
)
def test_other_labels_are_refused_by_name(labels: Any, message: str, tmp_path: Path) -> None:
    trainer = grower(tmp_path, dataset=Relabelled(labels))
    with pytest.raises(ValueError, match=message):
        trainer.grow()
    assert trainer.simplex.config.roles == ["pretrained"]


class Stream(IterableDataset):
    """Images without a length, the second batch of which has other labels."""

    def __init__(self, labels: Any = None) -> None:
        self.labels = labels

    def __iter__(self) -> Iterator[dict[str, Any]]:
        images_of = SeveralImages(16)
        for index in range(16):
            given = {} if self.labels is None or index < 8 else {"labels": self.labels}
            yield {**images_of[index], **given}


def test_a_stream_of_labels_is_checked_as_it_is_read(tmp_path: Path) -> None:
    grower(tmp_path, dataset=Stream(), max_steps=2).grow()
    with pytest.raises(ValueError, match=r"labels of torch.float32 \[8, 3\] from -100 to 1.*expected"):
        grower(tmp_path, dataset=Stream(torch.tensor([1.0, -100.0, 0.0])), max_steps=2).grow()


def test_a_stream_of_multi_hot_labels_makes_no_ensemble_of_one_label_multi_label(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    with pytest.raises(ValueError, match="make the backbone's loss that of multi_label_classification"):
        grower(tmp_path, dataset=Stream(), model=model, max_steps=2).grow()
    assert model.backbone.config.problem_type is None


def test_labels_of_an_own_collate_function_are_checked_in_every_batch(tmp_path: Path) -> None:
    class Second(SeveralImages):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            row = super().__getitem__(index)
            return row if index < 8 else {**row, "labels": torch.full((3,), 2.0)}

    trainer = grower(tmp_path, dataset=Second(16), data_collator=lambda rows: default_data_collator(rows))
    with pytest.raises(ValueError, match=r"from 0 to 2.*expected"):
        trainer.grow()


def test_a_column_of_labels_is_checked_before_training(tmp_path: Path) -> None:
    rows = {"pixel_values": images(8).tolist(), "labels": [[1.0, 0.0, 0.0]] * 7 + [[1.0, 0.0, 7.0]]}
    with pytest.raises(ValueError, match=r"Image 7 has the labels \[1.0, 0.0, 7.0\]"):
        grower(tmp_path, dataset=datasets.Dataset.from_dict(rows)).grow()
    rows["labels"][7] = [1.0, 0.0, 1.0]
    assert grower(tmp_path, dataset=datasets.Dataset.from_dict(rows), num_train_epochs=1).grow()[0]["loss"] < 1.5


def test_multi_hot_labels_need_a_backbone_that_says_so(tmp_path: Path) -> None:
    plain = SimplexForImageClassification.from_backbone(backbone("vit"), fine_tuned=False)
    message = r"torch.float32 \[8, 3\].*multi_label_classification.*a backbone with that problem_type"
    with pytest.raises(ValueError, match=message):
        grower(tmp_path, model=plain).grow()
    assert plain.config.problem_type is None


def test_a_backbone_with_another_loss_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = grower(tmp_path)
    module = trainer.simplex.backbone
    monkeypatch.setattr(
        type(module),
        "loss_function",
        property(lambda self: lambda labels, logits, config, **_: torch.nn.functional.cross_entropy(logits, labels)),
    )
    with pytest.raises(ValueError, match="but the binary cross-entropy of its logits is"):
        trainer.grow()


def test_a_loss_and_a_collator_of_ones_own_may_take_other_labels(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def loss(output: Any, labels: Tensor, **_: Any) -> Tensor:
        seen.append(labels)
        return binary_cross_entropy_with_logits(output.logits, labels.float())

    assert grower(tmp_path, dataset=Relabelled([1, 0, 1]), compute_loss_func=loss).grow()
    assert seen[0].dtype == torch.int64

    def collator(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        hot = torch.nn.functional.one_hot(torch.tensor([row["labels"] for row in rows]), 3).float()
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": hot}

    assert grower(tmp_path, dataset=Relabelled(2), data_collator=collator).grow()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor is 0.1.*by softmax"),
        ({"mode_label_smoothing": [0.0, 0.2]}, r"mode_label_smoothing \[0.0, 0.2\].*by softmax"),
        ({"probe_head": True}, "probe_head is True.*Leave probe_head out"),
    ],
)
def test_arguments_for_one_label_are_refused_before_training(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{message}.*" if "Leave" in message else f"{message}.*multi_label"):
        grower(tmp_path, **changes)


def test_the_linear_probe_itself_refuses_a_multi_label_backbone() -> None:
    with pytest.raises(ValueError, match="multi_label_classification"):
        fit_head(several_backbone("vit"), SeveralImages())


def test_varied_and_leaf_modes_train(tmp_path: Path) -> None:
    trainer = grower(
        tmp_path, num_modes=2, num_vertices=2, mode_start="first_mode", leaf_learning_rate=0.005, num_train_epochs=1
    )
    assert [stage.get("start") for stage in trainer.grow()] == [None, 0]
    varied = grower(tmp_path, num_modes=2, mode_learning_rates=[1, 2], num_train_epochs=1)
    assert varied.grow()[1]["learning_rate"] == 0.02


def test_calibration_chooses_members_and_one_temperature(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = grower(tmp_path, dataset=SeveralImages(48), num_train_epochs=3)
    trainer.grow()
    model, validation, test = trainer.simplex, SeveralImages(80, seed=5), SeveralImages(60, seed=6)
    with pytest.raises(ValueError, match=r"target_error is 0.02, for abstention .*Leave target_error out"):
        trainer.calibrate(validation, target_error=0.02)
    assert model.decisions is None
    decisions = trainer.calibrate(validation)
    assert decisions is not None and decisions.abstention is None and decisions.prediction_sets is None
    assert decisions.selection["candidates"][0]["nll"] <= decisions.selection["candidates"][-1]["nll"]
    assert set(decisions.uncertainty_quantiles) <= {"mutual_information"} and len(decisions.centroid_temperatures)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", dataloader_pin_memory=False)
    predicted = predict_members(model, validation, args)
    before = multi_label_metrics(predicted.probabilities.mean(axis=1), predicted.references)["nll"]
    calibrated = model(validation.pixel_values).logits.sigmoid().double().numpy()
    after = multi_label_metrics(calibrated, predicted.references)["nll"]
    # The prior around 1 may cost a little.
    assert after <= before + 1e-3 and decisions.temperature != 1
    assert predict_members(model, test, args).references.shape == (60, 3)
    model.save_pretrained(tmp_path / "saved")
    again = SimplexForImageClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(test.pixel_values).logits, model(test.pixel_values).logits)


def test_a_growth_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    whole = grower(tmp_path / "whole", save_strategy="epoch")
    whole.grow()
    grower(tmp_path / "parts", save_strategy="epoch", num_vertices=1).grow()
    resumed = grower(tmp_path / "parts", save_strategy="epoch")
    assert len(resumed.grow(resume_from_checkpoint=True)) == 2
    assert resumed.simplex.config.problem_type == MULTI
    for expected, found in zip(whole.simplex.weights, resumed.simplex.weights, strict=True):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_adapters_train_on_several_labels(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(
        several_backbone("vit"), fine_tuned=False, vertex_parameters="lora"
    )
    stages = grower(tmp_path, model=model, num_train_epochs=1).grow()
    assert [stage["role"] for stage in stages] == ["mode", "connector"]
    data = SeveralImages(8)
    assert 0 < model(data.pixel_values, labels=data.labels).loss < 1
    model.save_pretrained(tmp_path / "saved")
    again = SimplexForImageClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(data.pixel_values).logits, model(data.pixel_values).logits)


def test_losses_of_surfaces_and_barriers_are_binary(tmp_path: Path) -> None:
    trainer = grower(tmp_path, num_vertices=3, num_train_epochs=1)
    trainer.grow()
    model, data = trainer.simplex, SeveralImages(20, seed=4)
    batch = {"pixel_values": data.pixel_values, "labels": data.labels}
    points = plane_points(model.config.complex, model.weights, trainable_names(model.backbone), resolution=3)
    surface = model_surface(model, points, [batch])
    module = model.backbone_at([1.0, 0.0, 0.0])
    for place in (0, 4):
        shares = surface.points.coordinates[place].tolist()
        mixed = {
            name: sum(share * weights[name] for share, weights in zip(shares, model.weights, strict=True))
            for name, _ in module.named_parameters()
        }
        logits = torch.func.functional_call(module, mixed, kwargs={"pixel_values": data.pixel_values}).logits
        expected = binary_cross_entropy_with_logits(logits, data.labels)
        assert surface.loss[place].item() == pytest.approx(expected.item(), rel=1e-3)
        right = ((logits >= 0) == (data.labels >= 0.5)).float().mean()
        assert surface.accuracy[place].item() == pytest.approx(right.item(), abs=0.02)
    [barrier] = measure_barriers(model.backbone, [model.weights[0], model.weights[1]], [batch])
    assert barrier.modes == (0, 1) and barrier.standard_error > 0
    both = [model.backbone_at(point)(**batch).loss.item() for point in ([1.0, 0, 0], [0, 1.0, 0])]
    position = barrier.position
    between = model.backbone_at([1 - position, position, 0.0])(**batch).loss.item()
    # A sum over the three labels of an image.
    expected = 3 * (between - (1 - position) * both[0] - position * both[1])
    assert barrier.height == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert model.backbone.config.problem_type == MULTI
