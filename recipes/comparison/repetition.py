"""One seed of a comparison: images, models and predictions, which all rivals share."""

import copy
import functools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer

from comparison.arguments import CompareArguments
from comparison.images import check_validation, evaluation_images
from hf_simplex.data.image_transforms import collate, with_pixel_values
from hf_simplex.model.batch_norm import recompute_statistics
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.linear_probe import fit_head, linear_head
from hf_simplex.training.recipe.arguments import BackboneArguments, DataArguments, EsproArguments, ModeArguments
from hf_simplex.training.recipe.components import SEEDS_A_COMPONENT, start_components, start_modes
from hf_simplex.training.recipe.images import load_data, transforms_of

__all__ = ["Probabilities", "Repetition", "Weights"]

# The seeds of a repetition, its components and their vertices are below those of the next repetition.
SEEDS_A_REPETITION = 100_000

Weights = Mapping[str, Tensor]
Probabilities = dict[str, NDArray[np.float32]]


class Repetition:
    """One seed of a comparison: its images, and every model trained on them.

    Rivals share models. A model that the folder holds is not trained again.

    Args:
        compare: arguments of the comparison.
        data_args: arguments of the images; the seed also picks the subsets.
        args: arguments of the training.
        seed: of this repetition, 0 or more.
        held: transformed images by the fingerprint of their data set, shared by the repetitions of one run.

    Attributes:
        folder: `<output_dir>/seed-<seed>`.
        device: where models predict.
        module: a backbone for prediction; `at` sets its weights. Each training starts with a backbone of its own.
        train_images, plain_images: the training images, with and without augmentation.
        splits: images to predict: validation, test, out_of_distribution and corrupted/<name>/<severity>.

    Raises:
        ValueError: validation images are missing or are test images, or arguments do not fit the data.

    Example::

        run = Repetition(compare, data_args, args, seed=1)
        weights = run.mode(0, epochs=8)
        probabilities = run.predict(run.at_mode(weights))["test"]
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
        self.device = args.device
        module: Any = self._new_backbone(0)
        self.module: nn.Module = module.to(self.device)
        training, plain = transforms_of(data_args, self.image_processor)
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

    def training_transform(self, random_erasing: float) -> Any:
        """The transform of the training images, with a rate of erasing."""
        return transforms_of(self.data_args, self.image_processor, random_erasing)[0]

    # ---- models ------------------------------------------------------------------------------------------------

    def seed_of(self, model: int) -> int:
        """The seed of a model: of its head, its training and its draws."""
        return SEEDS_A_REPETITION * self.seed + SEEDS_A_COMPONENT * model

    def start(self, model: int) -> PreTrainedModel:
        """A backbone before training: pretrained weights with a new or probed head, or random weights."""
        module = self._new_backbone(model)
        if self.args.probe_head:
            module.load_state_dict(dict(self._probed_head()), strict=False)
        return module

    def _probed_head(self) -> Weights:
        """The weights of the head that logistic regression fits to the backbone's features."""

        def make() -> Weights:
            module = self._new_backbone(0)
            name, head = linear_head(module)
            # The head must fit the statistics that training computes, not those of the pretraining.
            recompute_statistics(module, self.batch_norm_batches)
            fit_head(module, self.plain_images, batch_size=self.args.per_device_eval_batch_size, collate=collate)
            return {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}

        return self.kept("probed-head", make)

    def _new_backbone(self, model: int) -> PreTrainedModel:
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
        """The weights of an ordinary model, trained for so many epochs."""

        def make() -> Weights:
            module = self.start(model)
            self.fit(Trainer, module, model, epochs)
            return module.state_dict()

        return self.kept(f"mode-{model}-epochs-{epochs:g}", make)

    def modes(self, epochs: float) -> list[Weights]:
        """As many modes of so many epochs as the budget pays for."""
        return [self.mode(index, epochs) for index in range(len(self.modes_epochs(epochs)))]

    def modes_epochs(self, epochs: float) -> list[float]:
        """Training epochs that the first of these modes, the first two, ... need together."""
        return [epochs * (i + 1) for i in range(int(self.compare.budget / epochs + 1e-9))]

    def training_arguments(self, model: int) -> EsproArguments:
        """The training arguments with the seed and the folder of one model."""
        own = copy.copy(self.args)
        own.seed = self.seed_of(model)
        own.output_dir = str(self.folder / "training")
        return own

    def with_arguments(self, **changes: Any) -> "Repetition":
        """A copy with other training arguments. Images, folder and `module` are shared.

        Args:
            **changes: new values of training arguments, by name.

        Example::

            module = run.with_arguments(probe_head=True).start(0)
        """
        own = copy.copy(self)
        own.args = copy.copy(self.args)
        for name, value in changes.items():
            setattr(own.args, name, value)
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
        """Train a module with a trainer class, with the seed of a model.

        Args:
            trainer: the class.
            module: what is trained.
            model: the number of the model.
            epochs: training epochs.
            rate: learning rate; default: that of the arguments.
            **kwargs: further arguments of the class.

        Returns:
            The trainer, after training.
        """
        own = self.training_arguments(model)
        own.num_train_epochs = epochs
        if rate is not None:
            own.learning_rate = rate
        fitted = trainer(model=module, args=own, train_dataset=self.train_images, data_collator=collate, **kwargs)
        fitted.train()
        return fitted

    def kept(self, name: str, make: Callable[[], Weights]) -> Weights:
        """Tensors from the file of weights with this name, made and written where there is none."""
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
        """The module with these weights, in evaluation mode; `statistics` recomputes the BatchNorm statistics."""
        module.load_state_dict(dict(weights), strict=False)
        if statistics:
            recompute_statistics(module, self.batch_norm_batches)
        return module.eval()

    def at_mode(self, weights: Weights) -> nn.Module:
        """`module` with the weights of a trained model, whose BatchNorm statistics stay as training left them."""
        return self.at(self.module, weights, statistics=False)

    @functools.cached_property
    def batch_norm_batches(self) -> list[dict[str, Tensor]]:
        """Batches for BatchNorm statistics: the same training images for every model."""
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
    def predict(self, module: nn.Module, splits: Sequence[str] | None = None) -> Probabilities:
        """Predict the images of all splits, or of the named ones: probabilities [images, labels] float32."""
        module.to(self.device)
        found: Probabilities = {}
        for name in self.splits if splits is None else splits:
            images = self.splits[name]
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
        """Write the predictions of a method's members, unless they are there.

        Args:
            method: the name of the file.
            epochs: [members] training epochs that the first member, the first two members, ... need together.
            members: trains where needed, and predicts with one member after the other.
        """
        file = self.predictions_file(method)
        # Other epochs come from a run with other arguments.
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

    def predictions_file(self, method: str) -> Path:
        """The file of a method's predictions, whether it is there or not."""
        return self.folder / "predictions" / f"{method}.safetensors"

    def predictions(self) -> dict[str, dict[str, NDArray[Any]]]:
        """All predictions so far, by method: see `metrics.seed_results`."""
        files = sorted((self.folder / "predictions").glob("*.safetensors"))
        return {file.stem: load_arrays(file) for file in files}

    def labels(self) -> dict[str, NDArray[np.int64]]:
        """The labels of every split except the out-of-distribution images: [images]."""
        found = {}
        for name, images in self.splits.items():
            if name != "out_of_distribution":
                found[name] = np.array([images[index]["labels"] for index in range(len(images))], np.int64)
        return found
