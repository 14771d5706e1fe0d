"""Fine-tune a pretrained backbone, grow simplexes round it by SPRO, and evaluate the ESPRO ensemble.

    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml
    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml --num_components 3
    accelerate launch recipes/train_espro.py recipes/configs/fine_tune.yaml \\
        --backbone timm/resnet50.a1_in1k --data_set zalando-datasets/fashion_mnist --output_dir output/resnet50

Every line of the configuration is an argument, and every argument can be given as a flag, which wins. Written are
`OUTPUT/ensemble/`, the checkpoint that transformers loads, with its card and pictures, which is published as it is by
`--push_to_hub`; `OUTPUT/results.json`, the ensemble beside a single model and a deep ensemble; and `OUTPUT/run.json`,
what was run on which versions and how long each stage took. A mistake in the arguments ends the run with one line and
exit code 2 before anything is trained.

From `OUTPUT/components/` a run that was killed goes on with `--resume`, to the same bytes. SIGTERM saves first and
ends the run with exit code 75. Components are independent: `--component I` trains one alone, and the run of all with
`--resume` then unites and evaluates them (`recipes/components.sh`, `recipes/components.slurm`).
"""

import copy
import itertools
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from backbones_from_scratch import random_mode
from embedded_backbone import write_efficientnet_lite0
from huggingface_hub import HfApi
from memory_format import CHOICES, Choice, set_memory_formats
from recipe_arguments import parse_arguments
from torch.utils.data import DataLoader, Subset
from transformers import set_seed
from transformers.utils import logging

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.data.image_data import FASHION_MNIST_DIRECTORY, ImageData, load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, resize_image_processor, with_pixel_values
from hf_simplex.evaluation.comparison import Result, predict_parts, results_of
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.hub.evidence import DRAWN_PARTS, Evidence, describe_hardware
from hf_simplex.hub.model_card import write_card
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.checkpoint import atomic_write, check_target
from hf_simplex.model.configuration_simplex import MODE, SimplexConfig
from hf_simplex.model.weight_space import trainable_names
from hf_simplex.training.card_evidence import shown_arguments
from hf_simplex.training.preemption import Preemption
from hf_simplex.version import __version__

EMBEDDED_BACKBONE = "efficientnet_lite0"
# Components must not share a seed with each other's vertices, which count up from the component's own.
SEEDS_A_COMPONENT = 1000


@dataclass
class BackboneArguments:
    """Where the modes come from."""

    _argument_group_name = "backbone"

    backbone: str | None = field(
        default=None,
        metadata={
            "help": f"Hub id or folder of an image classifier, timm's included; '{EMBEDDED_BACKBONE}' needs no Hub."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={
            "help": "Draw the weights at random: backbone is then an architecture, such as 'vgg16_cifar', a name of "
            "timm's, or a Hub id or folder."
        },
    )
    modes: list[str] | None = field(
        default=None,
        metadata={"help": "Checkpoints that are fine-tuned already, num_modes a component, in place of backbone."},
    )
    given_mode_epochs: float = field(
        default=0.0, metadata={"help": "Epochs that each of the given modes was trained for, to count in the results."}
    )
    num_components: int = field(default=2, metadata={"help": "Simplexes to grow, each from its own mode or modes."})
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the backbone on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Hub token, for a private backbone or data set."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that the backbone brings."})
    memory_format: str = field(
        default="contiguous",
        metadata={
            "help": "Order of the weights in memory: 'channels_last' is faster for many convolutional backbones, "
            "'auto' times a few steps and chooses. What it chose stays that of a component, also with resume.",
            "choices": CHOICES,
        },
    )


@dataclass
class DataArguments:
    """What to train and test on."""

    _argument_group_name = "data"

    data_set: str = field(
        default="digits",
        metadata={
            "help": "Hub id, imagefolder directory, load_from_disk directory, 'digits' (scikit-learn) or "
            "'fashion_mnist' (idx files)."
        },
    )
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set with several."})
    fashion_mnist_dir: str = field(
        default=str(FASHION_MNIST_DIRECTORY), metadata={"help": "Folder of the idx files of 'fashion_mnist'."}
    )
    train_split: str | None = field(default=None, metadata={"help": "Default: train."})
    test_split: str | None = field(default=None, metadata={"help": "Default: test, else validation."})
    image_column: str | None = field(default=None, metadata={"help": "Default: the only column of images."})
    label_column: str | None = field(default=None, metadata={"help": "Default: the only column of class labels."})
    max_train_examples: int | None = field(default=None, metadata={"help": "Use only so many training images."})
    max_test_examples: int | None = field(default=None, metadata={"help": "Use only so many test images."})
    data_split_seed: int = field(default=0, metadata={"help": "Seed of subsets and splits; the same for all modes."})
    image_size: int | None = field(default=None, metadata={"help": "Height and width; default: the backbone's own."})
    augment: str = field(
        default="timm",
        metadata={
            "help": "Augmentation for training: 'timm' has random resized crops, 'crop' shifts by up to an eighth.",
            "choices": ("timm", "crop", "none"),
        },
    )
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of mirroring."})
    scale_min: float = field(default=0.35, metadata={"help": "Least part of the image that a random crop keeps."})
    auto_augment: str | None = field(default=None, metadata={"help": "timm's policy, such as rand-m9-mstd0.5."})
    color_jitter: float = field(default=0.0, metadata={"help": "Strength of brightness and color changes."})
    random_erasing: float = field(default=0.0, metadata={"help": "Probability of blanking a rectangle."})


@dataclass
class EsproArguments(SimplexTrainingArguments):
    """All of transformers' TrainingArguments, SPRO's, and what the recipe adds."""

    _argument_group_name = "training (those of transformers first, those of SPRO and of the recipe last)"

    overwrite: bool = field(default=False, metadata={"help": "Replace the ensemble that output_dir holds already."})
    resume: bool = field(
        default=False,
        metadata={"help": "Continue an interrupted run with the same arguments from what it left in output_dir."},
    )
    component: int | None = field(
        default=None,
        metadata={"help": "Train this component only, counted from 0; a run of all with resume unites them."},
    )
    surface_resolution: int = field(
        default=9, metadata={"help": "Grid points along each axis of the card's loss surface; 0 draws none."}
    )
    surface_images: int = field(
        default=128, metadata={"help": "Images that the loss, and BatchNorm statistics, at each point are taken of."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Columns are chosen by the recipe."})
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available(), metadata={"help": "Pin batches in memory."})


def main(argv: Sequence[str] | None = None) -> dict[str, Result] | None:
    """Run the recipe; returns what results.json holds, or None after a single component."""
    with Preemption(lambda: False).heeded():
        return train_and_evaluate(argv)


def train_and_evaluate(argv: Sequence[str] | None) -> dict[str, Result] | None:
    """What `main` does, which SIGTERM may end anywhere outside a stage."""
    started = time.perf_counter()
    try:
        backbone_args, data_args, args = parse_arguments((BackboneArguments, DataArguments, EsproArguments), argv)
        check(backbone_args, args)
        data = load_data(data_args, backbone_args.token)
        with args.main_process_first(local=False):
            components = start_components(backbone_args, data_args, data, args)
        train, plain_train, test = transformed(data, data_args, components[0])
        output = Path(args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        numbers = list(range(len(components))) if args.component is None else [args.component]
        with args.main_process_first(local=False):
            if args.should_save and not args.resume:
                for number in numbers:
                    shutil.rmtree(component_arguments(args, number, len(components)).output_dir, ignore_errors=True)
        memory_formats = set_memory_formats(
            backbone_args.memory_format,
            [components[number] for number in numbers],
            [component_arguments(args, number, len(components)) for number in numbers],
            plain_train,
        )
        if args.should_log:
            for number, choice in zip(numbers, memory_formats, strict=False):
                print(described(number, choice), file=sys.stderr)
        if args.push_to_hub:
            repository = HfApi().create_repo(
                args.hub_model_id or Path(args.output_dir).name,
                private=args.hub_private_repo,
                token=args.hub_token,
                exist_ok=True,
            )
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error

    for number in numbers:
        if args.should_log:
            print(f"component {number + 1} of {len(components)}", file=sys.stderr)
        SimplexTrainer(
            model=components[number],
            args=component_arguments(args, number, len(components)),
            train_dataset=train,
            batch_norm_dataset=plain_train,
            data_collator=collate,
        ).grow(args.resume)
    if args.component is not None:
        return None
    ensemble = SimplexForImageClassification.disjoint_union(components)
    predictions, references = predict_parts(
        ensemble,
        test,
        component_arguments(args, 0, len(components)),
        given_mode_epochs=backbone_args.given_mode_epochs,
        data_collator=collate,
    )
    results = results_of(predictions, references)
    surface = loss_surface(ensemble, test, plain_train, args) if args.surface_resolution else None
    if args.should_save:
        ensemble.save_pretrained(output / "ensemble")
        run = {
            "arguments": {
                "backbone": {name: value for name, value in vars(backbone_args).items() if name != "token"},
                "data": vars(data_args),
                "training": args.to_sanitized_dict(),
            },
            "labels": list(data.label_names),
            "images": {"train": len(data.train), "test": len(data.test)},
            "stages": ensemble.config.provenance["stages"],
            "log_volumes": ensemble.log_volumes().tolist(),
            "wall_time": time.perf_counter() - started,
            "memory_formats": [asdict(choice) for choice in memory_formats],
            "versions": versions(),
            "hardware": hardware(),
        }
        with atomic_write(output) as aside:
            (aside / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
            (aside / "run.json").write_text(json.dumps(run, indent=2, default=str) + "\n", "utf-8")
        print(table(results))
        if args.num_modes > 1 and (warning := barrier_warning(results)):
            print(f"warning: {warning}", file=sys.stderr)
        evidence = Evidence(
            data_set=data.name,
            test_images=len(data.test),
            results=results,
            predictions={name: (predictions[name].probabilities, references) for name in DRAWN_PARTS},
            surface=surface,
            surface_images=min(args.surface_images, len(data.test)),
            arguments={
                "num_components": len(components),
                "train_images": len(data.train),
                "image_size": data_args.image_size,
                **shown_arguments(args),
            },
            hardware=describe_hardware(time.perf_counter() - started),
        )
        write_card(ensemble, output / "ensemble", evidence, repository=args.hub_model_id)
        if args.push_to_hub:
            publish_folder(output / "ensemble", repository.repo_id, token=args.hub_token, revision=args.hub_revision)
    return results


def barrier_warning(results: Mapping[str, Result]) -> str | None:
    """What to say where the centroid of the first simplex, of several modes, has a higher NLL than its first mode."""
    centroid, mode = results["centroid"]["nll"], results["backbone"]["nll"]
    if centroid <= mode:
        return None
    return (
        f"the centroid of the first simplex has an NLL of {centroid:.4f}, its first mode alone {mode:.4f}: there may "
        "be a barrier between its modes, and points between them are poor members then. Compare with num_modes 1, and "
        "num_components or num_vertices for more members."
    )


def loss_surface(
    ensemble: SimplexForImageClassification, test: Any, train: Any, args: EsproArguments
) -> Surface | None:
    """The loss of some test images over the plane through the first three vertices of the first simplex, if any.

    All processes of a distributed run call this together, and each evaluates some of the points.
    """
    vertices = ensemble.config.simplexes[0][:3]
    if len(vertices) < 3:
        return None
    names = trainable_names(ensemble.backbone)
    points = plane_points(
        ensemble.config.complex, ensemble.weights, names, vertices=vertices, resolution=args.surface_resolution
    )
    tests, trains = (
        DataLoader(random_subset(images, args.surface_images), args.eval_batch_size, collate_fn=collate)
        for images in (test, train)
    )
    inputs = [{"pixel_values": batch["pixel_values"]} for batch in trains if len(batch["labels"]) > 1]
    return model_surface(ensemble, points, list(tests), batch_norm_batches=inputs, among_processes=True)


def random_subset(images: Any, number: int) -> Any:
    """So many images, the same whenever asked: the first ones of a data set may all be of one label."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Subset(images, sorted(order[:number].tolist()))


def check(backbone_args: BackboneArguments, args: EsproArguments) -> None:
    """Raise ValueError for arguments that contradict each other or would destroy an earlier result."""
    if (backbone_args.backbone is None) == (backbone_args.modes is None):
        raise ValueError("Give either backbone, to fine-tune, or modes, checkpoints that are fine-tuned already.")
    if backbone_args.from_scratch and backbone_args.modes is not None:
        raise ValueError("Give from_scratch with a backbone, not with modes, which are trained already.")
    if backbone_args.from_scratch and args.num_modes > 1:
        raise ValueError(
            f"num_modes is {args.num_modes} with from_scratch: modes from random weights have barriers between them, "
            "so that no simplex of them has low loss. Give num_components, and connectors to each (num_vertices)."
        )
    modes = len(backbone_args.modes or ())
    if modes % args.num_modes:
        raise ValueError(
            f"There are {modes} modes, which cannot be divided into simplexes of {args.num_modes} (num_modes) each."
        )
    components = modes // args.num_modes or backbone_args.num_components
    if components < 1:
        raise ValueError(f"num_components is {components}: expected at least 1.")
    if args.num_members is not None and args.num_members < components:
        raise ValueError(
            f"num_members is {args.num_members}: expected at least one for each of {components} components."
        )
    if args.surface_resolution == 1 or args.surface_resolution < 0 or args.surface_images < 2:
        raise ValueError(
            f"surface_resolution is {args.surface_resolution} and surface_images {args.surface_images}: expected 0 or "
            "at least 2, and at least 2."
        )
    if args.resume_from_checkpoint is not None:
        raise ValueError("resume_from_checkpoint is Trainer's, for one vertex: give --resume to continue a run.")
    if args.component is not None and not 0 <= args.component < components:
        raise ValueError(f"component is {args.component}: expected 0 to {components - 1}.")
    output = Path(args.output_dir)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output_dir is {output}, which is a file: give a folder.")
    if not (args.overwrite or args.resume):
        for name in ("config.json", "ensemble/config.json", "results.json"):
            if (output / name).exists():
                raise ValueError(
                    f"{args.output_dir} holds an ensemble already ({name}). Choose another output_dir or give "
                    "--overwrite."
                )
        own = "components" if args.component is None else f"components/{args.component:02d}"
        if (output / own).exists():
            raise ValueError(
                f"{args.output_dir} holds what an unfinished run left ({own}). Give --resume to go on with it, "
                "--overwrite to begin anew, or another output_dir."
            )
    check_target(output / "ensemble", SimplexConfig.model_type)


def load_data(data_args: DataArguments, token: str | None = None, validation_fraction: float = 0.0) -> ImageData:
    """The data set that the arguments name, with that part of its training images for validation."""
    return load_image_data(
        data_args.data_set,
        config_name=data_args.data_config,
        train_split=data_args.train_split,
        test_split=data_args.test_split,
        image_column=data_args.image_column,
        label_column=data_args.label_column,
        max_train_examples=data_args.max_train_examples,
        max_test_examples=data_args.max_test_examples,
        validation_fraction=validation_fraction,
        seed=data_args.data_split_seed,
        token=token,
        fashion_mnist_dir=data_args.fashion_mnist_dir,
    )


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


def transformed(
    data: ImageData, data_args: DataArguments, component: SimplexForImageClassification, materialize: bool = False
) -> tuple[Any, Any, Any]:
    """Training images augmented, training images as at inference, and test images; on demand or held in memory."""
    assert component.image_processor is not None
    train_transform, plain_transform = build_transforms(
        component.image_processor,
        augment=data_args.augment,  # type: ignore[arg-type]
        horizontal_flip=data_args.horizontal_flip,
        scale_min=data_args.scale_min,
        auto_augment=data_args.auto_augment,
        color_jitter=data_args.color_jitter,
        random_erasing=data_args.random_erasing,
    )
    return (
        with_pixel_values(data.train, train_transform, materialize=materialize and data_args.augment != "timm"),
        with_pixel_values(data.train, plain_transform, materialize=materialize),
        with_pixel_values(data.test, plain_transform, materialize=materialize),
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


def described(number: int, choice: Choice) -> str:
    """What memory format "auto" chose for a component, in words."""
    seconds = ", ".join(f"{1e3 * taken:.1f} ms {name}" for name, taken in choice.seconds.items())
    return f"component {number + 1} is {choice.memory_format} in memory (a step takes {seconds})"


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    packages = ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "safetensors")
    found = {"python": platform.python_version(), "hf-simplex": __version__}
    return found | {package: version(package) for package in packages}


def hardware() -> dict[str, Any]:
    """What the run had to work with."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "gpus": gpus}


def table(results: dict[str, Result]) -> str:
    """The results as text, a line each."""
    epochs: Any = {"training_epochs": "{:g}".format}
    frame = pd.DataFrame.from_dict(results, orient="index")
    return str(frame.to_string(float_format="{:.4f}".format, formatters=epochs))


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        # A process that ends while others still talk to it makes them fail.
        torch.distributed.destroy_process_group()
