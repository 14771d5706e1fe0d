"""Checks of a growth with several labels an image: its arguments, the labels of a batch, and the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..model.label_activation import SIGMOID
from ..model.problem_types import SINGLE_LABEL, refuse_several
from .arguments import SimplexTrainingArguments

__all__ = ["check_arguments", "check_binary_loss", "check_kept_problem_type", "check_multi_hot"]

# A loss in half precision is rounded.
_RELATIVE, _ABSOLUTE = 2e-2, 1e-3


def check_arguments(args: SimplexTrainingArguments, config: Any) -> None:
    """Check that no argument of a growth needs one label an image, if the ensemble is multi-label.

    Args:
        args: Arguments of the growth.
        config: Configuration of the ensemble.

    Raises:
        ValueError: Label smoothing or a linear probe is asked for.

    Example:
        >>> from hf_simplex import SimplexConfig, SimplexTrainingArguments
        >>> from hf_simplex.training.several_labels import check_arguments
        >>> check_arguments(SimplexTrainingArguments("out", use_cpu=True, probe_head=True), SimplexConfig())
    """
    if args.label_smoothing_factor or any(args.mode_label_smoothing or ()):
        refuse_several(
            config,
            f"label_smoothing_factor is {args.label_smoothing_factor} and mode_label_smoothing "
            f"{args.mode_label_smoothing}, and transformers smooths labels by softmax, for",
            "Leave both out, or smooth the labels themselves.",
        )
    if args.probe_head:
        refuse_several(config, "probe_head is True, and a linear probe fits a softmax, for", "Leave probe_head out.")


def check_multi_hot(batch: Mapping[str, Any], num_labels: int) -> Tensor:
    """Return the labels of a batch after checking them.

    Args:
        batch: Inputs by name.
        num_labels: Number of labels of the ensemble.

    Returns:
        [batch, num_labels] of a floating dtype, 0 to 1.

    Raises:
        ValueError: The labels are missing or something else.

    Example:
        >>> import torch
        >>> from hf_simplex.training.several_labels import check_multi_hot
        >>> check_multi_hot({"labels": torch.tensor([[1.0, 0.0]])}, 2).shape
        torch.Size([1, 2])
    """
    found = next((value for name, value in batch.items() if "label" in name and isinstance(value, Tensor)), None)
    if (
        found is None
        or not found.is_floating_point()
        or found.dim() != 2
        or found.shape[1] != num_labels
        or not bool(((found >= 0) & (found <= 1)).all())
    ):
        shown = "no labels" if found is None else f"labels of {found.dtype} {list(found.shape)}"
        if found is not None and found.is_floating_point() and found.numel():
            shown += f" from {float(found.min()):g} to {float(found.max()):g}"
        raise ValueError(
            f"{shown}, but problem_type is 'multi_label_classification': expected torch.float32 [batch, {num_labels}] "
            "of 0 and 1, 1 where an image has the label"
        )
    return found


def check_kept_problem_type(config: Any, given: str | None, batch: Mapping[str, Any]) -> None:
    """Check that a loss has not made a backbone multi-label.

    The loss of transformers' models depends on the labels where `problem_type` is None: it notes which one it took.

    Args:
        config: Configuration of the backbone, after the loss; None if it has none.
        given: Its `problem_type` before, which an error restores.
        batch: Inputs by name, for the message.

    Raises:
        ValueError: `problem_type` has become another one than that of one label an image.

    Example:
        >>> from transformers import ViTConfig
        >>> from hf_simplex.training.several_labels import check_kept_problem_type
        >>> check_kept_problem_type(ViTConfig(problem_type="single_label_classification"), None, {})
    """
    problem = getattr(config, "problem_type", None)
    if problem == given or problem in (None, SINGLE_LABEL):
        return
    config.problem_type = given
    shown = {name: f"{value.dtype} {list(value.shape)}" for name, value in batch.items() if "label" in name}
    raise ValueError(
        f"labels of {shown} make the backbone's loss that of {problem}, but its problem_type does not say so. Give "
        "one integer for each image, a backbone with that problem_type, or a compute_loss_func that takes these labels"
    )


def check_binary_loss(loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Check that the loss of a backbone is the binary cross-entropy, mean over images and labels.

    Args:
        loss: Scalar, of the backbone.
        logits: [batch, labels].
        labels: [batch, labels] of a floating dtype.

    Raises:
        ValueError: It is another loss.

    Example:
        >>> import torch
        >>> from hf_simplex.training.several_labels import check_binary_loss
        >>> check_binary_loss(torch.tensor(0.6931), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    """
    expected = SIGMOID.loss(logits.detach().float(), labels.float())
    if not torch.allclose(loss.detach().float(), expected, rtol=_RELATIVE, atol=_ABSOLUTE):
        raise ValueError(
            f"the backbone's loss is {loss.item():.4f}, but the binary cross-entropy of its logits is "
            f"{float(expected):.4f}. It has another loss for several labels of an image: give a compute_loss_func"
        )
