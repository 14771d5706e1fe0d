"""An ensemble on the labelled images of a data set."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.utils import logging

from ..data.image_transforms import build_transforms, collate, with_pixel_values
from ..data.label_lists import is_label_list
from ..model.configuration_simplex import SimplexConfig
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.problem_types import is_multi_label
from .comparison import predict_members
from .label_kinds import label_kind
from .label_names import label_names_of, listed, match_labels

__all__ = ["LabelledInputs", "check_labels_fit", "evaluate_images", "evaluated_labels"]

logger = logging.get_logger(__name__)


class LabelledInputs(torch.utils.data.Dataset):
    """Images as an ensemble takes them: pixel values, and the ensemble's labels instead of the data set's.

    Args:
        model: an ensemble with an image processor.
        images: with the columns `image` and `label`, which is a list of labels for a multi-label ensemble.
        label_names: names of the data set's labels, by label.
        labels_by_position: see `label_names.match_labels`.

    Attributes:
        order: the ensemble's label of each label of the data set.
        several: whether an image has several labels.
        left_out: names of a multi-label ensemble's labels that the data set does not name. Whether an image has them
            is unknown, so `evaluate_images` and `calibrate` leave them out.

    Raises:
        ValueError: the ensemble has no image processor; it gives images one label and the data set several, or the
            other way round; or see `label_names.match_labels`.

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
        self.several = is_multi_label(model.config)
        check_labels_fit(model.config, images)
        names = label_names_of(model)
        self._num_labels = len(names)
        self.order = match_labels(names, label_names, by_position=labels_by_position)
        known = set(self.order) if self.several else set(range(len(names)))
        self.left_out = [name for label, name in enumerate(names) if label not in known]
        _, transform = build_transforms(model.image_processor)
        self._inputs: Any = with_pixel_values(images, transform)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._inputs[index]
        return {**row, "labels": self._of_model(row["labels"])}

    def _of_model(self, labels: Any) -> Any:
        if not self.several:
            return self.order[int(labels)]
        of_model = labels.new_zeros(self._num_labels)
        of_model[self.order] = labels
        return of_model


def evaluate_images(
    model: SimplexForImageClassification, inputs: LabelledInputs, args: TrainingArguments
) -> dict[str, float]:
    """Computes the metrics of an ensemble on images, at its fitted temperature if there is one.

    Args:
        model: an ensemble with members.
        inputs: the images.
        args: batch size, precision and data loader workers.

    Returns:
        `accuracy`, `nll` (nats), `ece` and `brier`, over all labels of the ensemble; of a multi-label ensemble those
        of `multi_label.multi_label_metrics`, over the labels that the data set names. A warning names the others.

    Raises:
        ValueError: an image cannot be read.

    Example::

        evaluate_images(model, LabelledInputs(model, loaded.images, loaded.label_names), args)["accuracy"]
    """
    labels = evaluated_labels(inputs)
    predicted = predict_members(model, inputs, args, collate)
    if labels is not None:
        predicted = predicted.of_labels(labels)
    kind = label_kind(predicted.references)
    probabilities = predicted.probabilities.mean(axis=1)
    if (decisions := model.decisions) is not None:
        probabilities = kind.scale_temperature(probabilities, decisions.temperature)
    return kind.metrics(probabilities, predicted.references)


def evaluated_labels(dataset: Any) -> list[int] | None:
    """Returns the labels of a multi-label ensemble that a data set speaks of, and warns of the others.

    Args:
        dataset: images with labels.

    Returns:
        Label ids in ascending order; None for all labels, as of any data set but `LabelledInputs` or a part of it.

    Example:
        >>> from hf_simplex.evaluation.data_sets import evaluated_labels
        >>> evaluated_labels([{"labels": [0, 1]}])
    """
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    if not isinstance(dataset, LabelledInputs) or not dataset.left_out:
        return None
    left_out = dataset.left_out
    of = len(dataset.order) + len(left_out)
    logger.warning(
        f"The data set does not name {len(left_out)} of the ensemble's {of} labels ({listed(left_out)}), and so does "
        "not say whether its images have them: they are left out."
    )
    return sorted(dataset.order)


def check_labels_fit(config: SimplexConfig, images: Dataset) -> None:
    """Checks that an ensemble and a data set both have one label an image, or both several.

    Args:
        config: of the ensemble.
        images: with a column `label`.

    Raises:
        ValueError: only one of them has several labels an image.

    Example::

        check_labels_fit(model.config, load_split("me/pets").images)
    """
    several = is_label_list(images.features["label"])
    if several != is_multi_label(config):
        raise ValueError(
            f"The images have {'lists of labels' if several else 'one label each'}, but the problem_type of the "
            f"ensemble is {config.problem_type!r} (None means one label an image). Give a data set with "
            f"{'one label' if several else 'a list of labels'} an image, or another ensemble."
        )
