"""Model soups: averages of models fine-tuned from one pretrained backbone (Wortsman et al., ICML 2022)."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.deep_ensemble import DeepEnsemble
from comparison.rivals.rival import Ensemble
from hf_simplex.model.weight_space import write_point

__all__ = ["GreedySoup", "UniformSoup", "greedy_soup", "uniform_soup"]


def uniform_soup(models: int) -> list[float]:
    """The coordinates of the average of all models: [models], equal, summing to 1.

    Example:
        >>> uniform_soup(4)
        [0.25, 0.25, 0.25, 0.25]
    """
    return [1 / models] * models


def greedy_soup(scores: Sequence[float], score: Callable[[list[float]], float]) -> list[float]:
    """The coordinates of the greedy soup: models join in order of score, where the soup's score does not fall.

    Args:
        scores: [models] validation accuracy of each model on its own, or another score; more is better.
        score: the same score of the soup at coordinates over the models.

    Returns:
        [models] coordinates that sum to 1: equal for the models in the soup, 0 for the others.

    Source: Wortsman et al., Model soups, ICML 2022, algorithm 1.

    Example:
        >>> greedy_soup([0.7, 0.9, 0.8], lambda coordinates: 0.95 if coordinates[0] == 0 else 0.6)
        [0.0, 0.5, 0.5]
    """
    first, *others = sorted(range(len(scores)), key=lambda model: -scores[model])
    chosen, best = [first], scores[first]
    for model in others:
        tried = score(_average([*chosen, model], len(scores)))
        if tried >= best:
            chosen, best = [*chosen, model], tried
    return _average(chosen, len(scores))


def _average(chosen: Sequence[int], models: int) -> list[float]:
    return [(model in chosen) / len(chosen) for model in range(models)]


class _Soup(Ensemble[list[Weights]]):
    """One model: an average of the modes of the deep ensemble, with BatchNorm statistics recomputed."""

    single_model = True

    def epochs(self, run: Repetition) -> list[float]:
        return run.modes_epochs(float(run.args.num_train_epochs))[-1:]

    def train(self, run: Repetition) -> list[Weights]:
        return run.modes(float(run.args.num_train_epochs))

    def soup(self, run: Repetition, modes: Sequence[Weights], coordinates: Sequence[float]) -> nn.Module:
        """The model at coordinates over the modes."""
        write_point(run.module, modes, coordinates)
        return run.at(run.module, {})


class UniformSoup(_Soup):
    """The average of all modes."""

    name, label, color = "uniform_soup", "uniform soup", "#999999"

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        yield run.predict(self.soup(run, trained, uniform_soup(len(trained))))


class GreedySoup(_Soup):
    """The average of the modes that do not lower validation accuracy."""

    name, label, color = "greedy_soup", "greedy soup", "#666666"

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        labels = run.labels()["validation"]

        def accuracy(predicted: NDArray[np.float32]) -> float:
            return float((predicted.argmax(axis=-1) == labels).mean())

        # Their predictions rank the modes.
        DeepEnsemble().run(run)
        alone = [accuracy(member) for member in run.predictions()["deep_ensemble"]["validation"]]
        chosen = greedy_soup(
            alone,
            lambda coordinates: accuracy(
                run.predict(self.soup(run, trained, coordinates), ["validation"])["validation"]
            ),
        )
        yield run.predict(self.soup(run, trained, chosen))
