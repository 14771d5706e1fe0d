"""What a step of SPRO costs beside a step of ordinary fine-tuning of the same backbone on the same batch.

    python recipes/benchmarks/step_cost.py --backbones resnet50 --image_size 224
    python recipes/benchmarks/step_cost.py --backbones tf_efficientnet_lite0 --image_size 64 --channels_last

`split_h` divides the batch over h points, `full_h` shows each of h points all of it; both with the volume term on.
Against what: one plain step, and for `full_h` h plain steps. `parts_4` is a plain step in 4 parts whose gradients add
up: what smaller batches cost without any simplex. `points` and `volume` are the two things that a step of SPRO adds,
alone: writing one point and taking it back, and the volume's gradient.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from measure import alternating, batch, build_backbone, parser, ratio, report, start
from torch import Generator, Tensor, nn

from hf_simplex.complexes import SimplicialComplex
from hf_simplex.spro import GrowingVertex

LABELS = 100


class Steps:
    """One backbone, one batch, and the different steps that can be made with them; AdamW makes them all.

    Args:
        name: of the backbone.
        args: of the command line.
        device: of the weights and images.
    """

    def __init__(self, name: str, args: argparse.Namespace, device: torch.device) -> None:
        self.module = build_backbone(name, args.image_size, LABELS, args.channels_last).to(device).train()
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.module) if args.compile else self.module
        self.images, self.targets = batch(args.batch_size, args.image_size, LABELS, device, args.channels_last)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5, fused=True)
        self.generator = Generator().manual_seed(args.seed)
        self.num_vertices, self.volume_weight = args.num_vertices, args.volume_weight

    @cached_property
    def growing(self) -> GrowingVertex:
        """The last vertex of a simplex, all of whose vertices lie round the backbone's first weights."""
        weights = {name: p.detach() for name, p in self.module.named_parameters()}
        vertices = [
            {name: p + 0.01 * torch.randn_like(p) for name, p in weights.items()} for _ in range(self.num_vertices)
        ]
        structure = SimplicialComplex(self.num_vertices, (tuple(range(self.num_vertices)),))
        return GrowingVertex(self.module, vertices, structure, self.num_vertices - 1, volume_weight=self.volume_weight)

    def plain(self, parts: int = 1) -> None:
        """A step of ordinary fine-tuning, in parts whose gradients add up."""
        self.optimizer.zero_grad()
        for images, targets in zip(self.images.chunk(parts), self.targets.chunk(parts), strict=True):
            (nn.functional.cross_entropy(self.forward(images), targets) / parts).backward()
        self.optimizer.step()

    def simplex(self, points: int, split: bool) -> None:
        """A step of SPRO."""
        parts = (self.images.chunk(points), self.targets.chunk(points)) if split else None
        self.optimizer.zero_grad()
        for number, coordinates in enumerate(self.growing.draw(points, self.generator)):
            images, targets = (self.images, self.targets) if parts is None else (parts[0][number], parts[1][number])
            with self.growing.at(coordinates) as coordinate:
                (coordinate * nn.functional.cross_entropy(self.forward(images), targets) / points).backward()
        self.growing.add_volume_gradient()
        self.optimizer.step()

    def points(self) -> None:
        """Write a point and take it back, with nothing between."""
        (coordinates,) = self.growing.draw(1, self.generator)
        with self.growing.at(coordinates):
            pass


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    found = parser(__doc__.splitlines()[0], "step_cost")
    found.add_argument(
        "--backbones",
        nargs="+",
        default=["tf_efficientnet_lite0", "vit_small_patch16_224", "transformers_vit_small", "resnet50"],
    )
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_size", type=int, default=32)
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--volume_weight", type=float, default=1e-8)
    found.add_argument("--full_points", type=int, default=2, help="h of full_h.")
    found.add_argument("--channels_last", action="store_true")
    found.add_argument("--compile", action="store_true", help="The module that steps is compiled by torch.compile.")
    args = found.parse_args(argv)
    device = start(args)
    rows = []
    for name in args.backbones:
        steps = Steps(name, args, device)
        full = args.full_points
        tasks: dict[str, Callable[[], Any]] = {
            "plain": steps.plain,
            "parts_4": partial(steps.plain, 4),
            "split_1": partial(steps.simplex, 1, split=True),
            "split_4": partial(steps.simplex, 4, split=True),
            f"full_{full}": partial(steps.simplex, full, split=False),
            "points": steps.points,
            "volume": steps.growing.add_volume_gradient,
        }
        seconds = alternating(tasks, args.rounds, device, args.clock)
        row: dict[str, Any] = {
            "backbone": name,
            "million_parameters": sum(p.numel() for p in steps.module.parameters()) / 1e6,
        }
        row |= {task: ratio(seconds, task, "plain", full if task == f"full_{full}" else 1) for task in tasks}
        row["split_4_to_parts_4"] = ratio(seconds, "split_4", "parts_4")
        rows.append(row)
        del steps, tasks
    return report(args, device, rows)


if __name__ == "__main__":
    main()
