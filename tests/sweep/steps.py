"""Takes one backbone through an ensemble's life. Each step is a claim; the first that fails ends a life."""

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments
from hf_simplex.model.low_rank_adapters import merged
from sweep.backbones import BATCH, Kind, build

__all__ = ["CHOICES", "STEPS", "Outcome", "run"]

CHOICES = ("all", "head", "lora")
STEPS = ("wrap", "coordinates", "grow", "members", "save", "load", "equal outputs", "export", "plain load")
TOLERANCE = 1e-5
"""Of logits in float64, relative to the largest where that is above 1."""


@dataclass
class Outcome:
    """What became of a kind of backbone.

    Attributes:
        library, name: of the kind.
        architecture: the member of a family of timm, or the class.
        image_size: in pixels.
        parameters: how many the backbone has.
        lives: for each choice of `vertex_parameters` `"passed"`, `"refused: ..."` or the failed step and its error.
        seconds: of CPU time.
    """

    library: str
    name: str
    architecture: str = ""
    image_size: int = 0
    parameters: int = 0
    lives: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Pictures(Dataset):
    """One batch of random images with labels."""

    def __init__(self, size: int) -> None:
        self.pixel_values = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": torch.tensor(index % 3)}


class Refused(Exception):
    """The backbone or the choice is refused with a reason before anything is trained."""


def run(kind: Kind, architecture: str | None = None, choices: tuple[str, ...] = CHOICES) -> Outcome:
    """Build a backbone of a kind and take it through a life for each choice of `vertex_parameters`.

    Args:
        kind: of the backbone.
        architecture: of timm; default: the smallest member of the family.
        choices: of `vertex_parameters`.
    """
    outcome = Outcome(kind.library, kind.name, kind.name)
    began = time.process_time()
    try:
        backbone, outcome.image_size = build(kind, architecture)
    except Exception as error:
        outcome.lives = dict.fromkeys(choices, f"not built: {_first_line(error)}")
        return outcome
    outcome.architecture = getattr(backbone.config, "architecture", None) or type(backbone).__name__
    outcome.parameters = sum(parameter.numel() for parameter in backbone.parameters())
    for choice in choices:
        with tempfile.TemporaryDirectory() as directory:
            outcome.lives[choice] = _live(backbone, outcome.image_size, choice, Path(directory))
    outcome.seconds = round(time.process_time() - began, 1)
    return outcome


def _live(backbone: PreTrainedModel, size: int, choice: str, directory: Path) -> str:
    life = Life(backbone, size, choice, directory)
    for step in STEPS:
        try:
            life.steps[step]()
        except Refused as reason:
            return f"refused: {reason}"
        except Exception as error:
            return f"{step}: {_first_line(error)}"
    return "passed"


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]


class Life:
    """The steps of one ensemble.

    Args:
        backbone: stays as it is.
        size: of its images in pixels.
        choice: `vertex_parameters`.
        directory: an empty folder.
    """

    def __init__(self, backbone: PreTrainedModel, size: int, choice: str, directory: Path) -> None:
        self.backbone, self.choice, self.directory = backbone, choice, directory
        self.pictures = Pictures(size)
        self.pixel_values = self.pictures.pixel_values
        self.model: Any = None
        self.loaded: Any = None
        functions: tuple[Callable[[], None], ...] = (
            self._wrap, self._coordinates, self._grow, self._members, self._save, self._load, self._equal_outputs,
            self._export, self._plain_load,
        )  # fmt: skip
        self.steps = dict(zip(STEPS, functions, strict=True))

    def _wrap(self) -> None:
        try:
            self.model = SimplexForImageClassification.from_backbone(self.backbone, vertex_parameters=self.choice)
        except ValueError as error:
            if type(self.backbone).__name__ not in str(error):
                raise
            raise Refused(str(error).splitlines()[0]) from error

    def _logits(self, module: Any) -> Tensor:
        with torch.no_grad():
            return module(pixel_values=self.pixel_values).logits

    def _coordinates(self) -> None:
        found = self._logits(self.model.backbone_at([1.0]))
        assert found.isfinite().all(), "logits are not finite"
        # torch computes a few layers in another way where their weights require no gradients (gMLP): 1e-8 apart.
        given = copy.deepcopy(self.backbone)
        shared = {name.replace(".base_layer.", ".") for name, _ in self.model.shared.named_parameters()}
        for name, parameter in given.named_parameters():
            parameter.requires_grad_(name not in shared)
        assert torch.equal(found, self._logits(given)), "e_0 is not the given backbone"

    def _grow(self) -> None:
        args = SimplexTrainingArguments(
            str(self.directory / "run"),
            num_vertices=2,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            num_members=2,
            batch_norm_images=BATCH,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        before = {name: tensor.clone() for name, tensor in self.model.weights[0].items()}
        try:
            SimplexTrainer(model=self.model, args=args, train_dataset=self.pictures).grow()
        except ValueError as error:
            if "get no gradient" not in str(error):
                raise
            raise Refused(str(error).splitlines()[0]) from error
        first, second = self.model.weights
        assert all(torch.equal(first[name], tensor) for name, tensor in before.items()), "vertex 0 has moved"
        names = self.model.vertex_parameter_names
        assert any(not torch.equal(first[name], second[name]) for name in names), "vertex 1 has not moved"

    def _members(self) -> None:
        assert len(self.model.config.members) == 2
        output = self.model(self.pixel_values, output_member_probabilities=True)
        assert output.member_probabilities.isfinite().all(), "predictions are not finite"

    def _save(self) -> None:
        self.model.save_pretrained(self.directory / "ensemble")

    def _load(self) -> None:
        self.loaded = SimplexForImageClassification.from_pretrained(self.directory / "ensemble")

    def _equal_outputs(self) -> None:
        found, expected = self._logits(self.loaded), self._logits(self.model)
        assert torch.equal(found, expected), f"logits differ by {float((found - expected).abs().max()):.1e}"

    def _export(self) -> None:
        self.loaded.export_vertex(1, self.directory / "vertex")

    def _plain_load(self) -> None:
        plain = AutoModelForImageClassification.from_pretrained(self.directory / "vertex")
        vertex = self.loaded.backbone_at([0.0, 1.0])
        # Deep random backbones amplify rounding, which in float64 is out of sight.
        self.pixel_values = self.pixel_values.double()
        _assert_close(self._logits(plain.double()), self._logits(merged(vertex).double()), "logits")
        wide = copy.deepcopy(vertex).double()
        _assert_close(self._logits(merged(wide)), self._logits(wide), "with the adapters merged, logits")


def _assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    assert difference <= allowed, f"{what} differ by {difference:.1e}, allowed are {allowed:.1e}"
