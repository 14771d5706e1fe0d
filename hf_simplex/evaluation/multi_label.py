r"""Metrics of multi-label classification as functions on arrays.

In the formulas p are probabilities [images, labels], y are references [images, labels], 1 where an image has a label
and 0 where it has not, n is the number of images and K that of labels. Labels are independent: rows of p need not sum
to 1. A prediction gives a label where p is at least 0.5. Logits are refused if they leave 0 to 1: apply sigmoid first.

An image with K labels is K decisions, yes or no. `label_decisions` lays them out as an ordinary table of two classes,
so that likelihood, calibration and temperature are those of `metrics` and `calibration` on that table.
"""

import numpy as np
from datasets.features.features import cast_to_python_objects
from numpy.typing import ArrayLike

from .inputs import FloatArray, IntArray
from .metrics import brier_score, expected_calibration_error, negative_log_likelihood

__all__ = [
    "SMALLEST_MARGIN",
    "THRESHOLD",
    "average_precisions",
    "binary_brier_score",
    "binary_calibration_error",
    "binary_log_loss",
    "check_multi_label",
    "exact_match",
    "hamming_error",
    "label_decisions",
    "macro_f1",
    "mean_average_precision",
    "micro_f1",
    "multi_label_metrics",
]

THRESHOLD = 0.5
"""Probability from which on a label is given."""

SMALLEST_MARGIN = float(2.0**-53)
"""Smallest distance of a probability from 0 and 1 in likelihoods. A wrong decision costs at most 36.7 nats."""


def check_multi_label(probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Returns probabilities as float64 and references as int64 after checking them.

    Args:
        probabilities: [images, labels] array, tensor (any device and dtype) or nested list, each entry 0 to 1.
        references: [images, labels] of 0 and 1 in any dtype.

    Returns:
        [images, labels] float64 and [images, labels] int64.

    Raises:
        ValueError: a table is empty or of another shape than the other, or an entry is out of range. The message names
            the first bad row and its value.

    Example:
        >>> from hf_simplex.evaluation.multi_label import check_multi_label
        >>> check_multi_label([[0.9, 0.8]], [[1, 0]])
        (array([[0.9, 0.8]]), array([[1, 0]]))
    """
    table, labels = _table(probabilities, "probabilities"), _table(references, "references")
    if table.shape != labels.shape:
        raise ValueError(
            f"The probabilities have the shape {list(table.shape)}, the references {list(labels.shape)}: expected "
            "the same shape [images, labels]."
        )
    for values, name, bad, expected in (
        (
            table,
            "probabilities",
            ~((table >= 0) & (table <= 1)),
            "a number from 0 to 1. Apply sigmoid to logits first",
        ),
        (labels, "references", ~np.isin(labels, (0, 1)), "0 or 1"),
    ):
        if bad.any():
            row, label = (int(index[0]) for index in np.nonzero(bad))
            raise ValueError(
                f"Row {row} of the {name} has {values[row, label]:g} for label {label}: expected {expected}."
            )
    return table, labels.astype(np.int64)


def _table(values: ArrayLike, name: str) -> FloatArray:
    try:
        # numpy does not convert tensors that are on an accelerator, in bfloat16 or require a gradient.
        table = np.asarray(cast_to_python_objects(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The {name} must be numbers, in rows of equal length ({error}).") from error
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"The {name} must have the shape [images, labels] and not be empty, got {list(table.shape)}.")
    return table


def label_decisions(probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Lays out each label of each image as a decision between no (0) and yes (1).

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        Probabilities of no and yes, [images * labels, 2] float64, at least 1.1e-16 each, and references
        [images * labels] int64.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import label_decisions
        >>> label_decisions([[0.75, 0.5]], [[1, 0]])
        (array([[0.25, 0.75],
               [0.5 , 0.5 ]]), array([1, 0]))
    """
    table, labels = check_multi_label(probabilities, references)
    positive = np.clip(table.ravel(), SMALLEST_MARGIN, 1 - SMALLEST_MARGIN)
    return np.stack([1 - positive, positive], axis=1), labels.ravel()


def binary_log_loss(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""Negative log-likelihood of the labels, mean over images and labels (binary cross-entropy).

    .. math:: \text{NLL} = -\frac{1}{nK} \sum_{ij} y_{ij} \ln p_{ij} + (1 - y_{ij}) \ln (1 - p_{ij})

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        Nats, 0 or more; ln 2 for probabilities of 0.5. `torch.nn.BCEWithLogitsLoss` has the same scale.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import binary_log_loss
        >>> round(binary_log_loss([[0.5, 0.5]], [[1, 0]]), 4)
        0.6931
    """
    return negative_log_likelihood(*label_decisions(probabilities, references))


def binary_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error over all decisions of an image and a label.

    The confidence of a decision is the larger one of p and 1 - p; see `metrics.expected_calibration_error`.

    Args:
        probabilities, references: see `check_multi_label`.
        num_bins: number of bins, at least 1.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: as `check_multi_label`, or `num_bins` is below 1.

    Example:
        >>> from hf_simplex.evaluation.multi_label import binary_calibration_error
        >>> binary_calibration_error([[0.75, 0.25]], [[1, 0]])
        0.25
    """
    return expected_calibration_error(*label_decisions(probabilities, references), num_bins)


def binary_brier_score(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""Mean over images and labels of the sum of the squared errors of yes and no.

    .. math:: \text{Brier} = \frac{2}{nK} \sum_{ij} (p_{ij} - y_{ij})^2

    It is twice the mean of (p - y)^2, which scikit-learn's `brier_score_loss` gives.

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 (best) to 2, as `metrics.brier_score` of two classes.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import binary_brier_score
        >>> binary_brier_score([[0.5, 0.5]], [[1, 0]])
        0.5
    """
    return brier_score(*label_decisions(probabilities, references))


def hamming_error(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Share of the labels of all images that are given and should not be, or the other way round (Hamming loss).

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 (best) to 1.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import hamming_error
        >>> hamming_error([[0.9, 0.8]], [[1, 0]])
        0.5
    """
    table, labels = check_multi_label(probabilities, references)
    return float(np.mean((table >= THRESHOLD) != labels))


def exact_match(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Share of the images whose given labels are exactly the right ones (subset accuracy).

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import exact_match
        >>> exact_match([[0.9, 0.8], [0.1, 0.2]], [[1, 0], [0, 0]])
        0.5
    """
    table, labels = check_multi_label(probabilities, references)
    return float(np.mean(((table >= THRESHOLD) == labels).all(axis=1)))


def micro_f1(probabilities: ArrayLike, references: ArrayLike) -> float:
    r"""F1 over all decisions together: the harmonic mean of precision and recall.

    .. math:: F_1 = \frac{2 \, \text{TP}}{2 \, \text{TP} + \text{FP} + \text{FN}}

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 to 1; NaN if no label is given and none should be.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import micro_f1
        >>> round(micro_f1([[0.9, 0.8], [0.1, 0.7]], [[1, 0], [0, 1]]), 4)
        0.8
    """
    table, labels = check_multi_label(probabilities, references)
    return float(_f1(table.reshape(-1, 1), labels.reshape(-1, 1))[0])


def macro_f1(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Mean over labels of the F1 of each, over the labels that some image has.

    Labels without positives are left out, as by `mean_average_precision`; scikit-learn counts them as 0.

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 to 1; NaN if no image has a label.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import macro_f1
        >>> round(macro_f1([[0.9, 0.8], [0.1, 0.7]], [[1, 0], [0, 1]]), 4)
        0.8333
    """
    table, labels = check_multi_label(probabilities, references)
    present = labels.any(axis=0)
    return float(np.mean(_f1(table, labels)[present])) if present.any() else float("nan")


def _f1(table: FloatArray, labels: IntArray) -> FloatArray:
    """F1 of each column; NaN for one without positives, given or not."""
    given = table >= THRESHOLD
    hits = np.sum(given & (labels == 1), axis=0).astype(np.float64)
    total = np.sum(given, axis=0) + np.sum(labels, axis=0)
    return 2 * hits / np.where(total > 0, total, np.nan)


def average_precisions(probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
    r"""Average precision of each label: the area under its precision-recall curve, as steps.

    .. math:: \text{AP} = \sum_k (R_k - R_{k-1}) \, P_k

    over the distinct probabilities of the label as thresholds, from the highest. Images of equal probability enter
    together, so their order does not matter. scikit-learn's `average_precision_score` is the same.

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        [labels] float64, 0 to 1; NaN for a label that no image has.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import average_precisions
        >>> average_precisions([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1]], [[1, 0], [0, 0], [1, 0]]).round(4)
        array([0.8333,    nan])
    """
    table, labels = check_multi_label(probabilities, references)
    found = np.full(table.shape[1], np.nan)
    for label in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-table[:, label], kind="stable")
        scores, positive = table[order, label], labels[order, label]
        # The last image of each run of equal probabilities.
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        hits = np.cumsum(positive)[ends]
        recall = np.diff(hits, prepend=0) / positive.sum()
        found[label] = np.sum(recall * hits / (ends + 1))
    return found


def mean_average_precision(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Mean of the `average_precisions` over the labels that some image has (mAP, macro).

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        A number from 0 to 1; NaN if no image has a label.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import mean_average_precision
        >>> round(mean_average_precision([[0.9], [0.8], [0.7]], [[1], [0], [1]]), 4)
        0.8333
    """
    found = average_precisions(probabilities, references)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def multi_label_metrics(probabilities: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """The metrics of every multi-label result in this library.

    Args:
        probabilities, references: see `check_multi_label`.

    Returns:
        `micro_f1`, `macro_f1`, `mean_average_precision`, `exact_match` and `hamming_error` (0 to 1), `nll` (nats, mean
        over images and labels), `ece` (15 bins, over all decisions, 0 to 1), `brier` (the sum of the squared errors of
        yes and no, which is twice the mean of (p - y)^2; 0 to 2), and `labels_without_positives`, the number of labels
        that `macro_f1` and `mean_average_precision` leave out.

    Raises:
        ValueError: as `check_multi_label`.

    Example:
        >>> from hf_simplex.evaluation.multi_label import multi_label_metrics
        >>> found = multi_label_metrics([[1.0, 0.5], [0.5, 0.0]], [[1, 1], [0, 0]])
        >>> found["exact_match"], found["hamming_error"], round(found["nll"], 4)
        (0.5, 0.25, 0.3466)
    """
    table, labels = check_multi_label(probabilities, references)
    return {
        "micro_f1": micro_f1(table, labels),
        "macro_f1": macro_f1(table, labels),
        "mean_average_precision": mean_average_precision(table, labels),
        "exact_match": exact_match(table, labels),
        "hamming_error": hamming_error(table, labels),
        "nll": binary_log_loss(table, labels),
        "ece": binary_calibration_error(table, labels, num_bins=15),
        "brier": binary_brier_score(table, labels),
        "labels_without_positives": int(np.sum(~labels.any(axis=0))),
    }
