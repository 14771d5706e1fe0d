"""SWAG: a Gaussian over weights from the moments of snapshots of one run (Maddox et al., NeurIPS 2019).

No light, well-kept library has it for a plain module (torch-uncertainty's comes with Lightning), so the formulas are
here.
"""

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor


class WeightsGaussian:
    """The running moments of snapshots, and draws from the Gaussian with these moments.

    mean = 1/n sum_i theta_i, variance = 1/n sum_i theta_i^2 - mean^2 (no less than 0); the deviations of the last
    `max_rank` snapshots from the mean at their time span the low-rank part.

    Args:
        max_rank: K, how many deviations are kept; 2 or more.

    Source: Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, NeurIPS 2019, algorithm 1.
    """

    def __init__(self, max_rank: int = 20) -> None:
        if max_rank < 2:
            raise ValueError(f"max_rank is {max_rank}: the low-rank part needs at least 2 deviations.")
        self.max_rank = max_rank
        self.snapshots = 0
        self.mean: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.deviations: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take one more snapshot into the moments; the tensors, all floating, are copied."""
        self.snapshots += 1
        for name, tensor in weights.items():
            wide = tensor.double()
            mean = self.mean.setdefault(name, torch.zeros_like(wide))
            square = self.square.setdefault(name, torch.zeros_like(wide))
            mean.lerp_(wide, 1 / self.snapshots)
            square.lerp_(wide.square(), 1 / self.snapshots)
        self.deviations.append({name: tensor.double() - self.mean[name] for name, tensor in weights.items()})
        self.deviations = self.deviations[-self.max_rank :]

    def draw(self, generator: Generator, scale: float = 0.5) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian.

        theta = mean + sqrt(scale) (sqrt(variance) z_1 + D z_2 / sqrt(K - 1)), z standard normal.

        Args:
            generator: of z, on the CPU.
            scale: of the covariance; 0.5 is the paper's: half of the diagonal and half of the low-rank part.

        Returns:
            float64 tensors by name.

        Raises:
            RuntimeError: fewer than 2 snapshots were added.
        """
        if len(self.deviations) < 2:
            raise RuntimeError(f"SWAG needs at least 2 snapshots, and {self.snapshots} were added.")
        rank = len(self.deviations)
        low_rank = torch.randn(rank, generator=generator, dtype=torch.float64) / math.sqrt(rank - 1)
        drawn = {}
        for name, mean in self.mean.items():
            variance = (self.square[name] - mean.square()).clamp_min(0)
            noise = variance.sqrt() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
            for weight, deviation in zip(low_rank.tolist(), self.deviations, strict=True):
                noise += weight * deviation[name]
            drawn[name] = mean + math.sqrt(scale) * noise
        return drawn
