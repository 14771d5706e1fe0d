"""Mildly different modes: each with hyperparameters of its own (DiWA; hyper-deep ensembles).

Sources: Rame et al., Diverse Weight Averaging for Out-of-Distribution Generalization, NeurIPS 2022; Wenzel et al.,
Hyperparameter Ensembles for Robustness and Uncertainty Quantification, NeurIPS 2020.
"""

import functools
import random
from collections.abc import Mapping
from typing import ClassVar

from transformers import Trainer

from comparison.repetition import Repetition, Weights
from comparison.rivals.points import predict_points
from comparison.rivals.rival import Rival, Style
from hf_simplex.data.image_transforms import with_pixel_values

__all__ = ["VARIATIONS", "VariedModes", "variation"]

VARIATIONS: dict[str, tuple[float, ...]] = {
    "learning_rate": (1.0, 2.0),
    "label_smoothing_factor": (0.0, 0.1),
    "random_erasing": (0.0, 0.25),
}
"""Values to draw from; the learning rate as a multiple of the arguments'."""


def variation(seed: int) -> dict[str, float]:
    """Draw the hyperparameters of a mode; at least one differs from those of the first mode.

    Example:
        >>> sorted(variation(1000))
        ['label_smoothing_factor', 'learning_rate', 'random_erasing']
    """
    draws = random.Random(seed)
    while True:
        drawn = {name: draws.choice(values) for name, values in VARIATIONS.items()}
        if any(value != VARIATIONS[name][0] for name, value in drawn.items()):
            return drawn


class VariedModes(Rival):
    """The deep ensemble's first mode, and others with drawn hyperparameters; and their centroid."""

    name, label, color = "varied_modes", "varied modes", "#44aa99"
    further_styles: ClassVar[Mapping[str, Style]] = {"varied_centroid": Style("centroid of varied modes", "#9edae5")}

    def run(self, run: Repetition) -> None:
        epochs = run.modes_epochs(float(run.args.num_train_epochs))
        number = len(epochs)
        corners = [[float(own == mode) for own in range(number)] for mode in range(number)]
        run.predicted(self.name, epochs, lambda: predict_points(run, self.modes(run), corners))
        centroid = [[1 / number] * number]
        run.predicted("varied_centroid", epochs[-1:], lambda: predict_points(run, self.modes(run), centroid))

    def modes(self, run: Repetition) -> list[Weights]:
        """The modes, trained or from the folder of the run."""
        epochs = float(run.args.num_train_epochs)
        number = len(run.modes_epochs(epochs))
        varied = [
            run.kept(f"varied-{model}-epochs-{epochs:g}", functools.partial(self._train, run, model, epochs))
            for model in range(1, number)
        ]
        return [run.mode(0, epochs), *varied]

    def _train(self, run: Repetition, model: int, epochs: float) -> Weights:
        drawn = variation(run.seed_of(model))
        own = run.with_arguments(label_smoothing_factor=drawn["label_smoothing_factor"])
        # Erasing is a part of augmentation.
        erasing = 0.0 if run.data_args.augment == "none" else drawn["random_erasing"]
        own.train_images = with_pixel_values(
            run.data.train, run.training_transform(erasing), materialize=run.data_args.augment != "timm"
        )
        module = run.start(model)
        own.fit(Trainer, module, model, epochs, rate=drawn["learning_rate"] * run.args.learning_rate)
        return module.state_dict()
