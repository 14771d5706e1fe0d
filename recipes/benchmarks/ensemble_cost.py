"""What a prediction of the ensemble costs beside as many plain forward passes of its backbone.

    python recipes/benchmarks/ensemble_cost.py --backbones vit_small_patch16_224 --members 4

`streamed`: each member is written into the one working backbone when its turn comes. `materialized`: every member is
a backbone of its own, after `model.materialize()`. `vmapped`: all members at once over stacked weights, with
`torch.func`; what a GPU may like, and no part of the package.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import TRANSFORMERS_VIT, alternating, parser, ratio, report, start, vit_small
from torch import Tensor
from transformers import (
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.batch_norm import statistics

LABELS = 100


def classifier(name: str, image_size: int) -> PreTrainedModel:
    """A randomly initialized image classifier of transformers: its own ViT, or one of timm's in its wrapper."""
    if name == TRANSFORMERS_VIT:
        return ViTForImageClassification(vit_small(image_size, LABELS))
    settings: dict[str, Any] = {"architecture": name, "num_classes": LABELS, "pretrained_cfg": {"num_classes": LABELS}}
    if "vit" in name:
        settings["model_args"] = {"img_size": image_size}
    return TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(settings))


@torch.no_grad()
def ensemble(name: str, args: argparse.Namespace, device: torch.device) -> SimplexForImageClassification:
    """A simplex with random vertices round a backbone, and its members drawn."""
    backbone: Any = classifier(name, args.image_size)
    backbone = backbone.to(device)
    if args.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)
    model = SimplexForImageClassification.from_backbone(backbone)
    while model.config.num_vertices < args.num_vertices:
        vertex = model.add_vertex()
        for parameter in model.vertices[vertex].parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    batches = [{"pixel_values": torch.randn(4, 3, args.image_size, args.image_size)}]
    model.draw_members(args.members, seed=args.seed, batches=batches if statistics(model.backbone) else None)
    return model


def vmapped(members: Sequence[PreTrainedModel]) -> Callable[[Tensor], Tensor]:
    """From images to [members, batch, labels] logits in one pass over stacked weights."""
    skeleton: Any = copy.deepcopy(members[0])
    skeleton.to("meta")
    weights, buffers = torch.func.stack_module_state(list(members))

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, (weights, buffers), (images,)).logits
        return logits

    return partial(torch.vmap(one, in_dims=(0, 0, None)), weights, buffers)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    found = parser(__doc__.splitlines()[0], "ensemble_cost")
    found.add_argument(
        "--backbones",
        nargs="+",
        default=["tf_efficientnet_lite0", "vit_small_patch16_224", TRANSFORMERS_VIT, "resnet50"],
    )
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 64])
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--members", type=int, default=4)
    found.add_argument("--channels_last", action="store_true")
    args = found.parse_args(argv)
    device = start(args)
    rows = []
    for name in args.backbones:
        streamed = ensemble(name, args, device)
        materialized = copy.deepcopy(streamed)
        materialized.materialize()
        plain = copy.deepcopy(streamed.backbone)
        at_once = vmapped([copy.deepcopy(streamed._member(index)) for index in range(args.members)])
        for size in args.batch_sizes:
            images = torch.randn(size, 3, args.image_size, args.image_size).to(device)
            if args.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)

            def passes(images: Tensor = images, plain: PreTrainedModel = plain) -> None:
                for _ in range(args.members):
                    plain(images)

            tasks: dict[str, Callable[[], Any]] = {
                "plain": passes,
                "streamed": partial(streamed, images),
                "materialized": partial(materialized, images),
                "vmapped": partial(at_once, images),
            }
            seconds = alternating(tasks, args.rounds, device, args.clock)
            rows.append(
                {"backbone": name, "batch": size, "members": args.members}
                | {task: ratio(seconds, task, "plain") for task in tasks}
            )
    return report(args, device, rows)


if __name__ == "__main__":
    main()
