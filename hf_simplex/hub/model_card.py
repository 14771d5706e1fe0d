"""The model card of an ensemble: what a run tells about it, filled into `template.md`.

A card has a part between two HTML comments that is generated, and that the next card replaces; all else in it, and
every metadata key beyond those that are filled in here, belongs to its user.
"""

import itertools
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import ArrayLike
from transformers.utils import cached_file, logging

from ..evaluation.comparison import Result
from ..evaluation.surfaces import Surface
from ..model.checkpoint import atomic_write
from ..model.configuration_simplex import CONNECTOR, MODE, PRETRAINED, SimplexConfig
from ..model.members import symmetric_members
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.weight_space import trainable_names
from ..plots.reliability import plot_reliability
from ..plots.surfaces import plot_plane

if TYPE_CHECKING:
    from ..training.trainer import SimplexTrainingArguments

RELIABILITY_FILE = "reliability.png"
SURFACE_FILE = "loss_surface.png"
PICTURES = (RELIABILITY_FILE, SURFACE_FILE)
TAGS = ("simplex", "mode-connectivity", "ensemble", "uncertainty", "calibration", "hf-simplex")

# What the parts that `evaluation.compare` gives are called on a card.
PARTS = {
    "backbone": "backbone",
    "deep_ensemble": "deep ensemble",
    "centroid": "centroid",
    "simplex": "one simplex",
    "espro": "ESPRO",
}
# Pairs that are one and the same where there is one simplex.
_TWINS = {"deep_ensemble": "backbone", "simplex": "espro"}
DRAWN_PARTS = ("backbone", "deep_ensemble", "centroid", "espro")
"""The parts whose reliability is drawn."""

_OWN_KEYS = ("library_name", "pipeline_tag", "base_model", "datasets", "metrics")
_METRICS = {"accuracy": "Accuracy", "nll": "NLL", "ece": "ECE"}
_BEGIN = re.compile(r"<!-- hf-simplex card of (?P<repository>\S+): .*? -->")
_BEGIN_CODE, _END_CODE = "<!-- needs the code in this repository -->", "<!-- needs it no more -->"
_END = "<!-- hf-simplex card ends -->"
# Data sets that come as files without the Hub, and what they are called there.
_ON_THE_HUB = {"fashion_mnist": "zalando-datasets/fashion_mnist"}

_SHOWN_ARGUMENTS = (
    "num_vertices",
    "num_modes",
    "num_train_epochs",
    "connector_epochs",
    "learning_rate",
    "connector_learning_rate",
    "connector_lr_scheduler_type",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "points_per_step",
    "point_batches",
    "volume_weight",
    "volume_weight_scaling",
    "start_jitter",
    "sampling",
    "num_members",
    "member_seed",
    "batch_norm_images",
    "seed",
)

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Evidence:
    """What a run tells of an ensemble beyond the ensemble's own configuration; all of it may be missing.

    Attributes:
        data_set: the name that the data set was asked for by.
        test_images: how many images the results are of.
        results: of `evaluation.compare`.
        predictions: for the reliability diagram, by the names of `results`: probabilities [images, labels] and
            references [images].
        surface: for the picture of the loss surface: of `surfaces.plane_points`.
        surface_images: how many images its loss is the mean of.
        arguments: what was asked for, YAML values by their names.
        hardware: what the run had to work with, and how long it took, as a sentence.
    """

    data_set: str | None = None
    test_images: int | None = None
    results: Mapping[str, Result] = field(default_factory=dict)
    predictions: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    surface: Surface | None = None
    surface_images: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = ""


def write_card(
    model: SimplexForImageClassification,
    directory: str | os.PathLike[str],
    evidence: Evidence | None = None,
    *,
    repository: str | None = None,
    tags: Sequence[str] = (),
) -> Path:
    """Write the card of an ensemble and its pictures beside its weights.

    A card that is there already keeps all of its user's own: see `merged`.

    Args:
        model: the ensemble.
        directory: where it is, or will be, saved.
        evidence: what a run told of it; default: nothing, so that the card has no results and no pictures.
        repository: Hub id that the card's examples load; default: a placeholder, which publishing replaces.
        tags: more of them.

    Returns:
        The file.

    Raises:
        ImportError: there are pictures to draw, and matplotlib is not installed.
        ValueError: the metadata of the card that is there cannot be read.
    """
    evidence = _without_repeats(evidence or Evidence())
    target = Path(directory)
    with atomic_write(target) as aside:
        if evidence.predictions:
            named = {PARTS.get(name, name): prediction for name, prediction in evidence.predictions.items()}
            plot_reliability(named).savefig(aside / RELIABILITY_FILE, dpi=160)
        if evidence.surface is not None:
            plot_plane(evidence.surface).savefig(aside / SURFACE_FILE, dpi=160)
        card = new_card(model, evidence, repository=repository, tags=tags)
        if (target / REPOCARD_NAME).exists():
            card = merged(read_card(target / REPOCARD_NAME), card)
        card.save(aside / REPOCARD_NAME)
    return target / REPOCARD_NAME


def shown_arguments(args: "SimplexTrainingArguments") -> dict[str, Any]:
    """The arguments of a training that a card shows: what shaped the weights, not where they were written."""
    shown = {name: getattr(args, name) for name in _SHOWN_ARGUMENTS}
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in shown.items()
        if value is not None and value is not False
    }


def describe_hardware(seconds: float | None = None) -> str:
    """A sentence on the machine that this process runs on, and how long it took."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    machine = f"{_number(os.cpu_count() or 1, 'core')} ({platform.machine()}), {', '.join(gpus) or 'no GPU'}"
    took = "" if seconds is None else f", {seconds / 60:.1f} minutes in all"
    return f"Hardware: {machine}{took}; torch {torch.__version__}, transformers {transformers.__version__}."


def read_card(file: str | os.PathLike[str]) -> ModelCard:
    """Read a card; ValueError, naming the file, where its metadata are no YAML mapping or no valid model-index."""
    try:
        return ModelCard(Path(file).read_text("utf-8-sig"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata at the top of {file} are not those of a model card: {error}") from error


def new_card(
    model: SimplexForImageClassification,
    evidence: Evidence,
    *,
    repository: str | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """The card of an ensemble, without pictures; arguments as for `write_card`."""
    config, evidence = model.config, _without_repeats(evidence)
    backbone, from_scratch = config.provenance.get("backbone"), bool(config.provenance.get("from_scratch"))
    data_set = evidence.data_set or config.provenance.get("data_set")
    repository = repository or f"me/{_placeholder(data_set)}"
    title = repository.split("/")[-1]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        # Only the architecture is a backbone's whose weights were not used.
        license=None if from_scratch else inherited_license(config),
        base_model=None if from_scratch else hub_id(backbone),
        datasets=None if (on_the_hub := _data_set_id(data_set)) is None else [on_the_hub],
        metrics=list(_METRICS),
        tags=[*TAGS, *tags],
        model_name=title,
        eval_results=_eval_results(evidence, data_set) or None,
    )
    if not evidence.results:
        # Without results it is of no use, and would be one more key of the metadata.
        data.model_name = None
    errors = [_standard_error(result["accuracy"], evidence.test_images) for result in evidence.results.values()]
    return ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("template.md").read_text("utf-8"),
        title=title,
        repository=repository,
        begin=_begin(repository),
        end=_END,
        backbone=_named(backbone, "a backbone"),
        data_set=None if data_set is None else _named(data_set, ""),
        labels=_number(len(config.id2label or {}), "label"),
        members=_number(len(config.members), "member"),
        simplexes=_number(len(config.simplexes), "simplex", "simplexes"),
        num_simplexes=len(config.simplexes),
        vertices=_number(config.num_vertices, "vertex", "vertices"),
        roles=_roles(config),
        begin_code=_BEGIN_CODE,
        end_code=_END_CODE,
        results=[{"name": PARTS.get(name, name), **result} for name, result in evidence.results.items()],
        test_images=evidence.test_images,
        standard_error=max(errors, default=math.nan),
        reliability=RELIABILITY_FILE if evidence.predictions else None,
        surface=None if evidence.surface is None else SURFACE_FILE,
        surface_images=evidence.surface_images,
        surface_vertices=None if evidence.surface is None else _listed(evidence.surface.points.vertices.tolist()),
        vertex_rows=_vertex_rows(config),
        simplex_rows=_simplex_rows(model),
        parameters=f"{sum(model.weights[0][name].numel() for name in trainable_names(model.vertices[0])):,}",
        sampling=_sampling(config),
        arguments=yaml.safe_dump(dict(evidence.arguments), sort_keys=False).strip() if evidence.arguments else "",
        hardware=evidence.hardware,
        forward_passes=len(config.members),
    )


def merged(old: ModelCard, new: ModelCard) -> ModelCard:
    """A card in which the generated part and our own metadata are those of the new one, and all else is the old one's.

    Where the new one has a text of its own around the generated part, that wins only if the old one has none, or all
    of its lines are in the new one: else the old text stays, with a warning. A license is a user's to choose, once
    there is one. Their tags stay beside ours, and their results in the model-index where they are no results of ours.
    A card without a generated part gets one at its end.
    """
    card = ModelCard(str(old))
    data, before, now = _data(card), _data(old), _data(new)
    for key, value in vars(now).items():
        if (key in _OWN_KEYS and value is not None) or data.get(key) is None:
            data[key] = value
    replaces = has_own_text(new) and (not has_own_text(old) or _own_lines(old) <= _own_lines(new))
    if has_own_text(new) and not replaces:
        logger.warning(
            "The text on the card that is there has lines that the new card lacks, so it stays, and the new card's is "
            "not taken. To change it, edit it there, or take all of its lines over into the new card."
        )
    if has_own_text(new) and now.license not in (None, data.license):
        logger.warning("The card that is there has the license %s, so that stays, not %s.", data.license, now.license)
    data.tags = _together(now.tags, before.tags)
    theirs = [result for result in before.eval_results or [] if not _is_ours(result)]
    data.eval_results = [*(now.eval_results or []), *theirs] or None
    data.model_name = (before.model_name if theirs else now.model_name) if data.eval_results else None
    if replaces:
        card.text = new.text
        return card
    generated = generated_part(new.text)
    assert generated is not None
    former = generated_part(old.text)
    card.text = old.text.rstrip() + f"\n\n{generated}\n" if former is None else old.text.replace(former, generated)
    return card


def add_tags(card: ModelCard, tags: Sequence[str]) -> None:
    """Add tags to the metadata of a card, those that it has not yet."""
    _data(card).tags = _together(_data(card).tags, list(tags))


def _data(card: ModelCard) -> ModelCardData:
    # huggingface_hub types a card's metadata as those of any kind of repository.
    return cast(ModelCardData, card.data)


def _together(first: Sequence[str] | str | None, second: Sequence[str] | str | None) -> list[str] | None:
    """Both lists, each name once; a metadata key may hold one name in place of a list."""
    names = [[names] if isinstance(names, str) else names or [] for names in (first, second)]
    return list(dict.fromkeys(itertools.chain(*names))) or None


def generated_part(text: str) -> str | None:
    """What lies between the two comments, them included; None where there are no such two."""
    begin = _BEGIN.search(text)
    end = text.find(_END, begin.end()) if begin else -1
    return text[begin.start() : end + len(_END)] if begin and end >= 0 else None


def has_own_text(card: ModelCard) -> bool:
    """Whether somebody wrote more than a title around the generated part."""
    return bool(re.sub(r"\A\s*#[^\n]*", "", _own_text(card)).strip())


def _own_text(card: ModelCard) -> str:
    generated = generated_part(card.text)
    return card.text if generated is None else card.text.replace(generated, "")


def _own_lines(card: ModelCard) -> set[str]:
    return {line.strip() for line in _own_text(card).splitlines() if line.strip()}


def addressed_to(card: ModelCard, repository: str) -> ModelCard:
    """The card with its examples, its title and its name in the model-index changed to another repository."""
    generated = generated_part(card.text)
    addressed = ModelCard(str(card))
    if generated is None:
        return addressed
    begin = _BEGIN.search(generated)
    assert begin is not None
    former = begin["repository"]
    changed = generated.replace(begin[0], _begin(repository), 1).replace(f'"{former}"', f'"{repository}"')
    old_title, title = former.split("/")[-1], repository.split("/")[-1]
    addressed.text = re.sub(
        rf"\A(\s*# ){re.escape(old_title)}[ \t]*$",
        lambda match: match[1] + title,
        card.text.replace(generated, changed),
        count=1,
        flags=re.MULTILINE,
    )
    data = _data(addressed)
    if data.eval_results and data.model_name == old_title:
        data.model_name = title
    return addressed


def without_code(card: ModelCard) -> ModelCard:
    """The card without its example that needs the code in the repository."""
    shortened = ModelCard(str(card))
    begin, end = card.text.find(_BEGIN_CODE), card.text.find(_END_CODE)
    if 0 <= begin < end:
        shortened.text = card.text[:begin].rstrip("\n") + "\n\n" + card.text[end + len(_END_CODE) :].lstrip("\n")
    return shortened


def inherited_license(config: SimplexConfig, **hub: Any) -> str | None:
    """The license that the backbone's own configuration or card states, as its card on the Hub spells it; else None.

    Args:
        config: of the ensemble.
        **hub: `token`, `revision`, `cache_dir`, `local_files_only` for reading the backbone's card.
    """
    stated = getattr(config.backbone_config, "pretrained_cfg", None) or {}
    if stated.get("license"):
        return str(stated["license"])
    backbone = config.provenance.get("backbone")
    if not isinstance(backbone, str) or (hub_id(backbone) is None and not os.path.isdir(backbone)):
        return None
    try:
        file = cached_file(backbone, REPOCARD_NAME, _raise_exceptions_for_missing_entries=False, **hub)
        found = None if file is None else _data(read_card(file)).license
    except (OSError, ValueError, HfHubHTTPError) as error:
        logger.warning("The license of %s is not known, its card could not be read: %s", backbone, error)
        return None
    return found if isinstance(found, str) else None


def hub_id(name: Any) -> str | None:
    """The name, where it has the form of a Hub id with a namespace and is no folder here."""
    is_id = isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.exists(name)
    return name if is_id else None


def _data_set_id(name: str | None) -> str | None:
    return None if name is None else hub_id(_ON_THE_HUB.get(name, name))


def _named(name: Any, default: str) -> str:
    """A Hub id as a link, and of a path the last part only: where it was is nobody's business."""
    if (on_the_hub := hub_id(name)) is not None:
        return f"`{on_the_hub}`"
    return f"`{Path(str(name)).name}`" if name else default


def _placeholder(data_set: str | None) -> str:
    name = Path(data_set).name if data_set else "ensemble"
    return re.sub(r"[^\w.-]+", "-", f"{name}-simplex")


def _begin(repository: str) -> str:
    return (
        f"<!-- hf-simplex card of {repository}: generated from here to the next such comment, and replaced there when "
        "the ensemble is published again; what is written above and below stays -->"
    )


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _roles(config: SimplexConfig) -> str:
    words = {
        MODE: ("fine-tuned mode",),
        CONNECTOR: ("connector",),
        PRETRAINED: ("pretrained vertex", "pretrained vertices"),
    }
    return " and ".join(_number(config.roles.count(role), *words[role]) for role in words if role in config.roles)


def _sampling(config: SimplexConfig) -> str:
    """How members chose among simplexes; empty where they had no choice."""
    if len(config.simplexes) == 1 or not config.members or config.members == symmetric_members(config.complex):
        return ""
    return "with equal chance" if config.sampling == "equal" else "in proportion to volume"


def _without_repeats(evidence: Evidence) -> Evidence:
    """The evidence without the parts that are the same as their twin, so that nothing is told twice."""
    results = evidence.results
    repeats = {part for part, twin in _TWINS.items() if part in results and results[part] == results.get(twin)}
    return replace(
        evidence,
        results={name: result for name, result in results.items() if name not in repeats},
        predictions={name: found for name, found in evidence.predictions.items() if name not in repeats},
    )


def _standard_error(accuracy: float, images: int | None) -> float:
    return math.sqrt(accuracy * (1 - accuracy) / images) if images else math.nan


def _eval_results(evidence: Evidence, data_set: str | None) -> list[EvalResult]:
    name = Path(data_set or "unknown").name
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=_data_set_id(data_set) or name,
            dataset_name=name,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{spelled} ({PARTS.get(part, part)})",
            metric_value=round(result[metric], 6),  # type: ignore[literal-required]
        )
        for part, result in evidence.results.items()
        for metric, spelled in _METRICS.items()
    ]


def _is_ours(result: EvalResult) -> bool:
    return result.metric_name in {f"{metric} ({part})" for metric in _METRICS.values() for part in PARTS.values()}


def _vertex_rows(config: SimplexConfig) -> list[dict[str, Any]]:
    stages = {stage["vertex"]: stage for stage in config.provenance.get("stages", [])}
    rows = []
    for vertex, role in enumerate(config.roles):
        stage = stages.get(vertex)
        rows.append(
            {
                "vertex": vertex,
                "role": role,
                "simplexes": _listed(config.complex.simplexes_with(vertex)),
                "epochs": "given" if stage is None else f"{stage['epochs']:g}",
                "loss": "" if stage is None else f"{stage['loss']:.4f}",
            }
        )
    return rows


def _simplex_rows(model: SimplexForImageClassification) -> list[dict[str, Any]]:
    config, log_volumes = model.config, model.log_volumes().tolist()
    rows = []
    for simplex, vertices in enumerate(config.simplexes):
        held = [
            j for j, member in enumerate(config.members) if {v for v, c in enumerate(member) if c} <= set(vertices)
        ]
        # A single vertex has the volume 1 by convention, which says nothing.
        volume = f"{log_volumes[simplex]:.2f}" if len(vertices) > 1 else ""
        rows.append(
            {"simplex": simplex, "vertices": _listed(vertices), "log_volume": volume, "members": _listed(held)}
        )
    return rows
