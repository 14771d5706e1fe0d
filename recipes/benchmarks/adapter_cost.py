"""Cost of vertices that are low-rank adapters, beside full vertices and beside peft's own training of one adapter.

    python recipes/benchmarks/adapter_cost.py --threads 1 --clock cpu

The backbone is a ViT of transformers with random weights, by default ViT-B/16. Adapters are on the projections of the
attention. `peft` is a step of AdamW on the model of `peft.get_peft_model`. `mode` is our step of a mode, `connector`
our step of SPRO at one point, with the volume term, both on adapters. `full_*` are the same steps on all weights.

Bytes are those of the saved files; `new_vertex_bytes` are the files that change when a vertex is added, which is what
publishing it sends. Times of members are relative to as many passes of the plain backbone, for one image.
Memory is the peak of a few steps above a process that has imported the packages, each in a fresh process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import alternating, parser, ratio, report, resident, start
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.header_digests import header_digest
from hf_simplex.training.spro import GrowingVertex

LABELS = 10
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
VOLUME_WEIGHT = 1e-8
_FORWARDED = ("rank", "num_vertices", "batch_size", "image_size", "blocks", "width", "device", "threads", "seed")
PARTS = ("peft", "mode", "connector", "full_mode", "full_connector")


class Part:
    """One way to train: a step of AdamW on one batch.

    Args:
        name: one of `PARTS`.
        args: command line.
        device: device of weights and images.
    """

    def __init__(self, name: str, args: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(args.seed)
        self.images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
        self.targets = torch.randint(LABELS, (args.batch_size,), device=device)
        self.growing: GrowingVertex | None = None
        self.generator = torch.Generator().manual_seed(args.seed)
        if name == "peft":
            self.module: nn.Module = get_peft_model(
                vit(args),
                LoraConfig(r=args.rank, target_modules=PROJECTIONS, modules_to_save=["classifier"]),
            ).to(device)
        else:
            choice: Any = "all" if name.startswith("full") else adapters(args.rank)
            self.model = simplex(args, choice, 1).to(device)
            self.module = self.model.backbone
            if name.endswith("connector"):
                while self.model.config.num_vertices < args.num_vertices:
                    self.model.add_vertex()
                    spread(self.model)
                self.growing = GrowingVertex(
                    self.module,
                    self.model.weights,
                    self.model.config.complex,
                    args.num_vertices - 1,
                    volume_weight=VOLUME_WEIGHT,
                )
        self.module.train()
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.trained_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step(self) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        if self.growing is None:
            self._loss().backward()
        else:
            (coordinates,) = self.growing.draw(1, self.generator)
            with self.growing.at(coordinates) as coordinate:
                (coordinate * self._loss()).backward()
            self.growing.add_volume_gradient()
        self.optimizer.step()

    def _loss(self) -> Tensor:
        loss: Tensor = self.module(pixel_values=self.images, labels=self.targets).loss
        return loss


def vit(args: argparse.Namespace) -> Any:
    """Build a ViT with random weights."""
    # transformers accepts num_labels but does not declare it.
    labels: dict[str, Any] = {"num_labels": LABELS}
    heads = max(1, args.width // 64)
    return ViTForImageClassification(
        ViTConfig(
            image_size=args.image_size,
            num_hidden_layers=args.blocks,
            hidden_size=args.width,
            intermediate_size=4 * args.width,
            num_attention_heads=heads,
            **labels,
        )
    )


def adapters(rank: int, blocks: str = r".*") -> dict[str, Any]:
    """Settings of adapters on the projections of the attention of some blocks."""
    return {"peft_type": "LORA", "r": rank, "target_modules": rf"{blocks}\.({'|'.join(PROJECTIONS)})"}


def simplex(args: argparse.Namespace, choice: Any, vertices: int) -> Any:
    """Build a simplex of random vertices near a random ViT."""
    model = SimplexForImageClassification.from_backbone(vit(args), vertex_parameters=choice)
    for _ in range(vertices - 1):
        model.add_vertex()
    spread(model)
    return model


@torch.no_grad()
def spread(model: SimplexForImageClassification) -> None:
    """Move all vertices apart."""
    for vertex in model.vertices:
        for parameter in vertex.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


def steps(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time a step of each part, relative to a step of peft."""
    tasks: dict[str, Callable[[], Any]] = {name: Part(name, args, device).step for name in PARTS}
    seconds = alternating(tasks, args.rounds, device, args.clock)
    return {
        **{f"{name}_to_peft": ratio(seconds, name, "peft") for name in PARTS},
        "full_connector_to_full_mode": ratio(seconds, "full_connector", "full_mode"),
    }


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the files of an ensemble of adapters, and those that change with one more vertex."""
    found: dict[str, Any] = {}
    for name, choice in (("adapters", adapters(args.rank)), ("full", "all")):
        model = simplex(args, choice, args.num_vertices)
        model.draw_members("vertices")
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            before = {file.name: _content(file) for file in Path(folder).iterdir()}
            found[f"{name}_vertex_bytes"] = (Path(folder) / "vertex-00000.safetensors").stat().st_size
            shared = Path(folder) / "shared.safetensors"
            found[f"{name}_shared_bytes"] = shared.stat().st_size if shared.exists() else 0
            model.add_vertex()
            model.draw_members("vertices")
            model.save_pretrained(folder)
            changed = [file for file in Path(folder).iterdir() if before.get(file.name) != _content(file)]
            found[f"{name}_new_vertex_bytes"] = sum(file.stat().st_size for file in changed)
    return found


def _content(file: Path) -> Any:
    return header_digest(file) if file.suffix == ".safetensors" else file.read_bytes()


@torch.no_grad()
def members(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Time n members for one image, relative to n passes of the plain backbone."""
    plain = vit(args).to(device).eval()
    image = torch.randn(1, 3, args.image_size, args.image_size, device=device)
    last = [f"*layers.{block}" for block in range(args.blocks)][-3:]
    blocks = "|".join(str(block) for block in range(args.blocks)[-3:])
    choices: dict[str, Any] = {
        "adapters": adapters(args.rank),
        "adapters_in_last_three_blocks": adapters(args.rank, rf".*\.({blocks})\..*"),
        "head": "head",
        "last_block": [last[-1], "head"],
        "last_three_blocks": [*last, "head"],
    }
    rows = []
    for name, choice in choices.items():
        model = simplex(args, choice, args.num_vertices).to(device)
        model.draw_members(args.num_members)
        united: Any = SimplexForImageClassification.disjoint_union([model])
        ready, batched = model, united.to(device)
        ready.materialize()
        batched.materialize(batched=True)
        tasks: dict[str, Callable[[], Any]] = {
            "plain": partial(plain, pixel_values=image),
            "one_after_the_other": partial(ready, image),
            "batched": partial(batched, image),
        }
        seconds = alternating(tasks, args.rounds, device, args.clock)
        difference = (ready(image).logits - batched(image).logits).abs().max().item()
        ways = ("one_after_the_other", "batched")
        ratios = {way: ratio(seconds, way, "plain", args.num_members) for way in ways}
        rows.append({"what": f"members, {name}", **ratios, "largest_difference_of_logits": difference})
    return rows


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of each part in a process of its own."""
    peaks: dict[str, dict[str, int]] = {}
    found: dict[str, Any] = {}
    for name in PARTS:
        command = [sys.executable, __file__, "--part", name]
        for argument in _FORWARDED:
            command += [f"--{argument}", str(getattr(args, argument))]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[name] = json.loads(output.splitlines()[-1])
        found |= {f"{name}_{quantity}": bytes_ for quantity, bytes_ in peaks[name].items()}
    expected = peaks["peft"]["peak_bytes"] + args.num_vertices * peaks["connector"]["trained_bytes"]
    found["connector_to_peft_and_its_vertices"] = peaks["connector"]["peak_bytes"] / expected
    found["mode_to_peft"] = peaks["mode"]["peak_bytes"] / peaks["peft"]["peak_bytes"]
    return found


def peak(args: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Measure the peak of three steps above the initial memory, in bytes."""
    before = resident()
    part = Part(args.part, args, device)
    for _ in range(3):
        part.step()
    taken = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM") - before
    return {"peak_bytes": taken, "trained_bytes": part.trained_bytes}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "adapter_cost")
    found.add_argument("--rank", type=int, default=8)
    found.add_argument("--num_vertices", type=int, default=4)
    found.add_argument("--num_members", type=int, default=8)
    found.add_argument("--batch_size", type=int, default=4)
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--blocks", type=int, default=12)
    found.add_argument("--width", type=int, default=768)
    found.add_argument(
        "--part", choices=PARTS, help="Measure only this part's memory, in this process, and print JSON."
    )
    args = found.parse_args(argv)
    device = start(args)
    if args.part:
        print(json.dumps(peak(args, device)))
        return {}
    rows = [
        {"what": "steps", **steps(args, device)},
        {"what": "sizes", **sizes(args)},
        *members(args, device),
        {"what": "memory", **memory(args)},
    ]
    return report(args, device, rows)


if __name__ == "__main__":
    main()
