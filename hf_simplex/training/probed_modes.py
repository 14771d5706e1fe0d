"""Linear probe of a growth: all untrained modes start from one head, fitted to the backbone's frozen features."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.data.data_collator import DataCollator
from transformers.utils import logging

from ..data.random_streams import SeededDataset, isolate_rng
from ..model.batch_norm import batch_norm_layers, batch_norm_statistics, recompute_statistics
from ..model.configuration_simplex import PRETRAINED
from ..model.coordinates import vertex_coordinates
from ..model.modeling_simplex import SimplexForImageClassification
from .arguments import SimplexTrainingArguments
from .batch_norm_images import batch_norm_batches
from .dry_step import len_of
from .linear_probe import LinearProbe, fit_head, linear_head

__all__ = ["labeled_images", "probe_modes"]

logger = logging.get_logger(__name__)

# The same for all components and seeds, so that all of them start from one head.
_SEED = 0


def labeled_images(train_dataset: Any, plain_dataset: Any, label_names: Sequence[str]) -> Any:
    """Choose the training images of a linear probe: those without augmentation if they have labels.

    Args:
        train_dataset: Map-style training images.
        plain_dataset: The same images without augmentation, with labels or without; None if there are none.
        label_names: Names of the labels of an example; `"label"` is one too.

    Returns:
        `plain_dataset`, or `train_dataset` if the former has no labels or another number of images.

    Raises:
        ValueError: `train_dataset` has no length.

    Example:
        >>> from hf_simplex.training.probed_modes import labeled_images
        >>> train, plain = [{"labels": 0, "pixel_values": 0.1}], [{"pixel_values": 0.0}]
        >>> labeled_images(train, plain, ["labels"]) is train
        True
    """
    if not len_of(train_dataset):
        raise ValueError("probe_head is True, but train_dataset has no length: give a map-style one, or leave it out.")
    if plain_dataset is None or len_of(plain_dataset) != len_of(train_dataset):
        return train_dataset
    example = plain_dataset[0]
    has_labels = not isinstance(example, Mapping) or any(name in example for name in (*label_names, "label"))
    return plain_dataset if has_labels else train_dataset


def probe_modes(
    model: SimplexForImageClassification,
    args: SimplexTrainingArguments,
    images: Any,
    *,
    collate: DataCollator,
    label_names: Sequence[str],
) -> None:
    """Fit one head to the frozen features of the untrained vertices, and store it in all of them.

    BatchNorm statistics are recomputed first, from `args.batch_norm_images` of the images, and stored too. In
    training, BatchNorm normalizes by the statistics of the batch. A head on features at the statistics of pretraining
    would start with a high loss there.

    The first process fits; all processes of a distributed run call this together. `config.provenance["probe"]` keeps
    the head's name, and what `linear_probe.LinearProbe` says of it. Without an untrained vertex nothing happens.

    Args:
        model: The complex that grows.
        args: Arguments of the growth.
        images: Map-style training images with labels, best without augmentation.
        collate: Collate function.
        label_names: Names of the labels in a batch.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: The backbone was initialized at random, the vertices share the head or start from different
            weights, or the head cannot be fitted (see `linear_probe.fit_head`).

    Example::

        probe_modes(model, args, plain_train, collate=default_data_collator, label_names=["labels"])
        model.config.provenance["probe"]["error"]   # 0.12: wrong on held-out training images
    """
    config = model.config
    untrained = [vertex for vertex, role in enumerate(config.roles) if role == PRETRAINED]
    if not untrained:
        return
    backbone = model.backbone_at(vertex_coordinates(config.complex, untrained[0]).tolist())
    name, head = linear_head(backbone, model.new_weights)
    parameters = {f"{name}.{own}": parameter.data for own, parameter in head.named_parameters()}
    _check_start(model, untrained, parameters)
    changed = {**parameters, **batch_norm_statistics(backbone)}
    found: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            probe = _fit(model, args, images, collate, label_names)
            found = [asdict(probe), {own: tensor.cpu() for own, tensor in changed.items()}]
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            found = [error, None]
    # All processes must raise together. If one raised alone, the others would wait for it.
    broadcast_object_list(found)
    result, fitted = found
    if isinstance(result, Exception):
        raise result
    for own, tensor in changed.items():
        tensor.copy_(fitted[own])
    for vertex in untrained:
        model.store_vertex(vertex)
    config.provenance["probe"] = {"head": name, **result}
    if args.should_log:
        logger.warning(
            f"The modes start from a linear probe: the head {name}, fitted to {result['num_features']} features of "
            f"{result['num_images']} training images. Cross-validated: error {100 * result['error']:.2f} %, NLL "
            f"{result['nll']:.4f} nats, L2 strength {result['strength']:.2g}."
        )


def _fit(
    model: SimplexForImageClassification,
    args: SimplexTrainingArguments,
    images: Any,
    collate: DataCollator,
    label_names: Sequence[str],
) -> LinearProbe:
    """Recompute the BatchNorm statistics of the working backbone, and fit its head."""
    backbone = model.backbone.to(args.device)  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "batch_size": args.eval_batch_size,
        "collate": collate,
        "label_names": label_names,
        "num_workers": args.dataloader_num_workers,
        "seed": _SEED,
    }
    if batch_norm_layers(backbone):
        recompute_statistics(backbone, batch_norm_batches(images, images=args.batch_norm_images, **settings))
    with isolate_rng(_SEED):
        return fit_head(backbone, SeededDataset(images, _SEED), new_weights=model.new_weights, **settings)


def _check_start(model: SimplexForImageClassification, untrained: Sequence[int], head: Mapping[str, Tensor]) -> None:
    """Raise ValueError if one head cannot fit all untrained vertices."""
    config, first = model.config, model.weights[untrained[0]]
    if config.provenance.get("from_scratch"):
        raise ValueError(
            "probe_head is True, but the backbone was initialized at random: its features say nothing of the labels. "
            "Leave probe_head out, or give a pretrained backbone."
        )
    if shared := [name for name in head if name not in first]:
        raise ValueError(
            f"probe_head is True, but all vertices share {shared[0]} (vertex_parameters): add 'head' to "
            "vertex_parameters, or leave probe_head out."
        )
    for vertex in untrained[1:]:
        for name, tensor in model.weights[vertex].items():
            if name not in head and not torch.equal(tensor, first[name]):
                raise ValueError(
                    f"probe_head is True, but vertices {untrained[0]} and {vertex} start from different weights "
                    f"({name}), so that no head fits both. Leave probe_head out, or start all modes from one backbone."
                )
