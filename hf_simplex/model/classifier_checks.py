"""Checks that a backbone is a classifier that an ensemble can be made of."""

import inspect

from transformers import PreTrainedConfig, PreTrainedModel

from .problem_types import check_problem_type
from .tensor_tree import first_non_finite

__all__ = ["check_classifier"]


def check_classifier(module: PreTrainedModel) -> None:
    """Check that a backbone classifies RGB images into at least two labels, with finite weights.

    With `problem_type="multi_label_classification"` an image has any number of labels, otherwise one.

    Args:
        module: the backbone.

    Raises:
        ValueError: the backbone is for regression, has a single label, takes images of another number of channels than
            3, takes other inputs than images (tokens, patches), or takes no labels, so that it has no loss; or a
            weight is not finite.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> check_classifier(ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1)))
    """
    name, config = type(module).__name__, module.config
    check_problem_type(config.problem_type, f"the given {name}")
    if (config.num_labels or 0) < 2:
        raise ValueError(f"The given {name} has {config.num_labels} label: expected at least 2 to choose from.")
    if (channels := _channels(config)) != 3:
        raise ValueError(
            f"The given {name} takes images of {channels} channels (num_channels, in timm in_chans), but images are "
            "read as RGB. Give a backbone for 3 channels."
        )
    inputs = inspect.signature(module.forward).parameters
    if others := [found for found in _OTHER_INPUTS if found in inputs]:
        raise ValueError(
            f"The given {name} takes {', '.join(others)}, which no image processor makes from an image alone. Give an "
            "image classifier that takes pixel_values of [batch, channels, height, width]."
        )
    if "labels" not in inputs:
        raise ValueError(
            f"The given {name} takes no labels, so it has no loss to train by. "
            + (
                f"Load it as {name.removesuffix('WithTeacher')}: let the architectures of config.json name that class."
                if name.endswith("WithTeacher")
                else "Give an image classifier with one."
            )
        )
    if (weight := first_non_finite(module.state_dict())) is not None:
        raise ValueError(
            f"{weight} of the given {name} is not finite, so all predictions would be NaN. Give a backbone of an "
            "earlier checkpoint, or train it again."
        )


_OTHER_INPUTS = ("input_ids", "spatial_shapes")
"""Arguments of `forward` for inputs besides images: tokens, and the grids of images that are given as patches."""


def _channels(config: PreTrainedConfig) -> int:
    if hasattr(config, "pretrained_cfg"):
        default = (config.pretrained_cfg or {}).get("input_size", [3])[0]
        return int((config.model_args or {}).get("in_chans", default))
    return int(getattr(config, "num_channels", 3))
