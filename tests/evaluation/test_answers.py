"""What an ensemble's answer looks like as text."""

from typing import Any

import pytest

from hf_simplex.evaluation.answers import answer_bars, answer_line


def result(best: float, abstain: bool | None) -> dict[str, Any]:
    labels = [{"label": "dog", "score": best}, {"label": "fox", "score": 0.9 - best}, {"label": "cat", "score": 0.1}]
    return {"labels": labels, "abstain": abstain}


@pytest.mark.parametrize(
    ("best", "abstain", "line"),
    [
        (0.85, False, "dog 85 %, sure"),
        (0.48, False, "dog 48 %, fox 42 %; answers at a target error of 2.5 %"),
        (0.85, True, "not sure: dog 85 %, fox 5 %; abstains at a target error of 2.5 %"),
        # Nothing was fitted: nothing is said about it.
        (0.85, None, "dog 85 %"),
        (0.48, None, "dog 48 %, fox 42 %"),
    ],
)
def test_a_line_says_what_the_ensemble_answers(best: float, abstain: bool | None, line: str) -> None:
    assert answer_line(result(best, abstain), 0.025) == line


def test_nearly_certain_is_not_certain() -> None:
    assert answer_line({"labels": [{"label": "dog", "score": 0.99996}], "abstain": None}) == "dog 99.9 %"
    assert answer_line({"labels": [{"label": "dog", "score": 1.0}], "abstain": None}) == "dog 100 %"


def test_almost_nothing_is_not_zero_and_almost_a_half_is_no_half() -> None:
    def line(score: float) -> str:
        return answer_line({"labels": [{"label": "dog", "score": score}]}, several=True)

    assert line(0.0004) == line(0.009) == "no label reaches 50 %: dog below 1 % is the most probable"
    assert line(0.011) == "no label reaches 50 %: dog 1 % is the most probable"
    assert line(0.4999) == "no label reaches 50 %: dog 49.9 % is the most probable" and line(0.5) == "dog 50 %"
    (bar,) = answer_bars([{"label": "dog", "score": 0.0004, "standard_deviation": 0.0}])
    assert "<1 % (members" in bar


def test_bars_are_as_long_as_probabilities() -> None:
    labels = [
        {"label": name, "score": score, "standard_deviation": 0.0} for name, score in (("a", 1.0), ("bcd", 0.25))
    ]
    first, second = answer_bars(labels)
    assert (first.count("█"), second.count("█")) == (24, 6)
    assert first.index("█") == second.index("█") and answer_bars([]) == []
