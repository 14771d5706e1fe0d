"""The output of an ensemble."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ModelOutput

__all__ = ["SimplexImageClassifierOutput"]


@dataclass
class SimplexImageClassifierOutput(ModelOutput):
    """Output of `SimplexForImageClassification`.

    Attributes:
        loss: scalar float32, the mean negative log-likelihood of the labels in nats. Returned when labels are given.
        logits: [batch, labels] float32, log of the ensemble's probabilities: the mean of the members' softmax, at the
            temperature of the decisions if there are any. Of a multi-label ensemble, the logits ln p / (1 - p) of the
            mean of the members' sigmoids.
        member_probabilities: [batch, members, labels] float32, the softmax of each member, without a temperature; of a
            multi-label ensemble the sigmoid. Returned on request.
        member_energies: [batch, members] float32, -logsumexp of each member's logits, in nats: high for images unlike
            the training images (Liu et al. 2020, Energy-based Out-of-distribution Detection). Returned with the
            members' probabilities. Of a multi-label ensemble, the joint energy (`label_activation`).
        member_logits: [batch, members, labels] float32, of a multi-label ensemble. They tell probabilities near 1
            apart, which float32 does not. Returned with the members' probabilities.

    Example:
        >>> import torch
        >>> SimplexImageClassifierOutput(logits=torch.zeros(1, 2)).logits.shape
        torch.Size([1, 2])
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    member_probabilities: Tensor | None = None
    member_energies: Tensor | None = None
    member_logits: Tensor | None = None
