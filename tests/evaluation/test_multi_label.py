"""Metrics of several labels an image are those of scikit-learn, torch and a count by hand."""

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    hamming_loss,
    log_loss,
)

from hf_simplex.evaluation.calibration import scale_temperature
from hf_simplex.evaluation.label_kinds import ONE_LABEL, SEVERAL_LABELS, label_kind
from hf_simplex.evaluation.member_selection import choose_members, cross_fitted, greedy_members
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.multi_label import (
    average_precisions,
    check_multi_label,
    macro_f1,
    mean_average_precision,
    multi_label_metrics,
)
from hf_simplex.evaluation.multi_label_modules import MULTI_LABEL_MODULES, MicroF1
from hf_simplex.evaluation.paired import paired_differences
from hf_simplex.plots.reliability import plot_reliability
from hf_simplex.plots.risk_coverage import plot_risk_coverage


def predictions(images: int = 200, labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right on average, with ties, and references."""
    generator = np.random.default_rng(seed)
    probabilities = generator.beta(0.6, 1.2, (images, labels)).round(2)
    references = (generator.random((images, labels)) < probabilities).astype(np.int64)
    return probabilities, references


def test_metrics_agree_with_scikit_learn() -> None:
    probabilities, references = predictions()
    found, given = multi_label_metrics(probabilities, references), probabilities >= 0.5
    assert found["micro_f1"] == pytest.approx(f1_score(references, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(references, given, average="macro"))
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(references, probabilities))
    assert found["exact_match"] == pytest.approx(np.mean((given == references).all(axis=1)))
    assert found["hamming_error"] == pytest.approx(hamming_loss(references, given))
    clipped = np.clip(probabilities, 2.0**-53, 1 - 2.0**-53)
    by_label = [log_loss(references[:, label], clipped[:, label]) for label in range(5)]
    assert found["nll"] == pytest.approx(np.mean(by_label))
    logits = torch.logit(torch.from_numpy(clipped))
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(references).double())
    assert found["nll"] == pytest.approx(theirs.item())
    table = np.stack([1 - probabilities.ravel(), probabilities.ravel()], axis=1)
    decisions = classification_metrics(table, references.ravel())
    assert (found["ece"], found["brier"]) == pytest.approx((decisions["ece"], decisions["brier"]))
    assert 1 - found["hamming_error"] == pytest.approx(decisions["accuracy"], abs=0.02), "ties at 0.5 apart"


def test_labels_without_positives_are_left_out_and_counted() -> None:
    probabilities, references = predictions()
    references[:, [1, 3]] = 0
    kept = [0, 2, 4]
    found = multi_label_metrics(probabilities, references)
    assert found["labels_without_positives"] == 2
    expected = average_precision_score(references[:, kept], probabilities[:, kept])
    assert found["mean_average_precision"] == pytest.approx(expected)
    given = probabilities[:, kept] >= 0.5
    assert found["macro_f1"] == pytest.approx(f1_score(references[:, kept], given, average="macro"))
    assert np.isnan(average_precisions(probabilities, references)).tolist() == [False, True, False, True, False]
    none = np.zeros_like(references)
    assert np.isnan(mean_average_precision(probabilities, none)) and np.isnan(macro_f1(probabilities, none))


def test_a_certain_and_wrong_decision_costs_at_most_37_nats() -> None:
    assert multi_label_metrics([[1.0]], [[0]])["nll"] == pytest.approx(53 * np.log(2))
    assert multi_label_metrics([[0.0]], [[1]])["nll"] == pytest.approx(53 * np.log(2))


@pytest.mark.parametrize(
    ("probabilities", "references", "message"),
    [
        ([[0.5, 1.5]], [[0, 1]], "Row 0 of the probabilities has 1.5 for label 1: expected a number from 0 to 1"),
        ([[0.5, float("nan")]], [[0, 1]], "has nan for label 1"),
        ([[0.5, 0.5]], [[0, 0.3]], r"Row 0 of the references has 0.3 for label 1: expected 0 or 1"),
        ([[0.5, 0.5]], [0], r"must have the shape \[images, labels\]"),
        ([[0.5, 0.5]], [[0, 1, 1]], "the same shape"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "not be empty"),
    ],
)
def test_bad_tables_are_refused_by_name(probabilities: object, references: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_multi_label(probabilities, references)  # type: ignore[arg-type]


def test_the_functions_for_one_label_refuse_several() -> None:
    probabilities, references = predictions()
    with pytest.raises(ValueError, match="one integer per image"):
        classification_metrics(np.full((4, 2), 0.5), [[0, 1]] * 4)
    with pytest.raises(ValueError, match="sums to"):
        scale_temperature(probabilities, 2.0)
    with pytest.raises(ValueError, match=r"several labels an image .*plot_reliability"):
        plot_risk_coverage({"ensemble": (probabilities, references)})
    assert label_kind(references) is SEVERAL_LABELS and label_kind(references[:, 0]) is ONE_LABEL


def test_one_temperature_is_fitted_by_binary_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (4000, 5))
    references = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    sharp = 1 / (1 + np.exp(-3 * logits))
    temperature = SEVERAL_LABELS.fit_temperature(sharp, references)
    assert temperature == pytest.approx(3, rel=0.05)
    scaled = SEVERAL_LABELS.scale_temperature(sharp, temperature)
    np.testing.assert_allclose(scaled, 1 / (1 + np.exp(-3 * logits / temperature)), rtol=1e-6)
    losses = [
        multi_label_metrics(SEVERAL_LABELS.scale_temperature(sharp, other), references)["nll"]
        for other in (0.9 * temperature, temperature, 1.1 * temperature)
    ]
    assert losses[1] < min(losses[0], losses[2])
    found = SEVERAL_LABELS.calibrated_metrics(sharp[:500], references[:500], sharp[500:], references[500:])
    assert found["nll"] < multi_label_metrics(sharp[:500], references[:500])["nll"]
    with pytest.raises(ValueError, match="are the same"):
        SEVERAL_LABELS.calibrated_metrics(sharp, references, sharp, references)
    with pytest.raises(ValueError, match=r"The test images have \d labels, the validation images \d"):
        SEVERAL_LABELS.calibrated_metrics(sharp[:500], references[:500], sharp[500:, :-1], references[500:, :-1])


def test_values_per_image_average_to_the_metrics() -> None:
    probabilities, references = predictions()
    found = multi_label_metrics(probabilities, references)
    assert SEVERAL_LABELS.losses(probabilities, references).mean() == pytest.approx(found["nll"])
    assert SEVERAL_LABELS.errors(probabilities, references).mean() == pytest.approx(found["hamming_error"])
    assert SEVERAL_LABELS.brier_scores(probabilities, references).mean() == pytest.approx(found["brier"])
    other, _ = predictions(seed=1)
    differences = paired_differences(probabilities, other, references)
    per_image = SEVERAL_LABELS.losses(probabilities, references) - SEVERAL_LABELS.losses(other, references)
    assert differences["nll"]["mean"] == pytest.approx(per_image.mean())
    # Images are the units, not decisions: the labels of an image may go together.
    assert differences["nll"]["standard_error"] == pytest.approx(per_image.std(ddof=1) / 200**0.5)


def test_members_are_chosen_by_binary_cross_entropy() -> None:
    truth, references = predictions(400)
    generator = np.random.default_rng(3)
    logit = np.log(np.clip(truth, 0.02, 0.98) / np.clip(1 - truth, 0.02, 0.98))
    noisy = [1 / (1 + np.exp(-(logit + generator.normal(0, 1.5, logit.shape)))) for _ in range(3)]
    useless = generator.random(logit.shape)
    points = np.stack([*noisy, useless], axis=1)
    chosen = greedy_members(points, references, 4)
    assert 3 not in chosen and len(chosen) >= 2
    steps = [
        multi_label_metrics(points[:, chosen[:number]].mean(axis=1), references)["nll"]
        for number in range(1, len(chosen) + 1)
    ]
    assert steps == sorted(steps, reverse=True), "each member lowers the loss"
    selection = choose_members(points, references, {"noisy": [0, 1, 2], "useless": [3], "mode": [0]}, [0])
    assert set(selection.points) <= {0, 1, 2} and selection.guaranteed
    row = next(found for found in selection.candidates if found.name == "noisy")
    mean = points[:, :3].mean(axis=1)
    assert row.error == pytest.approx(multi_label_metrics(mean, references)["hamming_error"])
    assert row.nll == pytest.approx(multi_label_metrics(cross_fitted(mean, references), references)["nll"], abs=1e-3)


def test_the_reliability_diagram_shows_decisions() -> None:
    probabilities, references = predictions()
    figure = plot_reliability({"ensemble": (probabilities, references)})
    ece = multi_label_metrics(probabilities, references)["ece"]
    assert figure.legends[0].get_texts()[0].get_text() == f"ensemble (ECE {ece:.3f})"
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "decisions (%)"]


def test_the_metrics_are_modules_of_evaluate() -> None:
    probabilities, references = predictions()
    combined = evaluate.combine([module() for module in MULTI_LABEL_MODULES])
    for rows in (slice(0, 120), slice(120, 200)):
        combined.add_batch(predictions=probabilities[rows], references=references[rows])
    found, expected = combined.compute(), multi_label_metrics(probabilities, references)
    assert found == pytest.approx({name: expected[name] for name in found}) and len(found) == 8
    metric = MicroF1()
    with pytest.raises(ValueError, match="expected 0 or 1"):
        metric.add_batch(predictions=[[0.5, 0.5]], references=[[0, 2]])
