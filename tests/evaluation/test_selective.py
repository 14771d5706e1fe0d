"""Risk-coverage curves by hand, and thresholds that keep their guarantee."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from hf_simplex.evaluation.selective import area_under_risk_coverage, guaranteed_threshold, risk_coverage_curve


def test_the_curve_by_hand() -> None:
    # In descending order of confidence: right, wrong, right, wrong.
    curve = risk_coverage_curve([0.2, 0.9, 0.6, 0.7], [False, True, True, False])
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.6, 0.2]
    assert curve.coverages.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.errors.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


def test_images_of_equal_confidence_are_answered_together() -> None:
    curve = risk_coverage_curve([0.5, 0.9, 0.5, 0.5], [True, True, False, False])
    assert curve.thresholds.tolist() == [0.9, 0.5]
    assert curve.coverages.tolist() == [0.25, 1.0]
    assert curve.errors.tolist() == [0.0, 0.5]


def test_the_area_by_hand() -> None:
    assert area_under_risk_coverage([0.2, 0.9, 0.6, 0.7], [False, True, True, False]) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4
    )
    # Each of three tied images has the error of all four.
    assert area_under_risk_coverage([0.5, 0.9, 0.5, 0.5], [True, True, False, False]) == (0 + 3 * 0.5) / 4
    assert area_under_risk_coverage([1, 2], [True, True]) == 0.0
    assert area_under_risk_coverage([1, 2], [False, False]) == 1.0


def test_a_perfect_order_has_the_smallest_area() -> None:
    correct = np.arange(100) % 4 > 0
    generator = np.random.default_rng(0)
    best = area_under_risk_coverage(correct + generator.random(100) / 2, correct)
    assert best == pytest.approx(sum(max(0, k - 75) / k for k in range(1, 101)) / 100)
    assert best < area_under_risk_coverage(generator.random(100), correct)


def test_the_bound_by_hand() -> None:
    # Of 8 images, 3 steps visit the ranks 4, 2 and 1. All right: (1 - b)^m = 0.1 / 3.
    found = guaranteed_threshold(np.arange(8), [True] * 8, target_error=0.9, confidence_level=0.9)
    assert (found.threshold, found.coverage, found.error) == (0.0, 1.0, 0.0)
    assert found.error_bound == pytest.approx(1 - (0.1 / 3) ** (1 / 8))
    # Not even all 8 images without an error have a bound of 0.2.
    missed = guaranteed_threshold(np.arange(8), [True] * 8, target_error=0.2, confidence_level=0.9)
    assert missed.threshold is missed.coverage is missed.error is missed.error_bound is None


def test_the_bound_solves_the_binomial_equation_at_the_last_accepted_threshold() -> None:
    generator = np.random.default_rng(0)
    confidences = generator.random(1000)
    correct = generator.random(1000) < confidences
    found = guaranteed_threshold(confidences, correct, target_error=0.2, confidence_level=0.95)
    answered = confidences >= found.threshold
    errors = int((~correct[answered]).sum())
    assert found.coverage == answered.mean() and found.error == errors / answered.sum()
    assert found.error < found.error_bound <= 0.2
    assert binom.cdf(errors, answered.sum(), found.error_bound) == pytest.approx(0.05 / 10)
    # With the next lower confidence the bound exceeds the target.
    more = confidences >= confidences[confidences < found.threshold].max()
    assert binom.cdf((~correct[more]).sum(), more.sum(), 0.2) > 0.05 / 10


def test_the_error_exceeds_the_target_more_rarely_than_agreed() -> None:
    # P(right | confidence) = confidence, uniform on 0 to 1: the error of a threshold t is (1 - t) / 2.
    generator = np.random.default_rng(0)
    exceeded, covered = 0, []
    for _ in range(400):
        confidences = generator.random(300)
        correct = generator.random(300) < confidences
        found = guaranteed_threshold(confidences, correct, target_error=0.2, confidence_level=0.8)
        exceeded += found.threshold is not None and (1 - found.threshold) / 2 > 0.2
        covered.append(found.coverage or 0.0)
    assert exceeded <= 0.2 * 400
    assert np.mean(covered) > 0.1


def test_full_coverage_is_returned_if_all_images_reach_the_target() -> None:
    found = guaranteed_threshold(np.linspace(0, 1, 500), [True] * 500, target_error=0.05)
    assert found.coverage == 1.0 and found.threshold == 0.0
    assert str(found).startswith("The threshold 0 keeps the error below 0.05 with probability 0.95: it answers 100.0%")


@pytest.mark.parametrize("images", [1, 2, 40])
def test_no_threshold_is_said_so(images: int) -> None:
    found = guaranteed_threshold(np.arange(images), [False] * images, target_error=0.1)
    assert found.threshold is found.coverage is found.error is found.error_bound is None
    assert str(found) == (
        f"No threshold keeps the error below 0.1 with probability 0.95 on {images} images. "
        "It takes 46, even if all answers are right."
    )


@pytest.mark.parametrize(("target", "needed"), [(0.1, 46), (0.05, 97), (0.02, 252), (0.01, 528)])
def test_too_few_images_are_told_how_many_it_takes(target: float, needed: int) -> None:
    def found(images: int, wrong: int = 0) -> str:
        correct = [False] * wrong + [True] * (images - wrong)
        return str(guaranteed_threshold([0.9] * images, correct, target_error=target))

    assert found(needed).startswith("The threshold 0.9 keeps")
    assert found(needed - 1).endswith(f"on {needed - 1} images. It takes {needed}, even if all answers are right.")
    assert found(needed, wrong=1).endswith(f"on {needed} images.")


def test_all_images_of_the_thresholds_confidence_are_answered() -> None:
    found = guaranteed_threshold([0.5] * 300 + [0.9] * 100, [True] * 400, target_error=0.05)
    assert found.threshold == 0.5 and found.coverage == 1.0


@pytest.mark.parametrize(
    ("confidences", "correct", "options", "message"),
    [
        ([], [], {}, "confidences are empty"),
        ([0.5, math.nan], [True, True], {}, "Row 1 of the confidences is nan"),
        ([0.5, 0.6], [1, 0], {}, "one bool per image for 2 confidences, got int64"),
        ([0.5, 0.6], [True], {}, r"one bool per image for 2 confidences, got bool of shape \[1\]"),
        ([0.5], [True], {"target_error": 0.0}, "target_error is 0.0"),
        ([0.5], [True], {"confidence_level": 1.0}, "confidence_level is 1.0"),
    ],
)
def test_bad_input_is_named(confidences: Any, correct: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guaranteed_threshold(confidences, correct, **{"target_error": 0.1, **options})
