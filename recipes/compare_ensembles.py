"""Compare ESPRO with what people would use instead, at equal training epochs and at equal forward passes.

    python recipes/compare_ensembles.py recipes/configs/compare_fine_tuning.yaml
    python recipes/compare_ensembles.py recipes/configs/compare_from_scratch.yaml --methods deep_ensemble espro

Every method gets `--budget` epochs on the same images, with the same seeds. `--num_train_epochs` is what one mode of
the deep ensemble gets of them, `--espro_mode_epochs` and `--connector_epochs` what a mode and a connector of ESPRO do.
Training, once done, is never repeated: `OUTPUT/seed-<s>/` holds the weights of each model, the components of ESPRO
(one folder a setting, `--espro_name`), the probabilities that each member of each method predicts, and `results.json`,
all metrics of them with what was run. `comparison_report.py` makes tables and pictures over all seeds.
"""

import copy
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backbones_from_scratch import SMALL_RESNET
from baselines.lora_ensemble import lora_member
from baselines.mc_dropout import keep_dropout_on, set_dropout
from baselines.snapshots import CyclicTrainer
from baselines.soups import greedy_soup, uniform_soup
from baselines.swag import WeightsGaussian
from connect_modes import ModeArguments, start_modes
from datasets import Dataset
from ensemble_results import seed_results
from numpy.typing import NDArray
from recipe_arguments import parse_arguments
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from train_espro import (
    SEEDS_A_COMPONENT,
    BackboneArguments,
    DataArguments,
    EsproArguments,
    hardware,
    load_data,
    start_components,
    versions,
)
from transformers import PreTrainedModel, Trainer, set_seed

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_data import ImageData, load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.shift import SMALLEST_SIZE, check_corruption, corrupt_dataset
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.model.coordinates import centroid_coordinates, vertex_coordinates
from hf_simplex.model.members import draw_members, symmetric_members
from hf_simplex.model.weight_space import write_point

METHODS = (
    "single",
    "deep_ensemble",
    "short_deep_ensemble",
    "recomputed_deep_ensemble",
    "uniform_soup",
    "greedy_soup",
    "swa",
    "swag",
    "multi_swag",
    "fge",
    "mc_dropout",
    "lora_ensemble",
    "espro",
)
# The seeds of one repetition, its components and their vertices, must not meet those of another.
SEEDS_A_REPETITION = 100_000
# What the components of one folder have in common.
ESPRO_ARGUMENTS = (
    "num_vertices",
    "num_modes",
    "connector_epochs",
    "connector_learning_rate",
    "connector_lr_scheduler_type",
    "points_per_step",
    "point_batches",
    "volume_weight",
    "volume_weight_scaling",
    "volume_measure",
    "volume_target",
    "start_jitter",
)
# What all models and predictions of one folder have in common: of the comparison, of the images and of the training.
SHARED_ARGUMENTS = (
    ("backbone", "from_scratch", "width", "shared_head", "validation_fraction", "bfloat16_evaluation"),
    (
        "data_set",
        "data_config",
        "train_split",
        "test_split",
        "max_train_examples",
        "max_test_examples",
        "image_size",
        "augment",
        "horizontal_flip",
        "scale_min",
        "auto_augment",
        "color_jitter",
        "random_erasing",
    ),
    (
        "learning_rate",
        "weight_decay",
        "lr_scheduler_type",
        "warmup_steps",
        "optim",
        "label_smoothing_factor",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "batch_norm_images",
    ),
)
# Members of ESPRO: the centroid of each component; as many as it has vertices, placed as the trainer does; random
# points; the vertices; and centroid and vertices together, which cost no further predictions here.
MEMBER_CHOICES = ("centroids", "members", "points", "vertices", "centroids_and_vertices")
# Fewer deviations than these do not span a subspace.
MULTI_SWAG_SNAPSHOTS = 4
# Images that two splits may share by chance: large data sets hold a few duplicates.
SHARED_IMAGES_ALLOWED = 0.01

Weights = Mapping[str, Tensor]
Probabilities = dict[str, NDArray[np.float32]]


@dataclass
class CompareArguments:
    """What is compared, and on what budget."""

    _argument_group_name = "comparison"

    backbone: str = field(
        default=SMALL_RESNET,
        metadata={"help": f"As for train_espro.py; from_scratch takes architectures, such as '{SMALL_RESNET}'."},
    )
    from_scratch: bool = field(default=False, metadata={"help": "Begin with random weights, not pretrained ones."})
    width: int = field(default=32, metadata={"help": f"Channels of the first stage of '{SMALL_RESNET}'."})
    shared_head: bool = field(
        default=False,
        metadata={"help": "All models begin with the same new head, not each with its own."},
    )
    channels_last: bool = field(default=False, metadata={"help": "Memory format of the weights."})
    methods: list[str] = field(
        default_factory=lambda: [
            "single",
            "deep_ensemble",
            "short_deep_ensemble",
            "uniform_soup",
            "greedy_soup",
            "swa",
            "swag",
            "fge",
            "espro",
        ],
        metadata={"help": f"Of {', '.join(METHODS)}."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One repetition each."})
    budget: float = field(default=32.0, metadata={"help": "Training epochs that every method may use."})
    validation_fraction: float = field(
        default=0.25,
        metadata={"help": "Part of the training images that is kept for temperatures and soups, where no split is."},
    )
    out_of_distribution: str | None = field(default=None, metadata={"help": "Another data set, as for data_set."})
    max_out_of_distribution_examples: int = field(default=1000, metadata={"help": "Of them, the first ones."})
    corruptions: list[str] | None = field(
        default=None, metadata={"help": "Of ImageNet-C's, such as gaussian_noise; 'none' for none."}
    )
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5], metadata={"help": "Of the corruptions."})
    max_corrupted_examples: int = field(default=1000, metadata={"help": "Test images to corrupt, the first ones."})
    bfloat16_evaluation: bool = field(default=False, metadata={"help": "Predict under bfloat16 autocast."})
    forward_passes: int = field(default=8, metadata={"help": "Members drawn where a method can have any number."})

    espro_name: str = field(default="espro", metadata={"help": "Folder of this setting of ESPRO; one for each."})
    espro_mode_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a mode of ESPRO; default: num_train_epochs, the deep ensemble's."}
    )
    short_mode_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a mode of short_deep_ensemble; default: those of ESPRO's."}
    )
    espro_components: int | None = field(
        default=None, metadata={"help": "Components; default: as many as the budget allows."}
    )
    points_a_component: int = field(default=2, metadata={"help": "Members drawn at random from each component."})

    cycle_epochs: float = field(
        default=2.0, metadata={"help": "Epochs from one snapshot to the next (FGE, SWA, SWAG; at most, multi-SWAG)."}
    )
    cycle_learning_rate: float | None = field(
        default=None, metadata={"help": "Highest learning rate of a cycle; default: half of learning_rate."}
    )
    dropout: float = field(default=0.2, metadata={"help": "Rate that the backbone is trained with for mc_dropout."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of lora_ensemble's adapters."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj", "query", "value", "qkv"],
        metadata={"help": "Linear layers that get adapters, by the end of their names."},
    )
    lora_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of lora_ensemble."})

    def __post_init__(self) -> None:
        # A configuration's list cannot be emptied by a flag.
        if self.corruptions == ["none"]:
            self.corruptions = None


class Repetition:
    """One seed of the comparison: its images, and every model that was trained on them.

    Models that several methods share are trained once, and nothing is trained again that its folder holds.

    Args:
        compare: what is compared.
        data_args: the images; the seed also picks the subsets.
        args: how models are trained.
        seed: of this repetition, 0 or more.
        held: transformed images by their data set's fingerprint, for what the repetitions of a run share.

    Raises:
        ValueError: validation images are missing or are test images, or arguments do not fit the data.
    """

    def __init__(
        self,
        compare: CompareArguments,
        data_args: DataArguments,
        args: EsproArguments,
        seed: int,
        held: dict[str, Any] | None = None,
    ) -> None:
        self.compare, self.args, self.seed = compare, args, seed
        self.data_args = copy.copy(data_args)
        self.data_args.data_split_seed = seed
        self.folder = Path(args.output_dir) / f"seed-{seed}"
        self.data = load_data(self.data_args, validation_fraction=compare.validation_fraction)
        check_validation(self.data)
        # Holds whichever weights are predicted with; every training begins with a backbone of its own.
        self.device = args.device
        module: Any = self.start(0)
        self.module: nn.Module = module.to(self.device)
        training, plain = build_transforms(
            self.image_processor,
            augment=data_args.augment,  # type: ignore[arg-type]
            horizontal_flip=data_args.horizontal_flip,
            scale_min=data_args.scale_min,
            auto_augment=data_args.auto_augment,
            color_jitter=data_args.color_jitter,
            random_erasing=data_args.random_erasing,
        )
        self.train_images = with_pixel_values(self.data.train, training, materialize=data_args.augment != "timm")
        self.plain_images: Any = with_pixel_values(self.data.train, plain, materialize=True)
        held = {} if held is None else held

        def hold(images: Dataset) -> Any:
            key = images._fingerprint
            if key not in held:
                held[key] = with_pixel_values(images, plain, materialize=True)
            return held[key]

        images = evaluation_images(compare, self.data_args, self.data)
        self.splits = {name: hold(split) for name, split in images.items()}

    # ---- models ------------------------------------------------------------------------------------------------

    def seed_of(self, model: int) -> int:
        """The seed of a model of this repetition."""
        return SEEDS_A_REPETITION * self.seed + SEEDS_A_COMPONENT * model

    def start(self, model: int) -> PreTrainedModel:
        """A backbone before its training: the pretrained weights with a new head, or random weights."""
        compare = self.compare
        own: Any = copy.copy(self.args)
        own.seed, own.num_modes = self.seed_of(0 if compare.shared_head else model), 1
        if compare.from_scratch:
            modes = ModeArguments(backbone=compare.backbone, train_modes=1, width=compare.width)
            (component,) = start_modes(modes, self.data_args, dict(enumerate(self.data.label_names)), own)
        else:
            pretrained = BackboneArguments(backbone=compare.backbone, num_components=1)
            (component,) = start_components(pretrained, self.data_args, self.data, own)
        self.image_processor: Any = component.image_processor
        module: Any = component.backbone
        return module.to(memory_format=torch.channels_last) if compare.channels_last else module

    def mode(self, model: int, epochs: float) -> Weights:
        """A model trained in the ordinary way."""

        def make() -> Weights:
            module = self.start(model)
            self.fit(Trainer, module, model, epochs)
            return module.state_dict()

        return self.kept(f"mode-{model}-epochs-{epochs:g}", make)

    def snapshots(
        self,
        model: int = 0,
        mode_epochs: float | None = None,
        cycle_epochs: float | None = None,
        cycles: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """A mode trained on by a cyclic learning rate: its weights after each cycle.

        Args:
            model: whose mode.
            mode_epochs: of the mode; default: those of the deep ensemble's.
            cycle_epochs: of one cycle; default: as the comparison has it.
            cycles: how many; default: until the budget is spent.
        """
        mode_epochs = float(self.args.num_train_epochs) if mode_epochs is None else mode_epochs
        cycle_epochs = self.compare.cycle_epochs if cycle_epochs is None else cycle_epochs
        cycles = max(1, int((self.compare.budget - mode_epochs) / cycle_epochs)) if cycles is None else cycles

        def make() -> Weights:
            module = self.start(model)
            module.load_state_dict(dict(self.mode(model, mode_epochs)))
            rate = self.compare.cycle_learning_rate
            trainer: Any = self.fit(
                CyclicTrainer,
                module,
                model,
                cycles * cycle_epochs,
                rate=float(self.args.learning_rate) / 2 if rate is None else rate,
                cycles=cycles,
            )
            return {f"{i}/{name}": tensor for i, shot in enumerate(trainer.snapshots) for name, tensor in shot.items()}

        found: list[dict[str, Tensor]] = [{} for _ in range(cycles)]
        name = f"snapshots-{model}-after-{mode_epochs:g}-{cycles}-of-{cycle_epochs:g}"
        for key, tensor in self.kept(name, make).items():
            index, name = key.split("/", 1)
            found[int(index)][name] = tensor
        return found

    def component(self, index: int) -> SimplexForImageClassification:
        """A component of ESPRO: the simplex of its modes, and the connectors grown round them."""
        folder = self.folder / self.compare.espro_name / f"component-{index}"
        if not (folder / "config.json").exists():
            modes = []
            for model in range(index * self.args.num_modes, (index + 1) * self.args.num_modes):
                module = self.start(model)
                module.load_state_dict(dict(self.mode(model, espro_mode_epochs(self.compare, self.args))))
                modes.append(SimplexForImageClassification.from_backbone(module, fine_tuned=True))
            simplex = SimplexForImageClassification.simplex_of_modes(modes)
            own = self.training_arguments(index)
            own.num_members = 1
            trainer = SimplexTrainer(
                model=simplex,
                args=own,
                train_dataset=self.train_images,
                batch_norm_dataset=self.plain_images,
                data_collator=collate,
            )
            trainer.grow()
            simplex.save_pretrained(folder)
        loaded: SimplexForImageClassification = SimplexForImageClassification.from_pretrained(folder)
        if self.compare.channels_last:
            backbone: nn.Module = loaded.backbone
            backbone.to(memory_format=torch.channels_last)
        return loaded

    def training_arguments(self, model: int) -> EsproArguments:
        """The arguments with the seed and the folder of one model."""
        own = copy.copy(self.args)
        own.seed = self.seed_of(model)
        own.output_dir = str(self.folder / "training")
        return own

    def fit(
        self,
        trainer: type[Trainer],
        module: nn.Module,
        model: int,
        epochs: float,
        rate: float | None = None,
        **kwargs: Any,
    ) -> Trainer:
        """Train a module with one of transformers' trainers, with the seed of one model."""
        own = self.training_arguments(model)
        own.num_train_epochs = epochs
        if rate is not None:
            own.learning_rate = rate
        fitted = trainer(model=module, args=own, train_dataset=self.train_images, data_collator=collate, **kwargs)
        fitted.train()
        return fitted

    def kept(self, name: str, make: Callable[[], Weights]) -> Weights:
        """Tensors from the folder of weights, made (and timed) where they are not there."""
        file = self.folder / "weights" / f"{name}.safetensors"
        if not file.exists():
            started = time.perf_counter()
            tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in make().items()}
            seconds = f"{time.perf_counter() - started:.1f}"
            with atomic_write(file.parent) as aside:
                save_file(tensors, aside / file.name, metadata={"seconds": seconds})
            print(f"seed {self.seed}: trained {name} in {seconds} s", file=sys.stderr, flush=True)
        return load_file(file)

    # ---- predictions -------------------------------------------------------------------------------------------

    def at(self, module: nn.Module, weights: Weights, *, statistics: bool = True) -> nn.Module:
        """The module with the given weights, and with BatchNorm statistics recomputed for them if asked for."""
        module.load_state_dict(dict(weights), strict=False)
        if statistics:
            recompute_statistics(module, self.batch_norm_batches)
        return module.eval()

    @functools.cached_property
    def batch_norm_batches(self) -> list[dict[str, Tensor]]:
        """The same training images each time, as the trainer of simplexes takes them."""
        number = min(self.args.batch_norm_images, len(self.plain_images))
        order = torch.randperm(len(self.plain_images), generator=torch.Generator().manual_seed(0))[:number].tolist()
        size = self.args.per_device_eval_batch_size
        chunks = [order[start : start + size] for start in range(0, number, size)]
        return [
            {"pixel_values": collate([self.plain_images[i] for i in chunk])["pixel_values"]}
            for chunk in chunks
            if len(chunk) > 1
        ]

    @torch.no_grad()
    def predict(self, module: nn.Module) -> Probabilities:
        """The probabilities that a module gives for every image of every split: [images, labels] float32."""
        module.to(self.device)
        found: Probabilities = {}
        for name, images in self.splits.items():
            parts = []
            for batch in DataLoader(images, self.args.per_device_eval_batch_size, collate_fn=collate):
                pixels = batch["pixel_values"].to(self.device)
                if self.compare.channels_last:
                    pixels = pixels.contiguous(memory_format=torch.channels_last)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.compare.bfloat16_evaluation):
                    logits = module(pixel_values=pixels).logits
                parts.append(logits.float().softmax(dim=-1).cpu().numpy())
            found[name] = np.concatenate(parts)
        return found

    def predicted(self, method: str, epochs: Sequence[float], members: Callable[[], Iterable[Probabilities]]) -> None:
        """Write the probabilities of a method's members, unless they are there.

        Args:
            method: the name of the file.
            epochs: [members] training epochs that the members up to each one need together.
            members: makes the predictions, one member after the other.
        """
        file = self.folder / "predictions" / f"{method}.safetensors"
        # Members of other epochs are what a run with other arguments left.
        if file.exists() and load_arrays(file)["training_epochs"].tolist() == list(epochs):
            return
        started = time.perf_counter()
        found = list(members())
        arrays = {split: np.stack([member[split] for member in found]) for split in found[0]}
        arrays["training_epochs"] = np.array(epochs, np.float64)
        with atomic_write(file.parent) as aside:
            save_arrays(arrays, aside / file.name)
        seconds = time.perf_counter() - started
        print(f"seed {self.seed}: {method} predicted in {seconds:.1f} s", file=sys.stderr, flush=True)

    def predictions(self) -> dict[str, dict[str, NDArray[Any]]]:
        """All that was predicted so far, by method."""
        files = sorted((self.folder / "predictions").glob("*.safetensors"))
        return {file.stem: load_arrays(file) for file in files}

    def labels(self) -> dict[str, NDArray[np.int64]]:
        """The labels of every split but the out-of-distribution images, [images]."""
        found = {}
        for name, images in self.splits.items():
            if name != "out_of_distribution":
                found[name] = np.array([images[index]["labels"] for index in range(len(images))], np.int64)
        return found

    # ---- methods -----------------------------------------------------------------------------------------------

    def run(self, method: str) -> None:
        """Train and predict with one method.

        Raises:
            ValueError: the folder's models were made with other arguments.
        """
        sources = zip((self.compare, self.data_args, self.args), SHARED_ARGUMENTS, strict=True)
        shared = {name: getattr(source, name) for source, names in sources for name in names}
        check_arguments(self.folder, shared, "another output_dir")
        getattr(self, f"run_{method}")()

    def modes(self, epochs: float | None = None) -> tuple[list[Weights], list[float]]:
        """As many modes as the budget allows, and the epochs that the first of them, two of them, ... took."""
        epochs = float(self.args.num_train_epochs) if epochs is None else epochs
        number = int(self.compare.budget / epochs + 1e-9)
        return [self.mode(index, epochs) for index in range(number)], [epochs * (i + 1) for i in range(number)]

    def run_single(self) -> None:
        budget = self.compare.budget
        self.predicted("single", [budget], lambda: [self.predict(self.at_mode(self.mode(0, budget)))])

    def at_mode(self, weights: Weights) -> nn.Module:
        return self.at(self.module, weights, statistics=False)

    def run_deep_ensemble(self) -> None:
        modes, epochs = self.modes()
        self.predicted("deep_ensemble", epochs, lambda: (self.predict(self.at_mode(mode)) for mode in modes))

    def run_short_deep_ensemble(self) -> None:
        """More modes, each trained only as long as ESPRO's or shorter: is a shorter training what helps ESPRO?"""
        short = self.compare.short_mode_epochs
        modes, epochs = self.modes(espro_mode_epochs(self.compare, self.args) if short is None else short)
        self.predicted("short_deep_ensemble", epochs, lambda: (self.predict(self.at_mode(mode)) for mode in modes))

    def run_recomputed_deep_ensemble(self) -> None:
        """The deep ensemble with BatchNorm statistics like those of ESPRO's members: are these what helps?"""
        modes, epochs = self.modes()
        self.predicted(
            "recomputed_deep_ensemble", epochs, lambda: (self.predict(self.at(self.module, mode)) for mode in modes)
        )

    def run_uniform_soup(self) -> None:
        modes, epochs = self.modes()
        self.predicted("uniform_soup", epochs[-1:], lambda: [self.predict(self.soup(modes, uniform_soup(len(modes))))])

    def run_greedy_soup(self) -> None:
        modes, epochs = self.modes()
        labels = self.labels()["validation"]

        def accuracy(predicted: NDArray[np.float32]) -> float:
            return float((predicted.argmax(axis=-1) == labels).mean())

        def members() -> list[Probabilities]:
            alone = [accuracy(member) for member in self.predictions()["deep_ensemble"]["validation"]]
            chosen = greedy_soup(
                alone, lambda coordinates: accuracy(self.on_validation(self.soup(modes, coordinates)))
            )
            return [self.predict(self.soup(modes, chosen))]

        self.run_deep_ensemble()
        self.predicted("greedy_soup", epochs[-1:], members)

    def soup(self, modes: Sequence[Weights], coordinates: Sequence[float]) -> nn.Module:
        write_point(self.module, modes, coordinates)
        return self.at(self.module, {})

    def on_validation(self, module: nn.Module) -> NDArray[np.float32]:
        splits = self.splits
        try:
            self.splits = {"validation": splits["validation"]}
            return self.predict(module)["validation"]
        finally:
            self.splits = splits

    def run_fge(self) -> None:
        shots = self.snapshots()
        epochs = [self.args.num_train_epochs + self.compare.cycle_epochs * (i + 1) for i in range(len(shots))]
        # As many as the other ensembles have members, the last ones: they are the farthest apart.
        last = slice(-self.compare.forward_passes, None)
        self.predicted("fge", epochs[last], lambda: (self.predict(self.at_mode(shot)) for shot in shots[last]))

    def run_swa(self) -> None:
        shots = self.snapshots()

        def members() -> list[Probabilities]:
            average = AveragedModel(self.module)
            for shot in shots:
                average.update_parameters(self.at_mode(shot))
            return [self.predict(self.at(average.module, {}))]

        self.predicted("swa", [self.compare.budget], members)

    def run_swag(self) -> None:
        shots = self.snapshots()

        self.predicted(
            "swag",
            [self.compare.budget] * self.compare.forward_passes,
            lambda: self.drawn_by_swag(0, shots, self.compare.forward_passes),
        )

    def drawn_by_swag(self, model: int, shots: Sequence[Mapping[str, Tensor]], draws: int) -> Iterator[Probabilities]:
        """Predictions of draws from the Gaussian that fits the snapshots of one model."""
        names = [name for name, _ in self.module.named_parameters()]
        posterior = WeightsGaussian()
        for shot in shots:
            posterior.add({name: shot[name] for name in names})
        generator = torch.Generator().manual_seed(self.seed_of(model))
        for _ in range(draws):
            yield self.predict(self.at(self.module, posterior.draw(generator)))

    def run_multi_swag(self) -> None:
        """SWAG round as many modes as ESPRO has, with snapshots for the epochs of its connectors.

        Source: Wilson and Izmailov, Bayesian Deep Learning and a Probabilistic Perspective of Generalization, 2020.
        """
        mode_epochs, modes = espro_mode_epochs(self.compare, self.args), self.args.num_modes
        cost = component_epochs(self.compare, self.args) / modes
        number = espro_components(self.compare, self.args) * modes
        cycles = max(MULTI_SWAG_SNAPSHOTS, int((cost - mode_epochs) / self.compare.cycle_epochs))
        shots = [self.snapshots(i, mode_epochs, (cost - mode_epochs) / cycles, cycles) for i in range(number)]
        draws = max(1, self.compare.forward_passes // number)

        def members() -> Iterable[Probabilities]:
            of_each = [list(self.drawn_by_swag(i, own, draws)) for i, own in enumerate(shots)]
            return [drawn[i] for i in range(draws) for drawn in of_each]

        self.predicted("multi_swag", [cost * min(i + 1, number) for i in range(number * draws)], members)

    def run_mc_dropout(self) -> None:
        budget, rate = self.compare.budget, self.compare.dropout

        def make() -> Weights:
            module = self.start(0)
            set_dropout(module, rate)
            self.fit(Trainer, module, 0, budget)
            return module.state_dict()

        weights = self.kept(f"dropout-{rate:g}-epochs-{budget:g}", make)

        def members() -> Iterable[Probabilities]:
            module = self.at(self.start(0), weights, statistics=False).to(self.device)
            set_dropout(module, rate)
            keep_dropout_on(module)
            set_seed(self.seed_of(0))
            for _ in range(self.compare.forward_passes):
                yield self.predict(module)

        self.predicted("mc_dropout", [budget] * self.compare.forward_passes, members)

    def run_lora_ensemble(self) -> None:
        epochs = float(self.args.num_train_epochs)
        number = int(self.compare.budget / epochs)

        def member(index: int) -> PreTrainedModel:
            module = self.start(index)
            # The adapters are each model's own, even where heads are not.
            set_seed(self.seed_of(index))
            return lora_member(module, self.compare.lora_rank, self.compare.lora_targets)

        def trained(index: int) -> Weights:
            module = member(index)
            self.fit(Trainer, module, index, epochs, rate=self.compare.lora_learning_rate)
            return module.state_dict()

        def members() -> Iterable[Probabilities]:
            for index in range(number):
                weights = self.kept(f"lora-{index}-epochs-{epochs:g}", functools.partial(trained, index))
                yield self.predict(self.at(member(index), weights, statistics=False))

        self.predicted("lora_ensemble", [epochs * (i + 1) for i in range(number)], members)

    def run_espro(self) -> None:
        """The members of ESPRO in several choices, `MEMBER_CHOICES`."""
        cost = component_epochs(self.compare, self.args)
        number = espro_components(self.compare, self.args)
        name, points = self.compare.espro_name, self.compare.points_a_component
        choices: dict[str, list[list[Probabilities]]] = {choice: [] for choice in MEMBER_CHOICES}
        if not points:
            del choices["points"]
        own: dict[str, Any] = {"espro_mode_epochs": espro_mode_epochs(self.compare, self.args)}
        own |= {argument: getattr(self.args, argument) for argument in ESPRO_ARGUMENTS}
        check_arguments(self.folder / name, own, "another espro_name, or another output_dir")
        if all((self.folder / "predictions" / f"{name}_{choice}.safetensors").exists() for choice in choices):
            return
        batches = self.batch_norm_batches
        for index in range(number):
            component = self.component(index)
            structure = component.config.complex
            coordinates = {
                "centroids": [centroid_coordinates(structure, 0).tolist()],
                "members": symmetric_members(structure),
                "points": draw_members(structure, points, seed=self.seed_of(index)) if points else [],
                "vertices": [vertex_coordinates(structure, v).tolist() for v in range(structure.num_vertices)],
            }
            for choice, wanted in coordinates.items():
                if choice in choices:
                    choices[choice].append([self.predict(component.backbone_at(c, batches)) for c in wanted])
            choices["centroids_and_vertices"].append(choices["centroids"][-1] + choices["vertices"][-1])
        for choice, found in choices.items():
            # One of each component, then the second of each: any number of the first ones is spread evenly.
            members = [of_component[i] for i in range(len(found[0])) for of_component in found]
            epochs = [cost * min(i + 1, number) for i in range(len(members))]
            self.predicted(f"{name}_{choice}", epochs, functools.partial(list, members))


def main(argv: Sequence[str] | None = None) -> dict[int, dict[str, Any]]:
    """Run the comparison; returns what each seed's results.json holds."""
    try:
        compare, data_args, args = parse_arguments((CompareArguments, DataArguments, EsproArguments), argv)
        check(compare, args)
        # Before anything is trained, what is wrong with the images of any seed.
        held: dict[str, Any] = {}
        first = Repetition(compare, data_args, args, compare.seeds[0], held)
        if "mc_dropout" in compare.methods:
            set_dropout(first.start(0), compare.dropout)
        if "lora_ensemble" in compare.methods:
            lora_member(first.start(0), compare.lora_rank, compare.lora_targets)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    results = {}
    for seed in compare.seeds:
        repetition = first if seed == compare.seeds[0] else Repetition(compare, data_args, args, seed, held)
        for method in compare.methods:
            repetition.run(method)
            # After each method, so that a run that is stopped leaves what it knows.
            results[seed] = write_results(repetition)
    return results


def write_results(repetition: Repetition) -> dict[str, Any]:
    """Write what results.json of a seed holds, of all that was predicted so far, and return it."""
    images = {name: len(images) for name, images in repetition.splits.items()}
    results = {
        "seed": repetition.seed,
        "arguments": {
            "comparison": vars(repetition.compare),
            "data": vars(repetition.data_args),
            "training": repetition.args.to_sanitized_dict(),
        },
        "images": images | {"train": len(repetition.data.train)},
        "versions": versions(),
        "hardware": hardware(),
        "methods": seed_results(repetition.predictions(), repetition.labels()),
    }
    with atomic_write(repetition.folder) as aside:
        save_arrays(repetition.labels(), aside / "labels.safetensors")
        (aside / "results.json").write_text(json.dumps(results, indent=1, default=str) + "\n", "utf-8")
    return results


def check(compare: CompareArguments, args: EsproArguments) -> None:
    """Raise ValueError for arguments that name nothing there is, or a budget that trains nothing."""
    if unknown := [method for method in compare.methods if method not in METHODS]:
        raise ValueError(f"methods has {unknown[0]!r}: choose from {', '.join(METHODS)}.")
    for corruption in compare.corruptions or ():
        for severity in compare.severities:
            check_corruption(corruption, severity)
    if not compare.seeds or min(compare.seeds) < 0 or len(set(compare.seeds)) < len(compare.seeds):
        raise ValueError(f"seeds is {compare.seeds}: expected different numbers of 0 or more.")
    if compare.shared_head and compare.from_scratch:
        raise ValueError("shared_head with from_scratch: all models would begin alike. Leave one of them out.")
    if compare.budget < args.num_train_epochs:
        raise ValueError(
            f"budget is {compare.budget:g} epochs and one mode takes {args.num_train_epochs:g} (num_train_epochs): "
            "give a budget for at least one mode."
        )
    if {"espro", "multi_swag"} & set(compare.methods):
        espro_components(compare, args)
    if "multi_swag" in compare.methods and component_epochs(compare, args) <= modes_epochs(compare, args):
        raise ValueError(
            "multi_swag takes its snapshots in the epochs of a component's connectors, and there are none: give "
            "num_vertices above num_modes and connector_epochs above 0."
        )
    if compare.short_mode_epochs is not None and not 0 < compare.short_mode_epochs <= compare.budget:
        raise ValueError(
            f"short_mode_epochs is {compare.short_mode_epochs:g}: expected more than 0 and at most the budget of "
            f"{compare.budget:g} epochs."
        )
    if {"swa", "swag", "fge"} & set(compare.methods):
        needed = 2 if "swag" in compare.methods else 1
        if (compare.budget - args.num_train_epochs) / compare.cycle_epochs < needed:
            raise ValueError(
                f"budget is {compare.budget:g} epochs: after a mode of {args.num_train_epochs:g} it has no room for "
                f"{needed} cycles of {compare.cycle_epochs:g} (cycle_epochs), which swa, swag and fge need."
            )
    # Written by the folders of the comparison instead.
    args.save_strategy = "no"


def check_arguments(folder: Path, own: Mapping[str, Any], instead: str) -> None:
    """Note the arguments in a folder, or raise ValueError where what it holds was made with others."""
    file = folder / "arguments.json"
    if not file.exists() and any(folder.glob("*/*.safetensors")):
        raise ValueError(f"{folder} holds models whose arguments are not known: give {instead}.")
    if not file.exists():
        with atomic_write(folder) as aside:
            (aside / file.name).write_text(json.dumps(own, indent=1) + "\n", "utf-8")
        return
    known = json.loads(file.read_text("utf-8"))
    if different := [name for name in own if known.get(name) != own[name]]:
        name = different[0]
        raise ValueError(f"{folder} was made with {name} {known.get(name)!r}, not {own[name]!r}: give {instead}.")


def espro_mode_epochs(compare: CompareArguments, args: EsproArguments) -> float:
    """Epochs of a mode of ESPRO."""
    return float(args.num_train_epochs if compare.espro_mode_epochs is None else compare.espro_mode_epochs)


def modes_epochs(compare: CompareArguments, args: EsproArguments) -> float:
    """Epochs of all modes of a component of ESPRO."""
    return args.num_modes * espro_mode_epochs(compare, args)


def component_epochs(compare: CompareArguments, args: EsproArguments) -> float:
    """Epochs of a component of ESPRO: its modes and its connectors."""
    connector = args.num_train_epochs if args.connector_epochs is None else args.connector_epochs
    return modes_epochs(compare, args) + (args.num_vertices - args.num_modes) * float(connector)


def espro_components(compare: CompareArguments, args: EsproArguments) -> int:
    """How many components of ESPRO the budget pays for, or as many as were asked for.

    Raises:
        ValueError: the budget does not pay for them.
    """
    cost = component_epochs(compare, args)
    affordable = int(compare.budget / cost + 1e-9)
    number = affordable if compare.espro_components is None else compare.espro_components
    if not 1 <= number <= affordable:
        raise ValueError(
            f"budget is {compare.budget:g} epochs, which pays for {affordable} components of {cost:g} epochs "
            "(num_modes times espro_mode_epochs, and connector_epochs for each further vertex), not for "
            f"{max(number, 1)}."
        )
    return number


def check_validation(data: ImageData) -> None:
    """Raise ValueError where there are no validation images, or where they are test images."""
    if data.validation is None or len(data.validation) == 0:
        raise ValueError(
            f"{data.name} has no validation images, which temperatures and soups are chosen on: give "
            "validation_fraction."
        )

    def contents(dataset: Any) -> set[bytes]:
        return {image.convert("RGB").tobytes() + str(image.size).encode() for image in dataset["image"]}

    validation = contents(data.validation)
    shared = len(validation & contents(data.test))
    if shared > SHARED_IMAGES_ALLOWED * len(validation):
        raise ValueError(
            f"{shared} of the {len(validation)} validation images of {data.name} are test images: temperatures and "
            "soups would be chosen on what they are tested on. Give a validation split that is apart, or a "
            "validation_fraction of the training images."
        )


def evaluation_images(compare: CompareArguments, data_args: DataArguments, data: ImageData) -> dict[str, Dataset]:
    """Images to predict, by name: validation, test, out_of_distribution and corrupted/<name>/<severity>."""
    assert data.validation is not None
    splits = {"validation": data.validation, "test": data.test}
    if compare.out_of_distribution is not None:
        other = load_image_data(compare.out_of_distribution, fashion_mnist_dir=data_args.fashion_mnist_dir).test
        splits["out_of_distribution"] = other.select(range(min(compare.max_out_of_distribution_examples, len(other))))
    some = data.test.select(range(min(compare.max_corrupted_examples, len(data.test))))
    # Corruptions are not made for smaller images: those are corrupted at the least size, and then resized.
    size = data_args.image_size if (data_args.image_size or 0) >= SMALLEST_SIZE else None
    for corruption in compare.corruptions or ():
        for severity in compare.severities:
            splits[f"corrupted/{corruption}/{severity}"] = corrupt_dataset(
                some, corruption, severity, seed=data_args.data_split_seed, image_size=size
            )
    return splits


if __name__ == "__main__":
    main()
