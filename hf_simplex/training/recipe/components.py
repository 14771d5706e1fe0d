"""The complexes that a recipe starts from, from its arguments."""

import copy
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import ViTImageProcessor, set_seed
from transformers.utils import logging

from ...data.image_data import ImageData
from ...data.image_transforms import resize_image_processor
from ...model.configuration_simplex import MODE
from ...model.modeling_simplex import SimplexForImageClassification
from .arguments import EMBEDDED_BACKBONE, BackboneArguments, DataArguments, EsproArguments, ModeArguments
from .backbones_from_scratch import SMALL_VIT_IMAGES, random_mode
from .embedded_backbone import write_efficientnet_lite0

# Components must not share a seed with each other's vertices, which count up from the component's own.
SEEDS_A_COMPONENT = 1000


def start_components(
    backbone_args: BackboneArguments, data_args: DataArguments, data: ImageData, args: EsproArguments
) -> list[SimplexForImageClassification]:
    """A complex for each component: the pretrained backbone with new heads, or the simplex of its given modes."""
    names = dict(enumerate(data.label_names))
    labels: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    source: dict[str, Any] = {
        "revision": backbone_args.revision,
        "token": backbone_args.token,
        "trust_remote_code": backbone_args.trust_remote_code,
    }
    components = []
    if backbone_args.modes is not None:
        for mode in backbone_args.modes:
            component = SimplexForImageClassification.from_backbone(mode, **source)
            if component.config.num_labels != len(names):
                raise ValueError(
                    f"The mode {mode} has {component.config.num_labels} labels and {data.name} has {len(names)}. "
                    "Give modes that were fine-tuned on this data set."
                )
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
        # So that modes that do not go together are refused now and not when all is trained.
        united = SimplexForImageClassification.disjoint_union(components)
        if args.num_modes > 1:
            check_distinct(united, backbone_args.modes)
            groups = [components[i : i + args.num_modes] for i in range(0, len(components), args.num_modes)]
            components = [SimplexForImageClassification.simplex_of_modes(group) for group in groups]
    else:
        backbone: Any = backbone_args.backbone
        if backbone == EMBEDDED_BACKBONE and not backbone_args.from_scratch:
            backbone = str(write_efficientnet_lite0(Path(args.output_dir) / "backbone"))
        verbosity = logging.get_verbosity()
        for index in range(backbone_args.num_components):
            starts = []
            for number in range(args.num_modes):
                # A new head, or all weights, are each mode's own; pretrained weights are the same.
                set_seed(args.seed + SEEDS_A_COMPONENT * index + number)
                if backbone_args.from_scratch:
                    start = random_mode(backbone, names, **source)
                else:
                    start = SimplexForImageClassification.from_backbone(backbone, fine_tuned=False, **labels, **source)
                starts.append(start)
                # What transformers tells about the first is true of all.
                logging.set_verbosity_error()
            component = starts[0] if len(starts) == 1 else SimplexForImageClassification.simplex_of_modes(starts)
            component.config.provenance["backbone"] = backbone_args.backbone
            if backbone_args.from_scratch:
                component.config.provenance["from_scratch"] = True
            components.append(component)
        logging.set_verbosity(verbosity)
    for component in components:
        component.config.provenance["data_set"] = data.name
        if component.image_processor is None:
            raise ValueError("The backbone has no image processor (preprocessor_config.json): add one to its folder.")
        if data_args.image_size is not None:
            component.image_processor = resize_image_processor(component.image_processor, data_args.image_size)
    return components


def check_distinct(model: SimplexForImageClassification, names: Sequence[str]) -> None:
    """Raise ValueError where two of the modes, whose names are given, have the same weights."""
    for first, second in itertools.combinations(range(model.config.num_vertices), 2):
        pairs = zip(model.vertices[first].parameters(), model.vertices[second].parameters(), strict=True)
        if all(torch.equal(one, other) for one, other in pairs):
            raise ValueError(
                f"The modes {names[first]} and {names[second]} have the same weights: there is nothing between them. "
                "Give modes that were trained apart."
            )


def component_arguments(args: EsproArguments, index: int, components: int) -> EsproArguments:
    """The arguments of one component: its own folder, its own seed and its share of the members."""
    own = copy.copy(args)
    own.output_dir = os.path.join(args.output_dir, "components", f"{index:02d}")
    own.seed = args.seed + SEEDS_A_COMPONENT * index
    own.data_seed = None if args.data_seed is None else args.data_seed + SEEDS_A_COMPONENT * index
    own.member_seed = args.member_seed + index
    if args.num_members is not None:
        own.num_members = args.num_members // components + (index < args.num_members % components)
    own.push_to_hub = False
    return own


def start_modes(
    mode_args: ModeArguments, data_args: DataArguments, labels: dict[int, str], args: EsproArguments
) -> list[SimplexForImageClassification]:
    """The given modes, or backbones with random weights from different seeds."""
    modes = []
    for name in mode_args.modes or ():
        mode = SimplexForImageClassification.from_backbone(name, fine_tuned=True)
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
    """Raise ValueError unless the model may have been trained on data with these labels, in this order."""
    found: Any = model.config.id2label
    if len(found) != len(labels):
        raise ValueError(f"The model {name} has {len(found)} labels and the data have {len(labels)}.")
    # Names such as LABEL_0 tell nothing, so only an order that contradicts the data's is a mistake for certain.
    if found != labels and sorted(found.values()) == sorted(labels.values()):
        raise ValueError(f"The model {name} has the data's labels in another order: {found}, not {labels}.")
