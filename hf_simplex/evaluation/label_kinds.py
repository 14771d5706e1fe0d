"""One label an image, or several: the evaluation that goes with either, chosen by the shape of the references.

References [images] are label ids, [images, labels] are 0 and 1 for each label. Everything that evaluates, calibrates
or chooses members asks `label_kind`, so that no softmax meets independent labels.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .calibration import calibrated_metrics, check_validation_images, fit_temperature, scale_temperature
from .inputs import FloatArray, IntArray, check_predictions
from .metrics import SMALLEST_PROBABILITY, classification_metrics
from .multi_label import SMALLEST_MARGIN, THRESHOLD, check_multi_label, label_decisions, multi_label_metrics

__all__ = ["ONE_LABEL", "SEVERAL_LABELS", "LabelKind", "label_kind"]


class LabelKind:
    """One label an image: probabilities [images, labels] whose rows sum to 1, references [images].

    Attributes:
        several: whether an image may have several labels, or none.

    Example:
        >>> from hf_simplex.evaluation.label_kinds import ONE_LABEL
        >>> ONE_LABEL.errors([[0.9, 0.1], [0.6, 0.4]], [0, 1])
        array([0., 1.])
    """

    several = False

    def check(self, probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
        """Returns probabilities as float64 and references as int64 after checking them.

        Raises:
            ValueError: as `inputs.check_predictions` or `multi_label.check_multi_label`.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.check([[0.9, 0.8]], [[1, 0]])
            (array([[0.9, 0.8]]), array([[1, 0]]))
        """
        return check_predictions(probabilities, references)

    def metrics(self, probabilities: ArrayLike, references: ArrayLike) -> dict[str, float]:
        """Computes `metrics.classification_metrics` or `multi_label.multi_label_metrics`.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.metrics([[0.9, 0.8]], [[1, 0]])["hamming_error"]
            0.5
        """
        return classification_metrics(probabilities, references)

    def fit_temperature(self, probabilities: ArrayLike, references: ArrayLike) -> float:
        """Fits a temperature, see `calibration.fit_temperature`: for several labels by binary cross-entropy.

        One temperature serves all labels. An image of K labels counts as K decisions against the prior.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> round(SEVERAL_LABELS.fit_temperature([[0.8]] * 30_000, [[1], [1], [0]] * 10_000), 3)
            1.995
        """
        return fit_temperature(probabilities, references)

    def scale_temperature(self, probabilities: ArrayLike, temperature: float) -> FloatArray:
        """Returns probabilities at another temperature T: softmax(ln p / T), for several labels sigmoid(logit p / T).

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.scale_temperature([[0.8, 0.8]], 2.0).round(4)
            array([[0.6667, 0.6667]])
        """
        return scale_temperature(probabilities, temperature)

    def calibrated_metrics(
        self,
        probabilities: ArrayLike,
        references: ArrayLike,
        validation_probabilities: ArrayLike,
        validation_references: ArrayLike,
    ) -> dict[str, float]:
        """Computes `metrics` at the temperature fitted on validation images, and that temperature.

        Args:
            probabilities, references: of the test images.
            validation_probabilities, validation_references: of images in neither the training nor the test data.

        Raises:
            ValueError: as `calibration.calibrated_metrics`.

        Example::

            label_kind(references).calibrated_metrics(probabilities, references, fitted, labels)["nll"]
        """
        return calibrated_metrics(probabilities, references, validation_probabilities, validation_references)

    def errors(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        """Returns what is wrong of each image, [images]: 0 or 1; for several labels the share of them, at 0.5.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.errors([[0.9, 0.8]], [[1, 0]])
            array([0.5])
        """
        return (np.asarray(probabilities).argmax(axis=1) != references).astype(np.float64)

    def losses(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        """Returns the negative log-likelihood of each image in nats, [images]; the mean over its labels, if several.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.losses([[0.5, 0.5]], [[1, 0]]).round(4)
            array([0.6931])
        """
        of_truth = self.of_truth(np.asarray(probabilities)[:, None], references)[:, 0]
        losses: FloatArray = -np.log(np.maximum(of_truth, SMALLEST_PROBABILITY))
        return losses

    def brier_scores(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        """Returns the Brier score of each image, [images]: if several, the mean of 2 (p - y)^2 over its labels.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import ONE_LABEL
            >>> ONE_LABEL.brier_scores([[0.5, 0.5]], [1])
            array([0.5])
        """
        table = np.asarray(probabilities)
        scores: FloatArray = ((table - np.eye(table.shape[1])[np.asarray(references)]) ** 2).sum(axis=1)
        return scores

    def of_truth(self, probabilities: FloatArray, references: ArrayLike) -> FloatArray:
        """Returns what each point says of the truth: the probability of the true label, or of each right yes or no.

        The mean over some points is what their ensemble says of it.

        Args:
            probabilities: [images, points, labels].
            references: of the images.

        Returns:
            [images, points] float64; for several labels [images * labels, points].

        Example:
            >>> import numpy as np
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.of_truth(np.array([[[0.75, 0.25]]]), np.array([[1, 0]]))
            array([[0.75],
                   [0.75]])
        """
        return np.take_along_axis(probabilities, np.asarray(references)[:, None, None], axis=2)[..., 0]

    def drawn(self, probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
        """Returns what a reliability diagram shows: images, or the decisions of an image and a label.

        Example:
            >>> from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
            >>> SEVERAL_LABELS.drawn([[0.75, 0.5]], [[1, 0]])[0].shape
            (2, 2)
        """
        return self.check(probabilities, references)


class _Several(LabelKind):
    several = True

    def check(self, probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
        return check_multi_label(probabilities, references)

    def metrics(self, probabilities: ArrayLike, references: ArrayLike) -> dict[str, float]:
        return multi_label_metrics(probabilities, references)

    def fit_temperature(self, probabilities: ArrayLike, references: ArrayLike) -> float:
        return fit_temperature(*label_decisions(probabilities, references))

    def scale_temperature(self, probabilities: ArrayLike, temperature: float) -> FloatArray:
        table, _ = check_multi_label(probabilities, np.zeros(np.shape(probabilities)))
        decisions, _ = label_decisions(table, np.zeros(table.shape))
        return scale_temperature(decisions, temperature)[:, 1].reshape(table.shape)

    def calibrated_metrics(
        self,
        probabilities: ArrayLike,
        references: ArrayLike,
        validation_probabilities: ArrayLike,
        validation_references: ArrayLike,
    ) -> dict[str, float]:
        check_validation_images(probabilities, validation_probabilities)
        temperature = self.fit_temperature(validation_probabilities, validation_references)
        scaled = self.scale_temperature(probabilities, temperature)
        return {**self.metrics(scaled, references), "temperature": temperature}

    def errors(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        wrong: FloatArray = np.mean((np.asarray(probabilities) >= THRESHOLD) != np.asarray(references), axis=1)
        return wrong

    def losses(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        table, labels = label_decisions(probabilities, references)
        losses: FloatArray = -np.log(table[np.arange(len(labels)), labels])
        return losses.reshape(np.shape(probabilities)).mean(axis=1)

    def brier_scores(self, probabilities: ArrayLike, references: ArrayLike) -> FloatArray:
        squares: FloatArray = 2 * (np.asarray(probabilities) - np.asarray(references)) ** 2
        return squares.mean(axis=1)

    def of_truth(self, probabilities: FloatArray, references: ArrayLike) -> FloatArray:
        labels = np.asarray(references)
        right = np.where(labels[:, None] == 1, probabilities, 1 - probabilities)
        right = np.maximum(right, SMALLEST_MARGIN)
        return right.transpose(0, 2, 1).reshape(-1, probabilities.shape[1])

    def drawn(self, probabilities: ArrayLike, references: ArrayLike) -> tuple[FloatArray, IntArray]:
        return label_decisions(probabilities, references)


ONE_LABEL: LabelKind = LabelKind()
SEVERAL_LABELS: LabelKind = _Several()


def label_kind(references: Any) -> LabelKind:
    """Returns the kind of labels that references are of.

    Args:
        references: [images] label ids, or [images, labels] of 0 and 1.

    Example:
        >>> from hf_simplex.evaluation.label_kinds import label_kind
        >>> label_kind([0, 1]).several, label_kind([[0, 1]]).several
        (False, True)
    """
    return SEVERAL_LABELS if np.ndim(references) == 2 else ONE_LABEL
