"""The last lines of a run say in plain words what won, and never compare a model with itself."""

from pathlib import Path
from typing import Any

from hf_simplex.evaluation.comparison import Result
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets
from hf_simplex.training.recipe.verdict import verdict

ENSEMBLE = Path("output/run/ensemble")


def difference(mean: float, standard_error: float = 0.01) -> Any:
    of = {"mean": mean, "standard_error": standard_error}
    return {"error": of, "nll": of, "brier": of}


def result(accuracy: float, passes: int, **differences: Any) -> Result:
    return Result(
        accuracy=accuracy,
        nll=1 - accuracy,
        ece=0.1,
        brier=0.2,
        training_epochs=2.0,
        forward_passes=passes,
        differences=differences,
    )


def results(**changes: Result) -> dict[str, Result]:
    return {
        "backbone": result(0.90, 1, deep_ensemble=difference(0.03)),
        "deep_ensemble": result(0.93, 3, backbone=difference(-0.03)),
        "centroid": result(0.92, 1, backbone=difference(-0.005), deep_ensemble=difference(0.01)),
        "espro": result(0.945, 6, backbone=difference(-0.045), deep_ensemble=difference(0.05)),
        **changes,
    }


def test_better_worse_and_noise_are_plain_words() -> None:
    lines = verdict(results(), None, ENSEMBLE)
    assert lines == [
        "The ensemble (6 forward passes an image) has an error of 5.50 % on test images.",
        "Against one model (1 forward pass): error -4.50 ± 1.00 points (better), NLL -0.045 ± 0.010 nats (better).",
        "Against the plain ensemble of the modes (3 forward passes): error +5.00 ± 1.00 points (worse), "
        "NLL +0.050 ± 0.010 nats (worse).",
        "The centroid, one forward pass, against one model: error -0.50 ± 1.00 points (no difference beyond noise), "
        "NLL -0.005 ± 0.010 nats (no difference beyond noise).",
        "Nothing was calibrated: there were no validation images, or fewer than 50.",
        "Files: output/run/ensemble",
        "Next: hf-simplex predict output/run/ensemble IMAGE",
        "      hf-simplex push output/run/ensemble NAME/run",
    ]


def comparisons(found: dict[str, Result]) -> list[str]:
    return [line.split(":")[0] for line in verdict(found, None, ENSEMBLE) if "gainst" in line]


def test_no_model_is_compared_with_itself() -> None:
    one, two = "Against one model (1 forward pass)", "Against the plain ensemble of the modes (3 forward passes)"
    third = "The centroid, one forward pass, against one model"
    assert comparisons(results()) == [one, two, third]

    # The members are the modes.
    modes = result(0.93, 3, backbone=difference(-0.03), deep_ensemble=difference(0.0, 0.0))
    assert comparisons(results(espro=modes)) == [one, third]
    # The only member is the first mode.
    first = result(0.90, 1, backbone=difference(0.0, 0.0), deep_ensemble=difference(0.03))
    assert comparisons(results(espro=first)) == [two, third]
    # The only member is the centroid.
    centre = result(0.92, 1, backbone=difference(-0.005), deep_ensemble=difference(0.01))
    assert comparisons(results(espro=centre)) == [one, two]
    # One mode is its own ensemble, and is compared once.
    single = result(0.90, 1, backbone=difference(0.0, 0.0))
    assert comparisons(results(deep_ensemble=single)) == [one, third]
    # Without connectors, the centroid of a component is its mode.
    assert comparisons(results(centroid=single)) == [one, two]


def test_an_ensemble_that_won_nothing_over_its_modes_says_so() -> None:
    same = "It predicts as the plain ensemble of the modes does."
    modes = result(0.93, 3, backbone=difference(-0.03), deep_ensemble=difference(0.0, 0.0))
    assert verdict(results(espro=modes), None, ENSEMBLE)[2] == same
    assert same not in verdict(results(), None, ENSEMBLE)
    # One mode is its own ensemble.
    single = result(0.90, 1, backbone=difference(0.0, 0.0))
    assert same not in verdict(results(deep_ensemble=single, espro=single), None, ENSEMBLE)


def test_one_forward_pass_is_no_plural() -> None:
    lines = verdict(
        results(espro=result(0.92, 1, backbone=difference(0.1), deep_ensemble=difference(0.1))), None, ENSEMBLE
    )
    assert lines[0] == "The ensemble (1 forward pass an image) has an error of 8.00 % on test images."


def test_decisions_are_told_with_what_they_are_worth() -> None:
    decisions = Decisions(
        temperature=1.5,
        abstention=Abstention(0.05, 0.95, 0.8, coverage=0.75, error=0.02),
        prediction_sets=PredictionSets("lac", 0.9, 0.6),
    )
    found = results()
    found["espro"]["decisions"] = {
        "answered": 0.7,
        "error_of_answers": 0.031,
        "set_coverage": 0.885,
        "mean_set_size": 1.25,
    }
    text = "\n".join(verdict(found, decisions, ENSEMBLE))
    assert "The temperature is 1.5: the members alone are overconfident." in text
    assert "answer where the confidence is at least 0.800: 75 % of the validation images." in text
    assert "On test images it answers 70 % with an error of 3.1 %." in text
    assert "the true label of 88.5 % of the test images, with 1.25 labels on average." in text
    assert "Nothing was calibrated" not in text

    # Three of 797 images have no answer: that is not all of them.
    found["espro"]["decisions"] = {"answered": 794 / 797, "error_of_answers": 0.0164}
    assert "On test images it answers 99.6 % with an error of 1.6 %." in verdict(found, decisions, ENSEMBLE)
    found["espro"]["decisions"] = {"answered": 0.0}
    assert "On test images it answers 0 %." in verdict(found, decisions, ENSEMBLE)
    found["espro"]["decisions"] = {}
    assert not any("On test images it" in line for line in verdict(found, Decisions(), ENSEMBLE))


def test_an_image_without_an_answer_is_told() -> None:
    def told(coverage: float) -> str:
        decisions = Decisions(abstention=Abstention(0.05, 0.95, 0.517, coverage=coverage, error=0.01))
        return "\n".join(verdict(results(), decisions, ENSEMBLE))

    assert "at least 0.517: 99.5 % of the validation images." in told(199 / 200)
    assert "at least 0.517: 0.2 % of the validation images." in told(1 / 500)
    assert "at least 0.517: 100 % of the validation images." in told(1.0)


def test_the_members_are_told_in_english() -> None:
    def told(name: str, passes: int) -> str:
        row = {"name": name, "forward_passes": passes, "nll": 0.25}
        decisions = Decisions(selection={"name": name, "candidates": [row], "guaranteed": True})
        return verdict(results(), decisions, ENSEMBLE)[4]

    assert told("modes", 3) == "The members are the modes (3 forward passes, validation NLL 0.250)."
    assert told("mode 0", 1) == "The only member is mode 0 (1 forward pass, validation NLL 0.250)."
    assert told("greedy", 2) == "The members were chosen one by one (2 forward passes, validation NLL 0.250)."
