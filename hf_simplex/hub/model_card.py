"""Writes the model card of an ensemble: fills `template.md` with its structure and the evidence of a run."""

import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.constants import REPOCARD_NAME

from ..evaluation.calibrate import describe_decisions
from ..model.checkpoint import atomic_write
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.problem_types import is_multi_label
from ..model.vertex_parameters import describe_vertex_parameters
from ..plots.reliability import plot_reliability
from ..plots.risk_coverage import plot_risk_coverage
from ..plots.surfaces import plot_plane
from .backbone_license import inherited_license
from .card_content import (
    counted,
    data_set_id,
    decision_lines,
    difference_lines,
    hub_id,
    largest_standard_error,
    linked,
    part_lines,
    placeholder_name,
    probe_line,
    roles,
    sampling,
    simplex_rows,
    strategy_reason,
    vertex_rows,
)
from .card_merge import BEGIN_CODE, END, END_CODE, begin_comment, merge_cards, read_card
from .evidence import PARTS, Evidence, without_repeats
from .model_index import METRICS, SEVERAL_METRICS, data_record, eval_results, evaluated_split
from .safe_text import Markdown, code_block, python_string, render

__all__ = ["PICTURES", "new_card", "write_card"]

RELIABILITY_FILE = "reliability.png"
RISK_COVERAGE_FILE = "risk_coverage.png"
SURFACE_FILE = "loss_surface.png"
PICTURES = (RELIABILITY_FILE, RISK_COVERAGE_FILE, SURFACE_FILE)
"""Files of the pictures that a card may show."""

TAGS = ("simplex", "mode-connectivity", "ensemble", "uncertainty", "calibration", "hf-simplex")


def write_card(
    model: SimplexForImageClassification,
    directory: str | os.PathLike[str],
    evidence: Evidence | None = None,
    *,
    repository: str | None = None,
    tags: Sequence[str] = (),
) -> Path:
    """Writes the card of an ensemble and its pictures beside the weights.

    The text, license and tags of an existing card stay; see `card_merge.merge_cards`.

    Args:
        model: the ensemble.
        directory: folder of the saved ensemble.
        evidence: evidence of a run. Default: a card without results and pictures.
        repository: Hub id in the card's examples. Default: a placeholder, which publishing replaces.
        tags: further tags.

    Returns:
        The file.

    Raises:
        ImportError: there are pictures to draw, and matplotlib is not installed.
        ValueError: the metadata of the existing card cannot be read.

    Example::

        model = SimplexForImageClassification.from_pretrained("ensemble")
        write_card(model, "ensemble", Evidence(data_set="digits", hardware=describe_hardware()))
    """
    evidence = without_repeats(evidence or Evidence())
    target = Path(directory)
    with atomic_write(target) as aside:
        if evidence.predictions:
            named = {PARTS.get(part, part): prediction for part, prediction in evidence.predictions.items()}
            plot_reliability(named).savefig(aside / RELIABILITY_FILE, dpi=160)
            if model.decisions is not None and not is_multi_label(model.config):
                abstention = model.decisions.abstention
                goal = None if abstention is None else abstention.target_error
                plot_risk_coverage(named, target_error=goal).savefig(aside / RISK_COVERAGE_FILE, dpi=160)
        if evidence.surface is not None:
            plot_plane(evidence.surface).savefig(aside / SURFACE_FILE, dpi=160)
        card = new_card(model, evidence, repository=repository, tags=tags)
        if (target / REPOCARD_NAME).exists():
            card = merge_cards(read_card(target / REPOCARD_NAME), card)
        card.save(aside / REPOCARD_NAME)
    return target / REPOCARD_NAME


def new_card(
    model: SimplexForImageClassification,
    evidence: Evidence,
    *,
    repository: str | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """Builds the card of an ensemble without drawing its pictures.

    Args:
        model, evidence, repository, tags: see `write_card`.

    Returns:
        The card.

    Example::

        print(new_card(model, Evidence(data_set="digits")).text)
    """
    config, evidence = model.config, without_repeats(evidence)
    several = is_multi_label(config)
    backbone, from_scratch = config.provenance.get("backbone"), bool(config.provenance.get("from_scratch"))
    data_set = evidence.data_set or config.provenance.get("data_set")
    repository = repository or f"me/{placeholder_name(data_set)}"
    title = repository.split("/")[-1]
    hub_data_set = data_set_id(data_set)
    base_model = None if from_scratch else hub_id(backbone)
    record = data_record(config, evidence.data_set)
    split = evaluated_split(record, evidence.test_images)
    entries = eval_results(evidence, data_set, decided=model.decisions is not None, split=split)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        # An ensemble trained from scratch takes the backbone's architecture, not its weights.
        license=None if from_scratch else inherited_license(config),
        base_model=base_model,
        base_model_relation=None if base_model is None else "finetune",
        datasets=None if hub_data_set is None else [hub_data_set],
        metrics=list(SEVERAL_METRICS if several else METRICS),
        tags=[*TAGS, *tags],
        model_name=title,
        eval_results=entries or None,
    )
    if not entries:
        # ModelCardData wants a name, but writes it as a metadata key of its own if there are no results.
        data.model_name = None
    content = render(
        files(__package__).joinpath("template.md").read_text("utf-8"),
        card_data=Markdown(data.to_yaml()),
        title=title,
        repository=Markdown(python_string(repository)),
        begin=Markdown(begin_comment(repository)),
        end=Markdown(END),
        backbone=linked(backbone, "a backbone"),
        data_set=None if data_set is None else linked(data_set, ""),
        labels=counted(len(config.id2label or {}), "label"),
        members=counted(len(config.members), "member"),
        simplexes=counted(len(config.simplexes), "simplex", "simplexes"),
        num_simplexes=len(config.simplexes),
        vertices=counted(config.num_vertices, "vertex", "vertices"),
        roles=roles(config),
        begin_code=Markdown(BEGIN_CODE),
        end_code=Markdown(END_CODE),
        results=[{"name": PARTS.get(part, part), **result} for part, result in evidence.results.items()],
        parts=part_lines(evidence, config),
        test_images=evidence.test_images,
        split=split,
        notes=[] if record is None else record.notes,
        standard_error=largest_standard_error(evidence.results.values(), evidence.test_images),
        several=several,
        activation="sigmoids" if several else "softmax",
        call="sigmoid()" if several else "softmax(-1)",
        without_positives=_without_positives(evidence),
        calibrated=any("calibrated" in result for result in evidence.results.values()),
        all_calibrated=all("calibrated" in result for result in evidence.results.values()),
        calibrated_pictures=evidence.calibrated and bool(evidence.predictions),
        differences=difference_lines(evidence),
        strategy=strategy_reason(config),
        probe=probe_line(config),
        decisions=[] if model.decisions is None else describe_decisions(model.decisions),
        validation_images=None if model.decisions is None else model.decisions.fitted_on.get("images"),
        on_test=decision_lines(evidence),
        reliability=RELIABILITY_FILE if evidence.predictions else None,
        risk_coverage=RISK_COVERAGE_FILE
        if evidence.predictions and model.decisions is not None and not several
        else None,
        surface=None if evidence.surface is None else SURFACE_FILE,
        surface_images=evidence.surface_images,
        surface_vertices=None if evidence.surface is None else evidence.surface.points.vertices.tolist(),
        vertex_rows=vertex_rows(config),
        simplex_rows=simplex_rows(model),
        parameters=f"{sum(model.weights[0][name].numel() for name in model.vertex_parameter_names):,}",
        shared=f"{sum(tensor.numel() for tensor in model.shared.tensors().values()):,}",
        differing=describe_vertex_parameters(config.vertex_parameters),
        sampling=sampling(config),
        arguments=code_block(_as_yaml(evidence.arguments), "yaml") if evidence.arguments else "",
        hardware=evidence.hardware,
        forward_passes=counted(len(config.members), "forward pass", "forward passes"),
    )
    return ModelCard(content)


def _without_positives(evidence: Evidence) -> str:
    """How many labels the metrics of several labels an image leave out; empty for none."""
    numbers = [result.get("labels_without_positives", 0) for result in evidence.results.values()]
    return counted(max(numbers), "label") if any(numbers) else ""


def _as_yaml(arguments: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(arguments), sort_keys=False, allow_unicode=True, width=math.inf).strip()
