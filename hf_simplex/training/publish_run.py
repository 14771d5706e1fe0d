"""Publishing of a trained ensemble, with a card that shows arguments, hardware and results of the run."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitInfo
from torch.utils.data import Dataset
from transformers.data.data_collator import DataCollator
from transformers.utils import logging

from ..evaluation.comparison import Prediction, Result, predict_parts, results_of
from ..evaluation.inputs import IntArray
from ..evaluation.label_kinds import label_kind
from ..hub.evidence import DRAWN_PARTS, Evidence, describe_hardware
from ..hub.model_card import write_card
from ..hub.publishing import publish_folder
from ..model.modeling_simplex import SimplexForImageClassification
from .arguments import SimplexTrainingArguments
from .card_evidence import shown_arguments

__all__ = ["publish_run"]

logger = logging.get_logger(__name__)


def publish_run(
    model: SimplexForImageClassification,
    args: SimplexTrainingArguments,
    *,
    eval_dataset: Dataset | dict[str, Dataset] | None = None,
    data_collator: DataCollator | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    tags: Sequence[str] = (),
    with_handler: bool = False,
) -> CommitInfo | None:
    """Write the card of a run beside the ensemble in `args.output_dir` and publish that folder in one commit.

    All processes of a distributed run call this together. The main process publishes.

    Args:
        model: The trained ensemble, already saved to `args.output_dir`.
        args: The arguments of the run. `hub_model_id`, `hub_token`, `hub_revision` and `hub_private_repo` are the
            defaults of the arguments below.
        eval_dataset: Images with labels for the results on the card. Default: no results, as for several data sets.
            An ensemble with decisions gets calibrated results and pictures of itself and of its first centroid, whose
            temperatures the decisions hold.
        data_collator: As for `transformers.Trainer`.
        commit_message: Message of the commit. Default: "Upload ensemble".
        token: Token of an account that may write.
        revision: Branch. It is created if it does not exist.
        private: Whether a new repository is private.
        tags: Further tags for the card.
        with_handler: Whether to publish handler.py for Inference Endpoints too.

    Returns:
        The commit in the main process, None in the others.

    Raises:
        ValueError, OSError: as `publish_folder`.

    Example::

        trainer.save_model()
        publish_run(trainer.simplex, trainer.args, eval_dataset=test_images, private=True)
    """
    evidence = Evidence(arguments=shown_arguments(args), hardware=describe_hardware())
    if eval_dataset is not None and not isinstance(eval_dataset, dict):
        quiet = copy.copy(args)
        # Otherwise the Trainer that predicts would create a repository too.
        quiet.push_to_hub = False
        try:
            predictions, references = predict_parts(model, eval_dataset, quiet, data_collator=data_collator)
        except ValueError as error:
            # Weights are published even where they cannot be evaluated.
            logger.warning("The card has no results: %s", error)
        else:
            evidence = _with_results(evidence, model, predictions, references)
    if args.process_index != 0:
        return None
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    write_card(model, args.output_dir, evidence, repository=repo_id)
    return publish_folder(
        args.output_dir,
        repo_id,
        commit_message=commit_message,
        token=token or args.hub_token,
        revision=revision or args.hub_revision,
        private=args.hub_private_repo if private is None else private,
        tags=tags,
        with_handler=with_handler,
    )


def _with_results(
    evidence: Evidence,
    model: SimplexForImageClassification,
    predictions: Mapping[str, Prediction],
    references: IntArray,
) -> Evidence:
    """Adds results and predictions, at the temperatures of the decisions where there are some."""
    results: dict[str, Result] = results_of(predictions, references)
    kind = label_kind(references)
    drawn = {part: predictions[part].probabilities for part in DRAWN_PARTS}
    if (decisions := model.decisions) is not None:
        temperatures = dict(zip(["centroid"], decisions.centroid_temperatures, strict=False))
        temperatures["espro"] = decisions.temperature
        # Raw predictions of the other parts do not belong beside calibrated ones.
        drawn = {part: kind.scale_temperature(drawn[part], temperature) for part, temperature in temperatures.items()}
        for part, temperature in temperatures.items():
            found = kind.metrics(drawn[part], references)
            results[part]["calibrated"] = {
                **{name: found[name] for name in ("nll", "ece", "brier")},
                "temperature": temperature,
            }
    return replace(
        evidence,
        test_images=len(references),
        results=results,
        predictions={part: (probabilities, references) for part, probabilities in drawn.items()},
        calibrated=model.decisions is not None,
    )
