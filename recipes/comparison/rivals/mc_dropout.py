"""Monte Carlo dropout: dropout stays on when the model predicts (Gal and Ghahramani, ICML 2016)."""

from typing import Any

from torch import nn


def dropout_places(module: nn.Module) -> list[tuple[Any, str]]:
    """Where a model keeps its dropout rates: the layers of torch, and timm's classifiers' `drop_rate` of the head."""
    places: list[tuple[Any, str]] = [(layer, "p") for layer in module.modules() if isinstance(layer, nn.Dropout)]
    return places + [(layer, "drop_rate") for layer in module.modules() if hasattr(layer, "drop_rate")]


def set_dropout(module: nn.Module, rate: float) -> None:
    """Give every dropout of a model one rate.

    Raises:
        ValueError: the model has no dropout, so that MC dropout has nothing to draw.
    """
    places = dropout_places(module)
    if not places:
        raise ValueError(f"{type(module).__name__} has no dropout: leave the method mc_dropout out for this backbone.")
    for owner, name in places:
        setattr(owner, name, rate)


def keep_dropout_on(module: nn.Module) -> None:
    """Put a model in evaluation mode, but for what draws dropout; BatchNorm and everything else stays as it is."""
    module.eval()
    for owner, _ in dropout_places(module):
        # Not .train(), which would reach the layers below: timm's classifiers draw the head's dropout themselves.
        owner.training = True
