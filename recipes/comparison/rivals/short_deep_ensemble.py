"""A deep ensemble of more modes, each trained as long as a mode of ESPRO: the control for shorter training."""

from comparison.budget import espro_mode_epochs
from comparison.repetition import Repetition
from comparison.rivals.deep_ensemble import DeepEnsemble

__all__ = ["ShortDeepEnsemble"]


class ShortDeepEnsemble(DeepEnsemble):
    """As many modes of `short_mode_epochs` as the budget pays for."""

    name, label, color = "short_deep_ensemble", "deep ensemble, shorter modes", "#56b4e9"

    def mode_epochs(self, run: Repetition) -> float:
        short = run.compare.short_mode_epochs
        return espro_mode_epochs(run.compare, run.args) if short is None else short
