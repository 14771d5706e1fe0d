"""Barriers between modes are those of a loss that is known along the line, with paired standard errors."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LABELS, backbone, batches, images, same_tensors
from torch import Tensor, nn

from hf_simplex.evaluation.barriers import Barrier, measure_barriers
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.weight_space import Weights


class Known(nn.Module):
    """A classifier of one weight w, whose loss for label 0 is `loss(w, pixel_values)`."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.25]))
        self.loss = loss

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        # Cross entropy with the logits (f, 0) is softplus(-f).
        f = -torch.log(torch.expm1(self.loss(self.weight, pixel_values)))
        return SimpleNamespace(logits=torch.stack([f, torch.zeros_like(f)], dim=1))


def modes(*values: float) -> list[Weights]:
    return [{"weight": torch.tensor([value])} for value in values]


def in_two_batches(pixels: Tensor) -> list[dict[str, Tensor]]:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return [
        {"pixel_values": pixels[:5], "labels": labels[:5]},
        {"pixel_values": pixels[5:], "labels": labels[5:]},
    ]


def bump(weight: Tensor, pixels: Tensor) -> Tensor:
    """A cubic above a slope: w (1 - w)^2 times the first column, and a hardness of each image."""
    size, hardness = pixels.unbind(dim=1)
    return hardness + weight + size * weight * (1 - weight) ** 2


SIZES = torch.tensor([1.0, 2.0, 4.0, 3.0, 2.5, 1.5, 3.5, 0.5])
HARDNESS = torch.tensor([1.0, 9.0, 3.0, 7.0, 5.0, 2.0, 8.0, 4.0])


def test_the_barrier_is_the_highest_point_above_the_line_between_the_losses_of_the_modes() -> None:
    data = in_two_batches(torch.stack([SIZES, HARDNESS], dim=1))
    [barrier] = measure_barriers(Known(bump), modes(0.0, 1.0), data)
    assert barrier.modes == (0, 1) and barrier.position == 0.25
    # w (1 - w)^2 is 9 / 64 at 1/4, 8 / 64 at 1/2 and 3 / 64 at 3/4.
    excess = SIZES.double().numpy() * 9 / 64
    assert barrier.height == pytest.approx(excess.mean(), abs=1e-5)
    # The images' hardness, which is far more uneven, is the same at every position.
    assert barrier.standard_error == pytest.approx(excess.std(ddof=1) / np.sqrt(8), abs=1e-5)
    assert barrier.is_real
    [other] = measure_barriers(Known(bump), modes(1.0, 0.0), data, positions=(0.25, 0.5))
    assert other.position == 0.5 and other.height == pytest.approx(8 / 64 * 2.25, abs=1e-5)


def test_a_valley_between_two_modes_has_a_negative_height() -> None:
    data = in_two_batches(torch.stack([-SIZES, HARDNESS + 1], dim=1))
    [barrier] = measure_barriers(Known(bump), modes(0.0, 1.0), data)
    assert barrier.position == 0.75 and barrier.height == pytest.approx(-3 / 64 * 2.25, abs=1e-5)
    assert not barrier.is_real


def test_each_two_modes_have_a_barrier() -> None:
    def hill(weight: Tensor, pixels: Tensor) -> Tensor:
        return 12 - weight**2 + 0 * pixels

    found = measure_barriers(Known(hill), modes(0.0, 1.0, 3.0), in_two_batches(torch.zeros(8)))
    assert [barrier.modes for barrier in found] == [(0, 1), (0, 2), (1, 2)]
    # A parabola is (b - a)^2 / 4 above its chord, in the middle.
    assert [barrier.height for barrier in found] == pytest.approx([0.25, 2.25, 1.0], abs=1e-4)
    assert [barrier.standard_error for barrier in found] == pytest.approx([0.0] * 3, abs=1e-6)
    assert [barrier.position for barrier in found] == [0.5] * 3


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_loss_between_modes_is_that_of_the_backbone_there_with_statistics_of_its_own(kind: str) -> None:
    first, second = backbone(kind, 0), backbone(kind, 1)
    data = {"pixel_values": images(9, seed=3), "labels": torch.arange(9) % LABELS}

    def losses(module: nn.Module) -> np.ndarray[Any, Any]:
        recompute_statistics(module, batches())
        with torch.no_grad():
            logits = module(data["pixel_values"]).logits
        return nn.functional.cross_entropy(logits.double(), data["labels"], reduction="none").numpy()

    halfway = copy.deepcopy(first)
    with torch.no_grad():
        for parameter, other in zip(halfway.parameters(), second.parameters(), strict=True):
            parameter.copy_((parameter + other) / 2)
    excess = losses(halfway) - (losses(copy.deepcopy(first)) + losses(copy.deepcopy(second))) / 2

    module = backbone(kind, 2)
    before = copy.deepcopy(module)
    weights = [dict(model.named_parameters()) for model in (first, second)]
    [barrier] = measure_barriers(module, weights, [data], batch_norm_batches=batches(), positions=[0.5])
    assert barrier.height == pytest.approx(excess.mean(), abs=1e-5)
    assert barrier.standard_error == pytest.approx(excess.std(ddof=1) / 3, abs=1e-5)
    assert same_tensors(module, before)


@pytest.mark.parametrize(
    ("height", "error", "real"),
    [
        (0.02, 0.0, False),
        (0.0201, 0.0, True),
        (0.5, 0.25, False),
        (0.5, 0.2499, True),
        (-0.5, 0.0, False),
    ],
)
def test_a_barrier_counts_above_two_standard_errors_and_a_fiftieth_of_a_nat(
    height: float, error: float, real: bool
) -> None:
    assert Barrier((0, 1), height, error, 0.5).is_real is real


def test_what_cannot_be_measured_is_named() -> None:
    data = in_two_batches(torch.stack([SIZES, HARDNESS], dim=1))
    with pytest.raises(ValueError, match="1 modes and 3 positions"):
        measure_barriers(Known(bump), modes(0.0), data)
    with pytest.raises(ValueError, match="2 modes and 0 positions"):
        measure_barriers(Known(bump), modes(0.0, 1.0), data, positions=())
    for position in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match=f"position is {position}: expected"):
            measure_barriers(Known(bump), modes(0.0, 1.0), data, positions=(0.5, position))
    with pytest.raises(ValueError, match="batches are empty"):
        measure_barriers(Known(bump), modes(0.0, 1.0), [])
    alone = [{name: tensor[:1] for name, tensor in data[0].items()}]
    with pytest.raises(ValueError, match="one image: a standard error needs at least 2"):
        measure_barriers(Known(bump), modes(0.0, 1.0), alone)
    weights = [dict(backbone("resnet", seed).named_parameters()) for seed in (0, 1)]
    with pytest.raises(ValueError, match="batch_norm_batches"):
        measure_barriers(backbone("resnet"), weights, [{"pixel_values": images(2), "labels": torch.tensor([0, 1])}])
