"""How unsure an ensemble is, and which part of that its members disagree on: tensors in, tensors out."""

from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats, H(p) = -sum_j p_j ln p_j, of [..., labels] probabilities: [...] of their dtype.

    A probability of 0 adds nothing, its limit.
    """
    return -probabilities.xlogy(probabilities).sum(dim=-1)


def predictive_entropy(member_probabilities: Tensor) -> Tensor:
    """Entropy of the ensemble's prediction, in nats: all of its uncertainty.

    H(p) for p = mean_m p_m, the mean of the members' probabilities.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; rows are scaled to sum to 1.

    Returns:
        [...] float64, 0 (certain) to ln(labels) (uniform).

    Source: Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018.
    """
    return entropy(_normalized(member_probabilities).mean(dim=-2))


def mutual_information(member_probabilities: Tensor) -> Tensor:
    """Mutual information between prediction and weights, in nats: the uncertainty that comes of members' disagreement.

    I = H(mean_m p_m) - mean_m H(p_m). The rest, mean_m H(p_m), is what every member is unsure of by itself.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; rows are scaled to sum to 1.

    Returns:
        [...] float64, from 0 (members agree, or there is one) to the smaller of ln(members) and ln(labels).

    Source: Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011; Depeweg et al.,
    Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018.
    """
    probabilities = _normalized(member_probabilities)
    difference = entropy(probabilities.mean(dim=-2)) - entropy(probabilities).mean(dim=-1)
    # Never negative by Jensen's inequality, but for rounding.
    return difference.clamp(min=0)


def vote_share(member_probabilities: Tensor) -> Tensor:
    """Share of the members whose most probable label is the ensemble's.

    Args:
        member_probabilities: [..., members, labels] of any floating dtype; the first label wins a tie.

    Returns:
        [...] float64, 0 to 1. It can be 0: two labels that half of the members are sure of each may both lose to one
        that all hold likely.
    """
    votes = member_probabilities.argmax(dim=-1)
    chosen = member_probabilities.double().mean(dim=-2).argmax(dim=-1, keepdim=True)
    return (votes == chosen).double().mean(dim=-1)


def standard_deviation(member_probabilities: Tensor) -> Tensor:
    """Standard deviation over the members of each label's probability (of the members themselves: divided by their
    number, not one less).

    Args:
        member_probabilities: [..., members, labels] of any floating dtype.

    Returns:
        [..., labels] float64, 0 to 1/2; 0 for a single member.
    """
    return member_probabilities.double().std(dim=-2, correction=0)


def _normalized(probabilities: Tensor) -> Tensor:
    probabilities = probabilities.double()
    return probabilities / probabilities.sum(dim=-1, keepdim=True)
