"""Metrics of every method at every number of members, from the probabilities of its members."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.metrics import classification_metrics, misclassification_auroc, ood_auroc

__all__ = ["Arrays", "disagreement", "ensemble_results", "paired_differences", "seed_results"]

Arrays = Mapping[str, NDArray[Any]]


def seed_results(predictions: Mapping[str, Arrays], labels: Arrays) -> dict[str, list[dict[str, Any]]]:
    """Metrics of each method with its first member, its first two, and so on.

    Args:
        predictions: for each method probabilities [members, images, labels] of the splits `validation`, `test` and,
            where predicted, `out_of_distribution` and `corrupted/<name>/<severity>`; and `training_epochs`, [members].
        labels: label ids of the same splits, [images].

    Returns:
        For each method [members] dictionaries: see `ensemble_results`.
    """
    return {
        method: [ensemble_results(arrays, labels, members) for members in range(1, len(arrays["training_epochs"]) + 1)]
        for method, arrays in predictions.items()
    }


def ensemble_results(arrays: Arrays, labels: Arrays, members: int) -> dict[str, Any]:
    """Metrics of the mean of a method's first members.

    Args:
        arrays, labels: as for `seed_results`, of one method.
        members: the number of members.

    Returns:
        On the test images: accuracy, nll (nats), ece, brier; calibrated_nll, calibrated_ece, calibrated_brier at the
        temperature that fits the validation images; misclassification_auroc; with two members `disagreement`; with
        out-of-distribution images `ood_auroc`. Also forward_passes, training_epochs, temperature and, by
        `<name>/<severity>`, the accuracy, nll, ece, brier and calibrated metrics of `corrupted` images.
    """

    def mean(split: str) -> NDArray[np.float64]:
        found = arrays[split][:members].astype(np.float64).mean(axis=0)
        return np.asarray(found / found.sum(axis=-1, keepdims=True))

    test, references = mean("test"), labels["test"]
    temperature = fit_temperature(mean("validation"), labels["validation"])
    results: dict[str, Any] = {
        "forward_passes": members,
        "training_epochs": float(arrays["training_epochs"][members - 1]),
        **_both(test, references, temperature),
        "temperature": temperature,
        "misclassification_auroc": misclassification_auroc(test, references),
    }
    if members > 1:
        results["disagreement"] = disagreement(arrays["test"][:members])
    if "out_of_distribution" in arrays:
        results["ood_auroc"] = ood_auroc(1 - test.max(axis=-1), 1 - mean("out_of_distribution").max(axis=-1))
    corrupted = {
        split.removeprefix("corrupted/"): _both(mean(split), labels[split], temperature)
        for split in arrays
        if split.startswith("corrupted/")
    }
    return {**results, "corrupted": corrupted} if corrupted else results


def _both(probabilities: NDArray[np.float64], references: NDArray[Any], temperature: float) -> dict[str, float]:
    calibrated = classification_metrics(scale_temperature(probabilities, temperature), references)
    del calibrated["accuracy"]
    return {
        **classification_metrics(probabilities, references),
        **{f"calibrated_{name}": value for name, value in calibrated.items()},
    }


def disagreement(members: NDArray[Any]) -> float:
    """Share of images on which two members predict different labels, averaged over pairs of members.

    Args:
        members: probabilities [members, images, labels] of two members or more.

    Returns:
        0 to 1.

    Example:
        >>> disagreement(np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]]))
        0.5
    """
    predicted = members.argmax(axis=-1)
    pairs = [
        float((predicted[first] != predicted[second]).mean())
        for first in range(len(predicted))
        for second in range(first)
    ]
    return float(np.mean(pairs))


def paired_differences(first: Arrays, second: Arrays, labels: Arrays) -> dict[str, tuple[float, float]]:
    """Difference of two methods on the same test images, and its standard error over the images.

    The standard error covers the choice of test images, not the training seed.

    Args:
        first, second: as for `ensemble_results`; all members are used.
        labels: as for `seed_results`.

    Returns:
        For `error` (percentage points), `nll` and `calibrated_nll` (nats) the mean of first minus second and its
        standard error. Below 0 the first is better.
    """
    losses = [_losses(arrays, labels) for arrays in (first, second)]
    found = {}
    for name in losses[0]:
        difference = losses[0][name] - losses[1][name]
        found[name] = (float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference))))
    return found


def _losses(arrays: Arrays, labels: Arrays) -> dict[str, NDArray[np.float64]]:
    """Error (0 or 100), NLL and calibrated NLL of each test image."""
    test, validation = (arrays[split].astype(np.float64).mean(axis=0) for split in ("test", "validation"))
    references = labels["test"]
    temperature = fit_temperature(validation / validation.sum(axis=-1, keepdims=True), labels["validation"])
    scaled = scale_temperature(test / test.sum(axis=-1, keepdims=True), temperature)
    rows = np.arange(len(references))
    return {
        "error": 100.0 * (test.argmax(axis=-1) != references),
        "nll": -np.log(np.maximum(test[rows, references], np.finfo(np.float64).tiny)),
        "calibrated_nll": -np.log(np.maximum(scaled[rows, references], np.finfo(np.float64).tiny)),
    }
