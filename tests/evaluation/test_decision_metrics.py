"""What decisions are worth on test images, against counts by hand."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from hf_simplex.evaluation.comparison import MemberPredictions
from hf_simplex.evaluation.decision_metrics import decided_probabilities, decision_metrics, unfamiliarity
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

# Means of two members: 0.8, 0.7 (wrong), 0.6 and 0.4 (wrong).
FIRST = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.4, 0.3, 0.3]]
SECOND = [[0.7, 0.25, 0.05], [0.6, 0.1, 0.3], [0.1, 0.5, 0.4], [0.4, 0.3, 0.3]]
PREDICTED = MemberPredictions(np.stack([FIRST, SECOND], axis=1), np.zeros((4, 2)), np.array([0, 2, 1, 1]))


def random_members(seed: int, scale: float, number: int = 40) -> MemberPredictions:
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(number, 3, 4))
    energies = -np.log(np.exp(logits).sum(axis=-1))
    return MemberPredictions(softmax(logits, axis=-1), energies, generator.integers(0, 4, number))


def test_probabilities_are_the_members_mean_at_the_temperature() -> None:
    mean = np.array([[0.8, 0.15, 0.05], [0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.4, 0.3, 0.3]])
    assert decided_probabilities(Decisions(), PREDICTED) == pytest.approx(mean)
    sharper = mean**2 / (mean**2).sum(axis=1, keepdims=True)
    assert decided_probabilities(Decisions(temperature=0.5), PREDICTED) == pytest.approx(sharper)


def test_answers_are_counted_by_hand() -> None:
    decisions = Decisions(abstention=Abstention(0.1, 0.95, threshold=0.6))
    found = decision_metrics(decisions, PREDICTED)
    assert set(found) == {"area_under_risk_coverage", "answered", "error_of_answers"}
    assert found["area_under_risk_coverage"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    # A confidence at the threshold is an answer, as for the pipeline; floats of a mean are near it.
    probabilities = decided_probabilities(decisions, PREDICTED)
    answers = [decisions.abstains(torch.from_numpy(row)) is False for row in probabilities]
    assert found["answered"] == np.mean(answers)
    found = decision_metrics(Decisions(abstention=Abstention(0.1, 0.95, threshold=0.59)), PREDICTED)
    assert (found["answered"], found["error_of_answers"]) == pytest.approx((3 / 4, 1 / 3))


def test_the_threshold_is_for_calibrated_confidences() -> None:
    # At half the temperature, the confidences are 0.96, 0.91, 0.78 and 0.47.
    decisions = Decisions(temperature=0.5, abstention=Abstention(0.1, 0.95, threshold=0.9))
    found = decision_metrics(decisions, PREDICTED)
    assert (found["answered"], found["error_of_answers"]) == pytest.approx((1 / 2, 1 / 2))


def test_without_answers_there_is_no_error_of_answers() -> None:
    found = decision_metrics(Decisions(abstention=Abstention(0.1, 0.95, threshold=0.99)), PREDICTED)
    assert found["answered"] == 0.0 and "error_of_answers" not in found


@pytest.mark.parametrize("abstention", [None, Abstention(0.1, 0.95)])
def test_without_a_threshold_nothing_is_said_of_answers(abstention: Abstention | None) -> None:
    assert set(decision_metrics(Decisions(abstention=abstention), PREDICTED)) == {"area_under_risk_coverage"}


def test_sets_are_counted_by_hand() -> None:
    # A label is in its set from a probability of 0.3 on: {0}, {0}, {1, 2}, {0, 1, 2}.
    found = decision_metrics(Decisions(prediction_sets=PredictionSets("lac", 0.9, 0.71)), PREDICTED)
    assert (found["set_coverage"], found["mean_set_size"]) == pytest.approx((3 / 4, 7 / 4))
    # Cumulated: 0.8, 0.95, 1; 0.7, 0.9, 1; 0.6, 0.9, 1; 0.4, 0.7, 1. The most probable label is in every set.
    found = decision_metrics(Decisions(prediction_sets=PredictionSets("aps", 0.9, 0.75)), PREDICTED)
    assert (found["set_coverage"], found["mean_set_size"]) == pytest.approx((3 / 4, 5 / 4))
    found = decision_metrics(Decisions(prediction_sets=PredictionSets("lac", 0.9, None)), PREDICTED)
    assert (found["set_coverage"], found["mean_set_size"]) == (1.0, 3.0)


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_are_those_of_the_checkpoint(method: str) -> None:
    decisions = Decisions(temperature=1.5, prediction_sets=PredictionSets(method, 0.9, 0.6))
    predicted = random_members(0, 2.0)
    rows = torch.from_numpy(decided_probabilities(decisions, predicted))
    sets = [decisions.prediction_set(row) or [] for row in rows]
    found = decision_metrics(decisions, predicted)
    held = [label in chosen for label, chosen in zip(predicted.references, sets, strict=True)]
    assert found["set_coverage"] == pytest.approx(np.mean(held))
    assert found["mean_set_size"] == pytest.approx(np.mean([len(chosen) for chosen in sets]))


def test_unfamiliar_images_are_told_apart_as_well_as_their_scores_tell() -> None:
    familiar, strange = random_members(0, 3.0), random_members(1, 1.5, number=25)
    found = decision_metrics(Decisions(), familiar, strange)
    outside = [0] * 40 + [1] * 25
    energies = [*familiar.energies.mean(axis=1), *strange.energies.mean(axis=1)]
    assert found["ood_auroc_energy"] == pytest.approx(roc_auc_score(outside, energies))

    def disagreement(members: MemberPredictions) -> list[float]:
        mean = members.probabilities.mean(axis=1)
        entropies = -(members.probabilities * np.log(members.probabilities)).sum(axis=-1).mean(axis=1)
        return [*(-(mean * np.log(mean)).sum(axis=-1) - entropies)]

    both = [*disagreement(familiar), *disagreement(strange)]
    assert found["ood_auroc_mutual_information"] == pytest.approx(roc_auc_score(outside, both))
    assert unfamiliarity(familiar)["mutual_information"] == pytest.approx(disagreement(familiar))
    assert not any(name.startswith("ood") for name in decision_metrics(Decisions(), familiar))


def test_the_energy_of_several_labels_tells_how_many_there_are_and_is_left_out() -> None:
    familiar, strange = (
        found._replace(references=np.eye(4, dtype=np.int64)[found.references])
        for found in (random_members(0, 3.0), random_members(1, 1.5))
    )
    assert set(decision_metrics(Decisions(), familiar, strange)) == {"ood_auroc_mutual_information"}
