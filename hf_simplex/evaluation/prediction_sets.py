"""Split conformal prediction: sets of labels that hold the true label at a chosen rate.

The scores of calibration images give a quantile. The set of a new image holds the labels up to that quantile::

    quantile = conformal_quantile(conformity_scores(validation_probabilities, labels, method="aps"), coverage=0.9)
    sets = prediction_sets(test_probabilities, quantile, method="aps")
    prediction_set_metrics(sets, test_labels)  # {"coverage": 0.91, "mean_size": 1.4}

If calibration and test images are exchangeable, a set holds the true label with probability at least `coverage`, for
any classifier (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005). The guarantee is over the
draw of all images: it holds on average, not for each label or kind of image.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..model.decisions import label_scores
from .inputs import FloatArray, check_predictions, check_probabilities, check_scores

__all__ = ["conformal_quantile", "conformity_scores", "prediction_set_metrics", "prediction_sets"]


def conformity_scores(probabilities: ArrayLike, references: ArrayLike, *, method: str = "lac") -> FloatArray:
    r"""Scores of the reference labels: larger for labels that agree less with the prediction.

    LAC (least ambiguous set-valued classifier) scores a label by its own probability. Its sets are the smallest on
    average. APS (adaptive prediction sets) scores a label by the total probability of all labels that are at least as
    probable. Its sets are larger for harder images.

    The formulas are those of `decisions.label_scores`. The first label wins a tie. APS is not randomized here: the
    same image always gets the same set.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: [images] integer label ids.
        method: `"lac"` or `"aps"`.

    Returns:
        [images] float64, 0 to 1.

    Raises:
        ValueError: As `metrics.accuracy`, or the method is unknown.

    Source: Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers with Bounded Error Levels, JASA 2019;
    Romano, Sesia and Candès, Classification with Valid and Adaptive Coverage, NeurIPS 2020.

    Example:
        >>> from hf_simplex.evaluation.prediction_sets import conformity_scores
        >>> conformity_scores([[0.5, 0.375, 0.125]], [1], method="lac")
        array([0.625])
        >>> conformity_scores([[0.5, 0.375, 0.125]], [1], method="aps")
        array([0.875])
    """
    table, labels = check_predictions(probabilities, references)
    return _label_scores(table, method)[np.arange(len(labels)), labels]


def conformal_quantile(scores: ArrayLike, coverage: float) -> float:
    r"""The finite-sample quantile of calibration scores: the ceil((n + 1) coverage)-th smallest of n.

    Args:
        scores: [images] from `conformity_scores`.
        coverage: probability with which a set holds the true label, between 0 and 1: 1 - alpha.

    Returns:
        The quantile. If n is below coverage / (1 - coverage), it is infinity: every set then holds all labels.

    Raises:
        ValueError: There are no scores, one is NaN, or the coverage is not between 0 and 1.

    Source: Vovk, Gammerman and Shafer 2005; Romano, Sesia and Candès 2020, theorem 1.

    Example:
        >>> from hf_simplex.evaluation.prediction_sets import conformal_quantile
        >>> conformal_quantile([0.1, 0.2, 0.3, 0.4], coverage=0.6), conformal_quantile([0.1, 0.2], coverage=0.9)
        (0.3, inf)
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}: expected a number between 0 and 1.")
    values = np.sort(check_scores(scores, "scores"))
    # Rounding must not raise the rank: (99 + 1) * 0.55 is 55.00000000000001.
    rank = math.ceil((len(values) + 1) * coverage - 1e-9)
    return float(values[rank - 1]) if rank <= len(values) else math.inf


def prediction_sets(probabilities: ArrayLike, quantile: float, *, method: str = "lac") -> NDArray[np.bool_]:
    """The labels whose score is at most the quantile. The most probable label is in every set.

    Args:
        probabilities: [images, labels] of new images, each row summing to 1 within 0.001.
        quantile: from `conformal_quantile`, for the same method.
        method: `"lac"` or `"aps"`.

    Returns:
        [images, labels] bool, whether the label is in the image's set.

    Raises:
        ValueError: The probabilities are not valid, as in `metrics.accuracy`, the quantile is NaN, or the method is
            unknown.

    Source: As `conformity_scores`.

    Example:
        >>> from hf_simplex.evaluation.prediction_sets import prediction_sets
        >>> prediction_sets([[0.5, 0.375, 0.125], [0.375, 0.375, 0.25]], 0.625, method="lac")
        array([[ True,  True, False],
               [ True,  True, False]])
    """
    if math.isnan(quantile):
        raise ValueError("The quantile is nan: expected a number, from conformal_quantile.")
    table = check_probabilities(probabilities)
    sets: NDArray[np.bool_] = _label_scores(table, method) <= quantile
    sets[np.arange(len(table)), table.argmax(axis=1)] = True
    return sets


def prediction_set_metrics(sets: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Coverage and mean size of prediction sets on test images.

    Args:
        sets: [images, labels] bool, from `prediction_sets`.
        references: [images] integer label ids.

    Returns:
        `coverage`, the share of the images whose set holds the reference label, and `mean_size`, the mean number of
        labels in a set.

    Raises:
        ValueError: The sets are not bool [images, labels], a set is empty, or the references are not valid label ids.

    Example:
        >>> from hf_simplex.evaluation.prediction_sets import prediction_set_metrics
        >>> prediction_set_metrics([[True, True, False], [True, False, False]], [1, 2])
        {'coverage': 0.5, 'mean_size': 1.5}
    """
    table = np.asarray(sets)
    if table.dtype != np.bool_ or table.ndim != 2 or not table.any(axis=1).all():
        raise ValueError(
            f"The sets must be bool [images, labels] with a label in each set, got {table.dtype} of shape "
            f"{list(table.shape)}."
        )
    sizes = table.sum(axis=1)
    # check_predictions expects probabilities: a uniform distribution over each set.
    _, labels = check_predictions(table / sizes[:, None], references)
    return {
        "coverage": float(table[np.arange(len(labels)), labels].mean()),
        "mean_size": float(sizes.mean()),
    }


def _label_scores(probabilities: FloatArray, method: str) -> FloatArray:
    """Scores of all labels, [images, labels]: those of the checkpoint's own sets."""
    scores: FloatArray = label_scores(torch.from_numpy(probabilities), method).numpy()
    return scores
