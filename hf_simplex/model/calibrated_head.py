"""Folds a temperature into the head of a plain classifier, so that its softmax is calibrated without this package."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel

__all__ = ["fold_temperature", "random_images"]

PROBE_IMAGES = 2
"""Random images that show whether the folded head divides the logits by the temperature."""


@torch.no_grad()
def fold_temperature(
    backbone: PreTrainedModel, temperature: float, image_processor: BaseImageProcessor | None = None
) -> bool:
    """Divide weight and bias of the last linear layer by a temperature, if that divides the logits by it.

    Args:
        backbone: an image classifier in evaluation mode; its head is changed in place.
        temperature: T, above 0.
        image_processor: gives the shape of the images that check the result; default: square images of the
            configuration's `image_size`, else of 224 pixels.

    Returns:
        Whether the head is linear. If not, the backbone is left as it was.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1, image_size=32)).eval()
        >>> fold_temperature(vit, 2.0)
        True
    """
    heads = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == backbone.config.num_labels
    ]
    if not heads:
        return False
    # A trial division by 2 is exact, and in float32 no other head passes for a linear one.
    trial = copy.deepcopy(backbone).float()
    head = trial.get_submodule(heads[-1])
    images = random_images(backbone.config, image_processor, PROBE_IMAGES).to(trial.device)
    before = _logits(trial, images)
    for parameter in head.parameters(recurse=False):
        parameter.div_(2)
    if not torch.allclose(2 * _logits(trial, images), before, rtol=1e-4, atol=1e-5):
        return False
    for parameter in backbone.get_submodule(heads[-1]).parameters(recurse=False):
        parameter.div_(temperature)
    return True


def random_images(config: Any, image_processor: BaseImageProcessor | None, number: int) -> Tensor:
    """Draw images of the shape that a backbone takes, the same ones every time.

    Args:
        config: of the backbone.
        image_processor: gives the shape; default: that in timm's settings, or square images of the configuration's
            `image_size`, else of 224 pixels.
        number: of images.

    Returns:
        [number, channels, height, width] float32, standard normal.

    Example:
        >>> from transformers import ViTConfig
        >>> random_images(ViTConfig(image_size=32), None, 2).shape
        torch.Size([2, 3, 32, 32])
    """
    settings = getattr(config, "pretrained_cfg", None) or {}
    if image_processor is None and "input_size" in settings:
        shape = [number, *settings["input_size"]]
    elif image_processor is None:
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        shape = [number, getattr(config, "num_channels", 3), height, width]
    else:
        blank = np.zeros((64, 64, 3), dtype=np.uint8)
        pixel_values: Tensor = image_processor([blank] * number, return_tensors="pt")["pixel_values"]
        shape = list(pixel_values.shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _logits(backbone: PreTrainedModel, images: Tensor) -> Tensor:
    logits: Tensor = backbone(pixel_values=images).logits
    return logits.double()
