"""Paired differences are those of a paired t test, and words say what is more than noise."""

from typing import Any

import numpy as np
import pytest
from predictions import FOUR_IMAGES, FOUR_LABELS, random_predictions
from scipy.stats import ttest_rel

from hf_simplex.evaluation.metrics import SMALLEST_PROBABILITY
from hf_simplex.evaluation.paired import Difference, describe_differences, paired_differences


def scores(probabilities: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    rows = np.arange(len(labels))
    return {
        "error": (probabilities.argmax(axis=1) != labels).astype(float),
        "nll": -np.log(probabilities[rows, labels]),
        "brier": (probabilities**2).sum(axis=1) - 2 * probabilities[rows, labels] + 1,
    }


def test_differences_are_those_of_a_paired_t_test() -> None:
    first, labels = random_predictions(300)
    second = 0.4 * first + 0.6 * np.random.default_rng(1).dirichlet(np.ones(5), 300)
    found = paired_differences(first, second, labels)
    ours, theirs = scores(first, labels), scores(second, labels)
    for name in ("error", "nll", "brier"):
        test = ttest_rel(ours[name], theirs[name])
        mean = ours[name].mean() - theirs[name].mean()
        assert found[name]["mean"] == pytest.approx(mean), name
        error = found[name]["standard_error"]
        assert error == pytest.approx(mean / test.statistic), name
        assert error < ours[name].std(ddof=1) / np.sqrt(300), "smaller than that of one mean"
    back = paired_differences(second, first, labels)
    assert back["nll"]["mean"] == -found["nll"]["mean"]


def test_four_images_are_worked_by_hand() -> None:
    # Against certainty about the label: 0.3, 0.9, 0.65 and 0.1 are missing.
    certain = np.eye(3)[FOUR_LABELS]
    found = paired_differences(FOUR_IMAGES, certain, FOUR_LABELS)
    assert found["error"] == pytest.approx({"mean": 0.5, "standard_error": (1 / 12) ** 0.5})
    nll = -np.log([0.7, 0.1, 0.35, 0.9])
    assert found["nll"] == pytest.approx({"mean": nll.mean(), "standard_error": nll.std(ddof=1) / 2})
    brier = [0.09 + 0.04 + 0.01, 0.01 + 0.64 + 0.81, 0.16 + 0.4225 + 0.0625, 0.0025 + 0.0025 + 0.01]
    assert found["brier"]["mean"] == pytest.approx(np.mean(brier))


def test_a_classifier_does_not_differ_from_itself() -> None:
    found = paired_differences(FOUR_IMAGES, FOUR_IMAGES, FOUR_LABELS)
    assert set(found) == {"error", "nll", "brier"}
    assert all(difference == {"mean": 0.0, "standard_error": 0.0} for difference in found.values())
    assert describe_differences(found).count("no difference beyond noise") == 2


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    found = paired_differences([[0.0, 1.0]] * 2, [[0.5, 0.5]] * 2, [0, 0])
    assert found["nll"]["mean"] == pytest.approx(-np.log(SMALLEST_PROBABILITY) - np.log(2))


def test_bad_predictions_are_named() -> None:
    with pytest.raises(ValueError, match="one image"):
        paired_differences([[0.5, 0.5]], [[0.5, 0.5]], [0])
    with pytest.raises(ValueError, match="sums to 2"):
        paired_differences([[0.5, 0.5]] * 2, [[1.0, 1.0]] * 2, [0, 0])
    with pytest.raises(ValueError, match="3 and 2 labels"):
        paired_differences([[0.5, 0.3, 0.2]] * 2, [[0.5, 0.5]] * 2, [0, 0])


@pytest.mark.parametrize(
    ("mean", "judged"),
    [
        (0.0, "no difference beyond noise"),
        (0.5, "no difference beyond noise"),
        (-0.5, "no difference beyond noise"),
        (0.5001, "worse"),
        (-0.5001, "better"),
    ],
)
def test_two_standard_errors_are_the_border_of_noise(mean: float, judged: str) -> None:
    at, sure = Difference(mean=mean, standard_error=0.25), Difference(mean=1.0, standard_error=0.0)
    of_error = describe_differences({"error": at, "nll": sure, "brier": sure})
    assert of_error == f"error {100 * mean:+.2f} ± 25.00 points ({judged}), NLL +1.000 ± 0.000 nats (worse)"
    of_nll = describe_differences({"error": sure, "nll": at, "brier": sure})
    assert of_nll == f"error +100.00 ± 0.00 points (worse), NLL {mean:+.3f} ± 0.250 nats ({judged})"
