"""The configuration of an ensemble: the content of config.json."""

import copy
import os
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any, Self

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import logging

from .complexes import SimplicialComplex
from .coordinates import validate_coordinates
from .image_pixels import TRANSPARENCY
from .problem_types import agreed_problem_type, is_multi_label
from .recorded_volumes import RECORD
from .structure_checks import (
    CONNECTOR,
    MODE,
    PRETRAINED,
    ROLES,
    SAMPLINGS,
    add_missing_labels,
    as_lists,
    check_decisions,
    check_label_counts,
    check_model_type,
    check_number_of_points,
    check_provenance,
    check_structure,
    check_timm_arguments,
    complete_labels,
)
from .vertex_parameters import ALL

__all__ = [
    "CONNECTOR",
    "MODE",
    "PRETRAINED",
    "ROLES",
    "SAMPLINGS",
    "TASK",
    "SimplexConfig",
    "remove_local_paths",
]

logger = logging.get_logger(__name__)

TASK = "simplex-image-classification"
"""Task name of the pipeline that reports uncertainty."""


class SimplexConfig(PreTrainedConfig):
    """Configuration of `SimplexForImageClassification`: the backbone, the simplexes and the members.

    Args:
        backbone_config: configuration of the backbone (any image classifier of transformers, timm's included), as an
            object or a dictionary.
        simplexes: vertex indices of each simplex; default: one simplex of one vertex.
        roles: the role of each vertex: `"pretrained"` (not trained on the task yet), `"mode"` (trained on its own) or
            `"connector"` (trained by SPRO); default: one `"pretrained"` vertex.
        members: [members, vertices] barycentric coordinates; default: no members.
        sampling: how to draw points from several simplexes: with `"equal"` chance, or in proportion to `"volume"`.
        provenance: how the vertices were trained, as JSON values; written by the trainer. `stages` is a list of
            dictionaries, each with the index of the trained `vertex`.
        decisions: what was fitted on validation images, as the dictionary of `decisions.Decisions`; default: nothing.
        vertex_parameters: the backbone's parameters that differ between vertices: `"all"` (default), a list of names
            or patterns, or the dictionary of a peft `LoraConfig`. The others are stored once for all vertices.
        **kwargs: arguments of `PreTrainedConfig`. `problem_type` is the backbone's if that is
            `"multi_label_classification"`; both must say so.

    Raises:
        ValueError: a simplex has an unknown vertex, a role or sampling is unknown, a member is not a point of the
            complex, the provenance, the decisions or the vertex parameters are malformed, or the labels contradict
            each other (see `structure_checks.check_labels`), or so do the problem types of ensemble and backbone.

    Example:
        >>> config = SimplexConfig(simplexes=[[0, 1, 2]], roles=["mode", "mode", "connector"], members=[[0.5, 0.5, 0]])
        >>> config.num_vertices, config.members
        (3, [[0.5, 0.5, 0.0]])
    """

    model_type = "simplex"

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        simplexes: Sequence[Sequence[int]] = ((0,),),
        roles: Sequence[str] = (PRETRAINED,),
        members: Sequence[Sequence[float]] = (),
        sampling: str = "equal",
        provenance: dict[str, Any] | None = None,
        decisions: dict[str, Any] | None = None,
        vertex_parameters: str | list[str] | dict[str, Any] = ALL,
        **kwargs: Any,
    ) -> None:
        self.backbone_config = _backbone_config(backbone_config)
        self.simplexes, self.roles, self.members = as_lists(simplexes, roles, members)
        self.sampling = sampling
        check_provenance(provenance)
        self.provenance = dict(provenance or {})
        self.decisions = decisions
        self.vertex_parameters = vertex_parameters
        add_missing_labels(kwargs)
        if self.backbone_config is not None and "id2label" not in kwargs and "num_labels" not in kwargs:
            kwargs["id2label"] = self.backbone_config.id2label
            kwargs["label2id"] = self.backbone_config.label2id
        complete_labels(kwargs)
        for name in (*_IMAGE_PROCESSOR_KEYS, RECORD, "transformers_weights"):
            # Volumes are those of a file. transformers_weights could name another weight file, even a pickled one.
            kwargs.pop(name, None)
        if not self.is_remote_code():
            # This package is installed: transformers uses its classes and need not ask to trust remote code.
            for name in _REMOTE_CODE_KEYS:
                kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.problem_type = agreed_problem_type(self.problem_type, getattr(self.backbone_config, "problem_type", None))
        if self.backbone_config is not None and is_multi_label(self):
            # The backbone's loss goes by its own configuration.
            self.backbone_config.problem_type = self.problem_type
        self.check()

    def check(self) -> None:
        """Check structure, roles, members, provenance, decisions and the form of the vertex parameters.

        Raises:
            ValueError: see the class.

        Example:
            >>> config = SimplexConfig()
            >>> config.roles = ["mode"]
            >>> config.check()
        """
        check_structure(
            roles=self.roles,
            sampling=self.sampling,
            provenance=self.provenance,
            vertex_parameters=self.vertex_parameters,
        )
        self.check_points(self.members)
        check_decisions(self.decisions, len(self.simplexes), one_label=not is_multi_label(self))

    def check_points(self, coordinates: Sequence[Sequence[float]]) -> None:
        """Check that points lie in the complex.

        Args:
            coordinates: [points, vertices] barycentric coordinates.

        Raises:
            ValueError: a point does not lie in any simplex, or has the wrong number of coordinates; or there are more
                than 10,000 points.

        Example:
            >>> SimplexConfig(simplexes=[[0, 1]], roles=["mode", "mode"]).check_points([[0.5, 0.5]])
        """
        check_number_of_points(len(coordinates))
        structure = self.complex
        if wrong := [point for point in coordinates if len(point) != self.num_vertices]:
            raise ValueError(f"Every point needs {self.num_vertices} coordinates, one for each vertex: {wrong[0]}.")
        points = torch.tensor(coordinates, dtype=torch.float64).reshape(len(coordinates), self.num_vertices)
        validate_coordinates(points, structure)

    @property
    def num_vertices(self) -> int:
        """Number of vertices of the complex.

        Example:
            >>> SimplexConfig(simplexes=[[0, 1]], roles=["mode", "mode"]).num_vertices
            2
        """
        return len(self.roles)

    @property
    def complex(self) -> SimplicialComplex:
        """The structure as a `SimplicialComplex`.

        Example:
            >>> SimplexConfig(simplexes=[[0, 1]], roles=["mode", "mode"]).complex.edges()
            [(0, 1)]
        """
        return SimplicialComplex(self.num_vertices, tuple(tuple(simplex) for simplex in self.simplexes))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the configuration of a config.json's content.

        Args:
            config_dict: the content.
            **kwargs: as for `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: a field has a value of the wrong kind. The message names the field.

        Example:
            >>> SimplexConfig.from_dict({"roles": ["mode"]}).num_vertices
            1
        """
        place = f" of {kwargs['name_or_path']}" if kwargs.get("name_or_path") else ""
        try:
            check_model_type(config_dict, cls.model_type)
            _check_dtype(config_dict)
            check_label_counts(config_dict)
            if isinstance(members := config_dict.get("members"), list):
                check_number_of_points(len(members))
            add_missing_labels(kwargs)
            return super().from_dict(config_dict, **kwargs)
        except (OSError, ImportError, MemoryError):
            raise
        except Exception as error:
            # Configurations of backbones check their fields each in its own way.
            what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"config.json{place} cannot be read. {what}") from error

    @classmethod
    def disjoint_union(cls, configs: Sequence["SimplexConfig"]) -> Self:
        """Return the configuration of the disjoint union of complexes.

        Backbone, labels, sampling, provenance and vertex parameters are those of the first. Members are kept if every
        configuration has some. `stages` of all provenances are kept, with their vertices renumbered. Decisions are
        not: they were fitted for other members. The record of training, validation and test images is kept if all
        have the same, else it is left out with a warning.

        Args:
            configs: at least one.

        Example:
            >>> mode = SimplexConfig(members=[[1.0]])
            >>> both = SimplexConfig.disjoint_union([mode, mode])
            >>> both.simplexes, both.members
            ([[0], [1]], [[1.0, 0.0], [0.0, 1.0]])
        """
        first = configs[0]
        structure = first.complex.union(*(config.complex for config in configs[1:]))
        members, stages, before = [], [], 0
        for config in configs:
            after = structure.num_vertices - before - config.num_vertices
            members += [[0.0] * before + member + [0.0] * after for member in config.members]
            for stage in config.provenance.get("stages", []):
                moved = {name: before + stage[name] for name in ("vertex", "start") if name in stage}
                stages.append({**stage, **moved})
            before += config.num_vertices
        provenance = {**copy.deepcopy(first.provenance), "stages": stages}
        if any(config.provenance.get("images") != first.provenance.get("images") for config in configs):
            # The test images of one may be training images of another.
            provenance.pop("images", None)
            logger.warning(
                "The components do not record the same training, validation and test images, so their union has no "
                "record of them. Test it on images that none was trained on."
            )
        return cls(
            backbone_config=copy.deepcopy(first.backbone_config),
            simplexes=structure.simplexes,
            roles=[role for config in configs for role in config.roles],
            members=members if all(config.members for config in configs) else (),
            sampling=first.sampling,
            provenance=provenance,
            id2label=first.id2label,
            label2id=first.label2id,
            problem_type=first.problem_type,
            vertex_parameters=copy.deepcopy(first.vertex_parameters),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json, with the settings of timm's image processor at the top level.

        Example:
            >>> SimplexConfig().to_dict()["simplexes"]
            [[0]]
        """
        output = super().to_dict()
        backbone_config = output.get("backbone_config") or {}
        remove_local_paths(output)
        if "pretrained_cfg" in backbone_config:
            output["pretrained_cfg"] = backbone_config["pretrained_cfg"]
            output["architecture"] = backbone_config["architecture"]
            output["image_processor_type"] = "TimmWrapperImageProcessor"
            output |= TRANSPARENCY
        return output


_REMOTE_CODE_KEYS = ("auto_map", "custom_pipelines")
_IMAGE_PROCESSOR_KEYS = ("pretrained_cfg", "architecture", "image_processor_type", *TRANSPARENCY)


def remove_local_paths(config: dict[str, Any]) -> None:
    """Keep the last component only of paths on this machine in the content of a config.json. Hub ids stay.

    Example:
        >>> config = {"provenance": {"backbone": "/home/me/vit"}}
        >>> remove_local_paths(config)
        >>> config
        {'provenance': {'backbone': 'vit'}}
    """
    decisions = config.get("decisions")
    for names, key in (
        (config.get("backbone_config"), "_name_or_path"),
        (config.get("provenance"), "backbone"),
        (config.get("provenance"), "data_set"),
        (decisions.get("fitted_on") if isinstance(decisions, dict) else None, "data_set"),
    ):
        if isinstance(names, dict) and isinstance(names.get(key), str):
            names[key] = _without_folder(names[key])


def _without_folder(name: str) -> str:
    """The last component of a path; a Hub id as it is."""
    is_path = PureWindowsPath(name).is_absolute() or name.startswith(("/", "\\", ".", "~")) or os.path.isdir(name)
    return PureWindowsPath(name).name if is_path else name


def _check_dtype(config: dict[str, Any]) -> None:
    """Raise ValueError if a dtype is none of PyTorch's."""
    backbone = config.get("backbone_config")
    for content in (config, backbone if isinstance(backbone, dict) else {}):
        for name in ("dtype", "torch_dtype"):
            dtype = content.get(name)
            named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
            if dtype not in (None, "auto") and not isinstance(named, torch.dtype):
                raise ValueError(f"{name} is {dtype!r}; expected a name such as 'float32'.")


def _backbone_config(value: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig | None:
    if value is None or isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"backbone_config is {value!r}; expected the backbone's configuration, as a dictionary.")
    model_type = str(value.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"The backbone's model_type is {model_type!r}, which the installed transformers does not know; "
            "expected the model_type of an image classifier such as 'timm_wrapper' or 'vit'. Update transformers."
        )
    check_timm_arguments(value)
    # from_dict, not the constructor: only from_dict reads the label count of a timm configuration.
    return CONFIG_MAPPING[model_type].from_dict(value)
