"""Modes that differ mildly in their hyperparameters, which makes an ensemble of them more diverse.

Sources: Rame et al. 2022, Diverse Weight Averaging for Out-of-Distribution Generalization; Wenzel et al. 2020,
Hyperparameter Ensembles for Robustness and Uncertainty Quantification. There the values are drawn at random, here they
are listed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..model.configuration_simplex import CONNECTOR, SimplexConfig
from .arguments import SimplexTrainingArguments

__all__ = ["ModeSettings", "leaf_settings", "mode_number", "mode_settings", "rotated"]


class ModeSettings(NamedTuple):
    """Hyperparameters of one mode.

    Attributes:
        learning_rate: Initial learning rate.
        label_smoothing: Label smoothing factor.

    Example:
        >>> from hf_simplex.training.varied_modes import ModeSettings
        >>> ModeSettings(2e-4, 0.1).label_smoothing
        0.1
    """

    learning_rate: float
    label_smoothing: float

    def differences(self, args: SimplexTrainingArguments) -> dict[str, float]:
        """Return the settings that differ from those of the run, by name.

        Example:
            >>> from hf_simplex import SimplexTrainingArguments
            >>> from hf_simplex.training.varied_modes import ModeSettings
            >>> ModeSettings(2e-4, 0.0).differences(SimplexTrainingArguments("out", learning_rate=1e-4, use_cpu=True))
            {'learning_rate': 0.0002}
        """
        run = ModeSettings(args.learning_rate, args.label_smoothing_factor)
        return {name: own for name, own in self._asdict().items() if own != getattr(run, name)}


def mode_settings(args: SimplexTrainingArguments, config: SimplexConfig, vertex: int) -> ModeSettings:
    """Return the hyperparameters of a mode that is no leaf: the entries of `args` that its number points to.

    Args:
        args: Arguments of the growth.
        config: Structure and roles. All modes have been added.
        vertex: The mode.

    Example:
        >>> from hf_simplex import SimplexConfig, SimplexTrainingArguments
        >>> from hf_simplex.training.varied_modes import mode_settings
        >>> args = SimplexTrainingArguments("out", learning_rate=0.1, mode_learning_rates=[1, 2], use_cpu=True)
        >>> config = SimplexConfig(simplexes=[[0, 1, 2]], roles=["pretrained"] * 3)
        >>> [mode_settings(args, config, vertex).learning_rate for vertex in range(3)]
        [0.1, 0.2, 0.1]
    """
    number = mode_number(config, vertex, leaves=args.mode_start == "first_mode")
    rates, smoothing = args.mode_learning_rates, args.mode_label_smoothing
    return ModeSettings(
        args.learning_rate * (1 if rates is None else rates[number % len(rates)]),
        args.label_smoothing_factor if smoothing is None else smoothing[number % len(smoothing)],
    )


def leaf_settings(args: SimplexTrainingArguments) -> ModeSettings:
    """Return the hyperparameters of leaves, which do not differ from one another.

    Example:
        >>> from hf_simplex import SimplexTrainingArguments
        >>> from hf_simplex.training.varied_modes import leaf_settings
        >>> args = SimplexTrainingArguments("out", use_cpu=True, num_modes=2, mode_start="first_mode")
        >>> leaf_settings(args).learning_rate == args.learning_rate
        True
    """
    rate = args.learning_rate if args.leaf_learning_rate is None else args.leaf_learning_rate
    return ModeSettings(rate, args.label_smoothing_factor)


def mode_number(config: SimplexConfig, vertex: int, leaves: bool = False) -> int:
    """Return the number of a mode among those of the complex, one simplex after another.

    So several simplexes that are trained together count as components that are trained apart.

    Args:
        config: Structure and roles. All modes have been added.
        vertex: The mode.
        leaves: The later modes of each simplex are leaves, which do not count.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.training.varied_modes import mode_number
        >>> config = SimplexConfig(simplexes=[[0, 2], [1, 3]], roles=["pretrained"] * 4)
        >>> [mode_number(config, vertex) for vertex in range(4)]
        [0, 2, 1, 3]
        >>> mode_number(config, 1, leaves=True)
        1
    """
    held = [[other for other in sorted(simplex) if config.roles[other] != CONNECTOR] for simplex in config.simplexes]
    # A mode that several simplexes hold counts once.
    order = dict.fromkeys(mode for modes in held for mode in (modes[:1] if leaves else modes))
    return list(order).index(vertex)


def rotated(values: Sequence[float] | None, start: int) -> list[float] | None:
    """Return the values from one place on, and those before it at the end; None stays None.

    Args:
        values: One for each mode, in turn.
        start: Number of the first mode of a part of the run.

    Example:
        >>> from hf_simplex.training.varied_modes import rotated
        >>> rotated([1.0, 2.0, 4.0], 4)
        [2.0, 4.0, 1.0]
    """
    if values is None:
        return None
    return [values[(start + place) % len(values)] for place in range(len(values))]
