"""The model-index of a card: its evaluation results, in metadata that the Hub shows and compares."""

import math
from pathlib import Path

from huggingface_hub import EvalResult

from ..data.split_records import DataRecord
from ..model.configuration_simplex import SimplexConfig
from .card_content import data_set_id
from .evidence import PARTS, Evidence

__all__ = ["METRICS", "SEVERAL_METRICS", "data_record", "eval_results", "evaluated_split", "is_generated"]

METRICS = {"accuracy": "Accuracy", "nll": "NLL", "ece": "ECE"}
"""Metrics in a card's metadata, and how the model-index spells them."""

SEVERAL_METRICS = {
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "mean_average_precision": "mAP",
    "exact_match": "Exact match",
    "hamming_error": "Hamming error",
    "nll": "NLL",
    "ece": "ECE",
}
"""The same for several labels an image."""

_PUBLISHED = PARTS["espro"]
_CALIBRATED, _RAW = f"{_PUBLISHED}, calibrated", f"{_PUBLISHED}, without its temperature"


def eval_results(
    evidence: Evidence, data_set: str | None, *, decided: bool = False, split: str | None = None
) -> list[EvalResult]:
    """Returns the entries of the model-index: one per metric of the ensemble that is published.

    The Hub compares models by these entries. Those of the ensemble's parts are in the table of the card. The entries
    are of the probabilities that the ensemble returns, if they were measured: an ensemble with decisions returns
    calibrated ones. Otherwise the name of the metric says so.

    Args:
        evidence: evidence of a run.
        data_set: name of the data set.
        decided: whether the ensemble has decisions.
        split: of the images, see `evaluated_split`; None if unknown.

    Returns:
        The entries. Without results of the ensemble, an empty list. A metric that is NaN has none.

    Example:
        >>> from hf_simplex.hub.evidence import Evidence
        >>> from hf_simplex.hub.model_index import eval_results
        >>> row = {"accuracy": 0.9, "nll": 0.3, "ece": 0.04, "calibrated": {"nll": 0.2, "ece": 0.01}}
        >>> found = eval_results(Evidence(results={"espro": row}), "digits", decided=True, split="test")
        >>> [(entry.metric_name, entry.metric_value) for entry in found]
        [('Accuracy (ESPRO)', 0.9), ('NLL (ESPRO, calibrated)', 0.2), ('ECE (ESPRO, calibrated)', 0.01)]
    """
    result = evidence.results.get("espro")
    if result is None:
        return []
    calibrated = result.get("calibrated", {}) if decided else {}
    name = Path(data_set or "").name or "unknown"
    entries = []
    for metric, spelled in (SEVERAL_METRICS if "hamming_error" in result else METRICS).items():
        if metric in calibrated:
            value, what = calibrated[metric], _CALIBRATED
        else:
            value = result[metric]  # type: ignore[literal-required]
            # A temperature changes no answer, and no order of probabilities.
            what = _RAW if decided and metric in ("nll", "ece") else _PUBLISHED
        if math.isnan(value):
            # F1 and average precision where no test image has a label.
            continue
        entries.append(
            EvalResult(
                task_type="image-classification",
                task_name="Image Classification",
                dataset_type=data_set_id(data_set) or name,
                dataset_name=name,
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{spelled} ({what})",
                metric_value=round(value, 6),
            )
        )
    return entries


def is_generated(result: EvalResult) -> bool:
    """Whether the metric's name shows that `eval_results` wrote this entry, in this version or an earlier one.

    Earlier versions wrote entries for every part of an ensemble.

    Example:
        >>> from huggingface_hub import EvalResult
        >>> from hf_simplex.hub.model_index import is_generated
        >>> is_generated(EvalResult("image-classification", "d", "d", "nll", 0.1, metric_name="NLL (backbone)"))
        True
    """
    whats = (*PARTS.values(), _CALIBRATED, _RAW)
    return result.metric_name in {
        f"{metric} ({what})" for metric in {**METRICS, **SEVERAL_METRICS}.values() for what in whats
    }


def data_record(config: SimplexConfig, data_set: str | None) -> DataRecord | None:
    """Reads the origin of the images of a run from the configuration of its ensemble.

    Args:
        config: configuration of the ensemble.
        data_set: name of a data set. Of paths, the last part is compared.

    Returns:
        The record; None if there is none of this data set.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.model_index import data_record
        >>> data_record(SimplexConfig(roles=["mode"], simplexes=[[0]]), "digits") is None
        True
    """
    trained = config.provenance.get("data_set")
    if data_set is None or trained is None or Path(str(trained)).name != Path(data_set).name:
        return None
    try:
        return DataRecord.from_dict(config.provenance["images"])
    except (KeyError, ValueError):  # another version's
        return None


def evaluated_split(record: DataRecord | None, images: int | None) -> str | None:
    """Says which images of a data set results are of.

    Args:
        record: of the data set, see `data_record`.
        images: number of images behind the results.

    Returns:
        The data set's name of the split, and how many of its images these are. None if the record is of another number
        of images, or there is none.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.hub.model_index import evaluated_split
        >>> record = load_image_data("digits", max_test_examples=50).record
        >>> evaluated_split(record, 50), evaluated_split(record, 51)
        ('test, 50 of 797 images', None)
    """
    if record is None or record.test.images != images:
        return None
    test = record.test
    if test.images == test.of:
        return str(test.source)
    held_out = "" if test.fraction is None else " held out of training"
    return f"{test.source}, {test.images} of {test.of} images{held_out}"
