"""A dry step: one forward and backward pass before training, which changes nothing."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ..data.random_streams import isolate_rng
from .several_labels import check_binary_loss, check_kept_problem_type, check_multi_hot

__all__ = ["dry_step", "len_of", "smallest_batch", "without_traces"]


def smallest_batch(images: int, batch_size: int, points: int, drop_last: bool) -> int:
    """Return the size of the smallest batch, or part of a batch, in an epoch of one process.

    Args:
        images: Images of an epoch.
        batch_size: Images of a batch.
        points: Points that split a batch; 1 for a mode.
        drop_last: Whether a last batch that is not full is left out.

    Example:
        >>> from hf_simplex.training.dry_step import smallest_batch
        >>> smallest_batch(17, 8, points=1, drop_last=False), smallest_batch(16, 8, points=3, drop_last=False)
        (1, 2)
    """
    sizes = {min(images, batch_size)}
    if images > batch_size and images % batch_size and not drop_last:
        sizes.add(images % batch_size)
    return min(size // min(points, size) for size in sizes)


def len_of(dataset: Any) -> int:
    """Return the length of a map-style data set; 0 for an iterable one or None.

    Example:
        >>> from hf_simplex.training.dry_step import len_of
        >>> len_of([1, 2]), len_of(None)
        (2, 0)
    """
    is_iterable = isinstance(dataset, IterableDataset | datasets.IterableDataset)
    return len(dataset) if hasattr(dataset, "__len__") and not is_iterable else 0


@contextmanager
def without_traces(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Yield a copy of a module on a device, in training mode; random states are restored at the end of the context.

    Example::

        with without_traces(model.backbone, args.device) as copied:
            copied(**batch).loss.backward()
    """
    devices = [device] if device.type == "cuda" else []
    with isolate_rng(0), torch.random.fork_rng(devices=devices):
        yield copy.deepcopy(module).to(device).train()


def _leaves(adapters: Sequence[str]) -> list[str]:
    """The last names of the layers of adapters, each once."""
    return list(dict.fromkeys(name.partition(".lora_")[0].rpartition(".")[2] for name in adapters))


def dry_step(
    module: nn.Module,
    batch: Mapping[str, Any],
    loss_of: Callable[[nn.Module, dict[str, Any]], tuple[Tensor, Any]],
    *,
    role: str,
    num_labels: int,
    binary: bool = False,
) -> None:
    """Run forward and backward on one batch, and check loss and logits.

    Args:
        module: A copy of the backbone, see `without_traces`. Its gradients and statistics change.
        batch: Inputs on the module's device.
        loss_of: Returns loss and output of the module for inputs.
        role: Role of the vertex, for messages.
        num_labels: Number of labels.
        binary: Whether the backbone's loss is to be the binary cross-entropy of several labels of an image.

    Raises:
        ValueError: The backbone cannot train on the batch, gives no scalar loss, or no logits of all labels, or an
            adapter has no part in the loss. The labels are multi-hot and the backbone's `problem_type` does not say
            so; or, with `binary`, they are not, or the loss is another.

    Example::

        with without_traces(model.backbone, args.device) as copied:
            dry_step(copied, batch, trainer.compute_loss, role="mode", num_labels=10)
    """
    shapes = {name: list(value.shape) for name, value in batch.items() if isinstance(value, Tensor)}
    # transformers' losses set it where it is None.
    given = getattr(getattr(module, "config", None), "problem_type", None)
    where = f"A {role} cannot train on a batch of {shapes}"
    try:
        labels = check_multi_hot(batch, num_labels) if binary else None
        loss, output = loss_of(module, dict(batch))
        if loss.dim() != 0:
            raise ValueError(f"its loss has the shape {list(loss.shape)}; expected one number")
        loss.backward()
    except torch.OutOfMemoryError:
        raise
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        hint = ""
        if "more than 1 value per channel" in str(error):
            hint = (
                " BatchNorm needs several images: choose another per_device_train_batch_size, fewer points_per_step, "
                "point_batches='full', or dataloader_drop_last=True."
            )
        elif "pixel_values" in shapes:
            hint = " Check the size of the images, the labels and the data collator."
        raise ValueError(f"{where}: {error}.{hint} Nothing was trained.") from error
    try:
        check_kept_problem_type(getattr(module, "config", None), given, batch)
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Nothing was trained.") from error
    idle = [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None]
    if adapters := [name for name in idle if ".lora_" in name]:
        raise ValueError(
            f"{where}: the adapters of {adapters[0].partition('.lora_')[0]} get no gradient: the backbone "
            "uses the weights of that layer without calling it, or not at all. Leave it out of target_modules, or "
            f"give exclude_modules={_leaves(adapters)} of a LoraConfig. Nothing was trained."
        )
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] != num_labels:
        found = f"logits of {list(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
        raise ValueError(f"{where}: the backbone gives {found}; expected [batch, {num_labels}]. Nothing was trained.")
    if labels is not None:
        try:
            check_binary_loss(loss, logits, labels)
        except ValueError as error:
            raise ValueError(f"{where}: {error}. Nothing was trained.") from error
