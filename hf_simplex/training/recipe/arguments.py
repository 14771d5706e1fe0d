"""Argument dataclasses of the recipes. `parse_arguments` fills them."""

import math
import sys
from dataclasses import dataclass, field

import torch

from ...data.image_data import FASHION_MNIST_DIRECTORY
from ..trainer import SimplexTrainingArguments
from .backbones_from_scratch import SMALL_RESNET, SMALL_VIT
from .memory_format import CHOICES

__all__ = [
    "EMBEDDED_BACKBONES",
    "BackboneArguments",
    "CalibrationArguments",
    "DataArguments",
    "EsproArguments",
    "ModeArguments",
]

EMBEDDED_BACKBONES = ("efficientnet_lite0", "efficientnet_lite2")


@dataclass
class BackboneArguments:
    """The backbone, or the fine-tuned modes, that components start from.

    Example:
        >>> from hf_simplex.training.recipe.arguments import BackboneArguments
        >>> BackboneArguments(backbone="timm/resnet50.a1_in1k").num_components
        2
    """

    _argument_group_name = "backbone"

    backbone: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of an image classifier, timm's included. 'efficientnet_lite0' and "
            "'efficientnet_lite2' need no Hub."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={
            "help": "Initialize the weights at random. The backbone is then an architecture such as 'vgg16_cifar', a "
            "timm name, or a Hub id or folder."
        },
    )
    modes: list[str] | None = field(
        default=None,
        metadata={
            "help": "Fine-tuned checkpoints to use instead of a backbone: num_modes for each component; with "
            "mode_start first_mode one, the trunk."
        },
    )
    given_mode_epochs: float = field(
        default=0.0, metadata={"help": "Training epochs of each given mode, counted in the results."}
    )
    # Without None among the types, HfArgumentParser takes `dict` for the flag, not `str`.
    vertex_parameters: dict | str | list | None = field(
        default="all",
        metadata={
            "help": "What differs between vertices: 'all' parameters; the 'head'; names of parameters or modules with "
            "* and ?, separated by commas; 'lora'; or a YAML file with the settings of a peft LoraConfig. The rest is "
            "stored once. In a configuration file, a list or the settings themselves."
        },
    )
    num_components: int = field(
        default=2, metadata={"help": "Number of simplexes. Each grows from its own mode or modes."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the backbone on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Hub token for a private backbone or data set."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run modeling code from the backbone's repo."})
    memory_format: str = field(
        default="contiguous",
        metadata={
            "help": "Memory format of the weights. 'channels_last' is faster for many convolutional backbones. 'auto' "
            "times a few steps and chooses; a component keeps the choice, also after a resume.",
            "choices": CHOICES,
        },
    )


@dataclass
class DataArguments:
    """Training and test data, and their transforms.

    Example:
        >>> from hf_simplex.training.recipe.arguments import DataArguments
        >>> DataArguments(image_size=64).data_set
        'digits'
    """

    _argument_group_name = "data"

    data_set: str = field(
        default="digits",
        metadata={
            "help": "Hub id, imagefolder directory, load_from_disk directory, 'digits' (scikit-learn) or "
            "'fashion_mnist' (idx files)."
        },
    )
    data_config: str | None = field(
        default=None, metadata={"help": "Configuration name, for a Hub data set with several configurations."}
    )
    fashion_mnist_dir: str = field(
        default=str(FASHION_MNIST_DIRECTORY), metadata={"help": "Folder of the idx files of 'fashion_mnist'."}
    )
    train_split: str | None = field(default=None, metadata={"help": "Default: train."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Default: validation, unless it is the test split."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Default: test, else validation."})
    image_column: str | None = field(default=None, metadata={"help": "Default: the only image column."})
    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of labels, or of lists of labels. Default: the only class label column."},
    )
    max_train_examples: int | None = field(default=None, metadata={"help": "Maximum number of training images."})
    max_test_examples: int | None = field(default=None, metadata={"help": "Maximum number of test images."})
    data_split_seed: int = field(default=0, metadata={"help": "Seed of subsets and splits, the same for all modes."})
    image_size: int | None = field(
        default=None, metadata={"help": "Height and width in pixels. Default: the backbone's own."}
    )
    augment: str = field(
        default="timm",
        metadata={
            "help": "Training augmentation. 'timm': random resized crops. 'crop': shifts by up to an eighth.",
            "choices": ("timm", "crop", "none"),
        },
    )
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    scale_min: float = field(default=0.35, metadata={"help": "Minimum area of a random crop, relative."})
    auto_augment: str | None = field(default=None, metadata={"help": "timm policy, such as rand-m9-mstd0.5."})
    color_jitter: float = field(default=0.0, metadata={"help": "Strength of color jitter."})
    random_erasing: float = field(default=0.0, metadata={"help": "Probability of random erasing."})

    def __post_init__(self) -> None:
        if self.data_split_seed < 0:
            raise ValueError(f"data_split_seed is {self.data_split_seed}: expected a number of at least 0.")


@dataclass
class EsproArguments(SimplexTrainingArguments):
    """transformers' TrainingArguments, SPRO's arguments, and the arguments of a recipe's run.

    Example:
        >>> from hf_simplex.training.recipe.arguments import EsproArguments
        >>> args = EsproArguments("output", use_cpu=True, report_to="none", num_vertices=3)
        >>> args.surface_resolution
        9
    """

    _argument_group_name = "training (transformers' arguments first, then those of SPRO and of the recipe)"

    overwrite: bool = field(default=False, metadata={"help": "Replace an ensemble in output_dir."})
    resume: bool = field(
        default=False,
        metadata={"help": "Resume an interrupted run from output_dir. Give the same arguments."},
    )
    component: int | None = field(
        default=None,
        metadata={
            "help": "Train only this component, counted from 0. A run of all components with resume unites them."
        },
    )
    surface_resolution: int = field(
        default=9, metadata={"help": "Grid points along each axis of the card's loss surface. 0 draws none."}
    )
    surface_images: int = field(
        default=128, metadata={"help": "Images for the loss, and for BatchNorm statistics, at a point of the surface."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The recipe selects the columns."})
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available(), metadata={"help": "Pin batches in memory."})

    def __post_init__(self) -> None:
        super().__post_init__()
        # A bar in a log file is thousands of carriage returns. The trainer prints lines instead.
        self.disable_tqdm = self.disable_tqdm or not sys.stderr.isatty()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        for name in ("learning_rate", "num_train_epochs", "dataloader_num_workers", "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}: expected a finite number of at least 0.")

    def _check_mode_start(self) -> None:
        """Do nothing: a strategy may set mode_start, so `apply_strategy` checks it."""


@dataclass
class CalibrationArguments:
    """How modes become an ensemble, and what is fitted on validation images.

    Example:
        >>> from hf_simplex.training.recipe.arguments import CalibrationArguments
        >>> CalibrationArguments(strategy="auto").target_error
        0.05
    """

    _argument_group_name = "strategy and calibration"

    strategy: str | None = field(
        default=None,
        metadata={
            "help": "'join': one simplex of num_modes modes. 'connect': connectors to each of them. 'auto': train the "
            "modes, measure the barriers between them, and join them if there is none, else connect them. "
            "'one_simplex': one mode and its connectors. 'leaves': one simplex of num_modes modes, of which the later "
            "ones start from the first, see mode_start. Default: num_components, num_modes and num_vertices decide.",
            "choices": (None, "auto", "one_simplex", "join", "connect", "leaves"),
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Fraction of the training images that is held out to calibrate on, if the data set has no "
            "validation split. 0: hold out none, and calibrate on a validation split only."
        },
    )
    choose_members: bool = field(
        default=True,
        metadata={"help": "Choose the members on validation images, unless num_members asks for random ones."},
    )
    max_forward_passes: int | None = field(default=None, metadata={"help": "Largest number of chosen members."})
    target_error: float = field(
        default=0.05, metadata={"help": "Error of the answers that the threshold of confidence is fitted for."}
    )
    coverage: float = field(default=0.9, metadata={"help": "Rate at which a prediction set holds the true label."})
    out_of_distribution: str | None = field(
        default=None,
        metadata={"help": "Data set of unfamiliar images, as for data_set, to measure how well they are told apart."},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: expected 0 or more and below 1.")
        for name in ("target_error", "coverage"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a number between 0 and 1.")
        if self.max_forward_passes is not None and self.max_forward_passes < 1:
            raise ValueError(f"max_forward_passes is {self.max_forward_passes}: expected at least 1.")


@dataclass
class ModeArguments:
    """The modes to connect, the connectors, and the points to evaluate.

    Example:
        >>> from hf_simplex.training.recipe.arguments import ModeArguments
        >>> ModeArguments(train_modes=3, joins=["0,1", "0,1,2"]).connectors
        2
    """

    modes: list[str] | None = field(default=None, metadata={"help": "Trained modes: at least 2 Hub ids or folders."})
    train_modes: int | None = field(default=None, metadata={"help": "Number of modes to train from scratch instead."})
    backbone: str = field(
        default=SMALL_RESNET,
        metadata={
            "help": f"Architecture of modes from scratch: '{SMALL_RESNET}', '{SMALL_VIT}', a timm name, or a Hub id "
            "or folder."
        },
    )
    width: int = field(
        default=32,
        metadata={"help": f"Channels of the first stage of '{SMALL_RESNET}'; half the hidden size of '{SMALL_VIT}'."},
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Use channels_last weights: faster for many convolutional backbones."}
    )
    connectors: int = field(default=2, metadata={"help": "Number of connectors. They are trained one by one."})
    joins: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modes to join by each connector, such as 0,1 2,3 0,1,2,3. Default: each connector joins all."
        },
    )
    path_points: int = field(default=21, metadata={"help": "Points on each line, including both ends."})
    sampled_points: int = field(default=100, metadata={"help": "Uniform points of the complex to evaluate."})
