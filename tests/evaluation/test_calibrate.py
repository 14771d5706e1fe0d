"""`calibrate`: what is fitted, on whom, what is kept, and what the promises are worth on new images."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LABELS, batches, ensemble
from torch.utils.data import Dataset

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.calibrate import calibrate, candidate_points, describe_decisions, fit_decisions
from hf_simplex.evaluation.calibration import fit_temperature
from hf_simplex.evaluation.comparison import MemberPredictions
from hf_simplex.evaluation.prediction_sets import prediction_sets
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.coordinates import centroid_coordinates
from hf_simplex.model.decisions import PERCENTILES


class Noise(Dataset):
    """Images of noise with any labels."""

    def __init__(self, number: int, labels: int = LABELS) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(number, 3, 16, 16, generator=generator)
        self.labels = torch.randint(labels, (number,), generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


@pytest.fixture(autouse=True)
def _captured_warnings() -> None:
    logging.getLogger("transformers").propagate = True


def drawn(images: int, labels: int = 5, seed: int = 0, overconfidence: float = 2.0) -> MemberPredictions:
    """Members whose mean is too sharp by `overconfidence`, and labels drawn from what they should say."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(images, labels))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    references = (true.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
    sharp = np.exp(overconfidence * logits)
    sharp /= sharp.sum(axis=1, keepdims=True)
    return MemberPredictions(sharp[:, None], -logits.max(axis=1, keepdims=True), references)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_calibration_fits_what_it_predicts(kind: str, tmp_path: Path) -> None:
    model, validation = ensemble(kind), Noise(80)
    decisions = calibrate(model, validation, batches=batches())
    assert decisions is not None and model.decisions == decisions
    names = [row["name"] for row in decisions.selection["candidates"]]
    assert {"mode 0", "vertices", "centroids", "placed points", "greedy"} <= set(names)
    assert decisions.fitted_on == {"data_set": None, "images": 80}
    # The stored temperature is optimal for the chosen members.
    model.decisions = None
    mean = model(validation.images).logits.exp().numpy()
    assert decisions.temperature == pytest.approx(fit_temperature(mean, validation.labels.numpy()), rel=1e-4)
    centroid = model.write_centroid()(validation.images).logits.softmax(-1).detach().numpy()
    expected = fit_temperature(centroid, validation.labels.numpy())
    assert decisions.centroid_temperatures == [pytest.approx(expected, rel=1e-4)]
    model.decisions = decisions
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(validation.images).logits, model(validation.images).logits)
    assert loaded.decisions.to_json() == decisions.to_json()


def test_kept_members_stay_as_they_are() -> None:
    model = ensemble("resnet")
    before, statistics = model.config.members, [tree.tensors() for tree in model.members]
    decisions = calibrate(model, Noise(60), choose=False)
    assert model.config.members == before and decisions.selection == {"name": "present members"}
    for tree, tensors in zip(model.members, statistics, strict=True):
        assert all(torch.equal(tree.tensors()[name], tensor) for name, tensor in tensors.items())


def test_modes_with_recomputed_statistics_predict_with_them_and_stay_when_calibrated_again(tmp_path: Path) -> None:
    model = ensemble("resnet")
    points = candidate_points(model, batches())
    recomputed = points.rules["modes with recomputed statistics"]
    assert [points.coordinates[point] for point in recomputed] == [points.coordinates[mode] for mode in points.modes]
    model.choose_members(
        [points.coordinates[point] for point in recomputed], [points.statistics[point] for point in recomputed]
    )
    images = torch.randn(4, 3, 32, 32)
    expected = []
    for point in recomputed:
        backbone = model.backbone_at(points.coordinates[point])
        recompute_statistics(backbone, batches())
        expected.append(backbone(images).logits.softmax(-1).detach().clone())
        own = model.backbone_at(points.coordinates[point])
        assert not torch.allclose(own(images).logits.softmax(-1), expected[-1], atol=1e-4)
    model.save_pretrained(tmp_path)
    for loaded in (model, SimplexForImageClassification.from_pretrained(tmp_path)):
        found = loaded(images, output_member_probabilities=True).member_probabilities
        torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-5, rtol=1e-4)
    again = candidate_points(model, batches())
    present = again.rules.get("present members", again.rules["modes with recomputed statistics"])
    for point, member in zip(present, model.members, strict=True):
        assert all(torch.equal(again.statistics[point][name], tensor) for name, tensor in member.tensors().items())


def test_members_without_statistics_are_no_candidates() -> None:
    with_images = candidate_points(ensemble("resnet"), batches())
    without = candidate_points(ensemble("resnet"))
    assert set(with_images.rules) - set(without.rules) == {"placed points", "modes with recomputed statistics"}
    centroid = centroid_coordinates(ensemble("resnet").config.complex, 0).tolist()
    assert without.coordinates[without.centroids[0]] == centroid
    assert all(without.statistics)
    assert "modes with recomputed statistics" not in candidate_points(ensemble("vit"), batches()).rules
    # Two rules with the same points are one.
    assert len({tuple(sorted(points)) for points in without.rules.values()}) == len(without.rules)


def test_too_few_images_fit_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = ensemble("vit")
    assert calibrate(model, Noise(49)) is None and model.decisions is None
    assert "There are 49 validation images, and at least 50 are needed" in caplog.text


def test_a_missing_label_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert calibrate(ensemble("vit"), Noise(60, labels=LABELS - 1)) is not None
    assert (
        "1 of 3 labels has no validation image (LABEL_2): threshold and prediction sets say nothing about it"
        in caplog.text
    )


def test_a_label_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises((ValueError, IndexError), match=r"label|out of bounds"):
        calibrate(ensemble("vit"), Noise(60, labels=LABELS + 2))


def test_a_mistake_leaves_the_model_as_it_was() -> None:
    model = ensemble("vit")
    decisions = calibrate(model, Noise(60), max_forward_passes=1)
    members = model.config.members
    with pytest.raises(ValueError, match="target_error is 2"):
        calibrate(model, Noise(60), target_error=2)
    assert model.config.members == members and model.decisions == decisions


def test_members_must_be_drawn() -> None:
    model = ensemble("vit")
    model.add_vertex()
    with pytest.raises(RuntimeError, match="no members yet"):
        calibrate(model, Noise(60))


def test_right_predictions_are_underconfident_and_answer_all(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    references = random.integers(3, size=200)
    probabilities = np.full((200, 1, 3), 0.1)
    probabilities[np.arange(200), 0, references] = 0.8
    decisions = fit_decisions(MemberPredictions(probabilities, np.zeros((200, 1)), references))
    assert 0.3 < decisions.temperature < 1 and decisions.abstention.coverage == 1
    assert "All 200 validation images are classified correctly" in caplog.text


def test_an_unreachable_error_is_said(caplog: pytest.LogCaptureFixture) -> None:
    decisions = fit_decisions(drawn(300), target_error=0.001)
    assert decisions.abstention.threshold is None
    assert "No threshold keeps the error below 0.001" in caplog.text
    assert any(
        "No threshold of confidence reaches an error below 0.1 %" in line for line in describe_decisions(decisions)
    )


def test_members_that_learned_nothing_are_said_to_say_nothing() -> None:
    learned = drawn(300)
    random_labels = np.random.default_rng(1).integers(5, size=300)
    for found, nothing in ((learned, False), (learned._replace(references=random_labels), True)):
        lines = describe_decisions(fit_decisions(found))
        assert any("says next to nothing" in line for line in lines) == nothing


def test_the_promises_hold_on_new_images() -> None:
    """Over many draws: coverage of the sets on average, the error bound in all but a few draws."""
    coverages, errors = [], []
    for seed in range(60):
        decisions = fit_decisions(drawn(400, seed=seed), target_error=0.15, coverage=0.95)
        new = drawn(2000, seed=1000 + seed)
        scaled = new.probabilities[:, 0] ** (1 / decisions.temperature)
        scaled /= scaled.sum(axis=1, keepdims=True)
        sets = prediction_sets(scaled, decisions.prediction_sets.quantile)
        coverages.append(sets[np.arange(2000), new.references].mean())
        if decisions.abstention.threshold is None:
            continue
        answered = scaled.max(axis=1) >= decisions.abstention.threshold
        errors.append((scaled.argmax(axis=1) != new.references)[answered].mean())
    # The mean of 60 draws of 400 images has a standard error of about 0.0015.
    assert 0.945 <= np.mean(coverages) <= 0.96
    assert len(errors) >= 50 and np.mean(np.array(errors) > 0.15) <= 0.1
    assert decisions.temperature == pytest.approx(2.0, abs=0.3)


def test_percentiles_are_those_of_the_validation_images() -> None:
    predicted = drawn(400)
    decisions = fit_decisions(predicted)
    assert list(decisions.uncertainty_quantiles) == ["energy"], "a single member disagrees with none"
    energies = predicted.energies[:, 0]
    assert len(decisions.uncertainty_quantiles["energy"]) == PERCENTILES
    for value in np.quantile(energies, [0.105, 0.5, 0.955]):
        share = decisions.more_uncertain_than("energy", float(value))
        assert share == pytest.approx((energies < value).mean(), abs=0.011)
