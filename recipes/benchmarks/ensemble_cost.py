"""Time of an ensemble prediction relative to as many plain forward passes of the backbone.

    python recipes/benchmarks/ensemble_cost.py --backbones vit_small_patch16_224 --members 4
    python recipes/benchmarks/ensemble_cost.py --device cuda --backbones resnet18 --image_size 64 --members 4 16

- `plain`: one backbone, called once for each member.
- `separate`: one backbone a member, so weights are not cached.
- `streamed`: each member is written into one working backbone in turn.
- `materialized`: one backbone a member, after `model.materialize()`.
- `vmapped`: all members at once over stacked weights, with `torch.func`.
- `graph` (CUDA): `model.materialize(cuda_graph=True)`. `graph_1_stream`: all members on one stream. `graph_vmapped`:
  the vmapped members in a graph.
- `compiled` (`--compile`): members share one function of `torch.compile`. `graph_compiled` (CUDA): in a graph.
- `forward_compiled` (`--compile`): `torch.compile(model)` after `model.materialize()`.

The package offers `streamed`, `materialized`, `graph` and `forward_compiled`. A failure is reported in its cell.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from measure import alternating, parser, ratio, report, start, wait
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from workloads import TRANSFORMERS_VIT, ensemble

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.cuda_graph import WARM_UP_PASSES, GraphedMembers, member_logits


def vmapped(members: Sequence[PreTrainedModel]) -> Callable[[Tensor], Tensor]:
    """Build a function from images to logits [members, batch, labels], in one pass over stacked weights."""
    skeleton = _without_weights(members[0])
    weights, buffers = torch.func.stack_module_state(list(members))

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, (weights, buffers), (images,)).logits
        return logits

    return partial(torch.vmap(one, in_dims=(0, 0, None)), weights, buffers)


def compiled(members: Sequence[PreTrainedModel]) -> list[Callable[..., Any]]:
    """Build members that share one compiled function of weights and images."""
    skeleton = _without_weights(members[0])
    # Earlier backbones count towards torch's recompilation limit.
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
    """A function of images, captured in a CUDA graph."""

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
    """Ways to predict with one ensemble, built at first use.

    Args:
        model: ensemble.
        compile: include compiled members.
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

    @cached_property
    def forward_compiled(self) -> Callable[[Tensor], Any]:
        found: Callable[[Tensor], Any] = torch.compile(self.materialized, dynamic=False)
        return found

    def passes(self, images: Tensor) -> None:
        for _ in self.streamed.config.members:
            self.plain(images)

    def separate(self, images: Tensor) -> None:
        for member in self.members:
            member(images)

    def tasks(self, images: Tensor) -> dict[str, Callable[[], Callable[[Tensor], Any]]]:
        """Builders of each way, for images of this shape."""
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
            # In this order: `compiled` resets the compiler.
            found["compiled"] = lambda: partial(member_logits, self.compiled)
            found["forward_compiled"] = lambda: self.forward_compiled
            if images.is_cuda:
                found["graph_compiled"] = lambda: GraphedMembers(self.compiled, streams=1)
        return found


def row(ways: Ways, images: Tensor, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Ratio of each way to the plain passes, or its error message."""
    tasks: dict[str, Callable[[], Any]] = {}
    failures: dict[str, str] = {}
    for name, make in ways.tasks(images).items():
        try:
            tasks[name] = partial(make(), images)
            tasks[name]()
            wait(device)
        except Exception as error:  # A way may not support a backbone, or run out of memory.
            tasks.pop(name, None)
            failures[name] = f"{type(error).__name__}: {error}"[:300]
    if "plain" not in tasks:
        return failures
    seconds = alternating(tasks, args.rounds, device, args.clock)
    return {name: ratio(seconds, name, "plain") for name in tasks} | failures


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
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
                # After each row: an interrupted run keeps its results.
                result = report(args, device, rows)
            del ways
    return result


if __name__ == "__main__":
    main()
