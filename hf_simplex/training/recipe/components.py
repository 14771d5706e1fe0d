"""Components and modes that a recipe starts from, built as its arguments say."""

import copy
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import ViTImageProcessor, set_seed

from ...data.image_data import ImageData
from ...data.image_transforms import resize_image_processor
from ...model.configuration_simplex import MODE
from ...model.modeling_simplex import SimplexForImageClassification
from ...model.problem_types import MULTI_LABEL, is_multi_label, refuse_several
from ..varied_modes import rotated
from .arguments import EMBEDDED_BACKBONES, BackboneArguments, DataArguments, EsproArguments, ModeArguments
from .backbones_from_scratch import SMALL_VIT_IMAGES, random_mode
from .embedded_backbone import write_efficientnet_lite
from .vertex_choice import parse_vertex_parameters

__all__ = [
    "SEEDS_A_COMPONENT",
    "check_distinct",
    "check_labels",
    "check_problem_types",
    "component_arguments",
    "modes_at_start",
    "start_components",
    "start_modes",
]

SEEDS_A_COMPONENT = 1000
"""Difference between the seeds of two components. The vertices of a component use the seeds in between."""


def modes_at_start(args: EsproArguments) -> int:
    """Return the number of modes that a component has before it grows: all, or the trunk that leaves start from.

    Example:
        >>> from hf_simplex.training.recipe.arguments import EsproArguments
        >>> from hf_simplex.training.recipe.components import modes_at_start
        >>> modes_at_start(EsproArguments("output", use_cpu=True, report_to="none", num_modes=3))
        3
    """
    return 1 if args.mode_start == "first_mode" else args.num_modes


def start_components(
    backbone_args: BackboneArguments, data_args: DataArguments, data: ImageData, args: EsproArguments
) -> list[SimplexForImageClassification]:
    """Build the components that SPRO grows: pretrained backbones with new heads, or simplexes of the given modes.

    Args:
        backbone_args: backbone or modes.
        data_args: image size.
        data: labels. Lists of labels make multi-label components.
        args: number of modes in a component, what they start from, and seed.

    Raises:
        ValueError: a mode does not fit the data or another mode, or there is no image processor.
        OSError: there is no such backbone.

    Example::

        components = start_components(backbone_args, data_args, load_data(data_args), args)
    """
    source: dict[str, Any] = {
        "revision": backbone_args.revision,
        "token": backbone_args.token,
        "trust_remote_code": backbone_args.trust_remote_code,
    }
    if not backbone_args.from_scratch:
        source["vertex_parameters"] = parse_vertex_parameters(backbone_args.vertex_parameters)
    if backbone_args.modes is not None:
        components = _given_components(backbone_args.modes, data, modes_at_start(args), source)
    else:
        components = _new_components(backbone_args, data, args, source)
    for component in components:
        component.config.provenance["data_set"] = data.name
        # It is read here. Which library it uses is no news.
        with _without_warnings():
            processor = component.image_processor
        if processor is None:
            raise ValueError("The backbone has no image processor (preprocessor_config.json): add one to its folder.")
        if data_args.image_size is not None:
            component.image_processor = resize_image_processor(processor, data_args.image_size)
    return components


def _given_components(
    modes: Sequence[str], data: ImageData, num_modes: int, source: dict[str, Any]
) -> list[SimplexForImageClassification]:
    names = dict(enumerate(data.label_names))
    components = []
    for mode in modes:
        component = SimplexForImageClassification.from_backbone(mode, **source)
        if component.config.num_labels != len(names):
            raise ValueError(
                f"The mode {mode} has {component.config.num_labels} labels and {data.name} has {len(names)}. "
                "Give modes that were fine-tuned on this data set."
            )
        check_problem_types(component, mode, data)
        mode_labels: Any = component.config.id2label
        if mode_labels != names and sorted(mode_labels.values()) == sorted(names.values()):
            raise ValueError(
                f"The mode {mode} has the labels of {data.name} in another order: {mode_labels}, not {names}. "
                "Give modes that were fine-tuned on this data set."
            )
        if component.config.roles != [MODE]:
            raise ValueError(
                f"The mode {mode} lacks weights, such as a trained head. Fine-tune it with --backbone {mode}."
            )
        components.append(component)
    # Raises an error for incompatible modes before training.
    united = SimplexForImageClassification.disjoint_union(components)
    if num_modes == 1:
        return components
    check_distinct(united, modes)
    groups = [components[i : i + num_modes] for i in range(0, len(components), num_modes)]
    return [SimplexForImageClassification.simplex_of_modes(group) for group in groups]


def _new_components(
    backbone_args: BackboneArguments, data: ImageData, args: EsproArguments, source: dict[str, Any]
) -> list[SimplexForImageClassification]:
    names = dict(enumerate(data.label_names))
    labels: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    problem: dict[str, Any] = {"problem_type": MULTI_LABEL} if data.several_labels else {}
    backbone: Any = backbone_args.backbone
    if backbone in EMBEDDED_BACKBONES and not backbone_args.from_scratch:
        backbone = str(write_efficientnet_lite(Path(args.output_dir) / "backbone", backbone))
    components: list[SimplexForImageClassification] = []
    for index in range(backbone_args.num_components):
        starts: list[SimplexForImageClassification] = []
        for number in range(modes_at_start(args)):
            # Each mode has its own head, or its own random weights. Pretrained weights are shared.
            set_seed(args.seed + SEEDS_A_COMPONENT * index + number)
            # What the first load has said holds for all.
            with _without_warnings() if components or starts else nullcontext():
                if backbone_args.from_scratch:
                    start = random_mode(backbone, names, **problem, **source)
                else:
                    start = SimplexForImageClassification.from_backbone(
                        backbone, fine_tuned=False, **labels, **problem, **source
                    )
            starts.append(start)
        component = starts[0] if len(starts) == 1 else SimplexForImageClassification.simplex_of_modes(starts)
        component.config.provenance["backbone"] = backbone_args.backbone
        if backbone_args.from_scratch:
            component.config.provenance["from_scratch"] = True
        check_problem_types(component, str(backbone_args.backbone), data)
        components.append(component)
    return components


def check_problem_types(model: SimplexForImageClassification, name: str, data: ImageData) -> None:
    """Check that a model and the data both have one label an image, or both several.

    Args:
        model: built from a backbone or a mode.
        name: its name, for the message.
        data: images.

    Raises:
        ValueError: only one of them has several.

    Example::

        check_problem_types(mode, "my-mode", load_image_data("digits"))
    """
    if is_multi_label(model.config) != data.several_labels:
        raise ValueError(
            f"The problem_type of {name} is {model.config.problem_type!r} (None means one label an image), but the "
            f"images of {data.name} have {'lists of labels' if data.several_labels else 'one label each'}. Give a "
            "backbone, modes or a label_column that go together."
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Show only errors of transformers, timm and this package."""
    loggers = [logging.getLogger(name) for name in ("transformers", "timm", "hf_simplex")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_distinct(model: SimplexForImageClassification, names: Sequence[str]) -> None:
    """Check that no two modes have the same weights.

    Args:
        model: complex whose vertices are the modes.
        names: name of each mode, for the message.

    Raises:
        ValueError: two modes have the same weights.

    Example::

        check_distinct(SimplexForImageClassification.disjoint_union(modes), names)
    """
    for first, second in itertools.combinations(range(model.config.num_vertices), 2):
        pairs = zip(model.vertices[first].parameters(), model.vertices[second].parameters(), strict=True)
        if all(torch.equal(one, other) for one, other in pairs):
            raise ValueError(
                f"The modes {names[first]} and {names[second]} have the same weights: there is nothing between them. "
                "Give modes that were trained apart."
            )


def component_arguments(args: EsproArguments, index: int, components: int) -> EsproArguments:
    """Copy the arguments for one component, with its folder, its seeds, its modes' settings and its share of members.

    Args:
        args: arguments of the run.
        index: component, from 0.
        components: number of components.

    Example:
        >>> from hf_simplex.training.recipe.arguments import EsproArguments
        >>> from hf_simplex.training.recipe.components import component_arguments
        >>> args = EsproArguments("output", use_cpu=True, report_to="none", num_members=5)
        >>> [component_arguments(args, index, 2).num_members for index in range(2)]
        [3, 2]
    """
    own = copy.copy(args)
    own.output_dir = os.path.join(args.output_dir, "components", f"{index:02d}")
    own.seed = args.seed + SEEDS_A_COMPONENT * index
    own.data_seed = None if args.data_seed is None else args.data_seed + SEEDS_A_COMPONENT * index
    own.member_seed = args.member_seed + index
    first_mode = modes_at_start(args) * index
    own.mode_learning_rates = rotated(args.mode_learning_rates, first_mode)
    own.mode_label_smoothing = rotated(args.mode_label_smoothing, first_mode)
    if args.num_members is not None:
        own.num_members = args.num_members // components + (index < args.num_members % components)
    own.push_to_hub = False
    return own


def start_modes(
    mode_args: ModeArguments, data_args: DataArguments, labels: dict[int, str], args: EsproArguments
) -> list[SimplexForImageClassification]:
    """Load the given modes, or initialize backbones at random from different seeds.

    Args:
        mode_args: modes to load, or their number and architecture.
        data_args: image size.
        labels: class names by index.
        args: seed.

    Raises:
        ValueError: a mode does not fit the labels or another mode, is multi-label, or has weights that are not finite.
        OSError: there is no such mode or architecture.

    Example::

        modes = start_modes(ModeArguments(train_modes=3), data_args, {0: "cat", 1: "dog"}, args)
    """
    modes = []
    for name in mode_args.modes or ():
        mode = SimplexForImageClassification.from_backbone(name, fine_tuned=True)
        refuse_several(mode.config, f"The mode {name} is for a recipe of", "Train with recipes/train_espro.py.")
        check_labels(mode, name, labels)
        if not all(bool(tensor.isfinite().all()) for tensor in mode.weights[0].values()):
            raise ValueError(f"The mode {name} has weights that are not finite.")
        modes.append(mode)
    for index in range(mode_args.train_modes or 0):
        set_seed(args.seed + SEEDS_A_COMPONENT * index)
        modes.append(
            random_mode(
                mode_args.backbone, labels, width=mode_args.width, image_size=data_args.image_size or SMALL_VIT_IMAGES
            )
        )
    SimplexForImageClassification.disjoint_union(modes)
    for mode in modes:
        if mode.image_processor is None:
            mode.image_processor = ViTImageProcessor()
        if data_args.image_size is not None:
            mode.image_processor = resize_image_processor(mode.image_processor, data_args.image_size)
        if mode_args.channels_last:
            mode.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return modes


def check_labels(model: SimplexForImageClassification, name: str, labels: dict[int, str]) -> None:
    """Check that a model's labels match the labels of the data.

    Args:
        model: model to check.
        name: its name, for the message.
        labels: class names by index.

    Raises:
        ValueError: the number of labels or their order differs.

    Example::

        check_labels(model, "my-model", dict(enumerate(data.label_names)))
    """
    found: Any = model.config.id2label
    if len(found) != len(labels):
        raise ValueError(f"The model {name} has {len(found)} labels and the data have {len(labels)}.")
    # Placeholder names such as LABEL_0 are allowed: only the same names in another order prove a mismatch.
    if found != labels and sorted(found.values()) == sorted(labels.values()):
        raise ValueError(f"The model {name} has the data's labels in another order: {found}, not {labels}.")
