"""The metrics of `hf_simplex.evaluation.multi_label` as modules of the library `evaluate`; see `evaluate_modules`.

They take the same inputs, so that they combine: `predictions` are probabilities [images, labels] and `references` are
0 or 1 for each label, [images, labels]::

    metric = evaluate.combine([module() for module in MULTI_LABEL_MODULES])
    metric.compute(predictions=probabilities, references=labels)  # {"micro_f1": 0.81, ...}
"""

from typing import ClassVar

from datasets import Features, Sequence, Value

from .evaluate_modules import ArrayMetric
from .multi_label import (
    binary_brier_score,
    binary_calibration_error,
    binary_log_loss,
    check_multi_label,
    exact_match,
    hamming_error,
    macro_f1,
    mean_average_precision,
    micro_f1,
)

__all__ = [
    "MULTI_LABEL_MODULES",
    "BinaryBrierScore",
    "BinaryCalibrationError",
    "BinaryLogLoss",
    "ExactMatch",
    "HammingError",
    "MacroF1",
    "MeanAveragePrecision",
    "MicroF1",
    "MultiLabelMetric",
]


class MultiLabelMetric(ArrayMetric):
    """Base class of the metrics of several labels an image. A subclass sets `function` and `key`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import MultiLabelMetric
        >>> class Largest(MultiLabelMetric):
        ...     function = staticmethod(lambda probabilities, references: float(probabilities.max()))
        ...     key = "largest"
        >>> Largest().compute(predictions=[[0.9, 0.8]], references=[[1, 0]])
        {'largest': 0.9}
    """

    check = staticmethod(check_multi_label)
    inputs: ClassVar[Features | list[Features]] = Features(
        {"predictions": Sequence(Value("float64")), "references": Sequence(Value("int64"))}
    )
    predictions_help = "probabilities [images, labels], each 0 to 1."
    references_help = "0 or 1 [images, labels]."


class MicroF1(MultiLabelMetric):
    """`multi_label.micro_f1` as a module: `{"micro_f1": 0 to 1, or NaN}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import MicroF1
        >>> MicroF1().compute(predictions=[[0.9, 0.8]], references=[[1, 1]])
        {'micro_f1': 1.0}
    """

    function = staticmethod(micro_f1)
    key = "micro_f1"


class MacroF1(MultiLabelMetric):
    """`multi_label.macro_f1` as a module: `{"macro_f1": 0 to 1, or NaN}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import MacroF1
        >>> MacroF1().compute(predictions=[[0.9, 0.8]], references=[[1, 1]])
        {'macro_f1': 1.0}
    """

    function = staticmethod(macro_f1)
    key = "macro_f1"


class MeanAveragePrecision(MultiLabelMetric):
    """`multi_label.mean_average_precision` as a module: `{"mean_average_precision": 0 to 1, or NaN}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import MeanAveragePrecision
        >>> MeanAveragePrecision().compute(predictions=[[0.9], [0.8]], references=[[0], [1]])
        {'mean_average_precision': 0.5}
    """

    function = staticmethod(mean_average_precision)
    key = "mean_average_precision"


class ExactMatch(MultiLabelMetric):
    """`multi_label.exact_match` as a module: `{"exact_match": 0 to 1}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import ExactMatch
        >>> ExactMatch().compute(predictions=[[0.9, 0.8]], references=[[1, 0]])
        {'exact_match': 0.0}
    """

    function = staticmethod(exact_match)
    key = "exact_match"


class HammingError(MultiLabelMetric):
    """`multi_label.hamming_error` as a module: `{"hamming_error": 0 to 1}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import HammingError
        >>> HammingError().compute(predictions=[[0.9, 0.8]], references=[[1, 0]])
        {'hamming_error': 0.5}
    """

    function = staticmethod(hamming_error)
    key = "hamming_error"


class BinaryLogLoss(MultiLabelMetric):
    """`multi_label.binary_log_loss` as a module: `{"nll": nats}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import BinaryLogLoss
        >>> BinaryLogLoss().compute(predictions=[[0.5, 0.5]], references=[[1, 0]])
        {'nll': 0.6931471805599453}
    """

    function = staticmethod(binary_log_loss)
    key = "nll"


class BinaryCalibrationError(MultiLabelMetric):
    """`multi_label.binary_calibration_error` as a module, with 15 bins: `{"ece": 0 to 1}`.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import BinaryCalibrationError
        >>> BinaryCalibrationError().compute(predictions=[[0.75, 0.25]], references=[[1, 0]])
        {'ece': 0.25}
    """

    function = staticmethod(binary_calibration_error)
    key = "ece"


class BinaryBrierScore(MultiLabelMetric):
    """`multi_label.binary_brier_score` as a module: `{"brier": 0 to 2}`, twice the mean of (p - y)^2.

    Example:
        >>> from hf_simplex.evaluation.multi_label_modules import BinaryBrierScore
        >>> BinaryBrierScore().compute(predictions=[[0.5, 0.5]], references=[[1, 0]])
        {'brier': 0.5}
    """

    function = staticmethod(binary_brier_score)
    key = "brier"


MULTI_LABEL_MODULES = (
    MicroF1,
    MacroF1,
    MeanAveragePrecision,
    ExactMatch,
    HammingError,
    BinaryLogLoss,
    BinaryCalibrationError,
    BinaryBrierScore,
)
"""All modules for several labels an image."""
