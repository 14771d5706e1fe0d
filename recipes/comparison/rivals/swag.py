"""SWAG: draws from a Gaussian over weights that fits the snapshots of a cyclic run (Maddox et al., NeurIPS 2019).

No light, well-kept library has it for a plain module (torch-uncertainty's needs Lightning).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble
from comparison.snapshots import check_cycles, snapshots
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["Swag", "WeightsGaussian", "draws"]


class WeightsGaussian:
    """The moments of snapshots, and draws from the Gaussian with these moments.

    mean = 1/n sum_i theta_i, variance = 1/n sum_i theta_i^2 - mean^2 (0 or more); the deviations of the last
    `max_rank` snapshots from the running mean span the low-rank part.

    Args:
        max_rank: K, the number of deviations that are kept; 2 or more.

    Raises:
        ValueError: max_rank is below 2.

    Source: Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, NeurIPS 2019, algorithm 1.

    Example:
        >>> posterior = WeightsGaussian()
        >>> for value in (0.0, 2.0):
        ...     posterior.add({"w": torch.tensor([value])})
        >>> posterior.mean["w"]
        tensor([1.], dtype=torch.float64)
        >>> posterior.draw(torch.Generator().manual_seed(0))["w"].shape
        torch.Size([1])
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
        """Add a snapshot to the moments; copies its tensors, which are all floating-point."""
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
        """Draw weights from the Gaussian.

        theta = mean + sqrt(scale) (sqrt(variance) z_1 + D z_2 / sqrt(K - 1)), z standard normal.

        Args:
            generator: of z, on the CPU.
            scale: of the covariance. The paper's 0.5 takes half of the diagonal and half of the low-rank part.

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


def draws(run: Repetition, model: int, shots: Sequence[Weights], number: int) -> Iterator[Probabilities]:
    """Predict with draws from the Gaussian that fits the snapshots of one model."""
    names = [name for name, _ in run.module.named_parameters()]
    posterior = WeightsGaussian()
    for shot in shots:
        posterior.add({name: shot[name] for name in names})
    generator = torch.Generator().manual_seed(run.seed_of(model))
    for _ in range(number):
        yield run.predict(run.at(run.module, posterior.draw(generator)))


class Swag(Ensemble[list[Weights]]):
    """`forward_passes` draws around one model, with BatchNorm statistics recomputed."""

    name, label, color = "swag", "SWAG", "#e69f00"

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        check_cycles(compare, args, 2)

    def epochs(self, run: Repetition) -> list[float]:
        return [run.compare.budget] * run.compare.forward_passes

    def train(self, run: Repetition) -> list[Weights]:
        return snapshots(run)

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        return draws(run, 0, trained, run.compare.forward_passes)
