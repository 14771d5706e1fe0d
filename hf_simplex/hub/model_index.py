"""The model-index of a card: its evaluation results, in metadata that the Hub shows and compares."""

from pathlib import Path

from huggingface_hub import EvalResult

from .card_content import data_set_id
from .evidence import PARTS, Evidence

__all__ = ["METRICS", "eval_results", "is_generated"]

METRICS = {"accuracy": "Accuracy", "nll": "NLL", "ece": "ECE"}
"""Metrics in a card's metadata, and how the model-index spells them."""


def eval_results(evidence: Evidence, data_set: str | None) -> list[EvalResult]:
    """Returns the entries of the model-index: one per part and metric.

    Args:
        evidence: evidence of a run.
        data_set: name of the data set.

    Returns:
        The entries. Without results, an empty list.

    Example:
        >>> from hf_simplex.hub.model_index import eval_results
        >>> from hf_simplex.hub.evidence import Evidence
        >>> eval_results(Evidence(), "digits")
        []
    """
    name = Path(data_set or "unknown").name
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=data_set_id(data_set) or name,
            dataset_name=name,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{spelled} ({PARTS.get(part, part)})",
            metric_value=round(result[metric], 6),  # type: ignore[literal-required]
        )
        for part, result in evidence.results.items()
        for metric, spelled in METRICS.items()
    ]


def is_generated(result: EvalResult) -> bool:
    """Whether the metric's name shows that `eval_results` wrote this entry of a model-index.

    Example:
        >>> from huggingface_hub import EvalResult
        >>> from hf_simplex.hub.model_index import is_generated
        >>> is_generated(EvalResult("image-classification", "d", "d", "nll", 0.1, metric_name="NLL (ESPRO)"))
        True
    """
    return result.metric_name in {f"{metric} ({part})" for metric in METRICS.values() for part in PARTS.values()}
