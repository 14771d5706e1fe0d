"""Conformal sets by hand, and their coverage on exchangeable images."""

import math
from typing import Any

import numpy as np
import pytest
from predictions import calibrated_predictions
from scipy.special import softmax

from hf_simplex.evaluation.prediction_sets import (
    conformal_quantile,
    conformity_scores,
    prediction_set_metrics,
    prediction_sets,
)

THREE = [[0.625, 0.25, 0.125], [0.25, 0.5, 0.25], [0.125, 0.375, 0.5]]


def test_scores_by_hand() -> None:
    assert conformity_scores(THREE, [0, 2, 0], method="lac").tolist() == [0.375, 0.75, 0.875]
    # The first of two labels of probability 0.25 comes first.
    assert conformity_scores(THREE, [0, 2, 0], method="aps").tolist() == [0.625, 1.0, 1.0]
    assert conformity_scores(THREE, [1, 0, 1], method="aps").tolist() == [0.875, 0.75, 0.875]


@pytest.mark.parametrize(
    ("images", "coverage", "rank"),
    # ceil(10 x 0.9) = 9; ceil(11 x 0.9) = 10; ceil(9 x 0.9) = 9 of 8; 100 x 0.55 is 55, whatever floats say.
    [(9, 0.9, 9), (10, 0.9, 10), (8, 0.9, None), (99, 0.55, 55), (3, 0.5, 2), (1, 0.5, 1), (1, 0.6, None)],
)
def test_the_quantile_is_of_the_finite_sample(images: int, coverage: float, rank: int | None) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, images + 1))
    assert conformal_quantile(scores, coverage) == (math.inf if rank is None else rank)


def test_sets_by_hand() -> None:
    lac = prediction_sets(THREE, 0.75, method="lac")
    assert lac.tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    aps = prediction_sets(THREE, 0.875, method="aps")
    assert aps.tolist() == [[True, True, False], [True, True, False], [False, True, True]]


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_are_never_empty_and_hold_all_labels_at_an_infinite_quantile(method: str) -> None:
    assert prediction_sets(THREE, 0.0, method=method).tolist() == np.eye(3, dtype=bool)[[0, 1, 2]].tolist()
    assert prediction_sets(THREE, math.inf, method=method).all()
    assert prediction_sets([[0.1] * 10], 1.0, method=method).all(), "whatever ten times 0.1 sums to"


def test_metrics_by_hand() -> None:
    sets = [[True, True, False], [True, False, False], [True, True, True], [False, True, False]]
    assert prediction_set_metrics(sets, [1, 1, 2, 1]) == {"coverage": 0.75, "mean_size": 7 / 4}


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("sharpness", [1.0, 3.0], ids=["calibrated", "overconfident"])
def test_sets_hold_the_label_at_the_chosen_rate_on_average(method: str, sharpness: float) -> None:
    probabilities, labels = calibrated_predictions(200 * 300, num_labels=10)
    probabilities = softmax(sharpness * np.log(probabilities), axis=1)
    found = []
    for part in np.arange(len(labels)).reshape(200, 300):
        calibration, test = part[:100], part[100:]
        quantile = conformal_quantile(
            conformity_scores(probabilities[calibration], labels[calibration], method=method), 0.8
        )
        sets = prediction_sets(probabilities[test], quantile, method=method)
        found.append(prediction_set_metrics(sets, labels[test]))
    # A set without the top label forced in is right with a probability from 0.8 to 0.8 + 1 / 101.
    mean = np.mean([metrics["coverage"] for metrics in found])
    assert 0.79 < mean < (0.83 if method == "lac" else 0.9)


def test_lac_sets_are_the_smaller_ones() -> None:
    probabilities, labels = calibrated_predictions(20_000, num_labels=10)
    sizes = {}
    for method in ("lac", "aps"):
        quantile = conformal_quantile(conformity_scores(probabilities[:10_000], labels[:10_000], method=method), 0.9)
        sets = prediction_sets(probabilities[10_000:], quantile, method=method)
        sizes[method] = prediction_set_metrics(sets, labels[10_000:])["mean_size"]
    assert sizes["lac"] < sizes["aps"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformity_scores([[0.5, 0.6]], [0]), "Row 0 of the probabilities sums to"),
        (lambda: conformity_scores(THREE, [0, 1, 3]), "Row 2 of the references is 3"),
        (lambda: conformity_scores(THREE, [0, 1, 2], method="raps"), "method is 'raps': expected 'lac' or 'aps'"),
        (lambda: conformal_quantile([0.1], 1.0), "coverage is 1.0"),
        (lambda: conformal_quantile([0.1, math.nan], 0.5), "Row 1 of the scores is nan"),
        (lambda: prediction_sets(THREE, math.nan), "quantile is nan"),
        (lambda: prediction_set_metrics([[0.5, 0.5]], [0]), "must be bool"),
        (lambda: prediction_set_metrics([[True, False], [False, False]], [0, 0]), "a label in each set"),
        (lambda: prediction_set_metrics([[True, False]], [0, 1]), "1 predictions but 2 references"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
