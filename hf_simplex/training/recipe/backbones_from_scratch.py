"""Backbones with random weights: the paper's for CIFAR, two small ones, and any from timm or the Hub.

This module registers the paper's backbones with timm, whose own VGG and pre-activation ResNet would reduce an image of
32 pixels to one pixel. Import this module before you load an ensemble of such a backbone.
"""

from collections import OrderedDict
from typing import Any

import timm
from huggingface_hub.errors import HFValidationError
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import register_model
from timm.models.resnetv2 import ResNetV2
from torch import nn
from torchvision.models.vgg import cfgs, make_layers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor

from ...model.modeling_simplex import SimplexForImageClassification

__all__ = ["SMALL_RESNET", "SMALL_VIT", "SMALL_VIT_IMAGES", "random_mode"]

SMALL_RESNET, SMALL_VIT = "small_resnet", "small_vit"
SMALL_VIT_IMAGES = 32  # pixels
# The paper normalizes CIFAR with the statistics of ImageNet.
CIFAR_IMAGES = {
    "input_size": [3, 32, 32],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


@register_model
def vgg16_cifar(pretrained: bool = False, num_classes: int = 10, **_: Any) -> nn.Module:
    """VGG-16 without BatchNorm, with two hidden layers of 512 units after the convolutions: 15 million weights.

    Example:
        >>> sum(weight.numel() for weight in timm.create_model("vgg16_cifar").parameters())
        15245130
    """
    return _vgg16(1, num_classes)


@register_model
def narrow_vgg16_cifar(pretrained: bool = False, num_classes: int = 10, **_: Any) -> nn.Module:
    """VGG-16 without BatchNorm at an eighth of the width: 240 thousand weights, for long schedules on a CPU.

    Example:
        >>> sum(weight.numel() for weight in timm.create_model("narrow_vgg16_cifar").parameters())
        239538
    """
    return _vgg16(8, num_classes)


def _vgg16(divisor: int, num_classes: int) -> nn.Module:
    layers = [size // divisor if isinstance(size, int) else size for size in cfgs["D"]]
    features = make_layers(layers, batch_norm=False)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    width = 512 // divisor
    hidden = [layer for _ in range(2) for layer in (nn.Dropout(), nn.Linear(width, width), nn.ReLU())]
    head = nn.Sequential(*hidden, nn.Linear(width, num_classes))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, pool=pool, head=head))


@register_model
def preresnet110_cifar(pretrained: bool = False, num_classes: int = 10, **_: Any) -> nn.Module:
    """Pre-activation ResNet-110 of bottleneck blocks. The stem keeps the resolution.

    Example::

        timm.create_model("preresnet110_cifar", num_classes=100)
    """
    return _preresnet(12, num_classes)


@register_model
def preresnet164_cifar(pretrained: bool = False, num_classes: int = 10, **_: Any) -> nn.Module:
    """Pre-activation ResNet-164 of bottleneck blocks. The stem keeps the resolution.

    Example::

        timm.create_model("preresnet164_cifar", num_classes=100)
    """
    return _preresnet(18, num_classes)


def _preresnet(blocks: int, num_classes: int) -> ResNetV2:
    model = ResNetV2(
        layers=[blocks] * 3,
        channels=(64, 128, 256),
        num_classes=num_classes,
        stem_chs=16,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
    )
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.stem = nn.Sequential(stem)
    return model


def random_mode(
    architecture: str,
    labels: dict[int, str],
    width: int = 32,
    image_size: int = SMALL_VIT_IMAGES,
    problem_type: str | None = None,
    **source: Any,
) -> SimplexForImageClassification:
    """Build a complex of one vertex with random weights, drawn from torch's global random state.

    Args:
        architecture: `small_resnet`, `small_vit`, a timm name, or the Hub id or folder of an image classifier. From
            the Hub or a folder only the configuration and the image processor are read. Write `./resnet18` for a
            folder whose name is also a timm name.
        labels: class names by index.
        width: channels of the first stage of `small_resnet`; half the hidden size of `small_vit`.
        image_size: image height and width of `small_vit`, pixels.
        problem_type: `"multi_label_classification"` for several labels of an image; default: the configuration's.
        source: arguments of `from_pretrained` for a Hub id, such as `revision` and `token`.

    Raises:
        OSError: there is no such architecture.

    Example:
        >>> from hf_simplex.training.recipe.backbones_from_scratch import random_mode
        >>> random_mode("small_resnet", {0: "cat", 1: "dog"}, width=4).config.num_labels
        2
    """
    settings: dict[str, Any] = {
        "id2label": labels,
        "label2id": {label: number for number, label in labels.items()},
    }
    image_processor: BaseImageProcessor
    if architecture == SMALL_RESNET:
        config: Any = ResNetConfig(
            embedding_size=width,
            hidden_sizes=[width, 2 * width, 4 * width],
            depths=[1, 1, 1],
            layer_type="basic",
            **settings,
        )
        image_processor = ViTImageProcessor()
    elif architecture == SMALL_VIT:
        config = ViTConfig(
            hidden_size=2 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=4 * width,
            image_size=image_size,
            patch_size=8,
            **settings,
        )
        image_processor = ViTImageProcessor()
    elif timm.is_model(architecture):
        images = CIFAR_IMAGES
        if (known := timm.models.get_pretrained_cfg(architecture)) is not None:
            images = {
                key: list(value) if isinstance(value, tuple) else value for key, value in known.to_dict().items()
            }
        images = {**images, "num_classes": len(labels)}
        config = TimmWrapperConfig.from_dict(
            {"architecture": architecture, "num_classes": len(labels), "pretrained_cfg": images}
        )
        config.id2label, config.label2id = settings["id2label"], settings["label2id"]
        image_processor = TimmWrapperImageProcessor(pretrained_cfg=images, architecture=architecture)
    else:
        try:
            config = AutoConfig.from_pretrained(architecture, num_labels=len(labels), **settings, **source)
        except (OSError, HFValidationError) as error:
            raise OSError(
                f"{architecture!r} is no architecture: give {SMALL_RESNET!r}, {SMALL_VIT!r}, a timm model name such "
                f"as 'resnet18' or 'vgg16_cifar', or the Hub id or folder of an image classifier ({error})."
            ) from error
        try:
            image_processor = AutoImageProcessor.from_pretrained(architecture, **source)
        except (OSError, ValueError):
            image_processor = ViTImageProcessor()
    if problem_type is not None:
        config.problem_type = problem_type
    module: PreTrainedModel = AutoModelForImageClassification.from_config(
        config, trust_remote_code=source.get("trust_remote_code")
    )
    if isinstance(module, TimmWrapperForImageClassification):
        # transformers initializes all weights of a timm model with standard deviation 0.02. Deep plain networks do not
        # train from there, so use timm's initialization.
        drawn = timm.create_model(config.architecture, num_classes=len(labels), **(config.model_args or {}))
        module.timm_model.load_state_dict(drawn.state_dict())
    return SimplexForImageClassification.from_backbone(module, fine_tuned=False, image_processor=image_processor)
