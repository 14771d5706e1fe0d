"""The metrics of `hf_simplex.evaluation.metrics` as modules of the library `evaluate`.

They work with `evaluate.combine`, `evaluate.evaluator` and the `compute_metrics` of a trainer. Nothing is downloaded,
and nothing is written to disk::

    metric = evaluate.combine([Accuracy(), ExpectedCalibrationError(num_bins=15)])
    for batch in loader:
        metric.add_batch(predictions=probabilities, references=labels)
    metric.compute()  # {"accuracy": 0.87, "ece": 0.04}

The modules for classification take the same inputs, so that they combine: `predictions` are probabilities [images,
labels] and `references` are integer label ids [images].
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import evaluate
import pyarrow as pa
from datasets import Features, Sequence, Value
from numpy.typing import NDArray

from .inputs import (
    IntArray,
    check_labels_or_probabilities,
    check_num_bins,
    check_predictions,
    check_scores_and_flags,
)
from .metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    misclassification_auroc,
    negative_log_likelihood,
    ood_auroc,
)

__all__ = [
    "Accuracy",
    "AdaptiveCalibrationError",
    "ArrayMetric",
    "BrierScore",
    "ClasswiseCalibrationError",
    "ExpectedCalibrationError",
    "MisclassificationAUROC",
    "NegativeLogLikelihood",
    "OutOfDistributionAUROC",
]

_PROBABILITIES = Features({"predictions": Sequence(Value("float64")), "references": Value("int64")})
_LABEL_IDS = Features({"predictions": Value("int64"), "references": Value("int64")})
_SCORES = Features({"predictions": Value("float64"), "references": Value("int64")})


class ArrayMetric(evaluate.Metric):
    """Base class of the metrics: an `evaluate.Metric` that passes float64 arrays to a function.

    Batches stay in memory as exact float64. `evaluate` alone converts each probability to a Python object and keeps
    batches in a file. With `num_process` above 1 `evaluate` gathers through its own files: give a shared `cache_dir`
    and one `experiment_id` per evaluation.

    `add`, `add_batch` and `compute` raise a ValueError that names the first bad row of the batch. A bad batch is
    dropped whole; earlier batches stay.

    A subclass sets `function` and `key`. If its inputs are not probabilities and label ids, it also sets `check`,
    `inputs` and the two help texts.

    Args:
        keep_in_memory: False for `evaluate`'s files. Default: True if `num_process` is 1.
        num_process: number of processes that add batches.
        options: further arguments of `evaluate.Metric`.

    Attributes:
        function: the metric, from checked predictions and references to a number.
        key: name of the number in the result.
        check: returns predictions and references as arrays, or raises ValueError.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import ArrayMetric
        >>> class LargestProbability(ArrayMetric):
        ...     function = staticmethod(lambda probabilities, references: float(probabilities.max()))
        ...     key = "largest"
        >>> LargestProbability().compute(predictions=[[0.9, 0.1]], references=[1])
        {'largest': 0.9}
    """

    function: ClassVar[Callable[..., float]]
    key: ClassVar[str]
    check: ClassVar[Callable[..., tuple[NDArray[Any], IntArray]]] = staticmethod(check_predictions)
    inputs: ClassVar[Features | list[Features]] = _PROBABILITIES
    predictions_help: ClassVar[str] = "probabilities [images, labels], each row summing to 1."
    references_help: ClassVar[str] = "label ids [images]."

    def __init__(self, *, keep_in_memory: bool | None = None, num_process: int = 1, **options: Any) -> None:
        if keep_in_memory is None:
            keep_in_memory = num_process == 1
        super().__init__(keep_in_memory=keep_in_memory, num_process=num_process, **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Adds a batch of predictions and references: arrays, tensors or lists.

        Args:
            predictions: [batch, ...], as the module takes them.
            references: [batch].

        Raises:
            ValueError: A row is not valid, or the batch has another shape than earlier ones.

        Example:
            >>> Accuracy().add_batch(predictions=[[0.7, 0.3], [0.6, 0.4]], references=[0, 1])
        """
        values, labels = self.check(predictions, references)
        batch = {"predictions": _column(values), "references": _column(labels)}
        features = Features.from_arrow_schema(pa.schema({name: array.type for name, array in batch.items()}))
        if self.writer is None:
            self.selected_feature_format = features
            self._init_writer()
        elif features != self.selected_feature_format:
            raise ValueError(
                f"This batch has predictions of {features['predictions']}, earlier batches have "
                f"{self.selected_feature_format['predictions']}. Call compute() before batches of another kind."
            )
        self.writer.write_batch(batch)

    def add(
        self, *, prediction: Any = None, reference: Any = None, predictions: Any = None, references: Any = None
    ) -> None:
        """Adds one prediction and its reference. `evaluate.combine` passes them under the plural names.

        Raises:
            ValueError: As `add_batch`.

        Example:
            >>> Accuracy().add(prediction=[0.7, 0.3], reference=0)
        """
        self.add_batch(
            predictions=[predictions if prediction is None else prediction],
            references=[references if reference is None else reference],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """Adds the given predictions and references, if any, and returns the metric over all that were added.

        Returns:
            `{key: number}`, or None in a process whose `process_id` is not 0.

        Raises:
            ValueError: As `add_batch`, or there is nothing to compute.

        Example:
            >>> Accuracy().compute(predictions=[[0.7, 0.3]], references=[0])
            {'accuracy': 1.0}
        """
        if predictions is None and references is None and self.writer is None:
            raise ValueError(
                f"{self.name} has nothing to compute: give predictions and references, or add some first."
            )
        result: dict[str, float] | None = super().compute(predictions=predictions, references=references, **options)
        return result

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return self.function(predictions, references, **options)

    def _compute(
        self, *, predictions: pa.ChunkedArray, references: pa.ChunkedArray, **options: Any
    ) -> dict[str, float]:
        return {self.key: self._value(_array(predictions), _array(references), **options)}

    def _info(self) -> evaluate.MetricInfo:
        documentation = inspect.getdoc(self.function) or ""
        info = evaluate.MetricInfo(
            description=documentation,
            citation=documentation.partition("Source: ")[2].partition("\n\n")[0],
            inputs_description=f"\n\npredictions: {self.predictions_help}\nreferences: {self.references_help}\n",
            features=self.inputs,
        )
        # Set afterwards: MetricInfo refuses a format if a feature is a list. Without a format, evaluate makes Python
        # lists. With "numpy" it rounds to float32.
        info.format = "arrow"
        return info

    def _build_data_dir(self) -> str:
        # evaluate would create an empty folder.
        return str(self._data_dir_root if self.keep_in_memory else super()._build_data_dir())


def _column(values: NDArray[Any]) -> pa.Array:
    column = pa.array(values.ravel())
    return pa.FixedSizeListArray.from_arrays(column, values.shape[1]) if values.ndim == 2 else column


def _array(chunks: pa.ChunkedArray) -> NDArray[Any]:
    column = chunks.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        table: NDArray[Any] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return table
    values: NDArray[Any] = chunks.to_numpy()
    return values


class Accuracy(ArrayMetric):
    """`metrics.accuracy` as a module: `{"accuracy": 0 to 1}`.

    Predictions may also be label ids, as from `evaluate.evaluator("image-classification")`.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import Accuracy
        >>> Accuracy().compute(predictions=[[0.7, 0.3], [0.6, 0.4]], references=[0, 1])
        {'accuracy': 0.5}
    """

    function = staticmethod(accuracy)
    key = "accuracy"
    check = staticmethod(check_labels_or_probabilities)
    inputs: ClassVar[Features | list[Features]] = [_PROBABILITIES, _LABEL_IDS]
    predictions_help = "probabilities [images, labels], each row summing to 1, or label ids [images]."


class NegativeLogLikelihood(ArrayMetric):
    """`metrics.negative_log_likelihood` as a module: `{"nll": nats}`.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import NegativeLogLikelihood
        >>> NegativeLogLikelihood().compute(predictions=[[0.5, 0.5]], references=[0])
        {'nll': 0.6931471805599453}
    """

    function = staticmethod(negative_log_likelihood)
    key = "nll"


class BrierScore(ArrayMetric):
    """`metrics.brier_score` as a module: `{"brier": 0 to 2}`.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import BrierScore
        >>> BrierScore().compute(predictions=[[0.5, 0.5]], references=[0])
        {'brier': 0.5}
    """

    function = staticmethod(brier_score)
    key = "brier"


class ExpectedCalibrationError(ArrayMetric):
    """`metrics.expected_calibration_error` as a module: `{"ece": 0 to 1}`.

    Args:
        num_bins: number of bins, at least 1. Modules with different bins can be combined.
        options: arguments of `ArrayMetric`.

    Raises:
        ValueError: `num_bins` is below 1.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import ExpectedCalibrationError
        >>> ExpectedCalibrationError(num_bins=10).compute(predictions=[[0.75, 0.25]], references=[0])
        {'ece': 0.25}
    """

    function = staticmethod(expected_calibration_error)
    key = "ece"

    def __init__(self, *, num_bins: int = 15, **options: Any) -> None:
        self.num_bins = check_num_bins(num_bins)
        super().__init__(**options)

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return super()._value(predictions, references, num_bins=self.num_bins, **options)


class AdaptiveCalibrationError(ExpectedCalibrationError):
    """`metrics.adaptive_calibration_error` as a module: `{"adaptive_ece": 0 to 1}`.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import AdaptiveCalibrationError
        >>> AdaptiveCalibrationError().compute(predictions=[[0.75, 0.25]], references=[0])
        {'adaptive_ece': 0.25}
    """

    function = staticmethod(adaptive_calibration_error)
    key = "adaptive_ece"


class ClasswiseCalibrationError(ExpectedCalibrationError):
    """`metrics.classwise_calibration_error` as a module: `{"classwise_ece": 0 to 1}`.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import ClasswiseCalibrationError
        >>> ClasswiseCalibrationError().compute(predictions=[[0.75, 0.25]], references=[0])
        {'classwise_ece': 0.25}
    """

    function = staticmethod(classwise_calibration_error)
    key = "classwise_ece"


class MisclassificationAUROC(ArrayMetric):
    """`metrics.misclassification_auroc` as a module: `{"misclassification_auroc": 0 to 1, or NaN}`.

    `compute(uncertainties=...)`, [all images added], replaces the default of one minus the largest probability.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import MisclassificationAUROC
        >>> MisclassificationAUROC().compute(predictions=[[0.9, 0.1], [0.6, 0.4]], references=[0, 1])
        {'misclassification_auroc': 1.0}
    """

    function = staticmethod(misclassification_auroc)
    key = "misclassification_auroc"


class OutOfDistributionAUROC(ArrayMetric):
    """`metrics.ood_auroc` as a module: `{"ood_auroc": 0 to 1}`.

    Add both data sets to the same module. The predictions are scores [images], larger for less certain predictions.
    The references are 1 for out-of-distribution images and 0 for in-distribution ones.

    Example:
        >>> from hf_simplex.evaluation.evaluate_modules import OutOfDistributionAUROC
        >>> OutOfDistributionAUROC().compute(predictions=[0.1, 0.4, 0.4, 0.9], references=[0, 0, 1, 1])
        {'ood_auroc': 0.875}
    """

    function = staticmethod(ood_auroc)
    key = "ood_auroc"
    check = staticmethod(check_scores_and_flags)
    inputs = _SCORES
    predictions_help = "scores [images], larger for less certain predictions."
    references_help = "1 [images] for out-of-distribution, 0 for in-distribution."

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return super()._value(predictions[references == 0], predictions[references == 1], **options)
