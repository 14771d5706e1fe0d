"""Temperatures against the known one, and deep-ensemble-equivalent sizes against interpolation by hand."""

import math

import numpy as np
import pytest
from predictions import calibrated_predictions
from scipy.optimize import minimize_scalar

from hf_simplex.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    PRIOR_DEVIATION,
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
    assert fit_temperature(TOO_SURE * 100_000, LABELS * 100_000) == pytest.approx(2.0, abs=1e-3)
    assert scale_temperature(TOO_SURE, 2.0)[0] == pytest.approx([2 / 3, 1 / 3])
    # A probability that underflowed counts as 2.2e-308: ln-odds of 708.4 ask for more than the highest temperature.
    assert fit_temperature([[1.0, 0.0]] * 3000, LABELS * 1000) == HIGHEST_TEMPERATURE


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoiled_calibrated_probabilities_is_found(temperature: float) -> None:
    calibrated, labels = calibrated_predictions(20_000, seed=0)
    spoiled = scale_temperature(calibrated, 1 / temperature)
    assert fit_temperature(spoiled, labels) == pytest.approx(temperature, rel=0.03)
    assert scale_temperature(spoiled, temperature) == pytest.approx(calibrated, abs=1e-9)


@pytest.mark.parametrize("number", [20, 200, 5000])
def test_no_other_temperature_has_a_smaller_loss_with_its_prior(number: int) -> None:
    probabilities, labels = calibrated_predictions(number, seed=1)
    labels = np.where(np.arange(number) % 3 == 0, 0, labels)

    def loss(exponent: float) -> float:
        scaled = scale_temperature(probabilities, math.exp(exponent))
        return number * negative_log_likelihood(scaled, labels) + exponent**2 / (2 * PRIOR_DEVIATION**2)

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(probabilities, labels) == pytest.approx(math.exp(found.x), rel=1e-5)
    others = np.linspace(-4, 4, 200)
    assert all(loss(found.x) <= loss(exponent) for exponent in others)


def test_few_images_that_are_all_right_do_not_make_the_probabilities_sharp() -> None:
    probabilities, labels = [[0.9, 0.1], [0.2, 0.8]] * 60, [0, 1] * 60
    # 120 right answers at 0.85 are evidence of underconfidence; 120 at 0.999 are evidence of nothing.
    assert 0.3 < fit_temperature(probabilities, labels) < 0.8
    assert fit_temperature([[0.999, 0.001]] * 120, [0] * 120) == pytest.approx(1, abs=0.1)
    assert fit_temperature([[1.0, 0.0]] * 120, [0] * 120) == pytest.approx(1)


def test_the_prior_keeps_a_wrong_test_image_from_costing_many_nats() -> None:
    # 125 validation images, one wrong by a hair: the likelihood alone asks for a temperature below 0.2.
    validation = np.array([[0.97, 0.03]] * 124 + [[0.51, 0.49]])
    temperature = fit_temperature(validation, [0] * 124 + [1])
    assert 0.5 < temperature < 1
    wrong = scale_temperature([[0.97, 0.03]], temperature)[0, 1]
    assert -math.log(wrong) < 2 * -math.log(0.03)


def test_worthless_predictions_get_a_high_temperature() -> None:
    assert fit_temperature([[0.8, 0.2], [0.3, 0.7]] * 50_000, [1, 0] * 50_000) > 30
    # All labels are equally probable at every temperature: nothing speaks against 1.
    assert fit_temperature([[0.5, 0.5]], [0]) == pytest.approx(1)


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
    found = calibrated_metrics(sure, labels, TOO_SURE_OF_FOUR * 30_000, LABELS * 30_000)
    # The validation images above alone decide: their temperature is 2, which undoes what was done to the test images.
    assert found.pop("temperature") == pytest.approx(2.0, abs=0.01)
    assert found == pytest.approx(classification_metrics(test, labels), abs=0.01)
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
