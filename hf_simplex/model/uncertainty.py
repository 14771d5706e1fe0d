"""Measures of an ensemble's uncertainty, from the probabilities of its members."""

from torch import Tensor

__all__ = [
    "bernoulli_entropy",
    "entropy",
    "mutual_information",
    "predictive_entropy",
    "standard_deviation",
    "vote_share",
]


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats, H(p) = -sum_j p_j ln p_j, with 0 ln 0 = 0.

    Args:
        probabilities: [..., labels] of any floating dtype.

    Returns:
        [...] of the same dtype.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([0.5, 0.5]))
        tensor(0.6931)
    """
    return -probabilities.xlogy(probabilities).sum(dim=-1)


def bernoulli_entropy(probabilities: Tensor) -> Tensor:
    """Sum over independent labels of the entropy of each, in nats: H(p) = -sum_j p_j ln p_j + (1 - p_j) ln(1 - p_j).

    The entropy of independent variables is the sum of their entropies.

    Args:
        probabilities: [..., labels] of any floating dtype, each 0 to 1. They need not sum to 1.

    Returns:
        [...] of the same dtype, 0 to labels times ln 2.

    Example:
        >>> import torch
        >>> bernoulli_entropy(torch.tensor([0.5, 0.5]))
        tensor(1.3863)
    """
    complements = 1 - probabilities
    return -(probabilities.xlogy(probabilities) + complements.xlogy(complements)).sum(dim=-1)


def predictive_entropy(member_probabilities: Tensor, *, independent: bool = False) -> Tensor:
    """Entropy of the ensemble's prediction, in nats: its total uncertainty.

    H(p) for p = mean_m p_m, the mean of the members' probabilities.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; rows are scaled to sum to 1.
        independent: labels are independent, as in multi-label classification: each has a probability of its own, rows
            are not scaled, and H is the sum over labels (`bernoulli_entropy`).

    Returns:
        [...] float64, 0 (certain) to ln(labels) (uniform); of independent labels to labels times ln 2.

    Source: Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018.

    Example:
        >>> import torch
        >>> predictive_entropy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor(0.6931, dtype=torch.float64)
    """
    if independent:
        return bernoulli_entropy(member_probabilities.double().mean(dim=-2))
    return entropy(_normalized(member_probabilities).mean(dim=-2))


def mutual_information(member_probabilities: Tensor, *, independent: bool = False) -> Tensor:
    """Mutual information between prediction and weights, in nats: the members' disagreement.

    I = H(mean_m p_m) - mean_m H(p_m). The second term is the members' mean entropy: the part of the total that remains
    where all members agree (aleatoric). I is the other part (epistemic).

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; rows are scaled to sum to 1.
        independent: see `predictive_entropy`.

    Returns:
        [...] float64, from 0 (members agree, or there is one) to the smaller of ln(members) and ln(labels); of
        independent labels to labels times ln 2.

    Source: Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011; Depeweg et al.,
    Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018.

    Example:
        >>> import torch
        >>> mutual_information(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        tensor(0., dtype=torch.float64)
    """
    probabilities = member_probabilities.double() if independent else _normalized(member_probabilities)
    of_one = bernoulli_entropy if independent else entropy
    difference = of_one(probabilities.mean(dim=-2)) - of_one(probabilities).mean(dim=-1)
    # By Jensen's inequality it is negative only by rounding.
    return difference.clamp(min=0)


def vote_share(member_probabilities: Tensor, *, independent: bool = False) -> Tensor:
    """Share of the members whose most probable label is the ensemble's.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; the first label wins a tie.
        independent: labels are independent: the share of the members that give exactly the labels that the ensemble
            gives, those of a probability of at least 0.5.

    Returns:
        [...] float64, 0 to 1. It can be 0: the ensemble's label may be the second choice of every member.

    Example:
        >>> import torch
        >>> vote_share(torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
        tensor(0.5000, dtype=torch.float64)
    """
    if independent:
        given = member_probabilities.double().mean(dim=-2, keepdim=True) >= 0.5
        return ((member_probabilities.double() >= 0.5) == given).all(dim=-1).double().mean(dim=-1)
    votes = member_probabilities.argmax(dim=-1)
    chosen = member_probabilities.double().mean(dim=-2).argmax(dim=-1, keepdim=True)
    return (votes == chosen).double().mean(dim=-1)


def standard_deviation(member_probabilities: Tensor) -> Tensor:
    """Standard deviation of each label's probability over the members, without Bessel's correction.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype.

    Returns:
        [..., labels] float64, 0 to 1/2; 0 for a single member.

    Example:
        >>> import torch
        >>> standard_deviation(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    return member_probabilities.double().std(dim=-2, correction=0)


def _normalized(probabilities: Tensor) -> Tensor:
    probabilities = probabilities.double()
    return probabilities / probabilities.sum(dim=-1, keepdim=True)
