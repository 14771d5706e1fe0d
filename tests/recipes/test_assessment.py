"""The assessment of a run: temperatures from validation images only, paired differences, and values for JSON."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from predictions import random_predictions
from tiny import Images, backbone
from torch.utils.data import Dataset, Subset

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.calibrate import calibrate
from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.comparison import Prediction, predict_members, predict_parts
from hf_simplex.evaluation.decision_metrics import decision_metrics
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.paired import paired_differences
from hf_simplex.training.recipe.arguments import EsproArguments
from hf_simplex.training.recipe.assessment import RIVALS, assess

PARTS = ["backbone", "deep_ensemble", "centroid", "simplex", "espro"]


class Relabelled(Dataset):
    """The same images under the next label."""

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.images[index]
        return {**example, "labels": (example["labels"] + 1) % 3}


def three_sets() -> tuple[Dataset, Dataset, Dataset]:
    """Validation, test and unfamiliar images."""
    images = Images(140)
    return tuple(Subset(images, range(*ends)) for ends in ((0, 60), (60, 110), (110, 140)))  # type: ignore[return-value]


def two_modes() -> SimplexForImageClassification:
    modes = [SimplexForImageClassification.from_backbone(backbone("vit", seed)) for seed in (0, 1)]
    model = SimplexForImageClassification.simplex_of_modes(modes)
    model.draw_members("vertices_and_centroid")
    return model


def arguments(path: Path) -> EsproArguments:
    return EsproArguments(str(path), use_cpu=True, report_to="none", disable_tqdm=True, per_device_eval_batch_size=32)


def test_each_part_is_calibrated_by_its_own_validation_predictions(tmp_path: Path) -> None:
    (validation, test, unfamiliar), args, model = three_sets(), arguments(tmp_path), two_modes()
    decisions = calibrate(model, validation)
    found = assess(model, test, args, validation=validation, unfamiliar=unfamiliar)
    assert list(found.results) == PARTS
    fitted, labels = predict_parts(model, validation, args)
    raw, references = predict_parts(model, test, args)
    assert found.references.tolist() == references.tolist()
    for part, result in found.results.items():
        plain = classification_metrics(raw[part].probabilities, references)
        assert {name: result[name] for name in plain} == plain, "raw figures stay raw"  # type: ignore[literal-required]
        temperature = fit_temperature(fitted[part].probabilities, labels)
        scaled = scale_temperature(raw[part].probabilities, temperature)
        metrics = classification_metrics(scaled, references)
        metrics = {name: metrics[name] for name in ("nll", "ece", "brier")} | {"temperature": temperature}
        assert result["calibrated"] == pytest.approx(metrics), part
        assert found.predictions[part].probabilities == pytest.approx(scaled)
    assert decisions is not None
    assert found.results["espro"]["calibrated"]["temperature"] == pytest.approx(decisions.temperature, rel=1e-3)
    temperatures = [result["calibrated"]["temperature"] for result in found.results.values()]
    assert temperatures[0] != temperatures[-1]

    other = assess(model, Relabelled(test), args, validation=validation)
    assert [result["calibrated"]["temperature"] for result in other.results.values()] == temperatures
    assert other.results["espro"]["nll"] != found.results["espro"]["nll"]

    members, strange = predict_members(model, test, args), predict_members(model, unfamiliar, args)
    assert found.results["espro"]["decisions"] == decision_metrics(decisions, members, strange)
    assert "ood_auroc_energy" in found.results["espro"]["decisions"]
    assert "ood_auroc_energy" not in other.results["espro"]["decisions"]
    assert not any("decisions" in found.results[part] for part in PARTS[:-1])
    assert json.loads(json.dumps(found.results, allow_nan=False)) == found.results


def test_differences_are_those_of_the_predictions_in_the_assessment(tmp_path: Path) -> None:
    (validation, test, _), args, model = three_sets(), arguments(tmp_path), two_modes()
    for given in (validation, None):
        found = assess(model, test, args, validation=given)
        for part, result in found.results.items():
            assert set(result["differences"]) == set(RIVALS) - {part}
            for rival, differences in result["differences"].items():
                first, second = found.predictions[part].probabilities, found.predictions[rival].probabilities
                assert differences == paired_differences(first, second, found.references)
        ours, one = found.results["espro"], found.results["backbone"]
        gain = ours["nll"] - one["nll"] if given is None else ours["calibrated"]["nll"] - one["calibrated"]["nll"]
        assert ours["differences"]["backbone"]["nll"]["mean"] == pytest.approx(gain)


def test_without_validation_images_nothing_is_calibrated(tmp_path: Path) -> None:
    _, test, unfamiliar = three_sets()
    results = assess(two_modes(), test, arguments(tmp_path), unfamiliar=unfamiliar).results
    for name in ("calibrated", "decisions", "deep_ensemble_equivalent"):
        assert not any(name in result for result in results.values()), name


def fabricated(monkeypatch: pytest.MonkeyPatch, sharpness: dict[str, float]) -> dict[str, Any]:
    """Assess parts that know more of the labels the sharper they are."""

    def predict(model: Any, images: int, *_: Any, **__: Any) -> Any:
        noise, labels = random_predictions(400, 4, seed=images)
        known = 0.25 + 0.75 * (np.eye(4)[labels] - 0.25)
        return {
            part: Prediction(share * known + (1 - share) * noise, 1.0, 1) for part, share in sharpness.items()
        }, labels

    monkeypatch.setattr("hf_simplex.training.recipe.assessment.predict_parts", predict)
    model: Any = SimpleNamespace(decisions=None, config=SimpleNamespace(roles=["mode", "connector", "mode", "mode"]))
    results: Any = assess(model, 0, None, validation=1).results  # type: ignore[arg-type]
    assert json.dumps(results, allow_nan=False)
    return results


def test_the_equivalent_lies_between_the_measured_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    results = fabricated(monkeypatch, {"backbone": 0.1, "deep_ensemble": 0.5, "espro": 0.3})
    one, three, ours = (results[part]["calibrated"]["nll"] for part in ("backbone", "deep_ensemble", "espro"))
    assert one > ours > three
    expected = 1 + 2 * (one - ours) / (one - three)
    assert results["espro"]["deep_ensemble_equivalent"] == pytest.approx(expected)
    assert "deep_ensemble_equivalent" not in results["backbone"]


def test_more_than_all_modes_is_none_and_less_than_one_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    results = fabricated(monkeypatch, {"backbone": 0.1, "deep_ensemble": 0.3, "espro": 0.5})
    assert results["espro"]["deep_ensemble_equivalent"] is None
    results = fabricated(monkeypatch, {"backbone": 0.3, "deep_ensemble": 0.5, "espro": 0.1})
    assert results["espro"]["deep_ensemble_equivalent"] == 1.0
