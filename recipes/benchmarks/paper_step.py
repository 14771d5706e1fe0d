"""Time of a step of SPRO relative to the layer-agnostic step of the paper's code.

    python recipes/benchmarks/paper_step.py --backbones tf_efficientnet_lite0 --image_size 64

The baseline re-implements what the paper's public code does for any module (Benton et al. 2021, transformer
experiments): it mixes each parameter by a Python sum over all vertices in the graph, tracks gradients of all vertices,
steps them all with the optimizer, and computes the volume from all pairwise distances in float32, one parameter tensor
at a time. Each of H points sees the whole batch, as in `full`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import alternating, parser, ratio, report, start
from torch import Tensor, nn
from workloads import Steps


class LayerAgnosticSteps:
    """Steps of the baseline, on the backbone and batch of `steps`.

    Args:
        steps: source of module, batch and vertices. Vertices are copied.
        volume_weight: weight of the log volume in the loss.
    """

    def __init__(self, steps: Steps, volume_weight: float) -> None:
        self.steps, self.volume_weight = steps, volume_weight
        self.vertices = [
            {name: nn.Parameter(tensor.clone()) for name, tensor in vertex.items()}
            for vertex in steps.growing.vertices
        ]
        every = [parameter for vertex in self.vertices for parameter in vertex.values()]
        self.optimizer = torch.optim.AdamW(every, lr=1e-5, fused=True)

    def step(self, points: int) -> None:
        """Take an optimizer step on the mean loss over points minus the weighted log volume."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.steps.images.device)
        for coordinates in self.steps.growing.draw(points, self.steps.generator):
            mixed: dict[str, Any] = {
                name: sum(c * vertex[name] for c, vertex in zip(coordinates, self.vertices, strict=True))
                for name in self.vertices[0]
            }
            logits = torch.func.functional_call(self.steps.module, mixed, (self.steps.images,))
            loss = loss + nn.functional.cross_entropy(logits, self.steps.targets) / points
        if self.volume_weight:
            loss = loss - self.volume_weight * self.log_volume()
        loss.backward()
        self.optimizer.step()

    def log_volume(self) -> Tensor:
        """Log volume from pairwise distances (Cayley-Menger determinant), float32, in the graph."""
        squared = torch.stack(
            [
                distances(torch.stack([joined_rows(vertex[name]) for vertex in self.vertices])).square()
                for name in self.vertices[0]
            ]
        ).sum(0)
        bordered = nn.functional.pad(squared, (1, 0, 1, 0), value=1.0)
        bordered[0, 0] = 0.0
        # V^2 = |det| / (2^k (k!)^2) for a k-simplex. The constant affects the value, not the gradient.
        k = len(squared) - 1
        return 0.5 * (torch.linalg.det(bordered).abs() + 1e-30).log() - 0.5 * k * math.log(2) - math.lgamma(k + 1)


def joined_rows(tensor: Tensor) -> Tensor:
    """Flatten a tensor by concatenating its rows: thousands of small operations, forward and backward."""
    return torch.cat([row.reshape(-1) for row in tensor])


def distances(rows: Tensor) -> Tensor:
    """Euclidean distances [rows, rows] by one matrix product: |a - b|^2 = [-2a, |a|^2, 1] [b, 1, |b|^2]^T.

    Both factors are built and differentiated separately.
    """
    mean = rows.mean(0)
    left, right = rows - mean, rows - mean
    ones = rows.new_ones(len(rows), 1)
    one = torch.cat([-2 * left, left.square().sum(1, keepdim=True), ones], dim=1)
    other = torch.cat([right, ones, right.square().sum(1, keepdim=True)], dim=1)
    return (one @ other.T).clamp_min(1e-30).sqrt()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "paper_step")
    found.add_argument("--backbones", nargs="+", default=["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
    found.add_argument("--image_size", type=int, default=64)
    found.add_argument("--batch_size", type=int, default=32)
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--points", type=int, nargs="+", default=[1, 5], help="Numbers of points H.")
    found.add_argument("--volume_weight", type=float, default=1e-8)
    found.set_defaults(channels_last=False, compile=False)
    args = found.parse_args(argv)
    device = start(args)
    rows = []
    for name in args.backbones:
        steps = Steps(name, args, device)
        baseline, without = LayerAgnosticSteps(steps, args.volume_weight), LayerAgnosticSteps(steps, 0.0)
        tasks: dict[str, Callable[[], None]] = {"plain": steps.plain}
        for points in args.points:
            tasks[f"ours_{points}"] = partial(steps.simplex, points, split=False)
            tasks[f"baseline_{points}"] = partial(baseline.step, points)
            tasks[f"baseline_without_volume_{points}"] = partial(without.step, points)
        seconds = alternating(tasks, args.rounds, device, args.clock)
        row: dict[str, Any] = {"backbone": name}
        for task in tasks:
            row[task] = ratio(seconds, task, "plain")
        for points in args.points:
            row[f"speed_up_{points}"] = ratio(seconds, f"baseline_{points}", f"ours_{points}")
        rows.append(row)
    return report(args, device, rows)


if __name__ == "__main__":
    main()
