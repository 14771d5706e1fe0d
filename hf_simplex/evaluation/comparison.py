"""Compares an ensemble with its parts: a single model, a deep ensemble of its modes, and the centroid."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, Self, TypedDict

import numpy as np
from scipy.special import expit
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.data.data_collator import DataCollator

from ..model.configuration_simplex import MODE
from ..model.coordinates import centroid_coordinates, vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.module_inputs import module_inputs
from ..model.problem_types import is_multi_label
from .inputs import FloatArray, IntArray
from .label_kinds import label_kind
from .multi_label import check_multi_label
from .paired import PairedDifferences

__all__ = [
    "MemberPredictions",
    "Prediction",
    "Result",
    "error_name",
    "error_of",
    "predict_members",
    "predict_parts",
    "results_of",
]


class Result(TypedDict):
    """Metrics and cost of one method.

    Attributes:
        accuracy: 0 to 1. For several labels an image, `micro_f1` to `labels_without_positives` take its place.
        nll: negative log-likelihood in nats.
        ece: expected calibration error over 15 bins of equal width, 0 to 1.
        brier: Brier score, 0 to 2. For several labels an image, see `multi_label.binary_brier_score`.
        training_epochs: total epochs of the vertices that the method needs.
        forward_passes: of the backbone, an image.
        calibrated: `nll`, `ece` and `brier` at the `temperature` fitted on validation images.
        differences: to other methods, with paired standard errors; negative where this one is better.
        decisions: what the decisions are worth, see `decision_metrics.decision_metrics`.
        micro_f1, macro_f1, mean_average_precision, exact_match, hamming_error, labels_without_positives: of several
            labels an image, see `multi_label.multi_label_metrics`.
        deep_ensemble_equivalent: see `calibration.deep_ensemble_equivalent`; None for more models than were measured.

    Example:
        >>> from hf_simplex.evaluation.comparison import Result
        >>> Result(accuracy=0.9, nll=0.3, ece=0.02, brier=0.1, training_epochs=10.0, forward_passes=1)["accuracy"]
        0.9
    """

    accuracy: NotRequired[float]
    nll: float
    ece: float
    brier: float
    training_epochs: float
    forward_passes: int
    calibrated: NotRequired[dict[str, float]]
    differences: NotRequired[dict[str, PairedDifferences]]
    decisions: NotRequired[dict[str, float]]
    deep_ensemble_equivalent: NotRequired[float | None]
    micro_f1: NotRequired[float]
    macro_f1: NotRequired[float]
    mean_average_precision: NotRequired[float]
    exact_match: NotRequired[float]
    hamming_error: NotRequired[float]
    labels_without_positives: NotRequired[int]


def error_of(result: Result) -> float:
    """Returns the error of a result, 0 to 1: one minus the accuracy; for several labels an image, the Hamming error.

    Example:
        >>> from hf_simplex.evaluation.comparison import Result, error_of
        >>> error_of(Result(accuracy=0.75, nll=0.3, ece=0.02, brier=0.1, training_epochs=10.0, forward_passes=1))
        0.25
    """
    return result["hamming_error"] if "hamming_error" in result else 1 - result["accuracy"]


def error_name(result: Result) -> str:
    """Returns what `error_of` is called in a sentence.

    Example:
        >>> from hf_simplex.evaluation.comparison import Result, error_name
        >>> error_name(Result(accuracy=0.75, nll=0.3, ece=0.02, brier=0.1, training_epochs=10.0, forward_passes=1))
        'error'
    """
    return "Hamming error" if "hamming_error" in result else "error"


class Prediction(NamedTuple):
    """Predictions and cost of one method.

    Attributes:
        probabilities: [images, labels] float64; of a multi-label ensemble, each label's own.
        training_epochs: total epochs of the vertices that the method needs.
        forward_passes: forward passes of the backbone per image.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.comparison import Prediction
        >>> Prediction(np.array([[0.9, 0.1]]), training_epochs=10.0, forward_passes=1).forward_passes
        1
    """

    probabilities: FloatArray
    training_epochs: float
    forward_passes: int


class MemberPredictions(NamedTuple):
    """Predictions of each member, without the temperature of the decisions.

    Attributes:
        probabilities: [images, members, labels] float64.
        energies: [images, members] float64 in nats, see `model.label_activation`.
        references: [images] int64 label ids; of a multi-label ensemble [images, labels] int64 of 0 and 1.

    Example::

        predicted = predict_members(model, dataset, TrainingArguments("out"))
        predicted.probabilities.mean(axis=1)
    """

    probabilities: FloatArray
    energies: FloatArray
    references: IntArray

    def of_labels(self, labels: Sequence[int]) -> Self:
        """Returns the probabilities and references of some labels of a multi-label ensemble.

        Args:
            labels: their ids.

        Example:
            >>> import numpy as np
            >>> from hf_simplex.evaluation.comparison import MemberPredictions
            >>> predicted = MemberPredictions(np.array([[[0.9, 0.2]]]), np.zeros((1, 1)), np.array([[1, 0]]))
            >>> predicted.of_labels([0]).references
            array([[1]])
        """
        columns = list(labels)
        return self._replace(probabilities=self.probabilities[:, :, columns], references=self.references[:, columns])


def results_of(predictions: Mapping[str, Prediction], references: IntArray) -> dict[str, Result]:
    """Computes the metrics of predictions.

    Args:
        predictions: of `predict_parts`, by method.
        references: [images] integer label ids, or [images, labels] of 0 and 1 for several labels an image.

    Returns:
        Metrics and cost by method.

    Raises:
        ValueError: As `metrics.accuracy`.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.comparison import Prediction, results_of
        >>> results = results_of({"backbone": Prediction(np.array([[0.75, 0.25]]), 10.0, 1)}, np.array([0]))
        >>> results["backbone"]["brier"], results["backbone"]["training_epochs"]
        (0.125, 10.0)
    """
    return {
        name: Result(
            **label_kind(references).metrics(prediction.probabilities, references),  # type: ignore[typeddict-item]
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
) -> tuple[dict[str, Prediction], IntArray]:
    """Predicts with an ESPRO ensemble and its parts, in one pass over the data.

    Args:
        model: each component is one simplex, whose modes come before its connectors.
        dataset: test images with labels, as the trainer takes them.
        args: batch size, precision and data loader workers. A distributed run splits the images over its processes.
        given_mode_epochs: epochs of a mode that was loaded from a checkpoint, which the provenance does not list.
        data_collator: default: transformers' own.

    Returns:
        Predictions by method, and the references as in `MemberPredictions`. The methods are `backbone` (the first
        mode), `deep_ensemble` (all modes), `centroid` and `simplex` (the centroid and the members of the first
        component) and `espro` (all members). There is no `simplex` where no member lies in the first component.

    Raises:
        ValueError: The ensemble has no members, or the data set has no labels.

    Source: Benton et al. 2021 (ESPRO).

    Example::

        predictions, references = predict_parts(model, test_dataset, TrainingArguments("out"))
        results_of(predictions, references)["espro"]["nll"]
    """
    structure, roles = model.config.complex, model.config.roles
    # The first vertex stands for the mode of a simplex without one.
    modes = [vertex for s in structure.simplexes for vertex in s if vertex == s[0] or roles[vertex] == MODE]
    first = set(structure.simplexes[0])
    members = model.config.members
    if not members:
        raise ValueError("The ensemble has no members to evaluate: draw members first.")
    of_first = [index for index, member in enumerate(members) if {v for v, c in enumerate(member) if c} <= first]
    points = [vertex_coordinates(structure, mode).tolist() for mode in modes]
    points += [centroid_coordinates(structure, 0).tolist(), *members]
    found = [model.vertex_statistics(mode) for mode in modes]
    found += [tree.tensors() for tree in (*model.centroids[:1], *model.members)]

    predicted = predict_members(model.with_members(points, found), dataset, args, data_collator)
    probabilities, references = predicted.probabilities, predicted.references
    epochs = {stage["vertex"]: float(stage["epochs"]) for stage in model.config.provenance.get("stages", [])}
    after = len(modes) + 1
    parts = {
        "backbone": ([0], modes[:1]),
        "deep_ensemble": (list(range(len(modes))), modes),
        "centroid": ([len(modes)], list(first)),
        **({"simplex": ([after + index for index in of_first], list(first))} if of_first else {}),
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


def predict_members(
    model: SimplexForImageClassification,
    dataset: Dataset,
    args: TrainingArguments,
    data_collator: DataCollator | None = None,
) -> MemberPredictions:
    """Predicts with each member through `Trainer.predict`.

    Args:
        model: an ensemble. It is not changed.
        dataset: images with labels, as the trainer takes them.
        args: batch size, precision and data loader workers. A distributed run splits the images over its processes.
        data_collator: default: transformers' own.

    Returns:
        Probabilities, energies and references.

    Raises:
        ValueError: The data set has no labels, or a label is no integer or out of range; or, for a multi-label
            ensemble, the labels are not 0 or 1 for each label. The message names the image.

    Example::

        predicted = predict_members(model, test_dataset, TrainingArguments("out"))
        classification_metrics(predicted.probabilities.mean(axis=1), predicted.references)
    """
    if args.fp16_full_eval or args.bf16_full_eval:
        # Trainer casts the model in place.
        model = copy.deepcopy(model)
    model.config.output_member_probabilities = True
    try:
        trainer = _Predictor(model=model, args=args, data_collator=data_collator)
        # FSDP would shard all vertices. Evaluation holds only one point at a time and needs no shards.
        trainer.is_fsdp_enabled = False
        model.backbone.to(args.device)  # type: ignore[arg-type]
        output = trainer.predict(dataset)
    finally:
        del model.config.output_member_probabilities
    if output.label_ids is None:
        raise ValueError("The data set has no labels: give each image 'labels' (or 'label').")
    predictions: Any = output.predictions
    energies = np.asarray(predictions[2], np.float64)
    if is_multi_label(model.config):
        # From the logits: as float32, a probability near 1 would be 1.
        independent = expit(np.asarray(predictions[3], np.float64))
        return MemberPredictions(independent, energies, _checked_multi_hot(output.label_ids, independent.shape[-1]))
    probabilities = np.asarray(predictions[1], np.float64)
    return MemberPredictions(
        probabilities / probabilities.sum(axis=-1, keepdims=True),
        energies,
        _checked(output.label_ids, probabilities.shape[-1]),
    )


class _Predictor(Trainer):
    """Computes no loss: on a GPU, that of a label out of range ends the process, and nothing here uses a loss."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        images = {name: value for name, value in inputs.items() if name not in self.label_names}
        outputs = model(**module_inputs(model, images))
        loss = outputs["logits"].new_zeros(())
        return (loss, outputs) if return_outputs else loss


def _checked_multi_hot(label_ids: Any, num_labels: int) -> IntArray:
    references = np.asarray(label_ids)
    if references.ndim != 2 or references.shape[1] != num_labels or references.dtype.kind not in "biuf":
        raise ValueError(
            f"The labels have the shape {list(references.shape)} and the type {references.dtype}; expected 0 or 1 "
            f"for each of {num_labels} labels of each image, since problem_type is 'multi_label_classification'."
        )
    return check_multi_label(np.zeros(references.shape), references)[1]


def _checked(label_ids: Any, num_labels: int) -> IntArray:
    references = np.asarray(label_ids)
    if references.ndim != 1 or references.dtype.kind not in "iu":
        raise ValueError(
            f"The labels have the shape {list(references.shape)} and the type {references.dtype}; expected one "
            "integer for each image."
        )
    wrong = np.flatnonzero((references < 0) | (references >= num_labels))
    if len(wrong):
        raise ValueError(
            f"Image {wrong[0]} has the label {references[wrong[0]]}, but the ensemble has {num_labels} labels: "
            f"expected 0 to {num_labels - 1}. Correct it or leave it out."
        )
    return references.astype(np.int64)
