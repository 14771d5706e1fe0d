"""An ensemble's answer as text: one line that a person reads, and bars."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["answer_bars", "answer_line"]

BAR = 24
"""Width of a full bar in characters."""


def answer_line(result: Mapping[str, Any], target_error: float | None = None, *, several: bool = False) -> str:
    """Says what the ensemble answers, and whether it is sure.

    Args:
        result: of the pipeline `simplex-image-classification`, with at least one label.
        target_error: of the abstention, 0 to 1; default: unknown.
        several: whether an image has several labels: then all listed labels of at least 0.5 are the answer.

    Returns:
        One line.

    Example:
        >>> from hf_simplex.evaluation.answers import answer_line
        >>> labels = [{"label": "dog", "score": 0.41}, {"label": "fox", "score": 0.38}, {"label": "cat", "score": 0.2}]
        >>> answer_line({"labels": labels, "abstain": True}, target_error=0.05)
        'not sure: dog 41 %, fox 38 %; abstains at a target error of 5 %'
        >>> answer_line({"labels": [{"label": "dog", "score": 0.93}], "abstain": False})
        'dog 93 %, sure'
        >>> answer_line({"labels": labels}, several=True)
        'no label reaches 50 %: dog 41 % is the most probable'
        >>> answer_line({"labels": [{"label": "dog", "score": 0.004}]}, several=True)
        'no label reaches 50 %: dog below 1 % is the most probable'
    """
    named = [f"{entry['label']} {_percent(entry['score'])}" for entry in result["labels"]]
    if several:
        given = [name for name, entry in zip(named, result["labels"], strict=True) if entry["score"] >= 0.5]
        return ", ".join(given) or f"no label reaches 50 %: {named[0]} is the most probable"
    if result.get("abstain") is None:
        return ", ".join(named[:2]) if result["labels"][0]["score"] < 0.5 else named[0]
    goal = "" if target_error is None else f" at a target error of {100 * target_error:g} %"
    if not result["abstain"]:
        # An accurate ensemble may answer below a half and keep its target, but nobody would call that sure.
        return f"{named[0]}, sure" if result["labels"][0]["score"] >= 0.5 else f"{', '.join(named[:2])}; answers{goal}"
    return f"not sure: {', '.join(named[:2])}; abstains{goal}"


def answer_bars(labels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draws the probabilities of labels as bars of text.

    Args:
        labels: of the pipeline's result: `label`, `score` and `standard_deviation`, 0 to 1.

    Returns:
        A line for each label.

    Example:
        >>> from hf_simplex.evaluation.answers import answer_bars
        >>> answer_bars([{"label": "dog", "score": 0.5, "standard_deviation": 0.04}])
        ['dog  ████████████              50 % (members ± 4 points)']
    """
    width = max((len(str(entry["label"])) for entry in labels), default=0)
    return [
        f"{entry['label']!s:<{width}}  {'█' * round(BAR * entry['score']):<{BAR}}  "
        f"{_percent(entry['score'], '<1 %'):>4} (members ± {100 * entry['standard_deviation']:.0f} points)"
        for entry in labels
    ]


def _percent(score: float, least: str = "below 1 %") -> str:
    if score < 0.01:
        # 0 % would say that it is impossible.
        return least
    # 99.6 % is not certainty, and 49.8 % is no half.
    for bound in (0.5, 1.0):
        if bound - 0.005 <= score < bound:
            return f"{min(100 * score, 100 * bound - 0.1):.1f} %"
    return f"{100 * score:.0f} %"
