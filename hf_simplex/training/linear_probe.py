"""Linear probe: fits the head of a backbone to its frozen features, before the backbone is fine-tuned."""

import copy
import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.data.data_collator import DataCollator

from ..model.classification_head import head_modules
from ..model.problem_types import refuse_several

__all__ = ["FOLDS", "STRENGTHS", "LinearProbe", "fit_head", "linear_head"]

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(2, -11, -1))
"""L2 strengths that cross-validation compares, from 10 down to 1e-5, two a decade."""

FOLDS = 5
"""Folds of the cross-validation; fewer where a class has fewer images."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Largest gradient of the objective at the optimum, in nats.
_TOLERANCE = 1e-5
_ITERATIONS = 2000


@dataclass(frozen=True)
class LinearProbe:
    """How well a head on frozen features predicts.

    Attributes:
        strength: L2 strength lambda that cross-validation chose.
        error: Cross-validated share of wrong labels, 0 to 1.
        nll: Cross-validated negative log-likelihood [nats].
        num_images: Number of training images.
        num_features: Number of features.

    Example::

        probe = fit_head(backbone, images)
        print(f"{probe.error:.1%} wrong on held-out training images")
    """

    strength: float
    error: float
    nll: float
    num_images: int
    num_features: int


def fit_head(
    backbone: PreTrainedModel,
    images: Any,
    *,
    batch_size: int = 32,
    collate: DataCollator | None = None,
    label_names: Sequence[str] = ("labels",),
    num_workers: int = 0,
    new_weights: Collection[str] = (),
    seed: int = 0,
) -> LinearProbe:
    r"""Fit the head to the features of a frozen backbone by multinomial logistic regression. It changes in place.

    The features are the inputs of the head in evaluation mode, so BatchNorm uses its running statistics. They are
    standardized for the fit, and the scaling is folded into the head. With standardized features
    :math:`z_i \in R^d` of N images, the head minimizes

    .. math:: \frac{1}{N} \sum_i -\log p(y_i | W z_i + b) + \frac{\lambda}{2} \lVert W \rVert^2

    Stratified cross-validation within the images chooses lambda by negative log-likelihood. The optimum is unique, so
    neither the head's former weights nor the order of batches matters.

    Args:
        backbone: Image classifier whose head is one linear layer.
        images: Training images without augmentation, map-style or iterable, from torch or `datasets`. Images with the
            label -100 are left out.
        batch_size: Images in a batch.
        collate: Makes a batch, a mapping of inputs and labels. Default: as `torch.utils.data.DataLoader`.
        label_names: Entries of a batch that are no inputs. The first one found has the labels, [batch] integers.
        num_workers: Workers of the data loader.
        new_weights: Names of the weights that are newly initialized. They must belong to the head.
        seed: Seed of the folds.

    Returns:
        Chosen strength and cross-validated scores.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: The backbone is multi-label, the head is not one linear layer whose outputs are the logits, weights
            below it are new, a label is out of range, a class has fewer than two images, or the features are not
            finite.

    Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
    section 2 (linear probing, then full fine-tuning).

    Example::

        probe = fit_head(model.backbone, images, new_weights=model.new_weights)
    """
    refuse_several(backbone.config, "A linear probe fits a softmax, for", "Train this backbone without it.")
    _check_installed()
    name, head = linear_head(backbone, new_weights)
    loader = DataLoader(images, batch_size, collate_fn=collate, num_workers=num_workers)
    features, labels = _features(backbone, name, head, loader, label_names)
    _check_labels(labels, head.out_features)
    if not np.isfinite(features).all():
        raise ValueError(
            f"The inputs of the head {name} are not finite: look for images and weights of the backbone that are not "
            "finite, and for an overflow in half precision."
        )
    centered, mean, scale = _standardized(features, head.bias is not None)
    strength, error, nll = _cross_validated(centered, labels, head.out_features, head.bias is not None, seed)
    regression = _regression(head.bias is not None)
    weight, bias = _fitted(regression, centered, labels, strength, head.out_features)
    weight /= scale
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(bias - weight @ mean))
    return LinearProbe(strength, error, nll, *features.shape)


def _check_installed() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError('A linear probe needs scikit-learn: pip install "hf-simplex[probe]".')


def linear_head(backbone: PreTrainedModel, new_weights: Collection[str] = ()) -> tuple[str, nn.Linear]:
    """Return the name of the head and the head itself, which must be one linear layer.

    Args:
        backbone: Image classifier.
        new_weights: Names of the weights that are newly initialized. They must belong to the head.

    Raises:
        ValueError: The head is several layers or no linear layer, or weights below it are new.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_simplex.training.linear_probe import linear_head
        >>> linear_head(ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1)))
        ('classifier', Linear(in_features=12, out_features=2, bias=True))
    """
    remedy = "A linear probe fits one linear layer on trained features: train this backbone without it."
    with torch.device("meta"):
        # Adapters rename the layers that they are in.
        plain = type(backbone)._from_config(copy.deepcopy(backbone.config))
    names = head_modules(plain)
    if len(names) != 1:
        found = f"has {len(names)} heads, {', '.join(names)}" if names else "has no layer with an output per label"
        raise ValueError(f"The backbone {type(backbone).__name__} {found}. {remedy}")
    modules = dict(backbone.named_modules())
    head = modules.get(names[0])
    if not isinstance(head, nn.Linear):
        found = "a parameter of its own" if head is None else f"a {type(head).__name__}"
        if hasattr(head, "base_layer"):
            found = "a layer with an adapter"
        raise ValueError(f"The head {names[0]} of {type(backbone).__name__} is {found}, no plain Linear. {remedy}")
    if below := [module for module in head_modules(plain, new_weights) if module != names[0]]:
        raise ValueError(
            f"The weights of {', '.join(below)} in {type(backbone).__name__} are new, so that the head {names[0]} "
            f"would be fitted to random features. {remedy}"
        )
    return names[0], head


@torch.no_grad()
def _features(
    backbone: PreTrainedModel, name: str, head: nn.Linear, batches: Iterable[Any], label_names: Sequence[str]
) -> tuple[FloatArray, IntArray]:
    """Inputs of the head [images, features] and labels [images]."""
    features: list[FloatArray] = []
    labels: list[IntArray] = []
    with _evaluation_mode(backbone), _recorded_inputs(head) as recorded:
        for batch in batches:
            found = _labels(batch, label_names)
            inputs = {
                key: value.to(backbone.device) if isinstance(value, Tensor) else value
                for key, value in batch.items()
                if key not in label_names
            }
            recorded.clear()
            logits = backbone(**inputs).logits
            if not features:
                _check_outputs(name, head, recorded, logits)
            known = found != nn.CrossEntropyLoss().ignore_index
            features.append(recorded[0].double().cpu().numpy()[known])
            labels.append(found[known])
    if not features:
        raise ValueError("There are no training images to fit the head to.")
    return np.concatenate(features), np.concatenate(labels)


@contextmanager
def _evaluation_mode(backbone: nn.Module) -> Iterator[None]:
    former = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        yield
    finally:
        for module, training in former.items():
            module.training = training


@contextmanager
def _recorded_inputs(head: nn.Module) -> Iterator[list[Tensor]]:
    recorded: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
    try:
        yield recorded
    finally:
        handle.remove()


def _check_outputs(name: str, head: nn.Linear, recorded: list[Tensor], logits: Tensor) -> None:
    """Check that the logits are the outputs of the head, of one vector of features for each image."""
    if len(recorded) == 1 and recorded[0].dim() == 2:
        outputs = nn.functional.linear(recorded[0], head.weight, head.bias)
        if outputs.shape == logits.shape and torch.allclose(outputs, logits, rtol=1e-3, atol=1e-5, equal_nan=True):
            return
    raise ValueError(
        f"The logits are not the outputs of the head {name} on one vector of features for each image: its inputs are "
        f"{[list(inputs.shape) for inputs in recorded]}. A linear probe cannot fit it: train this backbone without it."
    )


def _labels(batch: Mapping[str, Any], label_names: Sequence[str]) -> IntArray:
    found = next((batch[name] for name in label_names if name in batch), None)
    if found is None:
        raise ValueError(
            f"A batch of {', '.join(batch)} has no {' or '.join(label_names)}: a linear probe needs labeled images."
        )
    labels = np.asarray(found)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The labels of a batch are {labels.dtype} {list(labels.shape)}; expected one integer for each image. A "
            "linear probe takes no mixed labels: leave the mixing to the training images."
        )
    return labels.astype(np.int64)


def _check_labels(labels: IntArray, num_labels: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_labels:
        wrong = labels[(labels < 0) | (labels >= num_labels)][0]
        raise ValueError(
            f"An image has the label {wrong}, but the model has {num_labels} labels: expected 0 to {num_labels - 1}. "
            "Correct it or leave it out."
        )
    counts = np.bincount(labels, minlength=num_labels)
    if few := [f"{label} ({counts[label]})" for label in np.flatnonzero(counts < 2)]:
        shown = ", ".join(few[:10]) + (", ..." if len(few) > 10 else "")
        raise ValueError(
            f"Some labels have fewer than 2 training images: {shown}. Cross-validation of a linear probe needs 2 of "
            "each label: add images, remove the labels, or train without the probe."
        )


def _standardized(features: FloatArray, center: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Standardized features [images, features], mean and scale [features]. Without a bias, the mean stays."""
    mean = features.mean(axis=0) if center else np.zeros(features.shape[1])
    scale = np.sqrt(np.mean((features - mean) ** 2, axis=0))
    # A constant feature says nothing, and rounding errors must not become its scale.
    constant = scale <= 1e-6 * np.maximum(np.abs(features).max(axis=0), np.finfo(np.float32).tiny)
    scale[constant] = 1
    return (features - mean) / scale, mean, scale


def _cross_validated(
    features: FloatArray, labels: IntArray, num_labels: int, has_bias: bool, seed: int
) -> tuple[float, float, float]:
    """Best strength, with the share of wrong labels and the negative log-likelihood of held-out images."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
    folds = [(fitted, held_out, _regression(has_bias)) for fitted, held_out in splitter.split(features, labels)]
    scores: list[tuple[float, float, float]] = []
    for strength in STRENGTHS:
        wrong, loss = 0, 0.0
        for fitted, held_out, regression in folds:
            weight, bias = _fitted(regression, features[fitted], labels[fitted], strength, num_labels)
            logits = torch.from_numpy(features[held_out] @ weight.T + bias)
            references = torch.from_numpy(labels[held_out])
            wrong += int((logits.argmax(dim=1) != references).sum())
            loss += float(nn.functional.cross_entropy(logits, references, reduction="sum"))
        scores.append((loss / len(labels), wrong / len(labels), strength))
        # From here on, weaker strengths overfit more and take longer.
        if len(scores) > 1 and scores[-1][0] > scores[-2][0]:
            break
    nll, error, strength = min(scores)
    return strength, error, nll


def _regression(has_bias: bool) -> Any:
    """A regression that starts at its last solution, or at zero."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(fit_intercept=has_bias, tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)


def _fitted(
    regression: Any, features: FloatArray, labels: IntArray, strength: float, num_labels: int
) -> tuple[FloatArray, FloatArray]:
    """Weight [labels, features] and bias [labels] that minimize the objective of `fit_head`."""
    # For two labels, scikit-learn fits the difference of the two rows, whose squared norm is half as large.
    share = 2 if num_labels == 2 else 1
    regression.set_params(C=share / (strength * len(labels))).fit(features, labels)
    weight, bias = regression.coef_, np.broadcast_to(regression.intercept_, len(regression.coef_))
    if num_labels == 2:
        return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight.copy(), bias.copy()
