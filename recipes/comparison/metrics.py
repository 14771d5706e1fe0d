"""Metrics of every method at every number of members, from the probabilities that its members predicted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.metrics import classification_metrics, misclassification_auroc, ood_auroc

Arrays = Mapping[str, NDArray[Any]]


def seed_results(predictions: Mapping[str, Arrays], labels: Arrays) -> dict[str, list[dict[str, Any]]]:
    """The metrics of each method with its first member, its first two, and so on.

    Args:
        predictions: for each method the arrays `validation`, `test` and, where they were predicted,
            `out_of_distribution` and `corrupted/<name>/<severity>`, [members, images, labels], and `training_epochs`,
            [members].
        labels: label ids of the same splits, [images].

    Returns:
        For each method [members] dictionaries: see `ensemble_results`.
    """
    return {
        method: [ensemble_results(arrays, labels, members) for members in range(1, len(arrays["training_epochs"]) + 1)]
        for method, arrays in predictions.items()
    }


def ensemble_results(arrays: Arrays, labels: Arrays, members: int) -> dict[str, Any]:
    """The metrics of the mean of a method's first members.

    Args:
        arrays, labels: as for `seed_results`, of one method.
        members: how many.

    Returns:
        forward_passes; training_epochs; accuracy, nll (nats), ece, brier of the test images; the same three as
        calibrated_* at the temperature that fits the validation images; temperature; misclassification_auroc;
        ood_auroc where there are out-of-distribution images; disagreement, the share of test images on which two
        members predict different labels, where there are two; and `corrupted`, accuracy, nll, ece and calibrated by
        `<name>/<severity>`.
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
    """The share of images on which two different members predict different labels, on average over the pairs.

    Args:
        members: probabilities, [members, images, labels], of two members or more.

    Returns:
        0 to 1.
    """
    predicted = members.argmax(axis=-1)
    pairs = [
        float((predicted[first] != predicted[second]).mean())
        for first in range(len(predicted))
        for second in range(first)
    ]
    return float(np.mean(pairs))


def paired_differences(first: Arrays, second: Arrays, labels: Arrays) -> dict[str, tuple[float, float]]:
    """What a method gains over another on the same test images, and its standard error over the images.

    The error says how far other test images would move the difference; what other training seeds would do, it cannot.

    Args:
        first, second: as for `ensemble_results`, of one method each; all members are used.
        labels: as for `seed_results`.

    Returns:
        For `error` (in percentage points), `nll` and `calibrated_nll` (nats) the mean of first minus second, below 0
        where the first is better, and its standard error.
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
