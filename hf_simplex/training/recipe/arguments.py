"""The arguments of the recipes, as dataclasses that `parse_arguments` fills."""

from dataclasses import dataclass, field

import torch

from ...data.image_data import FASHION_MNIST_DIRECTORY
from ..trainer import SimplexTrainingArguments
from .backbones_from_scratch import SMALL_RESNET, SMALL_VIT
from .memory_format import CHOICES

EMBEDDED_BACKBONE = "efficientnet_lite0"


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


@dataclass
class ModeArguments:
    """The modes, the connectors, and where the complex is measured."""

    modes: list[str] | None = field(default=None, metadata={"help": "Trained modes: Hub ids or folders, at least 2."})
    train_modes: int | None = field(default=None, metadata={"help": "Train so many modes from scratch instead."})
    backbone: str = field(
        default=SMALL_RESNET,
        metadata={
            "help": f"Architecture of modes from scratch: '{SMALL_RESNET}', '{SMALL_VIT}', a name of timm's, or a Hub "
            "id or folder."
        },
    )
    width: int = field(
        default=32, metadata={"help": f"Channels of the first stage of '{SMALL_RESNET}', half those of '{SMALL_VIT}'."}
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Memory format of the weights: faster for many convolutional backbones."}
    )
    connectors: int = field(default=2, metadata={"help": "Connectors to train, one after the other."})
    joins: list[str] | None = field(
        default=None,
        metadata={
            "help": "For each connector the modes whose simplexes it joins, such as 0,1 2,3 0,1,2,3; default: all."
        },
    )
    path_points: int = field(default=21, metadata={"help": "Points on each line, both ends included."})
    sampled_points: int = field(default=100, metadata={"help": "Points drawn uniformly from the complex."})
