"""The modules that become graphs: one point with its temperature, or the whole ensemble with its uncertainties.

They compute in float32 alone. Runtimes of browsers and accelerators have no float64.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..model.label_activation import SIGMOID
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.problem_types import is_multi_label
from ..model.shared_weights import shared_memo

__all__ = [
    "ENSEMBLE_OUTPUTS",
    "POINT_OUTPUTS",
    "EnsembleGraph",
    "PointGraph",
    "ensemble_graph",
    "on_cpu_in_float32",
    "use_plain_attention",
]

POINT_OUTPUTS = {"logits": "[batch, labels]"}
"""Name and shape of the output of a point."""

ENSEMBLE_OUTPUTS = {
    "logits": "[batch, labels]",
    "member_probabilities": "[batch, members, labels]",
    "standard_deviation": "[batch, labels]",
    "predictive_entropy_nats": "[batch]",
    "mutual_information_nats": "[batch]",
    "vote_share": "[batch]",
    "energy": "[batch]",
}
"""Names and shapes of the outputs of an ensemble, as the uncertainty pipeline names them.

`energy` is the mean of the members' energies. Of a multi-label ensemble, the sigmoid of `logits` gives the
probabilities, and entropies are sums over the labels.
"""


class PointGraph(nn.Module):
    """One point of the complex: a backbone and its temperature.

    Args:
        backbone: an image classifier in evaluation mode.
        temperature: T; the graph returns logits / T.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1, image_size=32)).eval()
        >>> PointGraph(vit, 2.0)(torch.zeros(1, 3, 32, 32))["logits"].shape
        torch.Size([1, 2])
    """

    def __init__(self, backbone: PreTrainedModel, temperature: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.temperature = temperature

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the logits, see `POINT_OUTPUTS`.

        Args:
            pixel_values: [batch, channels, height, width], from the image processor.

        Example::

            PointGraph(model.member_backbone(0), temperature=1.5)(pixel_values)["logits"]
        """
        logits: Tensor = self.backbone(pixel_values=pixel_values).logits.float()
        return {"logits": logits if self.temperature == 1 else logits / self.temperature}


class EnsembleGraph(nn.Module):
    """The members of an ensemble side by side, their calibrated mean and their uncertainties.

    Args:
        members: backbones in evaluation mode, at least one. What they share is computed once by ONNX Runtime.
        temperature: T of the ensemble.
        multi_label: whether labels are independent, each with a sigmoid.

    Source: see `SimplexForImageClassification.forward` and `model.uncertainty`.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=12, num_hidden_layers=1, image_size=32)).eval()
        >>> EnsembleGraph([vit, vit])(torch.zeros(1, 3, 32, 32))["vote_share"]
        tensor([1.])
    """

    def __init__(
        self, members: Sequence[PreTrainedModel], temperature: float = 1.0, *, multi_label: bool = False
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperature = temperature
        self.multi_label = multi_label

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the prediction with its uncertainties, see `ENSEMBLE_OUTPUTS`.

        Args:
            pixel_values: [batch, channels, height, width], from the image processor.

        Example::

            ensemble_graph(model)(pixel_values)["predictive_entropy_nats"]
        """
        raw = torch.stack([member(pixel_values=pixel_values).logits.float() for member in self.members], dim=1)
        if self.multi_label:
            return _of_sigmoids(raw, self.temperature)
        log_members = raw.log_softmax(dim=-1)
        members = log_members.exp()
        log_mean = log_members.logsumexp(dim=1) - math.log(len(self.members))
        logits = log_mean if self.temperature == 1 else (log_mean / self.temperature).log_softmax(dim=-1)
        # Logarithms of finite logits are finite, so that a probability of 0 adds 0.
        total = -(log_mean.exp() * log_mean).sum(dim=-1)
        of_members = -(members * log_members).sum(dim=-1).mean(dim=-1)
        votes = members.argmax(dim=-1) == log_mean.argmax(dim=-1, keepdim=True)
        return {
            "logits": logits,
            "member_probabilities": members,
            "standard_deviation": members.std(dim=1, correction=0),
            "predictive_entropy_nats": total,
            "mutual_information_nats": (total - of_members).clamp(min=0),
            "vote_share": votes.float().mean(dim=-1),
            "energy": -raw.logsumexp(dim=-1).mean(dim=-1),
        }


def _of_sigmoids(raw: Tensor, temperature: float) -> dict[str, Tensor]:
    """The outputs for independent labels, from the members' logits [batch, members, labels]."""
    logits = SIGMOID.ensemble_logits(raw, temperature)
    members = raw.sigmoid()
    mean = members.mean(dim=1, keepdim=True)
    total, of_members = _entropies(mean, SIGMOID.ensemble_logits(raw).unsqueeze(1)), _entropies(members, raw)
    agrees = (members >= 0.5) == (mean >= 0.5)
    return {
        "logits": logits,
        "member_probabilities": members,
        "standard_deviation": members.std(dim=1, correction=0),
        "predictive_entropy_nats": total.mean(dim=-1),
        "mutual_information_nats": (total.mean(dim=-1) - of_members.mean(dim=-1)).clamp(min=0),
        "vote_share": agrees.float().amin(dim=-1).mean(dim=-1),
        "energy": SIGMOID.energies(raw).mean(dim=-1),
    }


def _entropies(probabilities: Tensor, logits: Tensor) -> Tensor:
    """Sums over labels of the entropies, [batch, members]. Logarithms of sigmoids of finite logits are finite."""
    positive, negative = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    return -(probabilities * positive + (1 - probabilities) * negative).sum(dim=-1)


def on_cpu_in_float32(model: SimplexForImageClassification) -> SimplexForImageClassification:
    """Return the model itself if it is on the CPU in float32, else a copy that is.

    Example::

        on_cpu_in_float32(model.cuda().bfloat16()).dtype   # torch.float32
    """
    if all(tensor.device.type == "cpu" and not _is_other_float(tensor) for tensor in model.state_dict().values()):
        return model
    model = copy.deepcopy(model)
    model.dematerialize()
    return model.float().cpu()


def ensemble_graph(model: SimplexForImageClassification) -> EnsembleGraph:
    """Return all members of an ensemble as one module. Weights that the members share are not copied.

    Args:
        model: an ensemble with members.

    Raises:
        RuntimeError: the members are not drawn yet.

    Example::

        ensemble_graph(model)(pixel_values)["mutual_information_nats"]
    """
    if not model.config.members:
        raise RuntimeError("The ensemble has no members: draw them, or export a vertex or a centroid.")
    backbones = (model.member_backbone(member) for member in range(len(model.config.members)))
    members = [copy.deepcopy(backbone, shared_memo(backbone)) for backbone in backbones]
    temperature = 1.0 if model.decisions is None else model.decisions.temperature
    return EnsembleGraph(members, temperature, multi_label=is_multi_label(model.config)).eval()


def use_plain_attention(module: nn.Module) -> None:
    """Let the backbones of transformers in a module compute attention by matrix products, not by one fused operation.

    Args:
        module: a graph of this module, which has copies of the backbones. It is changed.

    Example::

        use_plain_attention(ensemble_graph(model))
    """
    for backbone in module.modules():
        # torch.onnx takes fused attention apart, and what remains of it in Swin fails.
        if isinstance(backbone, PreTrainedModel) and backbone.config._attn_implementation == "sdpa":
            backbone.set_attn_implementation("eager")


def _is_other_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32
