"""Backbones, training steps and ensembles that several benchmarks measure. The benchmarks share this helper module."""

import argparse
from collections.abc import Callable
from functools import cached_property
from typing import Any

import timm
import torch
from torch import Generator, Tensor, nn
from transformers import (
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.batch_norm import batch_norm_statistics
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.training.spro import GrowingVertex

LABELS = 100
TRANSFORMERS_VIT = "transformers_vit_small"


class Steps:
    """Training steps of AdamW on one backbone and one batch.

    Args:
        name: backbone.
        args: command line.
        device: device of weights and images.
        frozen_vertices: placement of the frozen vertices, one of `FROZEN_VERTICES`.
    """

    def __init__(
        self, name: str, args: argparse.Namespace, device: torch.device, frozen_vertices: str = "device"
    ) -> None:
        self.module = build_backbone(name, args.image_size, LABELS, args.channels_last).to(device).train()
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.module) if args.compile else self.module
        self.images, self.targets = batch(args.batch_size, args.image_size, LABELS, device, args.channels_last)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5, fused=True)
        self.generator = Generator().manual_seed(args.seed)
        self.num_vertices, self.volume_weight = args.num_vertices, args.volume_weight
        self.frozen_vertices = frozen_vertices
        self.following: dict[int, list[list[float]]] = {}

    @cached_property
    def growing(self) -> GrowingVertex:
        """Last vertex of a simplex whose vertices lie near the backbone's initial weights."""
        weights = {name: p.detach() for name, p in self.module.named_parameters()}
        if self.frozen_vertices != "device":
            weights = {name: tensor.cpu() for name, tensor in weights.items()}
        vertices = [
            {name: p + 0.01 * torch.randn_like(p) for name, p in weights.items()} for _ in range(self.num_vertices)
        ]
        structure = SimplicialComplex(self.num_vertices, (tuple(range(self.num_vertices)),))
        return GrowingVertex(
            self.module,
            vertices,
            structure,
            self.num_vertices - 1,
            volume_weight=self.volume_weight,
            frozen_vertices=self.frozen_vertices,
        )

    def plain(self, parts: int = 1) -> None:
        """Step of plain fine-tuning, with gradients accumulated over parts of the batch."""
        self.optimizer.zero_grad()
        for images, targets in zip(self.images.chunk(parts), self.targets.chunk(parts), strict=True):
            (nn.functional.cross_entropy(self.forward(images), targets) / parts).backward()
        self.optimizer.step()

    def simplex(self, points: int, split: bool, volume: int = 1) -> None:
        """Step of SPRO. `volume` scales the gradient of the volume term; 0 skips it."""
        parts = (self.images.chunk(points), self.targets.chunk(points)) if split else None
        self.optimizer.zero_grad()
        drawn = self.following.get(points) or self.growing.draw(points, self.generator)
        self.following[points] = self.growing.draw(points, self.generator)
        for number, coordinates in enumerate(drawn):
            images, targets = (self.images, self.targets) if parts is None else (parts[0][number], parts[1][number])
            with self.growing.at(coordinates) as coordinate:
                self.growing.prefetch([*drawn, *self.following[points]][number + 1])
                (coordinate * nn.functional.cross_entropy(self.forward(images), targets) / points).backward()
        if volume:
            self.growing.add_volume_gradient(volume)
        self.optimizer.step()

    def with_volume_every(self, interval: int) -> None:
        """Take `interval` steps of SPRO with one point each. The last one adds the gradient of the volume term."""
        for number in range(interval):
            self.simplex(1, split=True, volume=interval if number == interval - 1 else 0)

    def points(self) -> None:
        """Write a point into the module and restore the vertex."""
        (coordinates,) = self.growing.draw(1, self.generator)
        with self.growing.at(coordinates):
            pass


def build_backbone(name: str, image_size: int, labels: int = 100, channels_last: bool = False) -> nn.Module:
    """Build a randomly initialized classifier from images to logits.

    Args:
        name: timm name, or `transformers_vit_small`: transformers' ViT with the size of timm's vit_small.
        image_size: image height and width, pixels.
        labels: number of labels.
        channels_last: use channels_last weights.
    """
    if name == TRANSFORMERS_VIT:
        module: nn.Module = _Logits(ViTForImageClassification(vit_small(image_size, labels)))
    else:
        sized: dict[str, Any] = {"img_size": image_size} if "vit" in name else {}
        module = timm.create_model(name, num_classes=labels, **sized)
    return module.to(memory_format=torch.channels_last) if channels_last else module


class _Logits(nn.Module):
    """Returns only the logits of a transformers classifier, like a timm model."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values).logits
        return logits


def vit_small(image_size: int, labels: int) -> ViTConfig:
    """Configuration of transformers' ViT with the size of timm's vit_small."""
    sizes: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    # transformers accepts num_labels but does not declare it.
    sizes["num_labels"] = labels
    return ViTConfig(**sizes, intermediate_size=1536, image_size=image_size)


def batch(size: int, image_size: int, labels: int, device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Draw random images [size, 3, image_size, image_size] and labels [size]."""
    images = torch.randn(size, 3, image_size, image_size).to(device)
    targets = torch.randint(labels, (size,)).to(device)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images, targets


@torch.no_grad()
def ensemble(name: str, args: argparse.Namespace, device: torch.device, members: int) -> SimplexForImageClassification:
    """Build a simplex with random vertices near a backbone, and draw its members."""
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


def classifier(name: str, image_size: int) -> PreTrainedModel:
    """Build a randomly initialized transformers classifier: its ViT, or a wrapped timm model."""
    if name == TRANSFORMERS_VIT:
        return ViTForImageClassification(vit_small(image_size, LABELS))
    settings: dict[str, Any] = {"architecture": name, "num_classes": LABELS}
    settings["pretrained_cfg"] = {"num_classes": LABELS, "input_size": [3, image_size, image_size]}
    if "vit" in name:
        settings["model_args"] = {"img_size": image_size}
    return TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(settings))
