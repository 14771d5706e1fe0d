"""The rivals that `compare_ensembles.py` knows. A new one is a file in `rivals/` and a line here."""

from comparison.rivals.deep_ensemble import DeepEnsemble
from comparison.rivals.espro import Espro
from comparison.rivals.fge import FastGeometricEnsemble
from comparison.rivals.late_leaves import LateLeaves
from comparison.rivals.learned_subspace import LearnedSubspace
from comparison.rivals.leaves import Leaves
from comparison.rivals.lora_ensemble import LoraEnsemble
from comparison.rivals.mc_dropout import McDropout
from comparison.rivals.multi_swag import MultiSwag
from comparison.rivals.points import JoinedModes
from comparison.rivals.pretrained_vertex import PretrainedVertex
from comparison.rivals.probed_modes import ProbedModes
from comparison.rivals.recomputed_deep_ensemble import RecomputedDeepEnsemble
from comparison.rivals.rival import Rival, Style
from comparison.rivals.short_deep_ensemble import ShortDeepEnsemble
from comparison.rivals.short_soup import ShortSoup
from comparison.rivals.single import Single
from comparison.rivals.soups import GreedySoup, UniformSoup
from comparison.rivals.swa import Swa
from comparison.rivals.swag import Swag
from comparison.rivals.varied_modes import VariedModes

__all__ = ["RIVALS", "STYLES"]

_ALL: tuple[Rival, ...] = (
    Single(),
    DeepEnsemble(),
    ShortDeepEnsemble(),
    RecomputedDeepEnsemble(),
    UniformSoup(),
    GreedySoup(),
    Swa(),
    FastGeometricEnsemble(),
    Swag(),
    MultiSwag(),
    McDropout(),
    LoraEnsemble(),
    Espro(),
    JoinedModes(),
    ShortSoup(),
    Leaves(),
    LateLeaves(),
    LearnedSubspace(),
    ProbedModes(),
    VariedModes(),
    PretrainedVertex(),
)
RIVALS: dict[str, Rival] = {rival.name: rival for rival in _ALL}
STYLES: dict[str, Style] = {method: style for rival in _ALL for method, style in rival.styles.items()}
