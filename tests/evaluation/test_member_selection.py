"""The choice of members: what is eligible, what wins, and that nothing is judged on images that chose it."""

import numpy as np
import pytest

from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.member_selection import GREEDY, choose_members, cross_fitted, greedy_members

IMAGES, LABELS = 400, 4


def predictions(*accuracies: float, seed: int = 0, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Points [images, points, labels] that favor the true label at their own rates, independently of each other."""
    random = np.random.default_rng(seed)
    labels = random.integers(LABELS, size=IMAGES)
    logits = random.normal(size=(IMAGES, len(accuracies), LABELS))
    for point, accuracy in enumerate(accuracies):
        favored = np.where(random.random(IMAGES) < accuracy, labels, random.integers(LABELS, size=IMAGES))
        logits[np.arange(IMAGES), point, favored] += sharpness
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=2, keepdims=True), labels


def test_the_lowest_nll_wins_among_members_as_accurate_as_the_modes() -> None:
    probabilities, labels = predictions(0.8, 0.8, 0.8)
    rules = {"mode 0": [0], "modes": [0, 1], "three": [0, 1, 2]}
    selection = choose_members(probabilities, labels, rules, modes=[0, 1])
    assert selection.name == "three" and selection.points == (0, 1, 2) and selection.guaranteed
    assert [row.nll for row in selection.candidates] == sorted(row.nll for row in selection.candidates)
    by_name = {row.name: row for row in selection.candidates}
    error = (probabilities[:, :2].mean(axis=1).argmax(axis=1) != labels).mean()
    assert by_name["modes"].error == pytest.approx(error)
    assert by_name["modes"].error_over_modes == by_name["modes"].error_over_modes_se == 0


def test_members_that_are_clearly_less_accurate_are_not_eligible() -> None:
    # Point 2 is calibrated and has the lower NLL, but it is wrong more often than the sharp modes.
    probabilities, labels = predictions(0.9, 0.9, 0.75)
    probabilities[:, :2] = np.where(probabilities[:, :2] == probabilities[:, :2].max(axis=2, keepdims=True), 1.0, 0.0)
    rules = {"modes": [0, 1], "soft": [2]}
    selection = choose_members(probabilities, labels, rules, modes=[0, 1], max_forward_passes=2)
    by_name = {row.name: row for row in selection.candidates}
    assert not by_name["soft"].eligible and by_name["soft"].error_over_modes > by_name["soft"].error_over_modes_se
    assert selection.name != "soft" and selection.guaranteed


def test_of_equal_candidates_the_one_of_fewer_passes_wins() -> None:
    # Point 2 repeats point 3, and both improve on the modes.
    probabilities, labels = predictions(0.7, 0.7, 0.95)
    repeated = np.concatenate([probabilities, probabilities[:, 2:]], axis=1)
    rules = {"modes": [0, 1], "twice": [2, 3, 2, 3], "better": [2, 3], "greedy": [0, 1]}
    selection = choose_members(repeated, labels, rules, modes=[0, 1])
    by_name = {row.name: row for row in selection.candidates}
    assert by_name["twice"].nll == pytest.approx(by_name["better"].nll)
    assert selection.name == "better"


def test_the_modes_stay_unless_others_are_better_by_more_than_noise() -> None:
    for seed in range(10):
        probabilities, labels = predictions(0.8, 0.8, 0.8, 0.8, seed=seed)
        selection = choose_members(probabilities, labels, {"modes": [0, 1], "others": [2, 3]}, modes=[0, 1])
        by_name = {row.name: row for row in selection.candidates}
        for row in selection.candidates:
            losses = row.nll_over_modes + by_name["modes"].nll
            assert losses == pytest.approx(row.nll)
        beats = by_name[selection.name].nll_over_modes < -by_name[selection.name].nll_over_modes_se
        assert beats or selection.name == "modes"
    # The same point three times: nothing improves on the modes.
    repeated = np.repeat(probabilities[:, :1], 3, axis=1)
    assert choose_members(repeated, labels, {"modes": [0, 1], "all": [0, 1, 2]}, modes=[0, 1]).name == "modes"


def test_a_single_point_is_chosen_only_where_no_other_may_be() -> None:
    probabilities, labels = predictions(0.9, 0.3)
    rules = {"mode 0": [0], "mode 1": [1], "modes": [0, 1]}
    # The mean of both is clearly worse than the first mode alone.
    assert choose_members(probabilities, labels, rules, modes=[0, 1]).points == (0,)
    alike, labels = predictions(0.8, 0.8)
    assert len(choose_members(alike, labels, rules, modes=[0, 1]).points) == 2
    assert len(choose_members(alike, labels, rules, modes=[0, 1], max_forward_passes=1).points) == 1


def test_a_limit_of_forward_passes_may_cost_the_guarantee() -> None:
    probabilities, labels = predictions(0.6, 0.6, 0.6, 0.6, 0.6, 0.6)
    rules = {f"mode {mode}": [mode] for mode in range(6)} | {"modes": list(range(6))}
    assert choose_members(probabilities, labels, rules, modes=range(6)).guaranteed
    limited = choose_members(probabilities, labels, rules, modes=range(6), max_forward_passes=1)
    assert len(limited.points) == 1 and not limited.guaranteed
    with pytest.raises(ValueError, match="max_forward_passes is 1, but the smallest candidate needs 2"):
        choose_members(probabilities, labels, {"two": [0, 1]}, modes=[0], max_forward_passes=1)


def test_greedy_selection_of_a_hand_worked_case() -> None:
    # NLL of single points: 0.63, 0.98, 0.69. With point 0: -ln 0.45 - ln 0.65 over 2 with point 1, and so on.
    of_truth = np.array([[0.9, 0.35, 0.5], [0.32, 0.4, 0.5], [0.6, 0.4, 0.5]])
    probabilities = np.stack([of_truth, 1 - of_truth], axis=2)
    labels = np.zeros(3, dtype=np.int64)

    def nll(points: list[int]) -> float:
        return float(-np.log(of_truth[:, points].mean(axis=1)).mean())

    chosen = greedy_members(probabilities, labels, 3)
    assert chosen[0] == min(range(3), key=lambda point: nll([point]))
    assert nll(chosen) <= min(nll([chosen[0], other]) for other in range(3) if other != chosen[0])
    assert len(greedy_members(probabilities, labels, 1)) == 1


def test_a_fold_is_scaled_by_the_other_folds() -> None:
    probabilities, labels = predictions(0.7, sharpness=6.0)
    table, folds = probabilities[:, 0], np.arange(IMAGES) % 2
    scaled = cross_fitted(table, labels, folds)
    temperature = fit_temperature(table[folds == 1], labels[folds == 1])
    np.testing.assert_allclose(scaled[folds == 0], scale_temperature(table[folds == 0], temperature))
    # Another label of an image changes the scale of other folds only.
    changed = labels.copy()
    changed[0] = (changed[0] + 1) % LABELS
    again = cross_fitted(table, changed, folds)
    np.testing.assert_array_equal(again[folds == 0], scaled[folds == 0])
    assert not np.array_equal(again[folds == 1], scaled[folds == 1])


def test_greedy_selection_from_noise_is_not_believed() -> None:
    """Many points without skill: selection on the same images would look better than it is."""
    probabilities, labels = predictions(*[0.0] * 60, seed=3)
    selection = choose_members(probabilities, labels, {"modes": [0, 1]}, modes=[0, 1])
    (greedy,) = [row for row in selection.candidates if row.name == GREEDY]
    points = greedy_members(probabilities, labels, 60)
    optimistic = -np.log(probabilities[:, points].mean(axis=1)[np.arange(IMAGES), labels]).mean()
    assert optimistic < np.log(LABELS) < greedy.nll + 0.01
