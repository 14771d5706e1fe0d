"""Decisions: their file format, their checks, and what they say of a prediction."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import KINDS, batches, complete, ensemble, images

from hf_simplex import SimplexConfig, SimplexForImageClassification
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.decisions import (
    PERCENTILES,
    Abstention,
    Decisions,
    PredictionSets,
    label_scores,
    scale_log_probabilities,
)

EVERYTHING = Decisions(
    temperature=1.7,
    centroid_temperatures=[1.2],
    abstention=Abstention(0.05, 0.95, threshold=0.8, coverage=0.6, error=0.01),
    prediction_sets=PredictionSets("aps", 0.9, quantile=0.95),
    uncertainty_quantiles={"energy": [float(value) for value in range(PERCENTILES)]},
    selection={"name": "vertices"},
    fitted_on={"images": 300},
)


def test_decisions_survive_config_json(tmp_path: Path) -> None:
    model = complete()
    model.decisions = EVERYTHING
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert loaded.decisions == EVERYTHING
    assert torch.equal(loaded(images()).logits, model(images()).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0; expected a finite number above 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": True}, "temperature is True"),
        ({"centroid_temperatures": 1.0}, "centroid_temperatures is 1.0; expected a list"),
        ({"centroid_temperatures": [1.0, 2.0]}, "2 entries; expected one for each of 1 simplexes"),
        ({"abstention": {"target_error": 2.0, "confidence_level": 0.9}}, "target_error is 2.0"),
        ({"abstention": {"target_error": 0.1}}, "an entry of abstention is missing"),
        ({"abstention": [0.1]}, r"abstention is \[0.1\]; expected a dictionary"),
        ({"prediction_sets": {"method": "raps", "coverage": 0.9}}, "expected one of lac, aps"),
        ({"prediction_sets": {"method": "lac", "coverage": 0.9, "quantile": 3}}, "quantile is 3"),
        ({"uncertainty_quantiles": {"energy": [1.0]}}, "expected 101 numbers"),
        ({"uncertainty_quantiles": {"energy": [1.0] * 100 + [0.0]}}, "not ascending"),
        ({"fitted_on": "pets"}, "fitted_on is 'pets'"),
        ({"treshold": 0.5}, "unknown entry 'treshold'"),
        (None, "decisions is 'no'; expected a dictionary"),
    ],
)
def test_a_configuration_refuses_malformed_decisions(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplexConfig(members=[[1.0]], decisions="no" if change is None else change)


@pytest.mark.parametrize("kind", KINDS)
def test_the_temperature_scales_the_ensemble_and_not_its_members(kind: str) -> None:
    model = ensemble(kind)
    raw = model(images(), output_member_probabilities=True)
    model.decisions = Decisions(temperature=2.0)
    scaled = model(images(), torch.zeros(6, dtype=torch.long), output_member_probabilities=True)
    expected = raw.member_probabilities.double().mean(dim=1).sqrt()
    expected /= expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(scaled.logits.double().exp(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(scaled.member_probabilities, raw.member_probabilities)
    torch.testing.assert_close(scaled.loss, -scaled.logits[:, 0].mean())


def test_a_checkpoint_may_lack_the_temperature(tmp_path: Path) -> None:
    model = ensemble("vit")
    expected = model(images()).logits
    model.config.decisions = {"abstention": {"target_error": 0.05, "confidence_level": 0.95, "threshold": 0.5}}
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()).logits, expected) and loaded.decisions.temperature == 1


def test_no_folder_of_this_machine_is_written(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.config.provenance["data_set"] = "/home/me/pets"
    model.decisions = Decisions(fitted_on={"data_set": "/home/me/pets", "images": 80})
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "/home" not in text and '"data_set": "pets"' in text
    assert model.decisions.fitted_on["data_set"] == "/home/me/pets"


def test_energies_are_those_of_the_logits() -> None:
    model = ensemble("vit")
    found = model(images(), output_member_probabilities=True).member_energies
    for member in range(3):
        logits = model.member_backbone(member)(images()).logits
        torch.testing.assert_close(found[:, member], -logits.exp().sum(dim=1).log())


def test_other_members_drop_the_decisions_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    changes: list[Any] = [
        lambda model: model.draw_members("vertices", batches=batches()),
        lambda model: model.add_vertex(),
        lambda model: model.choose_members([[1.0, 0.0, 0.0]], [model.vertex_statistics(0)]),
        lambda model: (model.backbone_at([0.0, 1.0, 0.0]), model.store_vertex(0)),
    ]
    logging.getLogger("transformers").propagate = True
    for change in changes:
        model = ensemble("vit")
        model.decisions = Decisions(temperature=2.0)
        caplog.clear()
        change(model)
        assert model.decisions is None and "decisions are dropped" in caplog.text


def test_a_part_has_no_decisions_unless_all_members_stay(tmp_path: Path) -> None:
    model = ensemble("vit")
    model.decisions = Decisions(temperature=2.0)
    model.save_pretrained(tmp_path)
    assert SimplexForImageClassification.from_pretrained(tmp_path, num_members=2).decisions is None
    assert SimplexForImageClassification.from_pretrained(tmp_path, num_members=3).decisions == model.decisions
    both = SimplexForImageClassification.disjoint_union([model, model])
    assert both.decisions is None


def test_a_part_of_fewer_simplexes_loads_without_the_decisions(tmp_path: Path) -> None:
    model = ensemble("vit")
    model._set_structure(SimplicialComplex(3, ((0, 1), (1, 2), (0, 2))))
    model.set_members([[1.0, 0.0, 0.0]])
    model.decisions = Decisions(centroid_temperatures=[1.0, 2.0, 3.0])
    model.save_pretrained(tmp_path)
    part = SimplexForImageClassification.from_pretrained(tmp_path, simplex=[0, 1])
    assert part.config.members == model.config.members and part.decisions is None


def test_a_confidence_at_the_threshold_answers() -> None:
    decisions = Decisions(abstention=Abstention(0.05, 0.95, threshold=0.75))
    assert decisions.abstains(torch.tensor([0.75, 0.25])) is False
    assert decisions.abstains(torch.tensor([0.749, 0.251])) is True
    assert Decisions(abstention=Abstention(0.05, 0.95)).abstains(torch.tensor([0.5, 0.5])) is None


@pytest.mark.parametrize(
    ("method", "quantile", "expected"),
    [
        ("lac", 0.5, [1]),
        ("lac", 0.75, [1, 2]),
        ("lac", 0.0, [1]),
        ("aps", 0.5, [1]),
        ("aps", 0.8, [1, 2]),
        ("aps", 0.2, [1]),
        ("aps", None, [1, 2, 0, 3]),
    ],
)
def test_prediction_sets_of_a_hand_worked_case(method: str, quantile: float | None, expected: list[int]) -> None:
    sets = Decisions(prediction_sets=PredictionSets(method, 0.9, quantile))
    probabilities = torch.tensor([0.125, 0.5, 0.25, 0.125], dtype=torch.float64)
    assert sets.prediction_set(probabilities) == expected


def test_scores_of_labels() -> None:
    probabilities = torch.tensor([[0.125, 0.5, 0.25, 0.125]], dtype=torch.float64)
    assert label_scores(probabilities, "lac").tolist() == [[0.875, 0.5, 0.75, 0.875]]
    # Of two equal labels the first comes first.
    assert label_scores(probabilities, "aps").tolist() == [[0.875, 0.5, 0.75, 1.0]]
    with pytest.raises(ValueError, match="method is 'raps'"):
        label_scores(probabilities, "raps")


def test_the_percentile_of_an_uncertainty() -> None:
    percentiles = [0.0] * 51 + [float(value) for value in range(1, 51)]
    decisions = Decisions(uncertainty_quantiles={"energy": percentiles})
    assert decisions.more_uncertain_than("energy", -1.0) == 0
    assert decisions.more_uncertain_than("energy", 0.0) == 0
    assert decisions.more_uncertain_than("energy", 0.5) == 0.5
    assert decisions.more_uncertain_than("energy", 25.5) == 0.75
    assert decisions.more_uncertain_than("energy", 99.0) == 1
    assert decisions.more_uncertain_than("mutual_information", 0.0) is None


def test_decisions_print_in_short() -> None:
    sets = PredictionSets("lac", 0.9, 0.5)
    quantiles = {name: [0.0] * PERCENTILES for name in ("mutual_information", "energy")}
    decisions = Decisions(temperature=1.5, prediction_sets=sets, uncertainty_quantiles=quantiles)
    assert repr(decisions) == (
        f"Decisions(temperature=1.5, abstention=None, prediction_sets={sets!r}, "
        "uncertainty_quantiles=<101 of mutual_information, 101 of energy>)"
    )
    assert Decisions.from_json(decisions.to_json()) == decisions and "<none>" in repr(Decisions())


def test_a_probability_of_zero_stays_zero() -> None:
    scaled = scale_log_probabilities(torch.tensor([1.0, 0.0]).log(), 3.0)
    assert scaled.exp().tolist() == [1.0, 0.0]
