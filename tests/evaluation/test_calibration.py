"""Temperatures against the known one, and deep-ensemble-equivalent sizes against interpolation by hand."""

import math

import numpy as np
import pytest
from predictions import calibrated_predictions
from scipy.optimize import minimize_scalar

from hf_simplex.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibrated_metrics,
    deep_ensemble_equivalent,
    fit_temperature,
    scale_temperature,
)
from hf_simplex.evaluation.metrics import (
    accuracy,
    classification_metrics,
    expected_calibration_error,
    negative_log_likelihood,
)

# Of two labels 0.8 : 0.2, that is ln-odds ln 4, while 2 of 3 images have the label 0, that is ln-odds ln 2: the best
# temperature makes the one the other, T = ln 4 / ln 2 = 2.
TOO_SURE = [[0.8, 0.2]] * 3
LABELS = [0, 0, 1]
# The same with two more labels, which are as good as impossible at any temperature in question.
TOO_SURE_OF_FOUR = [[0.8, 0.2, 1e-60, 1e-60]] * 3


def test_the_best_temperature_of_a_constant_prediction_makes_it_the_share_of_the_label() -> None:
    assert fit_temperature(TOO_SURE, LABELS) == pytest.approx(2.0, abs=1e-9)
    assert scale_temperature(TOO_SURE, 2.0)[0] == pytest.approx([2 / 3, 1 / 3])
    # A probability that underflowed counts as 2.2e-308: ln-odds of 708.4 ask for more than the highest temperature.
    assert fit_temperature([[1.0, 0.0]] * 3, LABELS) == HIGHEST_TEMPERATURE


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoiled_calibrated_probabilities_is_found(temperature: float) -> None:
    calibrated, labels = calibrated_predictions(20_000, seed=0)
    spoiled = scale_temperature(calibrated, 1 / temperature)
    assert fit_temperature(spoiled, labels) == pytest.approx(temperature, rel=0.03)
    assert scale_temperature(spoiled, temperature) == pytest.approx(calibrated, abs=1e-9)


def test_no_other_temperature_has_a_smaller_negative_log_likelihood() -> None:
    probabilities, labels = calibrated_predictions(200, seed=1)
    labels = np.where(np.arange(200) % 3 == 0, 0, labels)
    found = minimize_scalar(
        lambda exponent: negative_log_likelihood(scale_temperature(probabilities, math.exp(exponent)), labels),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(probabilities, labels) == pytest.approx(math.exp(found.x), rel=1e-5)


def test_images_that_are_all_right_say_nothing_about_the_temperature() -> None:
    assert fit_temperature([[0.8, 0.2], [0.3, 0.7]], [0, 1]) == 1
    # One that is wrong by a hair does: it is the last thing that keeps the temperature up.
    found = fit_temperature([[0.8, 0.2], [0.3, 0.7], [0.5001, 0.4999]], [0, 1, 1])
    assert LOWEST_TEMPERATURE < found < 1


def test_worthless_predictions_get_the_highest_temperature() -> None:
    assert fit_temperature([[0.8, 0.2], [0.3, 0.7]], [1, 0]) == HIGHEST_TEMPERATURE
    assert fit_temperature([[0.5, 0.5]], [0]) == HIGHEST_TEMPERATURE


def test_scaling_keeps_rows_normalized_in_order_and_at_one_the_same() -> None:
    probabilities, _ = calibrated_predictions(50, seed=2)
    for temperature in (0.05, 0.5, 1.0, 7.0):
        scaled = scale_temperature(probabilities, temperature)
        assert scaled.sum(1) == pytest.approx(np.ones(50))
        assert (scaled.argsort(1, kind="stable") == probabilities.argsort(1, kind="stable")).all()
    assert scale_temperature(probabilities, 1.0) == pytest.approx(probabilities)
    assert scale_temperature([[1e-300, 1.0]], 2.0)[0] == pytest.approx([1e-150, 1.0])


def test_calibrated_metrics_are_those_at_the_temperature_of_the_validation_images() -> None:
    test, labels = calibrated_predictions(5_000, seed=3)
    sure = scale_temperature(test, 0.5)
    found = calibrated_metrics(sure, labels, TOO_SURE_OF_FOUR, LABELS)
    # The validation images above alone decide: their temperature is 2, which undoes what was done to the test images.
    assert found.pop("temperature") == pytest.approx(2.0)
    assert found == pytest.approx(classification_metrics(test, labels))
    assert found["nll"] < negative_log_likelihood(sure, labels)
    assert found["ece"] < expected_calibration_error(sure, labels)
    assert found["accuracy"] == accuracy(sure, labels)


def test_temperatures_are_not_fitted_on_what_they_are_tested_on() -> None:
    test, labels = calibrated_predictions(20, seed=4)
    with pytest.raises(ValueError, match="never on those that it is tested on"):
        calibrated_metrics(test, labels, test.tolist(), labels)
    with pytest.raises(ValueError, match="4 labels, the validation images 2"):
        calibrated_metrics(test, labels, TOO_SURE, LABELS)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a positive, finite number"):
        scale_temperature(TOO_SURE, temperature)


def test_what_are_not_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="Row 1 of the probabilities sums to"):
        scale_temperature([[0.5, 0.5], [3.0, 4.0]], 2.0)
    with pytest.raises(ValueError, match="label id from 0 to 1"):
        fit_temperature(TOO_SURE, [0, 1, 2])


DEEP_ENSEMBLES = {1: -0.40, 2: -0.36, 4: -0.32, 8: -0.30}


@pytest.mark.parametrize(
    ("log_likelihood", "size"),
    [
        (-0.38, 1.5),
        (-0.36, 2.0),
        (-0.33, 3.5),
        (-0.305, 7.0),
        (-0.30, 8.0),
        (-0.40, 1.0),
        (-0.9, 1.0),
        (-0.29, math.inf),
    ],
)
def test_the_equivalent_size_is_interpolated_between_deep_ensembles(log_likelihood: float, size: float) -> None:
    assert deep_ensemble_equivalent(log_likelihood, DEEP_ENSEMBLES) == pytest.approx(size)


def test_the_first_deep_ensemble_that_reaches_it_counts() -> None:
    assert deep_ensemble_equivalent(-0.35, {1: -0.4, 2: -0.3, 3: -0.36, 4: -0.2}) == pytest.approx(1.5)
    assert deep_ensemble_equivalent(-0.25, {1: -0.4, 2: -0.3, 3: -0.36, 4: -0.2}) == pytest.approx(3 + 0.11 / 0.16)
    assert deep_ensemble_equivalent(-0.39, {1: -0.4}) == math.inf


def test_likelihoods_and_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]: they must start with 1"):
        deep_ensemble_equivalent(-0.3, {2: -0.3, 3: -0.2})
    with pytest.raises(ValueError, match="start with 1"):
        deep_ensemble_equivalent(-0.3, {})
    with pytest.raises(ValueError, match=r"0.3 is not a mean log-likelihood"):
        deep_ensemble_equivalent(0.3, DEEP_ENSEMBLES)
    with pytest.raises(ValueError, match="nan is not a mean log-likelihood"):
        deep_ensemble_equivalent(-0.3, {1: math.nan})
