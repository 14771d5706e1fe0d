"""Each result of a comparison equals a direct computation, and its cost is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LABELS, Images, backbone, batches, ensemble, same_tensors
from torch import Tensor
from transformers import TrainingArguments

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.comparison import Result, predict_members, predict_parts, results_of
from hf_simplex.evaluation.metrics import classification_metrics


def arguments(directory: Path, **kwargs: Any) -> TrainingArguments:
    return TrainingArguments(
        str(directory), report_to="none", use_cpu=True, **{"per_device_eval_batch_size": 5, **kwargs}
    )


def compare(
    model: SimplexForImageClassification, data: Images, args: TrainingArguments, **kwargs: Any
) -> dict[str, Result]:
    return results_of(*predict_parts(model, data, args, **kwargs))


@pytest.mark.parametrize("label", [-100, -1, LABELS, 10**12])
def test_a_label_out_of_range_names_image_and_label(label: int, tmp_path: Path) -> None:
    data = Images(60)
    data.labels[7] = label
    for call in (predict_members, lambda model, *given: model.calibrate(given[0], args=given[1])):
        with pytest.raises(ValueError, match=rf"Image 7 has the label {label}, but the ensemble has {LABELS} labels"):
            call(ensemble("vit"), data, arguments(tmp_path))


def test_labels_of_mixed_images_are_refused(tmp_path: Path) -> None:
    data = Images(12)
    data.labels = torch.eye(LABELS)[data.labels]
    with pytest.raises(ValueError, match=rf"have the shape \[12, {LABELS}\] and the type float32; expected one"):
        predict_members(ensemble("vit"), data, arguments(tmp_path))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_each_result_equals_a_direct_computation(kind: str, tmp_path: Path) -> None:
    parts = [ensemble(kind, members=3), ensemble(kind, members=2, seed=5)]
    for part, epochs in zip(parts, (2.0, 1.0), strict=True):
        part.config.provenance["stages"] = [{"vertex": vertex, "epochs": epochs} for vertex in range(1, 3)]
    model = SimplexForImageClassification.disjoint_union(parts)
    results = compare(model, Images(17), arguments(tmp_path), given_mode_epochs=10.0)

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


def test_epochs_are_those_of_the_stages_and_of_given_modes_only(tmp_path: Path) -> None:
    parts = [ensemble("vit", members=1), ensemble("vit", members=1, seed=5)]
    for part, epochs in zip(parts, ([4.0, 1.0, 2.0], [6.0, 1.5, 2.5]), strict=True):
        part.config.provenance["stages"] = [{"vertex": v, "epochs": e} for v, e in enumerate(epochs)]
    model = SimplexForImageClassification.disjoint_union(parts)
    results = compare(model, Images(6), arguments(tmp_path), given_mode_epochs=100.0)
    assert {name: result["training_epochs"] for name, result in results.items()} == {
        "backbone": 4.0,
        "deep_ensemble": 10.0,
        "centroid": 7.0,
        "simplex": 7.0,
        "espro": 17.0,
    }


def test_all_modes_of_a_simplex_are_in_the_deep_ensemble(tmp_path: Path) -> None:
    parts = [SimplexForImageClassification.from_backbone(backbone("vit", seed)) for seed in range(2)]
    model = SimplexForImageClassification.simplex_of_modes(parts)
    model.draw_members("auto")
    data = Images(9)
    results = compare(model, data, arguments(tmp_path), given_mode_epochs=3.0)
    with torch.no_grad():
        mean = torch.stack([part(data.pixel_values).logits.softmax(-1) for part in parts]).mean(0)
    expected = classification_metrics(mean.numpy(), data.labels.numpy())
    assert results["deep_ensemble"]["nll"] == pytest.approx(expected["nll"], abs=1e-5)
    assert {name: result["training_epochs"] for name, result in results.items()} == {
        "backbone": 3.0,
        "deep_ensemble": 6.0,
        "centroid": 6.0,
        "simplex": 6.0,
        "espro": 6.0,
    }


def test_one_mode_alone_is_every_result(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(ensemble("vit").backbone)
    results = compare(model, Images(6), arguments(tmp_path))
    assert all(result == results["backbone"] for result in results.values())
    assert results["backbone"]["forward_passes"] == 1


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("resnet", {}), ("vit", {}), ("vit", {"bf16_full_eval": True}), ("vit", {"fp16_full_eval": True})],
)
def test_the_ensemble_is_left_as_it_is(kind: str, precision: dict[str, bool], tmp_path: Path) -> None:
    model, same = ensemble(kind), ensemble(kind)
    compare(model, Images(6), arguments(tmp_path, **precision))
    assert same_tensors(model, same)
    assert model.config.to_dict() == same.config.to_dict()
    assert torch.equal(model(batches()[0]["pixel_values"]).logits, same(batches()[0]["pixel_values"]).logits)


def test_probabilities_do_not_depend_on_how_images_are_batched(tmp_path: Path) -> None:
    model, data = ensemble("resnet"), Images(11)
    expected = model(data.pixel_values, output_member_probabilities=True).member_probabilities
    for size in (1, 4, 16):
        found, _, labels = predict_members(model, data, arguments(tmp_path, per_device_eval_batch_size=size))
        assert found.shape == (11, 3, LABELS)
        assert (labels == data.labels.numpy()).all()
        assert torch.allclose(torch.from_numpy(found).float(), expected, atol=1e-6)
        assert abs(found.sum(-1) - 1).max() < 1e-12
    assert not hasattr(model.config, "output_member_probabilities")


def test_the_given_collator_makes_the_batches(tmp_path: Path) -> None:
    sizes = []

    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        sizes.append(len(rows))
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    compare(ensemble("vit"), Images(7), arguments(tmp_path), data_collator=collate)
    assert sizes == [5, 2]


class Unlabelled(Images):
    """The same images without their labels."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index]}


def test_what_cannot_be_evaluated_is_named(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    with pytest.raises(ValueError, match="has no labels"):
        compare(ensemble("vit"), Unlabelled(6), args)
    model = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    model.set_members([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    assert "simplex" not in compare(model, Images(6), args)
    model.add_vertex([0])
    with pytest.raises(ValueError, match="no members to evaluate"):
        compare(model, Images(6), args)
