"""What a prediction of the ensemble costs beside as many plain forward passes of its backbone.

    python recipes/benchmarks/ensemble_cost.py --backbones vit_small_patch16_224 --members 4
    python recipes/benchmarks/ensemble_cost.py --device cuda --backbones resnet18 --image_size 64 --members 4 16

`plain`: one backbone, as often as there are members. `separate`: a backbone for each member, so that no weights are
found in a cache. `streamed`: each member is written into the one working backbone when its turn comes.
`materialized`: every member is a backbone of its own, after `model.materialize()`. `vmapped`: all members at once over
stacked weights, with `torch.func`. On CUDA `graph`: `model.materialize(cuda_graph=True)`; `graph_1_stream`: the same
with all members on one stream; `graph_vmapped`: the vmapped members in a graph. With `--compile` also
`compiled`: one code for all members by `torch.compile`, and on CUDA `graph_compiled`.

Only `streamed`, `materialized` and `graph` are ways that the package has. What fails is named in its cell.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from measure import TRANSFORMERS_VIT, alternating, parser, ratio, report, start, vit_small, wait
from torch import Tensor
from transformers import (
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_statistics
from hf_simplex.model.cuda_graph import WARM_UP_PASSES, GraphedMembers, log_probabilities

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
def ensemble(name: str, args: argparse.Namespace, device: torch.device, members: int) -> SimplexForImageClassification:
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
    model.draw_members(members, seed=args.seed, batches=batches if batch_norm_statistics(model.backbone) else None)
    return model


def vmapped(members: Sequence[PreTrainedModel]) -> Callable[[Tensor], Tensor]:
    """From images to [members, batch, labels] logits in one pass over stacked weights."""
    skeleton = _without_weights(members[0])
    weights, buffers = torch.func.stack_module_state(list(members))

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, (weights, buffers), (images,)).logits
        return logits

    return partial(torch.vmap(one, in_dims=(0, 0, None)), weights, buffers)


def compiled(members: Sequence[PreTrainedModel]) -> list[Callable[..., Any]]:
    """Members that share one compiled code, which takes their weights as arguments."""
    skeleton = _without_weights(members[0])
    # Code compiled for other backbones counts towards the number of versions after which torch compiles no more.
    torch.compiler.reset()

    @partial(torch.compile, dynamic=False)
    def one(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, tensors, (images,)).logits
        return logits

    def member(tensors: dict[str, Tensor], pixel_values: Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=one(tensors, pixel_values))

    return [
        partial(member, {name: tensor.detach() for name, tensor in _tensors(backbone).items()}) for backbone in members
    ]


def _without_weights(backbone: PreTrainedModel) -> Any:
    skeleton: Any = copy.deepcopy(backbone)
    return skeleton.to("meta")


def _tensors(backbone: PreTrainedModel) -> dict[str, Tensor]:
    return dict(backbone.named_parameters()) | dict(backbone.named_buffers())


class Captured:
    """Any function of images, replayed from a CUDA graph of its own, as `cuda_graph` does with members."""

    def __init__(self, function: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self.images = images.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_PASSES):
                function(self.images)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.graph.replay()
        return self.output.clone()


class Ways:
    """The ways to predict with one ensemble, each made at its first use.

    Args:
        model: the ensemble.
        compile: also compile.
    """

    def __init__(self, model: SimplexForImageClassification, compile: bool) -> None:
        self.streamed, self.compile = model, compile
        self.plain = copy.deepcopy(model.backbone)

    @cached_property
    def materialized(self) -> SimplexForImageClassification:
        model = copy.deepcopy(self.streamed)
        model.materialize()
        return model

    @cached_property
    def graph(self) -> SimplexForImageClassification:
        model = copy.deepcopy(self.streamed)
        model.materialize(cuda_graph=True)
        return model

    @cached_property
    def members(self) -> list[PreTrainedModel]:
        return [self.materialized.member_backbone(index) for index in range(len(self.streamed.config.members))]

    @cached_property
    def vmapped(self) -> Callable[[Tensor], Tensor]:
        return vmapped(self.members)

    @cached_property
    def compiled(self) -> list[Any]:
        return compiled(self.members)

    def passes(self, images: Tensor) -> None:
        for _ in self.streamed.config.members:
            self.plain(images)

    def separate(self, images: Tensor) -> None:
        for member in self.members:
            member(images)

    def tasks(self, images: Tensor) -> dict[str, Callable[[], Callable[[Tensor], Any]]]:
        """What makes each way ready for such images."""
        found: dict[str, Callable[[], Callable[[Tensor], Any]]] = {
            "plain": lambda: self.passes,
            "separate": lambda: self.separate,
            "streamed": lambda: self.streamed,
            "materialized": lambda: self.materialized,
            "vmapped": lambda: self.vmapped,
        }
        if images.is_cuda:
            found["graph"] = lambda: self.graph
            found["graph_1_stream"] = lambda: GraphedMembers(self.members, streams=1)
            found["graph_vmapped"] = lambda: Captured(self.vmapped, images)
        if self.compile:
            found["compiled"] = lambda: partial(log_probabilities, self.compiled)
            if images.is_cuda:
                found["graph_compiled"] = lambda: GraphedMembers(self.compiled, streams=1)
        return found


def row(ways: Ways, images: Tensor, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The ratio of each way to the plain passes, or in words why it failed."""
    tasks: dict[str, Callable[[], Any]] = {}
    failures: dict[str, str] = {}
    for name, make in ways.tasks(images).items():
        try:
            tasks[name] = partial(make(), images)
            tasks[name]()
            wait(device)
        except Exception as error:  # One way may be impossible for a backbone, or for what memory is left.
            tasks.pop(name, None)
            failures[name] = f"{type(error).__name__}: {error}"[:300]
    if "plain" not in tasks:
        return failures
    seconds = alternating(tasks, args.rounds, device, args.clock)
    return {name: ratio(seconds, name, "plain") for name in tasks} | failures


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
    found.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 64])
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--members", type=int, nargs="+", default=[4])
    found.add_argument("--channels_last", action="store_true")
    found.add_argument("--compile", action="store_true", help="Also members compiled by torch.compile.")
    args = found.parse_args(argv)
    device = start(args)
    rows: list[dict[str, Any]] = []
    for name in args.backbones:
        for members in args.members:
            ways = Ways(ensemble(name, args, device, members), args.compile)
            for size in args.batch_sizes:
                images = torch.randn(size, 3, args.image_size, args.image_size).to(device)
                if args.channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                about = {"backbone": name, "batch": size, "members": members}
                rows.append(about | row(ways, images, args, device))
                # Each time anew: a run that is cut short leaves what it has.
                result = report(args, device, rows)
            del ways
    return result


if __name__ == "__main__":
    main()
