"""Monte Carlo dropout: dropout stays on at prediction (Gal and Ghahramani, ICML 2016)."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer, set_seed

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble

__all__ = ["McDropout", "keep_dropout_on", "set_dropout"]


def set_dropout(module: nn.Module, rate: float) -> None:
    """Set the rate of every dropout of a model.

    Raises:
        ValueError: the model has no dropout, so that MC dropout has nothing to draw.

    Example:
        >>> head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 2))
        >>> set_dropout(head, 0.5)
        >>> head[0].p
        0.5
    """
    places = _dropout_places(module)
    if not places:
        raise ValueError(f"{type(module).__name__} has no dropout: leave the method mc_dropout out for this backbone.")
    for owner, name in places:
        setattr(owner, name, rate)


def keep_dropout_on(module: nn.Module) -> None:
    """Put a model in evaluation mode, except for what draws dropout.

    Example:
        >>> head = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm1d(4))
        >>> keep_dropout_on(head)
        >>> [layer.training for layer in head]
        [True, False]
    """
    module.eval()
    for owner, _ in _dropout_places(module):
        # Not .train(), which would reach the layers below: timm's classifiers draw the head's dropout themselves.
        owner.training = True


def _dropout_places(module: nn.Module) -> list[tuple[Any, str]]:
    """Owner and attribute of each rate: the layers of torch, and `drop_rate` of the head of timm's classifiers."""
    places: list[tuple[Any, str]] = [(layer, "p") for layer in module.modules() if isinstance(layer, nn.Dropout)]
    return places + [(layer, "drop_rate") for layer in module.modules() if hasattr(layer, "drop_rate")]


class McDropout(Ensemble[Weights]):
    """`forward_passes` draws of the dropout of one model trained for the whole budget."""

    name, label, color = "mc_dropout", "MC dropout", "#8b5a2b"

    def check_backbone(self, backbone: PreTrainedModel, compare: CompareArguments) -> None:
        set_dropout(backbone, compare.dropout)

    def epochs(self, run: Repetition) -> list[float]:
        return [run.compare.budget] * run.compare.forward_passes

    def train(self, run: Repetition) -> Weights:
        budget, rate = run.compare.budget, run.compare.dropout

        def make() -> Weights:
            module = run.start(0)
            set_dropout(module, rate)
            run.fit(Trainer, module, 0, budget)
            return module.state_dict()

        return run.kept(f"dropout-{rate:g}-epochs-{budget:g}", make)

    def predict(self, run: Repetition, trained: Weights) -> Iterable[Probabilities]:
        module = run.at(run.start(0), trained, statistics=False).to(run.device)
        set_dropout(module, run.compare.dropout)
        keep_dropout_on(module)
        set_seed(run.seed_of(0))
        for _ in range(run.compare.forward_passes):
            yield run.predict(module)
