"""The last lines of a run: which way to predict won, by how much, where the files are, and what to do next."""

from collections.abc import Mapping
from pathlib import Path

from ...evaluation.calibrate import describe_decisions
from ...evaluation.comparison import Result, error_name, error_of
from ...evaluation.paired import describe_differences
from ...model.decisions import Decisions

__all__ = ["verdict"]

_NAMES = {"backbone": "one model", "deep_ensemble": "the plain ensemble of the modes"}


def verdict(results: Mapping[str, Result], decisions: Decisions | None, ensemble: Path) -> list[str]:
    """Write the last lines of a run.

    Args:
        results: of `assessment.assess`.
        decisions: of the ensemble; None if nothing was fitted.
        ensemble: folder of the ensemble.

    Returns:
        The lines.

    Example::

        print("\\n".join(verdict(assessment.results, ensemble.decisions, Path("output/ensemble"))))
    """
    ours = results["espro"]
    called = error_name(ours)
    error = f"{100 * error_of(ours):.2f} %"
    article = "a" if called.startswith("H") else "an"
    lines = [f"The ensemble ({_passes(ours)} an image) has {article} {called} of {error} on test images."]
    if "micro_f1" in ours:
        lines.append(
            f"Its micro F1 is {ours['micro_f1']:.3f}, its macro F1 {ours['macro_f1']:.3f}, its mean average precision "
            f"{ours['mean_average_precision']:.3f}, and {100 * ours['exact_match']:.1f} % of the images get exactly "
            "their labels."
        )
    for rival, name in _NAMES.items():
        if _distinct(results, "espro", rival) and (rival == "backbone" or _distinct(results, "backbone", rival)):
            line = describe_differences(ours["differences"][rival], called)
            lines.append(f"Against {name} ({_passes(results[rival])}): {line}.")
    if _same(results, "espro", "deep_ensemble") and _distinct(results, "backbone", "deep_ensemble"):
        lines.append("It predicts as the plain ensemble of the modes does.")
    if _distinct(results, "espro", "centroid") and _distinct(results, "backbone", "centroid"):
        line = describe_differences(results["centroid"]["differences"]["backbone"], called)
        lines.append(f"The centroid, one forward pass, against one model: {line}.")
    if decisions is not None:
        lines += describe_decisions(decisions)
        lines += _measured(ours)
    else:
        lines.append("Nothing was calibrated: there were no validation images, or fewer than 50.")
    lines += [
        f"Files: {ensemble}",
        f"Next: hf-simplex predict {ensemble} IMAGE",
        f"      hf-simplex push {ensemble} NAME/{ensemble.parent.name}",
    ]
    return lines


def _measured(ours: Result) -> list[str]:
    found = ours.get("decisions", {})
    lines = []
    if "answered" in found:
        error = f" with an error of {100 * found['error_of_answers']:.1f} %" if "error_of_answers" in found else ""
        lines.append(f"On test images it answers {round(100 * found['answered'], 1):g} %{error}.")
    if "set_coverage" in found:
        lines.append(
            f"Prediction sets hold the true label of {100 * found['set_coverage']:.1f} % of the test images, with "
            f"{found['mean_set_size']:.2f} labels on average."
        )
    return lines


def _passes(result: Result) -> str:
    number = result["forward_passes"]
    return f"{number} forward pass" + ("" if number == 1 else "es")


def _same(results: Mapping[str, Result], first: str, second: str) -> bool:
    return first in results and second in results and not _distinct(results, first, second)


def _distinct(results: Mapping[str, Result], first: str, second: str) -> bool:
    """Whether two parts exist and are not the same model."""
    if first not in results or second not in results:
        return False
    same = ("nll", "forward_passes")
    one, other = results[first], results[second]
    return error_of(one) != error_of(other) or any(one[name] != other[name] for name in same)  # type: ignore[literal-required]
