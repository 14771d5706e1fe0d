"""Evaluates an ensemble beside what one would have used otherwise: a single model, a deep ensemble, the centroid."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.data.data_collator import DataCollator

from ..model.configuration_simplex import MODE
from ..model.coordinates import centroid_coordinates, vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from .metrics import classification_metrics


class Result(TypedDict):
    """What one way to predict reaches, and what it cost.

    Attributes:
        accuracy: share of right predictions, 0 to 1.
        nll: mean negative log-likelihood, nats.
        ece: expected calibration error over 15 equal-width bins, 0 to 1.
        brier: mean squared error of the probability vectors, summed over labels, 0 to 2.
        training_epochs: epochs of all vertices that it needs.
        forward_passes: of the backbone, for an image.
    """

    accuracy: float
    nll: float
    ece: float
    brier: float
    training_epochs: float
    forward_passes: int


class Prediction(NamedTuple):
    """What one way to predict says of every image, and what it cost.

    Attributes:
        probabilities: [images, labels] float64.
        training_epochs: epochs of all vertices that it needs.
        forward_passes: of the backbone, for an image.
    """

    probabilities: np.ndarray[Any, np.dtype[np.float64]]
    training_epochs: float
    forward_passes: int


def compare(
    model: SimplexForImageClassification,
    dataset: Dataset,
    args: TrainingArguments,
    *,
    given_mode_epochs: float = 0.0,
    data_collator: DataCollator | None = None,
) -> dict[str, Result]:
    """Evaluate an ESPRO ensemble and its parts: `results_of` what `predict_parts` predicts, with its arguments."""
    return results_of(
        *predict_parts(model, dataset, args, given_mode_epochs=given_mode_epochs, data_collator=data_collator)
    )


def results_of(
    predictions: Mapping[str, Prediction], references: np.ndarray[Any, np.dtype[np.int64]]
) -> dict[str, Result]:
    """The metrics of each prediction against the labels [images], beside its cost."""
    return {
        name: Result(
            **classification_metrics(prediction.probabilities, references),  # type: ignore[typeddict-item]
            training_epochs=prediction.training_epochs,
            forward_passes=prediction.forward_passes,
        )
        for name, prediction in predictions.items()
    }


def predict_parts(
    model: SimplexForImageClassification,
    dataset: Dataset,
    args: TrainingArguments,
    *,
    given_mode_epochs: float = 0.0,
    data_collator: DataCollator | None = None,
) -> tuple[dict[str, Prediction], np.ndarray[Any, np.dtype[np.int64]]]:
    """Predict with an ESPRO ensemble and its parts in one pass over the data, through `Trainer.predict`.

    Args:
        model: components of one simplex each, in whose simplex the modes come before the connectors.
        dataset: test images, as the trainer takes them; each must give its label.
        args: batch size, precision, data loader workers; in a distributed run the images are split over the processes.
        given_mode_epochs: epochs of a mode that came as a checkpoint, so that the model's provenance cannot tell them.
        data_collator: default: transformers' own.

    Returns:
        Predictions of `backbone` (the first mode), `deep_ensemble` (the modes), `centroid` and `simplex` (both of the
        first component) and `espro` (all members); and the labels, [images] int64.

    Raises:
        ValueError: no member lies in the first simplex, or the data set gives no labels.
    """
    structure, roles = model.config.complex, model.config.roles
    # A simplex whose vertices were all trained by SPRO stands on its first.
    modes = [vertex for s in structure.simplexes for vertex in s if vertex == s[0] or roles[vertex] == MODE]
    first = set(structure.simplexes[0])
    members = model.config.members
    of_first = [index for index, member in enumerate(members) if {v for v, c in enumerate(member) if c} <= first]
    if not of_first:
        raise ValueError(
            f"None of the {len(members)} members lies in the first simplex, so it cannot be evaluated: draw more "
            "members, or with sampling='equal'."
        )
    points = [vertex_coordinates(structure, mode).tolist() for mode in modes]
    points += [centroid_coordinates(structure, 0).tolist(), *members]
    found = [model.vertex_statistics(mode) for mode in modes]
    found += [tree.tensors() for tree in (*model.centroids[:1], *model.members)]

    probabilities, references = member_probabilities(model.with_members(points, found), dataset, args, data_collator)
    epochs = {stage["vertex"]: float(stage["epochs"]) for stage in model.config.provenance.get("stages", [])}
    after = len(modes) + 1
    parts = {
        "backbone": ([0], modes[:1]),
        "deep_ensemble": (list(range(len(modes))), modes),
        "centroid": ([len(modes)], list(first)),
        "simplex": ([after + index for index in of_first], list(first)),
        "espro": ([after + index for index in range(len(members))], list(range(structure.num_vertices))),
    }
    predictions = {
        name: Prediction(
            probabilities[:, which].mean(axis=1),
            sum(epochs.get(vertex, given_mode_epochs) for vertex in vertices),
            len(which),
        )
        for name, (which, vertices) in parts.items()
    }
    return predictions, references


def member_probabilities(
    model: SimplexForImageClassification,
    dataset: Dataset,
    args: TrainingArguments,
    data_collator: DataCollator | None = None,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Each member's probabilities, [images, members, labels] float64, and the labels, [images] int64."""
    if args.fp16_full_eval or args.bf16_full_eval:
        # Trainer casts the model that it is given for good, and these are the ensemble's own vertices.
        model = copy.deepcopy(model)
    model.config.output_member_probabilities = True
    try:
        trainer = Trainer(model=model, args=args, data_collator=data_collator)
        # An engine would shard all vertices of the ensemble, which is evaluated as it is: a point at a time.
        trainer.is_fsdp_enabled = False
        model.backbone.to(args.device)  # type: ignore[arg-type]
        output = trainer.predict(dataset)
    finally:
        del model.config.output_member_probabilities
    if output.label_ids is None:
        raise ValueError("The data set gives no labels: each image needs 'labels' (or 'label'), to be evaluated.")
    predictions: Any = output.predictions
    probabilities = np.asarray(predictions[1], np.float64)
    return probabilities / probabilities.sum(axis=-1, keepdims=True), np.asarray(output.label_ids, np.int64)
