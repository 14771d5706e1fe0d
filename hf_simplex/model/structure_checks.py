"""Checks of what config.json says of an ensemble: its structure, its labels and its backbone. None needs torch."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .decisions import Decisions
from .problem_types import is_multi_label
from .vertex_parameters import check_vertex_parameters

__all__ = [
    "CONNECTOR",
    "MODE",
    "PRETRAINED",
    "ROLES",
    "SAMPLINGS",
    "add_missing_labels",
    "as_lists",
    "check_against_backbone",
    "check_decisions",
    "check_label_counts",
    "check_labels",
    "check_model_type",
    "check_number_of_points",
    "check_provenance",
    "check_structure",
    "check_timm_arguments",
    "complete_labels",
]

PRETRAINED = "pretrained"
MODE = "mode"
CONNECTOR = "connector"
ROLES = (PRETRAINED, MODE, CONNECTOR)
SAMPLINGS = ("equal", "volume")

_MAX_LABELS = 200_000
_MAX_MEMBERS = 10_000
_LABEL_COUNTS = ("num_labels", "num_classes")
_TIMM_FILE_ARGUMENTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def as_lists(simplexes: Any, roles: Any, members: Any) -> tuple[list[list[int]], list[str], list[list[float]]]:
    """Return simplexes, roles and members as lists.

    Raises:
        ValueError: one is of another kind.

    Example:
        >>> as_lists([(0, 1)], ("mode", "mode"), [[1, 0]])
        ([[0, 1]], ['mode', 'mode'], [[1.0, 0.0]])
    """
    try:
        return (
            [list(simplex) for simplex in simplexes],
            list(roles),
            [[float(coordinate) for coordinate in member] for member in members],
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"simplexes is {simplexes!r}, roles {roles!r} and members {members!r}; expected a list of lists of "
            "vertices, a list of names and a list of lists of coordinates."
        ) from error


def check_model_type(config: Mapping[str, Any], expected: str) -> None:
    """Check that a config.json is an ensemble's.

    Raises:
        ValueError: it names another `model_type`.

    Example:
        >>> check_model_type({"model_type": "simplex"}, "simplex")
    """
    if (kind := config.get("model_type", expected)) != expected:
        raise ValueError(f"model_type is {kind!r}; expected {expected!r}.")


def check_against_backbone(config: Any) -> None:
    """Check that an ensemble has a backbone, of as many labels and the same problem type.

    Arguments of `from_pretrained` may have changed a configuration after it was made.

    Args:
        config: of the ensemble.

    Raises:
        ValueError: there is no backbone, or it differs.

    Example::

        check_against_backbone(model.config)
    """
    backbone = config.backbone_config
    if backbone is None:
        raise ValueError(
            "The configuration has no backbone_config. Build a model with "
            "SimplexForImageClassification.from_backbone(id_or_path, num_labels=...)."
        )
    if config.num_labels != backbone.num_labels:
        raise ValueError(
            f"The ensemble was trained for {backbone.num_labels} labels and cannot have "
            f"{config.num_labels}. Build a new one with from_backbone(..., num_labels={config.num_labels})."
        )
    if is_multi_label(config) != is_multi_label(backbone):
        raise ValueError(
            f"problem_type is {config.problem_type!r}, but the ensemble was trained for {backbone.problem_type!r} "
            "(None means one label an image). Build a new one with "
            f"from_backbone(..., problem_type={config.problem_type!r})."
        )


def check_provenance(provenance: Any) -> None:
    """Check that a provenance is a dictionary or None.

    Raises:
        ValueError: it is something else.

    Example:
        >>> check_provenance({"backbone": "google/vit-base-patch16-224"})
    """
    if not isinstance(provenance, dict | None):
        raise ValueError(f"provenance is {provenance!r}; expected a dictionary.")


def check_structure(
    *, roles: Sequence[str], sampling: Any, provenance: Mapping[str, Any], vertex_parameters: Any
) -> None:
    """Check roles, sampling, provenance and the form of the vertex parameters.

    Args:
        roles, sampling, provenance, vertex_parameters: see `SimplexConfig`.

    Raises:
        ValueError: a role or the sampling is unknown, or the stages or the vertex parameters are malformed.

    Example:
        >>> check_structure(roles=["mode"], sampling="equal", provenance={}, vertex_parameters="all")
    """
    if unknown := [role for role in roles if role not in ROLES]:
        raise ValueError(f"Unknown role of a vertex: {unknown[0]!r}. Choose from {', '.join(ROLES)}.")
    if sampling not in SAMPLINGS:
        raise ValueError(f"Unknown sampling: {sampling!r}. Choose from {', '.join(SAMPLINGS)}.")
    stages = provenance.get("stages", [])
    if not isinstance(stages, list) or not all(
        isinstance(stage, dict) and isinstance(stage.get("vertex"), int) and isinstance(stage.get("start", 0), int)
        for stage in stages
    ):
        raise ValueError(
            f"The stages of the provenance are {stages!r}; expected a list of dictionaries, each with the index "
            "of the trained vertex under 'vertex', and of a leaf's trunk under 'start'."
        )
    check_vertex_parameters(vertex_parameters)


def check_decisions(decisions: Any, simplexes: int, *, one_label: bool = True) -> None:
    """Check the decisions of an ensemble of so many simplexes.

    Args:
        decisions: the dictionary of `decisions.Decisions`, or None.
        simplexes: their number.
        one_label: whether an image has one label.

    Raises:
        ValueError: the decisions are malformed, there is another number of temperatures of centroids, or a multi-label
            ensemble has a threshold or prediction sets, which rest on one label an image.

    Example:
        >>> check_decisions({"temperature": 1.5, "centroid_temperatures": [1.2]}, 1)
    """
    if decisions is None:
        return
    found = Decisions.from_json(decisions)
    if not one_label and (found.abstention is not None or found.prediction_sets is not None):
        raise ValueError(
            "decisions: abstention and prediction_sets rest on one label an image, but problem_type is "
            "'multi_label_classification': leave them out."
        )
    centroids = found.centroid_temperatures
    if len(centroids) not in (0, simplexes):
        raise ValueError(
            f"decisions: centroid_temperatures has {len(centroids)} entries; expected one for each of {simplexes} "
            "simplexes."
        )


def check_number_of_points(number: int) -> None:
    """Check that an ensemble can have as many members.

    Args:
        number: of members.

    Raises:
        ValueError: it is above 10,000. More would take seconds to read, and as many forward passes for an image.

    Example:
        >>> check_number_of_points(20)
    """
    if number > _MAX_MEMBERS:
        raise ValueError(f"{number} points were given; expected at most {_MAX_MEMBERS}, a member each.")


def check_labels(id2label: Any, label2id: Any = None) -> None:
    """Check the names of labels.

    Args:
        id2label: name of each label, from 0 without gaps. A label is an integer, or its digits as in JSON. Two labels
            may have the same name, as in ImageNet.
        label2id: label of each name; None to leave it unchecked.

    Raises:
        ValueError: `id2label` is no dictionary, has gaps or other keys, or a name is no string; or `label2id` says
            something else.

    Example:
        >>> check_labels({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1})
    """
    if not isinstance(id2label, Mapping):
        raise ValueError(f"id2label is {id2label!r}; expected a dictionary such as {{0: 'cat', 1: 'dog'}}.")
    names: dict[int, Any] = {}
    for label, name in id2label.items():
        if isinstance(label, bool) or not re.fullmatch(r"\d+", str(label)) or int(label) in names:
            raise ValueError(f"id2label has the key {label!r}; expected each of 0 to {len(id2label) - 1} once.")
        if not isinstance(name, str):
            raise ValueError(f"id2label names label {label} {name!r}; expected a string.")
        names[int(label)] = name
    if missing := sorted(set(range(len(names))) - set(names)):
        raise ValueError(
            f"id2label has no label {missing[0]}; expected {len(names)} labels from 0 to {len(names) - 1}, without "
            "gaps."
        )
    if label2id is None:
        return
    if not isinstance(label2id, Mapping):
        raise ValueError(f"label2id is {label2id!r}; expected a dictionary such as {{'cat': 0, 'dog': 1}}.")
    if unknown := set(names.values()) - set(label2id):
        raise ValueError(f"label2id lacks {min(unknown)!r}, a name of id2label.")
    for name, label in label2id.items():
        if not re.fullmatch(r"\d+", str(label)) or names.get(int(label)) != name:
            raise ValueError(
                f"label2id gives {name!r} the label {label!r}, and id2label says otherwise: {dict(id2label)!r:.200}."
            )


def add_missing_labels(kwargs: dict[str, Any]) -> None:
    """Add the labels that `label2id` names to a configuration's arguments, where it is given without `id2label`.

    Raises:
        ValueError: `label2id` is no dictionary, has gaps, or contradicts `num_labels`.

    Example:
        >>> arguments = {"label2id": {"cat": 0, "dog": 1}}
        >>> add_missing_labels(arguments)
        >>> arguments["id2label"]
        {0: 'cat', 1: 'dog'}
    """
    label2id = kwargs.get("label2id")
    if label2id is None or kwargs.get("id2label") is not None:
        return
    if not isinstance(label2id, Mapping):
        raise ValueError(f"label2id is {label2id!r}; expected a dictionary such as {{'cat': 0, 'dog': 1}}.")
    id2label = {label: name for name, label in label2id.items()}
    try:
        check_labels(id2label, label2id)
    except ValueError as error:
        raise ValueError(f"label2id is {dict(label2id)!r:.200}, without id2label. Of its labels: {error}") from error
    if kwargs.get("num_labels") not in (None, len(id2label)):
        raise ValueError(f"num_labels={kwargs['num_labels']} contradicts the {len(id2label)} labels of label2id.")
    kwargs["id2label"] = {int(label): id2label[label] for label in sorted(id2label, key=int)}


def complete_labels(kwargs: dict[str, Any]) -> None:
    """Check the labels among a configuration's arguments, and give `label2id` the names that `id2label` has.

    Raises:
        ValueError: see `check_labels`.

    Example:
        >>> arguments = {"id2label": {0: "cat", 1: "dog"}}
        >>> complete_labels(arguments)
        >>> arguments["label2id"]
        {'cat': 0, 'dog': 1}
    """
    if (id2label := kwargs.get("id2label")) is None:
        return
    check_labels(id2label)
    if kwargs.get("label2id") in (None, _default_label2id(len(id2label))):
        # Names were given to labels that had none.
        kwargs["label2id"] = {name: int(label) for label, name in id2label.items()}
    check_labels(id2label, kwargs["label2id"])


def _default_label2id(labels: int) -> dict[str, int]:
    """What transformers calls labels without names."""
    return {f"LABEL_{label}": label for label in range(labels)}


def check_label_counts(config: Mapping[str, Any]) -> None:
    """Check that the labels of a configuration and its backbone can be enumerated in no time.

    Args:
        config: the content of config.json.

    Raises:
        ValueError: a number of labels is negative or above 200,000.

    Example:
        >>> check_label_counts({"num_labels": 10})
    """
    backbone = config.get("backbone_config")
    for content in (config, backbone if isinstance(backbone, dict) else {}):
        for name in _LABEL_COUNTS:
            count = content.get(name)
            if isinstance(count, int | float) and not 0 <= count <= _MAX_LABELS:
                raise ValueError(f"{name} is {count}; expected at most {_MAX_LABELS}.")


def check_timm_arguments(value: Mapping[str, Any]) -> None:
    """Check that timm would read no other files than the checkpoint's: they could be pickled weights.

    Args:
        value: the content of `backbone_config`.

    Raises:
        ValueError: the architecture is no name of a model, or an argument names other files.

    Example:
        >>> check_timm_arguments({"architecture": "resnet50"})
    """
    architecture = value.get("architecture")
    if architecture is not None and not re.fullmatch(r"[\w.]+", str(architecture)):
        raise ValueError(
            f"The backbone's architecture is {architecture!r}; expected a timm model name such as 'resnet50'. Do "
            "not load this checkpoint: its configuration points elsewhere."
        )
    model_args = value.get("model_args") or {}
    if elsewhere := [name for name in _TIMM_FILE_ARGUMENTS if name in model_args]:
        raise ValueError(
            f"The backbone's model_args have {elsewhere[0]}={model_args[elsewhere[0]]!r}, which names other files "
            "than this checkpoint's. Do not load it."
        )
