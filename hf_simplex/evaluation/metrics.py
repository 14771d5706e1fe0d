"""Accuracy, likelihood, calibration and detection metrics, as functions and as `evaluate.Metric` modules.

Each metric is one function on arrays, which holds the formula, and one module around it, which adds what users of
`evaluate` expect. Nothing is downloaded and nothing is written to disk:

```python
from hf_simplex.evaluation.metrics import Accuracy, ExpectedCalibrationError

metric = evaluate.combine([Accuracy(), ExpectedCalibrationError(num_bins=15)])
for batch in loader:
    metric.add_batch(predictions=probabilities, references=labels)
metric.compute()  # {"accuracy": 0.87, "ece": 0.04}
```

`predictions` are probabilities [images, labels] in every module for classification, so that all of them combine;
`Accuracy` also takes label ids [images], which is what `evaluate.evaluator` gives it. `references` are label ids
[images]. Logits are refused, not guessed at: apply softmax first.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import evaluate
import numpy as np
import pyarrow as pa
from datasets import Features, Sequence, Value
from datasets.features.features import cast_to_python_objects
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUM_TOLERANCE = 1e-3
SMALLEST_PROBABILITY = float(np.finfo(np.float64).tiny)


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """Share of images whose predicted label is the reference label.

    accuracy = 1/n sum_i [argmax_j p_ij = y_i], the first label winning where several have the largest probability.

    Args:
        predictions: probabilities [images, labels], or predicted label ids [images] (integers).
        references: label ids [images] (integers).

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: for input that is empty, of the wrong shape or length, or not probabilities and label ids; the
            message names the first bad row and its value.

    Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015 (one minus top-1 error).
    """
    predictions, references = _check_labels_or_probabilities(predictions, references)
    labels = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions
    return float(np.mean(labels == references))


def negative_log_likelihood(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Mean negative log probability of the reference label, in nats (the log score, Good 1952; cross entropy).

    nll = -1/n sum_i ln p_i,y_i

    A probability that has underflowed to 0 counts as the smallest normal float64, 2.2e-308, so one image costs at
    most 708.4 nats: the mean stays finite and such an image still stands out. Other small probabilities are untouched.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).

    Returns:
        Nats, 0 or more; ln(labels) for uniform probabilities.

    Raises:
        ValueError: as for `accuracy`.

    Source: I. J. Good, Rational Decisions, Journal of the Royal Statistical Society B 14, 1952; Gneiting and Raftery,
    Strictly Proper Scoring Rules, Prediction, and Estimation, JASA 2007.
    """
    probabilities, references = check_predictions(probabilities, references)
    likelihoods = probabilities[np.arange(len(references)), references]
    # Rows may sum to a little over 1; a certain and right answer costs 0 all the same, never less.
    return float(-np.mean(np.log(np.clip(likelihoods, SMALLEST_PROBABILITY, 1.0))))


def brier_score(probabilities: ArrayLike, references: ArrayLike) -> float:
    """Mean squared distance between the probabilities and the one-hot reference.

    brier = 1/n sum_i sum_j (p_ij - [y_i = j])^2

    This is Brier's own definition, summed over labels: 0 is best, 2 is worst (certain and wrong on every image).
    Definitions that divide by the number of labels, or by two, are smaller by that factor.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).

    Returns:
        A number from 0 to 2.

    Raises:
        ValueError: as for `accuracy`.

    Source: G. W. Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950.
    """
    probabilities, references = check_predictions(probabilities, references)
    differences = probabilities.copy()
    differences[np.arange(len(references)), references] -= 1.0
    return float(np.sum(differences**2) / len(references))


def expected_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error of the top label, over bins of equal width.

    ece = sum_b |B_b|/n |accuracy(B_b) - confidence(B_b)|

    The confidence of an image is its largest probability. Bin b of num_bins holds the confidences in
    ((b-1)/num_bins, b/num_bins]; a confidence of exactly 0 belongs to the first bin, one of 1 to the last. Empty bins
    add nothing.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).
        num_bins: how many bins, 1 or more.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: as for `accuracy`, and for num_bins below 1.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015;
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3 (15 bins).
    """
    probabilities, references = check_predictions(probabilities, references)
    confidences, correct = _top_label(probabilities, references)
    return _calibration_error(confidences, correct, _equal_width_edges(num_bins))


def adaptive_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error of the top label, over bins that hold equally many images.

    adaptive ece = sum_b |B_b|/n |accuracy(B_b) - confidence(B_b)|

    Only the bins differ from `expected_calibration_error`: with the confidences sorted, bin b ends at the one of rank
    ceil(b n / num_bins) and includes it. Equal confidences therefore always share a bin, and the order of the images
    does not matter; without such ties the bin sizes differ by one at most.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).
        num_bins: how many bins, 1 or more; with fewer images than bins each image is its own, ties aside.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: as for `accuracy`, and for num_bins below 1.

    Source: Nguyen and O'Connor, Posterior Calibration and Exploratory Analysis for Natural Language Processing Models,
    EMNLP 2015 (adaptive binning); Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019. Nixon's
    own "adaptive calibration error" bins the probabilities of every label in this way; here it is the top label's.
    """
    probabilities, references = check_predictions(probabilities, references)
    confidences, correct = _top_label(probabilities, references)
    return _calibration_error(confidences, correct, _equal_mass_edges(confidences, num_bins))


def classwise_calibration_error(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> float:
    """Calibration error of every label's probability, averaged over labels (static calibration error).

    classwise ece = 1/labels sum_j sum_b |B_bj|/n |frequency_j(B_bj) - mean p_j(B_bj)|

    B_bj holds the images whose probability of label j is in bin b, frequency_j is the share of them whose reference is
    label j. Bins have equal width, with the edges of `expected_calibration_error`. Where there are many labels most
    probabilities are near 0 and so is this number: compare it only between results with the same labels.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).
        num_bins: how many bins, 1 or more.

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        ValueError: as for `accuracy`, and for num_bins below 1.

    Source: Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019 (static calibration error); Kull
    et al., Beyond Temperature Scaling, NeurIPS 2019 (classwise-ECE).
    """
    probabilities, references = check_predictions(probabilities, references)
    edges = _equal_width_edges(num_bins)
    errors = [
        _calibration_error(probabilities[:, label], references == label, edges)
        for label in range(probabilities.shape[1])
    ]
    return float(np.mean(errors))


class ReliabilityBins(NamedTuple):
    """What a reliability diagram draws, one number a bin.

    Attributes:
        edges: [num_bins + 1] float64, 0 to 1: bin b reaches from edges[b] (exclusive) to edges[b + 1] (inclusive).
        shares: [num_bins] float64, the share of the images whose confidence is in the bin; they sum to 1.
        confidences: [num_bins] float64, the mean largest probability in the bin; NaN where it is empty.
        accuracies: [num_bins] float64, the share of right predictions in the bin; NaN where it is empty.
    """

    edges: FloatArray
    shares: FloatArray
    confidences: FloatArray
    accuracies: FloatArray


def reliability_bins(probabilities: ArrayLike, references: ArrayLike, num_bins: int = 15) -> ReliabilityBins:
    """Confidence and accuracy in the bins of `expected_calibration_error`, whose value is theirs.

    ece = sum_b shares_b |accuracies_b - confidences_b|

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001.
        references: label ids [images] (integers).
        num_bins: how many bins of equal width, 1 or more.

    Raises:
        ValueError: as for `accuracy`, and for num_bins below 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (reliability diagrams).
    """
    probabilities, references = check_predictions(probabilities, references)
    confidences, correct = _top_label(probabilities, references)
    inner = _equal_width_edges(num_bins)
    bins = np.searchsorted(inner, confidences, side="left")
    images = np.bincount(bins, minlength=num_bins)
    filled = np.where(images > 0, images, np.nan)
    return ReliabilityBins(
        edges=np.concatenate([[0.0], inner, [1.0]]),
        shares=images / len(references),
        confidences=np.bincount(bins, weights=confidences, minlength=num_bins) / filled,
        accuracies=np.bincount(bins, weights=correct, minlength=num_bins) / filled,
    )


def misclassification_auroc(
    probabilities: ArrayLike, references: ArrayLike, uncertainties: ArrayLike | None = None
) -> float:
    """How well uncertainty tells wrong predictions from right ones: area under the ROC curve.

    auroc = P(u_wrong > u_right) + P(u_wrong = u_right) / 2, for one wrong and one right image drawn at random.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001; an image is wrong where its top label is
            not the reference.
        references: label ids [images] (integers).
        uncertainties: [images], larger where the model is less sure, in any unit; by default one minus the largest
            probability.

    Returns:
        A number from 0 to 1: 1 where every wrong image is less sure than every right one, 0.5 for chance. NaN where no
        image or every image is wrong: there is then nothing to tell apart, which is no fault of the input.

    Raises:
        ValueError: as for `accuracy`, and for uncertainties that are NaN or not one an image.

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks, ICLR 2017.
    """
    probabilities, references = check_predictions(probabilities, references)
    confidences, correct = _top_label(probabilities, references)
    # Only the order counts, and the negated confidence orders as 1 - confidence does, without its rounding.
    scores = -confidences if uncertainties is None else _check_scores(uncertainties, "uncertainties")
    if len(scores) != len(references):
        raise ValueError(f"{len(scores)} uncertainties for {len(references)} references: give one an image.")
    if correct.all() or not correct.any():
        return float("nan")
    return _auroc(scores[correct], scores[~correct])


def ood_auroc(in_distribution_scores: ArrayLike, out_of_distribution_scores: ArrayLike) -> float:
    """How well a score tells out-of-distribution images from in-distribution ones: area under the ROC curve.

    auroc = P(s_out > s_in) + P(s_out = s_in) / 2, for one image drawn at random from each.

    Args:
        in_distribution_scores: [images of the test set], larger where the model is less sure, in any unit; one minus
            the largest probability is the baseline, the predictive entropy another choice.
        out_of_distribution_scores: [images of another data set], the same score.

    Returns:
        A number from 0 to 1: 1 where every out-of-distribution score is above every in-distribution one, 0.5 for
        chance. A value well below 0.5 usually means that confidences were given in place of uncertainties.

    Raises:
        ValueError: where either set is empty, not one-dimensional or holds a NaN.

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks, ICLR 2017.
    """
    inside = _check_scores(in_distribution_scores, "in-distribution scores")
    outside = _check_scores(out_of_distribution_scores, "out-of-distribution scores")
    return _auroc(inside, outside)


def classification_metrics(probabilities: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """The four numbers that every result in this library reports.

    Args:
        probabilities: [images, labels], each row summing to 1 within 0.001 (an array, a tensor or lists).
        references: label ids [images] (integers).

    Returns:
        `accuracy` (0 to 1), `nll` (nats), `ece` (0 to 1, 15 bins of equal width of the top label's confidence) and
        `brier` (0 to 2): see `accuracy`, `negative_log_likelihood`, `expected_calibration_error`, `brier_score`.

    Raises:
        ValueError: as for `accuracy`; label ids in place of probabilities are refused.
    """
    metrics = evaluate.combine(
        [Accuracy(), NegativeLogLikelihood(), ExpectedCalibrationError(num_bins=15), BrierScore()]
    )
    results: dict[str, float] = metrics.compute(predictions=probabilities, references=references)
    return results


def check_probabilities(probabilities: ArrayLike) -> FloatArray:
    """Probabilities [images, labels] as float64, or a ValueError that names the first bad row, as for `accuracy`."""
    table = _numbers(probabilities, "probabilities")
    if table.ndim != 2:
        raise ValueError(f"Probabilities must have the shape [images, labels], got the shape {list(table.shape)}.")
    bad = ~(np.isfinite(table) & (table >= 0))
    if bad.any():
        row, label = np.argwhere(bad)[0]
        raise ValueError(
            f"Row {row} of the probabilities has {table[row, label]} for label {label}: expected a probability, "
            "finite and not negative. Apply softmax to logits first."
        )
    sums = table.sum(axis=1)
    bad = np.abs(sums - 1.0) > SUM_TOLERANCE
    if bad.any():
        row = np.flatnonzero(bad)[0]
        raise ValueError(
            f"Row {row} of the probabilities sums to {sums[row]}: expected 1 within {SUM_TOLERANCE}. Apply softmax to "
            "logits first, in float32 or float64."
        )
    return table


def check_predictions(probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    """`check_probabilities`, and as many label ids [images] as int64, or a ValueError as for `accuracy`."""
    table = check_probabilities(probabilities)
    labels = _check_label_ids(references, "references")
    _check_same_length(table, labels)
    bad = labels >= table.shape[1]
    if bad.any():
        row = np.flatnonzero(bad)[0]
        raise ValueError(
            f"Row {row} of the references is {labels[row]}: expected a label id from 0 to {table.shape[1] - 1}, "
            f"because the probabilities have {table.shape[1]} labels."
        )
    return table, labels


def _check_labels_or_probabilities(
    predictions: ArrayLike, references: ArrayLike
) -> tuple[FloatArray | IntArray, IntArray]:
    if _array(predictions, "predictions").ndim != 1:
        return check_predictions(predictions, references)
    labels, expected = _check_label_ids(predictions, "predictions"), _check_label_ids(references, "references")
    _check_same_length(labels, expected)
    return labels, expected


def _check_scores_and_flags(scores: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
    table, flags = _check_scores(scores, "predictions"), _check_label_ids(references, "references")
    _check_same_length(table, flags)
    if flags.max() > 1:
        row = np.flatnonzero(flags > 1)[0]
        raise ValueError(
            f"Row {row} of the references is {flags[row]}: expected 1 for an out-of-distribution image and 0 for an "
            "in-distribution one."
        )
    return table, flags


def _check_scores(scores: ArrayLike, name: str) -> FloatArray:
    values = _numbers(scores, name)
    if values.ndim != 1:
        raise ValueError(f"The {name} must be one number an image, got the shape {list(values.shape)}.")
    if np.isnan(values).any():
        raise ValueError(f"Row {np.flatnonzero(np.isnan(values))[0]} of the {name} is nan: expected a number.")
    return values


def _check_label_ids(labels: ArrayLike, name: str) -> IntArray:
    values = _array(labels, name)
    if values.ndim != 1:
        got = "None" if labels is None else f"the shape {list(values.shape)}"
        raise ValueError(f"The {name} must be label ids, one integer an image, got {got}.")
    if len(values) == 0:
        raise ValueError(f"The {name} are empty: a metric needs at least one image.")
    if values.dtype.kind not in "biu":
        row, value = next(
            (pair for pair in enumerate(values.tolist()) if not isinstance(pair[1], int)), (0, values[0])
        )
        raise ValueError(f"Row {row} of the {name} is {value!r}: expected a label id, an integer.")
    if values.min() < 0:
        row = np.flatnonzero(values < 0)[0]
        raise ValueError(f"Row {row} of the {name} is {values[row]}: expected a label id, 0 or more.")
    return values.astype(np.int64)


def _check_same_length(predictions: NDArray[Any], references: IntArray) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions but {len(references)} references: give one of each an image."
        )


def _numbers(values: ArrayLike, name: str) -> FloatArray:
    array = _array(values, name, np.float64)
    if array.size == 0:
        raise ValueError(f"The {name} are empty (shape {list(array.shape)}): a metric needs at least one image.")
    return array


def _array(values: ArrayLike, name: str, dtype: type | None = None) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The {name} must be numbers, with equally many in each row ({error}).") from error


def _top_label(probabilities: FloatArray, references: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == references


def _calibration_error(confidences: FloatArray, correct: NDArray[np.bool_], edges: FloatArray) -> float:
    """`edges` are the inner, closed upper ends of the bins: one fewer than there are bins."""
    bins = np.searchsorted(edges, confidences, side="left")
    # |B|/n |accuracy - confidence| is the difference of the two sums over n, and needs no division by an empty bin.
    gaps = np.bincount(bins, weights=confidences) - np.bincount(bins, weights=correct)
    return float(np.sum(np.abs(gaps)) / len(confidences))


def _equal_width_edges(num_bins: int) -> FloatArray:
    # Dividing gives the float nearest to b/num_bins, hence the bin that a confidence written as 0.6 is meant for;
    # multiples of the width, as in linspace, can be one unit in the last place off.
    return np.arange(1, _check_num_bins(num_bins)) / num_bins


def _equal_mass_edges(confidences: FloatArray, num_bins: int) -> FloatArray:
    bins = np.arange(1, _check_num_bins(num_bins))
    ranks = -(-bins * len(confidences) // num_bins)
    return np.sort(confidences)[ranks - 1]


def _check_num_bins(num_bins: int) -> int:
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: expected 1 or more.")
    return num_bins


def _auroc(negatives: FloatArray, positives: FloatArray) -> float:
    """The Mann-Whitney statistic over its largest value; equal scores share the mean of their ranks."""
    _, groups, counts = np.unique(np.concatenate([positives, negatives]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[groups]
    smallest_sum = len(positives) * (len(positives) + 1) / 2
    return float((ranks[: len(positives)].sum() - smallest_sum) / (len(positives) * len(negatives)))


PROBABILITIES = Features({"predictions": Sequence(Value("float64")), "references": Value("int64")})
LABEL_IDS = Features({"predictions": Value("int64"), "references": Value("int64")})
SCORES = Features({"predictions": Value("float64"), "references": Value("int64")})


class ArrayMetric(evaluate.Metric):
    """An `evaluate.Metric` that keeps what is added as arrays, in memory, and calls one function on them.

    `evaluate` alone would turn every probability into a Python object on the way in and out, make a folder for each
    module, and keep the batches in a file there. Here they stay in memory as exact float64, so that processes cannot
    get into each other's way and nothing is left behind. With `num_process` above 1 `evaluate` has to gather through
    files: it then does so in its own way, wants a shared `cache_dir` and an `experiment_id` for each evaluation, and
    leaves its lock files there.

    A subclass names its `function` and the `key` of the result.

    Args:
        keep_in_memory: False for `evaluate`'s own files; by default True as long as `num_process` is 1.
        num_process: how many processes add batches to this metric.
        options: the other arguments of `evaluate.Metric`.

    `add`, `add_batch` and `compute` raise ValueError for bad input, naming the row of the batch given. Such a batch is
    dropped whole; batches added before it stay.
    """

    function: ClassVar[Callable[..., float]]
    key: ClassVar[str]
    inputs: ClassVar[Features | list[Features]] = PROBABILITIES
    predictions_help: ClassVar[str] = "probabilities [images, labels], each row summing to 1."
    references_help: ClassVar[str] = "label ids [images]."

    def __init__(self, *, keep_in_memory: bool | None = None, num_process: int = 1, **options: Any) -> None:
        if keep_in_memory is None:
            keep_in_memory = num_process == 1
        super().__init__(keep_in_memory=keep_in_memory, num_process=num_process, **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Add a batch: predictions and references as arrays, tensors or lists."""
        # evaluate casts with this too: it knows tensors on devices, in bfloat16, and those of other libraries.
        values, labels = self._check(cast_to_python_objects(predictions), cast_to_python_objects(references))
        column = pa.array(values.ravel())
        if values.ndim == 2:
            column = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
        batch = {"predictions": column, "references": pa.array(labels)}
        features = Features.from_arrow_schema(pa.schema({name: array.type for name, array in batch.items()}))
        if self.writer is None:
            self.selected_feature_format = features
            self._init_writer()
        elif features != self.selected_feature_format:
            raise ValueError(
                f"This batch has predictions of {features['predictions']}, those before it of "
                f"{self.selected_feature_format['predictions']}: they must be alike until compute()."
            )
        self.writer.write_batch(batch)

    def add(
        self, *, prediction: Any = None, reference: Any = None, predictions: Any = None, references: Any = None
    ) -> None:
        """Add one prediction and its reference (`evaluate.combine` passes them under the plural names)."""
        self.add_batch(
            predictions=[predictions if prediction is None else prediction],
            references=[references if reference is None else reference],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """Add these predictions and references, if any, and return the metric over all that were added.

        The result is a dictionary of one number, or None in a process whose `process_id` is not 0.
        """
        if predictions is None and references is None and self.writer is None:
            raise ValueError(
                f"{self.name} has nothing to compute: give predictions and references, or add some first."
            )
        result: dict[str, float] | None = super().compute(predictions=predictions, references=references, **options)
        return result

    def _check(self, predictions: Any, references: Any) -> tuple[NDArray[Any], IntArray]:
        return check_predictions(predictions, references)

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return self.function(predictions, references, **options)

    def _compute(
        self, *, predictions: pa.ChunkedArray, references: pa.ChunkedArray, **options: Any
    ) -> dict[str, float]:
        column = predictions.combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        else:
            values = column.to_numpy()
        return {self.key: self._value(values, references.to_numpy(), **options)}

    def _info(self) -> evaluate.MetricInfo:
        documentation = inspect.getdoc(self.function) or ""
        info = evaluate.MetricInfo(
            description=documentation,
            citation=documentation.partition("Source: ")[2],
            inputs_description=f"\n\npredictions: {self.predictions_help}\nreferences: {self.references_help}\n",
            features=self.inputs,
        )
        # Set afterwards because MetricInfo refuses a format where a feature is a list. Without one, evaluate makes
        # Python lists of everything; its "numpy" format would round to float32.
        info.format = "arrow"
        return info

    def _build_data_dir(self) -> str:
        if self.keep_in_memory:
            # evaluate would make a folder here although nothing goes into it.
            return str(self._data_dir_root)
        return str(super()._build_data_dir())


class Accuracy(ArrayMetric):
    """`accuracy` as an `evaluate` module: `{"accuracy": share of images, 0 to 1}`.

    The predictions may be label ids too, as `evaluate.evaluator("image-classification")` gives them.
    """

    function = staticmethod(accuracy)
    key = "accuracy"
    inputs: ClassVar[Features | list[Features]] = [PROBABILITIES, LABEL_IDS]
    predictions_help = "probabilities [images, labels], each row summing to 1, or label ids [images]."

    def _check(self, predictions: Any, references: Any) -> tuple[NDArray[Any], IntArray]:
        return _check_labels_or_probabilities(predictions, references)


class NegativeLogLikelihood(ArrayMetric):
    """`negative_log_likelihood` as an `evaluate` module: `{"nll": nats}`."""

    function = staticmethod(negative_log_likelihood)
    key = "nll"


class BrierScore(ArrayMetric):
    """`brier_score` as an `evaluate` module: `{"brier": 0 to 2}`."""

    function = staticmethod(brier_score)
    key = "brier"


class ExpectedCalibrationError(ArrayMetric):
    """`expected_calibration_error` as an `evaluate` module: `{"ece": 0 to 1}`.

    Args:
        num_bins: how many bins, 1 or more. It belongs to the module, not to `compute`, so that modules with different
            bins combine.
        options: the arguments of `ArrayMetric`.

    Raises:
        ValueError: for num_bins below 1.
    """

    function = staticmethod(expected_calibration_error)
    key = "ece"

    def __init__(self, *, num_bins: int = 15, **options: Any) -> None:
        self.num_bins = _check_num_bins(num_bins)
        super().__init__(**options)

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return super()._value(predictions, references, num_bins=self.num_bins, **options)


class AdaptiveCalibrationError(ExpectedCalibrationError):
    """`adaptive_calibration_error` as an `evaluate` module: `{"adaptive_ece": 0 to 1}`."""

    function = staticmethod(adaptive_calibration_error)
    key = "adaptive_ece"


class ClasswiseCalibrationError(ExpectedCalibrationError):
    """`classwise_calibration_error` as an `evaluate` module: `{"classwise_ece": 0 to 1}`."""

    function = staticmethod(classwise_calibration_error)
    key = "classwise_ece"


class MisclassificationAUROC(ArrayMetric):
    """`misclassification_auroc` as an `evaluate` module: `{"misclassification_auroc": 0 to 1, or NaN}`.

    `compute(uncertainties=...)` [all images added] replaces the default of one minus the largest probability.
    """

    function = staticmethod(misclassification_auroc)
    key = "misclassification_auroc"


class OutOfDistributionAUROC(ArrayMetric):
    """`ood_auroc` as an `evaluate` module: `{"ood_auroc": 0 to 1}`.

    Both data sets go in as one: the predictions are scores [images], larger where the model is less sure, and the
    references are 1 for out-of-distribution images and 0 for in-distribution ones.
    """

    function = staticmethod(ood_auroc)
    key = "ood_auroc"
    inputs = SCORES
    predictions_help = "scores [images], larger where the model is less sure."
    references_help = "1 [images] for out-of-distribution, 0 for in-distribution."

    def _check(self, predictions: Any, references: Any) -> tuple[NDArray[Any], IntArray]:
        return _check_scores_and_flags(predictions, references)

    def _value(self, predictions: NDArray[Any], references: IntArray, **options: Any) -> float:
        return super()._value(predictions[references == 0], predictions[references == 1], **options)
