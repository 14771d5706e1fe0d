"""Model soups: the average of several models fine-tuned from one pretrained backbone (Wortsman et al., ICML 2022)."""

from collections.abc import Callable, Sequence


def uniform_soup(models: int) -> list[float]:
    """The coordinates of the average of all models: [models], equal and summing to 1."""
    return [1 / models] * models


def greedy_soup(scores: Sequence[float], score: Callable[[list[float]], float]) -> list[float]:
    """The coordinates of the greedy soup: models join in the order of their scores, where that does not lower it.

    Args:
        scores: [models] validation accuracy of each model on its own, or another score of which more is better.
        score: the same score of the soup at the given coordinates over the models.

    Returns:
        [models] coordinates that sum to 1: equal for the models in the soup, 0 for the others.

    Source: Wortsman et al., Model soups, ICML 2022, algorithm 1.
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
