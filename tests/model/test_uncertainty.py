"""Uncertainty splits into what every member is unsure of and what they disagree on."""

import math

import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor

from hf_simplex.model.uncertainty import (
    entropy,
    mutual_information,
    predictive_entropy,
    standard_deviation,
    vote_share,
)


def random_members(images: int = 50, members: int = 4, labels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(images, members, labels, generator=generator)).softmax(dim=-1)


@pytest.mark.parametrize(
    ("members", "total", "disagreement", "share", "deviations"),
    [
        # Both are sure of another label: all of it is disagreement.
        ([[1.0, 0.0], [0.0, 1.0]], math.log(2), math.log(2), 0.5, [0.5, 0.5]),
        # Both are unsure and agree on that.
        ([[0.5, 0.5], [0.5, 0.5]], math.log(2), 0.0, 1.0, [0.0, 0.0]),
        # H(0.7, 0.3) = 0.610864; (H(0.9, 0.1) + H(0.5, 0.5)) / 2 = (0.325083 + 0.693147) / 2 = 0.509115.
        ([[0.9, 0.1], [0.5, 0.5]], 0.610864, 0.101749, 1.0, [0.2, 0.2]),
        # A single member has nobody to disagree with.
        ([[0.9, 0.1]], 0.325083, 0.0, 1.0, [0.0, 0.0]),
        # The label that nobody votes for wins: means 0.26, 0.26, 0.48.
        ([[0.52, 0.0, 0.48], [0.0, 0.52, 0.48]], 1.052784, 0.360437, 0.0, [0.26, 0.26, 0.0]),
    ],
)
def test_worked_by_hand(
    members: list[list[float]], total: float, disagreement: float, share: float, deviations: list[float]
) -> None:
    probabilities = torch.tensor(members)
    assert predictive_entropy(probabilities).item() == pytest.approx(total, abs=1e-6)
    assert mutual_information(probabilities).item() == pytest.approx(disagreement, abs=1e-6)
    assert vote_share(probabilities).item() == share
    assert standard_deviation(probabilities).tolist() == pytest.approx(deviations, abs=1e-7)


def test_agrees_with_scipy_and_scikit_learn() -> None:
    members = random_members().double()
    assert predictive_entropy(members).numpy() == pytest.approx(scipy_entropy(members.mean(dim=1).numpy(), axis=1))
    # One member in equal parts and the label that it predicts are the two variables.
    counts = (members * 10**6).round().long().numpy()
    expected = [mutual_info_score(None, None, contingency=table) for table in counts]
    assert mutual_information(members).numpy() == pytest.approx(expected, abs=1e-5)


def test_mutual_information_has_its_bounds() -> None:
    members = random_members()
    information, total = mutual_information(members), predictive_entropy(members)
    assert (information > 0).all()
    assert (information <= total).all()
    assert (information <= math.log(4)).all()
    one_hot = torch.eye(5)[torch.arange(50) % 5]
    assert mutual_information(one_hot[:, None].expand(-1, 4, -1)).tolist() == [0.0] * 50


@pytest.mark.parametrize("members", [1, 3, 7])
def test_members_that_agree_share_no_information_and_rounding_never_makes_it_negative(members: int) -> None:
    same = random_members(images=500, members=1).expand(-1, members, -1)
    information = mutual_information(same)
    assert (information >= 0).all()
    assert (information < 1e-15).all()
    if members == 1:
        assert (information == 0).all()


def test_a_probability_of_zero_costs_nothing_and_rows_need_not_sum_to_one_to_the_last_bit() -> None:
    assert entropy(torch.tensor([1.0, 0.0])).item() == 0
    members = torch.tensor([[0.5000001, 0.5], [0.5, 0.5]])
    assert predictive_entropy(members).item() == pytest.approx(math.log(2), abs=1e-12)
    assert predictive_entropy(members).dtype == torch.float64


def test_leading_dimensions_are_images() -> None:
    members = random_members(images=6)
    for function in (predictive_entropy, mutual_information, vote_share, standard_deviation):
        each = torch.stack([function(image) for image in members])
        assert torch.equal(function(members.reshape(2, 3, 4, 5)).flatten(0, 1), each)
