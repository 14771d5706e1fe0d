"""The configuration of a simplicial complex of backbones: what config.json holds."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .complexes import SimplicialComplex
from .coordinates import validate_coordinates

PRETRAINED = "pretrained"
MODE = "mode"
CONNECTOR = "connector"
ROLES = (PRETRAINED, MODE, CONNECTOR)
SAMPLINGS = ("equal", "volume")
TASK = "simplex-image-classification"
"""The name of the pipeline that returns uncertainty too."""


class SimplexConfig(PreTrainedConfig):
    """The structure of an ensemble: which backbone, which simplexes, which members.

    Args:
        backbone_config: the configuration of the backbone (any image classifier of transformers, timm's included), as
            a config or as the dictionary that config.json holds.
        simplexes: the vertices of each simplex, as indices; default: one simplex of one vertex.
        roles: for each vertex `"pretrained"` (not trained on the task yet), `"mode"` (trained on its own) or
            `"connector"` (trained by SPRO); default: all `"pretrained"`. Its length is the number of vertices.
        members: [members, vertices] barycentric coordinates of the ensemble's members; default: none drawn yet.
        sampling: how points are drawn from several simplexes: `"equal"` chance, or in proportion to `"volume"`.
        provenance: how the vertices came about (JSON values only); filled in by the trainer. Its `stages`, where there
            are any, are dictionaries with the index of the `vertex` that was trained.
        **kwargs: as for every transformers configuration.

    Raises:
        ValueError: the simplexes name a vertex that is not there, a role or sampling is unknown, a member is not a
            point of the complex, or the provenance has another form.
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
        **kwargs: Any,
    ) -> None:
        self.backbone_config = _backbone_config(backbone_config)
        try:
            self.simplexes = [list(simplex) for simplex in simplexes]
            self.roles = list(roles)
            self.members = [[float(coordinate) for coordinate in member] for member in members]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"simplexes is {simplexes!r}, roles {roles!r} and members {members!r}; expected a list of lists of "
                "vertices, a list of names and a list of lists of coordinates."
            ) from error
        self.sampling = sampling
        if not isinstance(provenance, dict | None):
            raise ValueError(f"provenance is {provenance!r}; expected a dictionary.")
        self.provenance = dict(provenance or {})
        if self.backbone_config is not None and "id2label" not in kwargs and "num_labels" not in kwargs:
            kwargs["id2label"] = self.backbone_config.id2label
            kwargs["label2id"] = self.backbone_config.label2id
        for name in (*_IMAGE_PROCESSOR_KEYS, "transformers_weights"):
            # The last could name another weight file than the index does, a pickled one even.
            kwargs.pop(name, None)
        if not self.is_remote_code():
            # Where this package is installed its classes serve, and transformers need not ask for trust.
            for name in _REMOTE_CODE_KEYS:
                kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError where structure, roles and members contradict each other; see the class."""
        if unknown := [role for role in self.roles if role not in ROLES]:
            raise ValueError(f"Unknown role of a vertex: {unknown[0]!r}. Choose from {', '.join(ROLES)}.")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"Unknown sampling: {self.sampling!r}. Choose from {', '.join(SAMPLINGS)}.")
        stages = self.provenance.get("stages", [])
        if not isinstance(stages, list) or not all(
            isinstance(stage, dict) and isinstance(stage.get("vertex"), int) for stage in stages
        ):
            raise ValueError(
                f"The stages of the provenance are {stages!r}; expected a list of dictionaries, each with the index "
                "of the vertex that was trained under 'vertex'."
            )
        self.check_points(self.members)

    def check_points(self, coordinates: Sequence[Sequence[float]]) -> None:
        """Raise ValueError unless each of [points, vertices] barycentric coordinates is a point of the complex."""
        structure = self.complex
        if any(len(point) != self.num_vertices for point in coordinates):
            raise ValueError(f"Every point needs {self.num_vertices} coordinates, one for each vertex: {coordinates}.")
        points = torch.tensor(coordinates, dtype=torch.float64).reshape(len(coordinates), self.num_vertices)
        validate_coordinates(points, structure)

    @property
    def num_vertices(self) -> int:
        """The number of vertices, of all simplexes together."""
        return len(self.roles)

    @property
    def complex(self) -> SimplicialComplex:
        """The structure as a `SimplicialComplex`."""
        return SimplicialComplex(self.num_vertices, tuple(tuple(simplex) for simplex in self.simplexes))

    def to_dict(self) -> dict[str, Any]:
        """All that config.json holds; timm's image processor finds its settings at the top level, where it looks."""
        output = super().to_dict()
        backbone_config = output.get("backbone_config") or {}
        if "pretrained_cfg" in backbone_config:
            output["pretrained_cfg"] = backbone_config["pretrained_cfg"]
            output["architecture"] = backbone_config["architecture"]
            output["image_processor_type"] = "TimmWrapperImageProcessor"
        return output


_TIMM_FILE_ARGUMENTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_REMOTE_CODE_KEYS = ("auto_map", "custom_pipelines")
_IMAGE_PROCESSOR_KEYS = ("pretrained_cfg", "architecture", "image_processor_type")


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
    _check_timm_arguments(value)
    # from_dict, not the constructor: timm's configuration reads its label count there only.
    return CONFIG_MAPPING[model_type].from_dict(value)


def _check_timm_arguments(value: dict[str, Any]) -> None:
    """Raise ValueError where timm would read other files than the checkpoint's, pickled weights even."""
    architecture = value.get("architecture")
    if architecture is not None and not re.fullmatch(r"[\w.]+", str(architecture)):
        raise ValueError(
            f"The backbone's architecture is {architecture!r}; expected a name of timm's such as 'resnet50'. Do "
            "not load this checkpoint: its configuration points elsewhere."
        )
    model_args = value.get("model_args") or {}
    if elsewhere := [name for name in _TIMM_FILE_ARGUMENTS if name in model_args]:
        raise ValueError(
            f"The backbone's model_args have {elsewhere[0]}={model_args[elsewhere[0]]!r}, which names other files "
            "than this checkpoint's. Do not load it."
        )
