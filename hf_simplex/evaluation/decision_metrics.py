"""What decisions are worth on test images: error at the threshold, coverage of the sets, and unfamiliar images."""

import numpy as np
import torch

from ..model.decisions import Decisions
from ..model.uncertainty import mutual_information
from .comparison import MemberPredictions
from .inputs import FloatArray
from .label_kinds import label_kind
from .metrics import ood_auroc
from .prediction_sets import prediction_set_metrics, prediction_sets
from .selective import area_under_risk_coverage

__all__ = ["decided_probabilities", "decision_metrics", "unfamiliarity"]


def decided_probabilities(decisions: Decisions, predicted: MemberPredictions) -> FloatArray:
    """The ensemble's calibrated probabilities, [images, labels].

    Args:
        decisions: of the ensemble.
        predicted: of its members.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.comparison import MemberPredictions
        >>> from hf_simplex.evaluation.decision_metrics import decided_probabilities
        >>> from hf_simplex.model.decisions import Decisions
        >>> predicted = MemberPredictions(np.array([[[0.8, 0.2]]]), np.zeros((1, 1)), np.array([0]))
        >>> decided_probabilities(Decisions(temperature=2.0), predicted).round(3)
        array([[0.667, 0.333]])
    """
    kind = label_kind(predicted.references)
    return kind.scale_temperature(predicted.probabilities.mean(axis=1), decisions.temperature)


def decision_metrics(
    decisions: Decisions, predicted: MemberPredictions, unfamiliar: MemberPredictions | None = None
) -> dict[str, float]:
    """Measures decisions on test images.

    Args:
        decisions: of the ensemble.
        predicted: of its members, on test images.
        unfamiliar: of its members, on images out of the distribution; their labels do not count.

    Returns:
        - `area_under_risk_coverage`: 0 to 1, see `selective.area_under_risk_coverage`;
        - with a threshold: `answered`, the share of the images that are answered, and `error_of_answers`, 0 to 1;
        - with prediction sets: `set_coverage`, the share of the images whose set holds the true label, and
          `mean_set_size`;
        - of several labels an image, none of the above, which rest on one answer an image;
        - with unfamiliar images: `ood_auroc_mutual_information` and, of one label an image, `ood_auroc_energy`, 0 to
          1.

    Raises:
        ValueError: as `metrics.accuracy`.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.comparison import MemberPredictions
        >>> from hf_simplex.evaluation.decision_metrics import decision_metrics
        >>> from hf_simplex.model.decisions import Abstention, Decisions
        >>> table = np.array([[[0.9, 0.1]], [[0.6, 0.4]]])
        >>> predicted = MemberPredictions(table, np.zeros((2, 1)), np.array([0, 1]))
        >>> found = decision_metrics(Decisions(abstention=Abstention(0.05, 0.95, threshold=0.8)), predicted)
        >>> found["answered"], found["error_of_answers"]
        (0.5, 0.0)
    """
    found = {} if label_kind(predicted.references).several else _of_answers(decisions, predicted)
    if unfamiliar is not None:
        familiar = unfamiliarity(predicted)
        for name, scores in unfamiliarity(unfamiliar).items():
            found[f"ood_auroc_{name}"] = ood_auroc(familiar[name], scores)
    return found


def _of_answers(decisions: Decisions, predicted: MemberPredictions) -> dict[str, float]:
    probabilities, references = decided_probabilities(decisions, predicted), predicted.references
    confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    found = {"area_under_risk_coverage": area_under_risk_coverage(confidences, correct)}
    if decisions.abstention is not None and decisions.abstention.threshold is not None:
        answered = confidences >= decisions.abstention.threshold
        found["answered"] = float(answered.mean())
        if answered.any():
            found["error_of_answers"] = float(1 - correct[answered].mean())
    if (sets := decisions.prediction_sets) is not None:
        quantile = np.inf if sets.quantile is None else sets.quantile
        metrics = prediction_set_metrics(prediction_sets(probabilities, quantile, method=sets.method), references)
        found["set_coverage"], found["mean_set_size"] = metrics["coverage"], metrics["mean_size"]
    return found


def unfamiliarity(predicted: MemberPredictions) -> dict[str, FloatArray]:
    """Scores that are large for images unlike the training images.

    Args:
        predicted: of the members.

    Returns:
        `mutual_information` and `energy`, each [images] float64 in nats. Of several labels an image,
        `mutual_information` alone: an image of few labels has a high energy by nature.

    Source: Houlsby et al. 2011 (mutual information); Liu et al. 2020, Energy-based Out-of-distribution Detection.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.evaluation.comparison import MemberPredictions
        >>> from hf_simplex.evaluation.decision_metrics import unfamiliarity
        >>> unfamiliarity(MemberPredictions(np.array([[[0.5, 0.5]]]), np.array([[-1.5]]), np.array([0])))["energy"]
        array([-1.5])
    """
    several = label_kind(predicted.references).several
    information = mutual_information(torch.from_numpy(predicted.probabilities), independent=several).numpy()
    return {"mutual_information": information, **({} if several else {"energy": predicted.energies.mean(axis=1)})}
