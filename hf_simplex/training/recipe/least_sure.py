"""The test images of which an ensemble is least sure, as a picture."""

from typing import Any

import numpy as np
import torch

from ...data.image_data import ImageData
from ...data.label_lists import class_names
from ...evaluation.inputs import FloatArray
from ...model.decisions import Decisions
from ...model.uncertainty import bernoulli_entropy
from ...plots.answers import plot_answers

__all__ = ["LEAST_SURE", "least_sure"]

LEAST_SURE = 12
"""Test images in least_sure.png."""


def least_sure(data: ImageData, probabilities: FloatArray, decisions: Decisions | None) -> Any:
    """Draw the test images of which an ensemble is least sure, and what it says of them.

    Those are the images whose most probable label has the lowest probability; of several labels an image, those of the
    highest entropy, summed over the labels.

    Args:
        data: images of the run.
        probabilities: [test images, labels] of the ensemble.
        decisions: of the ensemble; None if there are none.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example::

        least_sure(data, predictions["espro"].probabilities, ensemble.decisions).savefig("least_sure.png")
    """
    names, several = class_names(data.test.features["label"]), data.several_labels
    sureness = probabilities.max(axis=1)
    if several:
        sureness = -bernoulli_entropy(torch.from_numpy(probabilities)).numpy()
    chosen = np.argsort(sureness, kind="stable")[:LEAST_SURE].tolist()
    results, truths = [], []
    for number in chosen:
        scores = torch.from_numpy(probabilities[number])
        best = scores.argsort(descending=True)[: len(names) if several else 2].tolist()
        labels = [{"label": names[label], "score": scores[label].item()} for label in best]
        results.append({"labels": labels, "abstain": None if decisions is None else decisions.abstains(scores)})
        truth = data.test[number]["label"]
        truths.append(", ".join(names[label] for label in truth) or "none" if several else names[truth])
    images = [data.test[number]["image"] for number in chosen]
    return plot_answers(images, results, truths, several=several)
