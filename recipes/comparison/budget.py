"""Training epochs of ESPRO, and what a budget of epochs pays for."""

from comparison.arguments import CompareArguments
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["component_epochs", "espro_components", "espro_mode_epochs", "modes_epochs"]


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
    """Components of ESPRO: as many as were asked for, or as the budget pays for.

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
