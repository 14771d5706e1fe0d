"""What a step of SPRO costs beside one that is made as layer-agnostic code for the paper would make it.

    python recipes/benchmarks/paper_step.py --backbones tf_efficientnet_lite0 --image_size 64

The baseline mixes each parameter by a Python sum over all vertices in the graph, tracks gradients of all vertices,
and takes the volume from the distances between all pairs of rows of a [vertices, parameters] matrix (Cayley-Menger
determinant) in float32, each step. It is written from that description, for any module, and shows each of H points the
whole batch; so does `full`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import alternating, parser, ratio, report, start
from step_cost import Steps
from torch import Tensor, nn


class LayerAgnosticSteps:
    """The step of the baseline, over the same backbone and batch as `steps`.

    Args:
        steps: whose module, batch and vertices are used; the vertices are copied.
        volume_weight: of the log volume in the loss.
    """

    def __init__(self, steps: Steps, volume_weight: float) -> None:
        self.steps, self.volume_weight = steps, volume_weight
        self.vertices = [
            {name: nn.Parameter(tensor.clone()) for name, tensor in vertex.items()}
            for vertex in steps.growing.vertices
        ]
        self.optimizer = torch.optim.AdamW(self.vertices[-1].values(), lr=1e-5, fused=True)

    def step(self, points: int) -> None:
        """One step of the optimizer on the mean loss of some points minus the weighted log volume."""
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
        for vertex in self.vertices[:-1]:
            for parameter in vertex.values():
                parameter.grad = None
        self.optimizer.step()

    def log_volume(self) -> Tensor:
        """From the squared distances of all pairs of rows of the [vertices, parameters] matrix, float32, in the graph.

        The backward pass of each pair's two rows makes a gradient of the whole matrix: that is what costs.
        """
        flat = torch.stack([torch.cat([p.flatten() for p in vertex.values()]) for vertex in self.vertices])
        count = len(flat)
        bordered = torch.ones(count + 1, count + 1, device=flat.device)
        bordered[0, 0] = 0.0
        for i in range(count):
            for j in range(count):
                bordered[i + 1, j + 1] = (flat[i] - flat[j]).square().sum()
        # V^2 = |det| / (2^k (k!)^2) for a k-simplex; the constant does not matter to the gradient but to the value.
        k = count - 1
        return 0.5 * (torch.linalg.det(bordered).abs() + 1e-30).log() - 0.5 * k * math.log(2) - math.lgamma(k + 1)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    found = parser(__doc__.splitlines()[0], "paper_step")
    found.add_argument("--backbones", nargs="+", default=["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
    found.add_argument("--image_size", type=int, default=64)
    found.add_argument("--batch_size", type=int, default=32)
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--points", type=int, nargs="+", default=[1, 5], help="Numbers of points H to compare at.")
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
