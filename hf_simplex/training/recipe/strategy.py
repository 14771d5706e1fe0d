"""How modes become an ensemble: joined in one simplex, or each connected to connectors of its own."""

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accelerate.utils import broadcast_object_list

from ...evaluation.barriers import Barrier, measure_barriers
from ...model.batch_norm import batch_norm_layers
from ...model.modeling_simplex import SimplexForImageClassification
from ..arguments import check_mode_start
from .arguments import BackboneArguments, EsproArguments

__all__ = ["STRATEGIES", "Choice", "apply_strategy", "choose_strategy", "joined_arguments", "mode_arguments"]

STRATEGIES = ("auto", "one_simplex", "join", "connect", "leaves")
"""Values of the argument `strategy`."""


@dataclass(frozen=True)
class Choice:
    """The strategy of a run, and what it was chosen by.

    Attributes:
        asked: the argument.
        chosen: `"one_simplex"`, `"join"`, `"connect"` or `"leaves"`.
        reason: one sentence.
        barriers: between each two modes; empty where none was measured.

    Example:
        >>> from hf_simplex.training.recipe.strategy import Choice
        >>> Choice("join", "join", "It was asked for.").to_json()["chosen"]
        'join'
    """

    asked: str
    chosen: str
    reason: str
    barriers: tuple[Barrier, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the choice as JSON values.

        Example:
            >>> from hf_simplex.training.recipe.strategy import Choice
            >>> Choice("join", "join", "It was asked for.").to_json()["barriers"]
            []
        """
        barriers = [{**asdict(barrier), "modes": list(barrier.modes)} for barrier in self.barriers]
        return {"asked": self.asked, "chosen": self.chosen, "reason": self.reason, "barriers": barriers}


def apply_strategy(strategy: str | None, backbone_args: BackboneArguments, args: EsproArguments) -> None:
    """Set the numbers of components, modes and vertices that a strategy needs, and what modes start from.

    Args:
        strategy: one of `STRATEGIES`; None leaves everything as it is. `"auto"` starts like `"connect"`.
        backbone_args: num_components is set.
        args: num_modes is the number of modes of the run, and becomes that of a component. num_vertices is set, and
            mode_start by `"leaves"`.

    Raises:
        ValueError: the strategy is unknown, needs at least two modes, is `"one_simplex"` or `"leaves"` of several
            given modes, or has no leaves where mode_start asks for them; or see `check_mode_start`.

    Example:
        >>> from hf_simplex.training.recipe.arguments import BackboneArguments, EsproArguments
        >>> from hf_simplex.training.recipe.strategy import apply_strategy
        >>> backbone_args = BackboneArguments("timm/resnet18.a1_in1k")
        >>> args = EsproArguments("output", use_cpu=True, report_to="none", num_modes=3, num_vertices=3)
        >>> apply_strategy("join", backbone_args, args)
        >>> backbone_args.num_components, args.num_modes, args.num_vertices
        (1, 3, 3)
    """
    if strategy is not None:
        _set_numbers(strategy, backbone_args, args)
    check_mode_start(args)


def _set_numbers(strategy: str, backbone_args: BackboneArguments, args: EsproArguments) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}: choose from {', '.join(STRATEGIES)}.")
    given = len(backbone_args.modes or ())
    modes = args.num_modes if strategy == "leaves" else given or args.num_modes
    if strategy == "leaves" and given > 1:
        raise ValueError(f"strategy is 'leaves' and there are {given} modes: give one, the trunk, or choose 'join'.")
    if strategy != "leaves" and args.mode_start == "first_mode":
        raise ValueError(f"strategy is {strategy!r} and mode_start 'first_mode': choose the strategy 'leaves'.")
    if strategy == "one_simplex":
        if given > 1:
            raise ValueError(f"strategy is 'one_simplex' and there are {modes} modes: give one, or choose 'join'.")
        backbone_args.num_components, args.num_modes = 1, 1
        args.num_vertices = max(2, args.num_vertices)
        return
    if modes < 2:
        raise ValueError(f"strategy is {strategy!r} and num_modes {modes}: expected at least 2 modes, or one_simplex.")
    if strategy == "leaves":
        args.mode_start = "first_mode"
    if strategy in ("join", "leaves"):
        backbone_args.num_components, args.num_modes = 1, modes
        args.num_vertices = max(modes, args.num_vertices)
    else:
        backbone_args.num_components, args.num_modes = modes, 1
        args.num_vertices = max(2, args.num_vertices)


def mode_arguments(args: EsproArguments) -> EsproArguments:
    """Copy the arguments of a component for the training of its mode alone.

    Example:
        >>> from hf_simplex.training.recipe.arguments import EsproArguments
        >>> from hf_simplex.training.recipe.strategy import mode_arguments
        >>> mode_arguments(EsproArguments("output", use_cpu=True, report_to="none", num_vertices=4)).num_vertices
        1
    """
    own = copy.copy(args)
    own.num_vertices, own.num_modes, own.num_members = 1, 1, None
    return own


def joined_arguments(args: EsproArguments, modes: int) -> EsproArguments:
    """Copy the arguments of a run for the simplex of its modes.

    Args:
        args: arguments of the run.
        modes: number of modes.

    Example:
        >>> from hf_simplex.training.recipe.arguments import EsproArguments
        >>> from hf_simplex.training.recipe.strategy import joined_arguments
        >>> joined_arguments(EsproArguments("output", use_cpu=True, report_to="none", num_vertices=2), 3).num_vertices
        3
    """
    own = copy.copy(args)
    own.output_dir = os.path.join(args.output_dir, "components", "joined")
    own.num_modes, own.num_vertices, own.push_to_hub = modes, max(modes, args.num_vertices), False
    return own


def choose_strategy(
    components: Sequence[SimplexForImageClassification],
    validation: Iterable[Any] | None,
    batch_norm_batches: Iterable[Any],
    *,
    from_scratch: bool,
) -> Choice:
    """Join modes without a barrier between them; connect the others. All processes call this together.

    Args:
        components: the first vertex of each is its mode.
        validation: batches of validation images with labels; None: the modes are not measured.
        batch_norm_batches: inputs of training images.
        from_scratch: whether the modes started from different random weights. Without validation images, those are
            connected.

    Returns:
        The choice of the first process.

    Example::

        choose_strategy(components, in_batches(validation, 128), batches, from_scratch=False).chosen
    """
    if validation is None:
        chosen, start = ("connect", "random") if from_scratch else ("join", "the same pretrained")
        reason = f"There are too few validation images to measure a barrier; the modes start from {start} weights."
        return Choice("auto", chosen, reason)
    module = components[0].backbone
    barriers = measure_barriers(
        module,
        [component.weights[0] for component in components],
        validation,
        batch_norm_batches=batch_norm_batches if batch_norm_layers(module) else None,
    )
    real = [barrier for barrier in barriers if barrier.is_real]
    # The highest barrier may be noise where a lower one is none.
    highest = max(real or barriers, key=lambda barrier: barrier.height)
    measured = f"{highest.height:.3f} ± {highest.standard_error:.3f} nats"
    if real:
        choice = Choice(
            "auto",
            "connect",
            f"There is a barrier of {measured} between modes, so each mode gets connectors.",
            tuple(barriers),
        )
    else:
        choice = Choice(
            "auto",
            "join",
            f"There is no barrier between the modes (at most {measured}), so one simplex joins them.",
            tuple(barriers),
        )
    # Rounding on different devices must not send two processes different ways.
    shared = [choice]
    broadcast_object_list(shared)
    return shared[0]
