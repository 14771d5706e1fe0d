"""How logits become probabilities: the softmax over labels of which one holds, or an independent sigmoid for each."""

import math
from typing import Any

from torch import Tensor, nn

from .decisions import scale_log_probabilities
from .problem_types import is_multi_label
from .uncertainty import bernoulli_entropy, entropy

__all__ = ["SIGMOID", "SOFTMAX", "LabelActivation", "activation_of"]


class LabelActivation:
    """Softmax: an image has exactly one label.

    `ensemble_logits` of members, passed to `probabilities`, give the mean of the members' probabilities.

    Example:
        >>> import torch
        >>> SOFTMAX.probabilities(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    name = "softmax"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits.

        Args:
            logits: [..., labels] of any floating dtype.

        Returns:
            [..., labels] of the same dtype.

        Example:
            >>> import torch
            >>> SIGMOID.probabilities(torch.zeros(2))
            tensor([0.5000, 0.5000])
        """
        return logits.log_softmax(dim=-1).exp()

    def ensemble_logits(self, member_logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Return logits whose probabilities are the mean of the members' at a temperature.

        Computed from logarithms: finite logits of members give finite logits, however large they are.

        Args:
            member_logits: [batch, members, labels] float32 or float64.
            temperature: T of the ensemble, above 0.

        Returns:
            [batch, labels] of the same dtype: log softmax(log p / T) for the mean p of the members' softmax.

        Example:
            >>> import torch
            >>> SIGMOID.ensemble_logits(torch.tensor([[[0.0], [40.0]]])).sigmoid()   # the mean of 0.5 and 1
            tensor([[0.7500]])
        """
        members = member_logits.log_softmax(dim=-1)
        mean = members.logsumexp(dim=1) - math.log(member_logits.shape[1])
        return scale_log_probabilities(mean, temperature)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of labels, a scalar in nats.

        Args:
            logits: [batch, labels], of `ensemble_logits`.
            labels: [batch] int64; for sigmoids [batch, labels] of 0 to 1, and the mean is over images and labels.

        Raises:
            ValueError: labels for sigmoids have another shape, or one is not 0 to 1, such as -100.

        Example:
            >>> import torch
            >>> SIGMOID.loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
            tensor(0.6931)
        """
        return nn.functional.nll_loss(logits, labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the negative log-likelihood of each image in nats, [batch].

        Args:
            logits: [batch, labels], of a backbone.
            labels: as for `loss`; for sigmoids the loss of an image is the mean over its labels.

        Raises:
            ValueError: the labels have another shape, or one for sigmoids is not 0 to 1.

        Example:
            >>> import torch
            >>> SOFTMAX.losses(torch.zeros(1, 2), torch.tensor([1]))
            tensor([0.6931])
        """
        if labels.ndim != 1:
            # cross_entropy would take them for probabilities.
            raise ValueError(
                f"The labels have the shape {list(labels.shape)}; expected one label an image, [{len(logits)}]. "
                "Several labels of an image need a backbone with problem_type 'multi_label_classification'."
            )
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what is right of each prediction: whether the label is; for sigmoids the share of labels, at 0.5.

        Args:
            logits, labels: as for `losses`.

        Returns:
            [batch] bool, or float32 from 0 to 1.

        Example:
            >>> import torch
            >>> SIGMOID.right(torch.tensor([[1.0, 1.0]]), torch.tensor([[1, 0]]))
            tensor([0.5000])
        """
        return logits.argmax(dim=-1) == labels

    def energies(self, logits: Tensor) -> Tensor:
        """Return the energy of each prediction in nats: high for images unlike the training images.

        -logsumexp of the logits (Liu et al. 2020, Energy-based Out-of-distribution Detection). For sigmoids, the joint
        energy: minus the sum over labels of ln(1 + exp(logit)) (Wang et al. 2021, Can Multi-Label Classification
        Networks Know What They Don't Know?).

        Args:
            logits: [..., labels].

        Returns:
            [...] of the same dtype.

        Example:
            >>> import torch
            >>> SOFTMAX.energies(torch.zeros(2)), SIGMOID.energies(torch.zeros(2))
            (tensor(-0.6931), tensor(-1.3863))
        """
        return -logits.logsumexp(dim=-1)

    def entropy(self, probabilities: Tensor) -> Tensor:
        """Return the entropy of predictions in nats; for sigmoids the sum of the labels' entropies.

        Args:
            probabilities: [..., labels].

        Returns:
            [...] of the same dtype.

        Example:
            >>> import torch
            >>> SIGMOID.entropy(torch.tensor([0.5, 1.0]))
            tensor(0.6931)
        """
        return entropy(probabilities)


class _Sigmoid(LabelActivation):
    name = "sigmoid"

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def ensemble_logits(self, member_logits: Tensor, temperature: float = 1.0) -> Tensor:
        # ln p - ln(1 - p) of the mean p. The number of members cancels. A sigmoid of float32 is 1 from 17 on.
        positive = nn.functional.logsigmoid(member_logits).logsumexp(dim=1)
        negative = nn.functional.logsigmoid(-member_logits).logsumexp(dim=1)
        logits = positive - negative
        return logits if temperature == 1 else logits / temperature

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _binary_losses(logits, labels).mean()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _binary_losses(logits, labels).mean(dim=-1)

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ((logits >= 0) == (labels >= 0.5)).float().mean(dim=-1)

    def energies(self, logits: Tensor) -> Tensor:
        return -nn.functional.softplus(logits).sum(dim=-1)

    def entropy(self, probabilities: Tensor) -> Tensor:
        return bernoulli_entropy(probabilities)


def _binary_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropies, [batch, labels]. That of a label beyond 0 and 1 would be negative without a bound."""
    if labels.shape != logits.shape:
        raise ValueError(
            f"The labels have the shape {list(labels.shape)}, but problem_type is 'multi_label_classification': "
            f"expected the size of the logits, {list(logits.shape)}, 0 to 1 for each label of an image."
        )
    if bad := labels[~((labels >= 0) & (labels <= 1))][:1].tolist():
        raise ValueError(
            f"The labels hold {bad[0]:g}, but problem_type is 'multi_label_classification': expected 0 to 1 for each "
            "label of an image, 1 where it has the label. No number stands for an unknown label: leave the image out."
        )
    return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")


SOFTMAX: LabelActivation = LabelActivation()
"""For `problem_type="single_label_classification"`, and for None."""

SIGMOID: LabelActivation = _Sigmoid()
"""For `problem_type="multi_label_classification"`."""


def activation_of(config: Any) -> LabelActivation:
    """Return the activation that a configuration asks for.

    Args:
        config: of an ensemble or a backbone.

    Example:
        >>> from transformers import ViTConfig
        >>> activation_of(ViTConfig(problem_type="multi_label_classification")).name
        'sigmoid'
    """
    return SIGMOID if is_multi_label(config) else SOFTMAX
