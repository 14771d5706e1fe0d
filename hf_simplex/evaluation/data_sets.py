"""An ensemble on the labelled images of a data set."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ..data.image_transforms import build_transforms, collate, with_pixel_values
from ..model.modeling_simplex import SimplexForImageClassification
from .calibration import scale_temperature
from .comparison import predict_members
from .label_names import label_names_of, match_labels
from .metrics import classification_metrics

__all__ = ["LabelledInputs", "evaluate_images"]


class LabelledInputs(torch.utils.data.Dataset):
    """Images as an ensemble takes them: pixel values, and the ensemble's labels instead of the data set's.

    Args:
        model: an ensemble with an image processor.
        images: with the columns `image` and `label`.
        label_names: names of the data set's labels, by label.
        labels_by_position: see `label_names.match_labels`.

    Attributes:
        order: the ensemble's label of each label of the data set.

    Raises:
        ValueError: the ensemble has no image processor, or see `label_names.match_labels`.

    Example::

        loaded = load_split("me/pets")
        inputs = LabelledInputs(model, loaded.images, loaded.label_names)
        model.calibrate(inputs, data_collator=collate)
    """

    def __init__(
        self,
        model: SimplexForImageClassification,
        images: Dataset,
        label_names: Sequence[str],
        *,
        labels_by_position: bool = False,
    ) -> None:
        if model.image_processor is None:
            raise ValueError("The ensemble has no image processor. Save it with one: set `model.image_processor`.")
        self.order = match_labels(label_names_of(model), label_names, by_position=labels_by_position)
        _, transform = build_transforms(model.image_processor)
        self._inputs: Any = with_pixel_values(images, transform)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._inputs[index]
        return {**row, "labels": self.order[int(row["labels"])]}


def evaluate_images(
    model: SimplexForImageClassification, inputs: LabelledInputs, args: TrainingArguments
) -> dict[str, float]:
    """Computes the metrics of an ensemble on images, at its fitted temperature if there is one.

    Args:
        model: an ensemble with members.
        inputs: the images.
        args: batch size, precision and data loader workers.

    Returns:
        `accuracy`, `nll` (nats), `ece` and `brier`, over all labels of the ensemble.

    Raises:
        ValueError: an image cannot be read.

    Example::

        evaluate_images(model, LabelledInputs(model, loaded.images, loaded.label_names), args)["accuracy"]
    """
    predicted = predict_members(model, inputs, args, collate)
    probabilities = predicted.probabilities.mean(axis=1)
    if (decisions := model.decisions) is not None:
        probabilities = scale_temperature(probabilities, decisions.temperature)
    return classification_metrics(probabilities, predicted.references)
