"""Growth of a complex: checks before training, the random edge, the mean loss, and recovery from errors."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from ..data.random_streams import isolate_rng
from ..model.backbones import build_backbone
from ..model.complexes import SimplicialComplex
from ..model.configuration_simplex import MODE, PRETRAINED, SimplexConfig
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.shared_weights import split_parameters
from .arguments import SimplexTrainingArguments, check_mode_start

__all__ = ["check_growth", "mean_loss", "random_edge", "trained_mode", "unchanged_on_error"]


def check_growth(
    args: SimplexTrainingArguments,
    structure: SimplicialComplex,
    roles: list[str],
    volume_weight: Callable[[SimplicialComplex], float],
) -> None:
    """Raise if the arguments do not fit the complex that grows.

    Args:
        args: Arguments of the growth.
        structure: The complex before the growth.
        roles: Role of each vertex.
        volume_weight: Returns the volume weight for the last vertex of a complex, or raises ValueError.

    Raises:
        ValueError: Further modes are asked for after the modes' initial weights were trained, and they are no leaves;
            leaves are asked for after connectors were trained, or see `check_mode_start`; there are fewer members
            than simplexes; volume sampling is combined with symmetric members or simplexes of different sizes; or
            there is no positive volume weight.

    Example::

        check_growth(args, model.config.complex, model.config.roles, lambda complex: args.volume_weight)
    """
    check_mode_start(args)
    simplexes = len(structure.simplexes)
    for vertices in structure.simplexes:
        if len(vertices) < args.num_modes:
            _check_further_modes(args, vertices, [roles[vertex] for vertex in vertices])
    if args.num_members is None and args.sampling == "volume" and simplexes > 1:
        raise ValueError(
            "sampling is 'volume' and num_members is not given, but the default members give all simplexes equal "
            "weight: give num_members."
        )
    if args.num_members is not None and args.sampling == "equal" and args.num_members < simplexes:
        raise ValueError(
            f"num_members is {args.num_members}: expected at least one for each of {simplexes} simplexes."
        )
    sizes = [max(len(simplex), args.num_vertices) for simplex in structure.simplexes]
    if args.sampling == "volume" and len(set(sizes)) > 1:
        raise ValueError(
            f"sampling is 'volume', but the simplexes will have {sizes} vertices: volumes of different dimension "
            "cannot be compared. Choose 'equal', or num_vertices of the largest."
        )
    for simplex in range(simplexes):
        while len(structure.simplexes[simplex]) < args.num_vertices:
            structure = structure.with_vertex([simplex])
            volume_weight(structure)


def _check_further_modes(args: SimplexTrainingArguments, vertices: Sequence[int], roles: Sequence[str]) -> None:
    if args.mode_start == "first_mode":
        if any(role not in (PRETRAINED, MODE) for role in roles):
            raise ValueError(
                f"num_modes is {args.num_modes}, but of vertices {list(vertices)} some are connectors, which are "
                "trained after all modes. Grow the leaves from the mode alone."
            )
    elif any(role != PRETRAINED for role in roles):
        raise ValueError(
            f"num_modes is {args.num_modes}, but vertices {list(vertices)} are trained already, so the weights "
            "that further modes would start from are gone. Start them from the first mode (mode_start 'first_mode'), "
            "or train each mode on its own and join them with SimplexForImageClassification.simplex_of_modes."
        )


def trained_mode(config: SimplexConfig, vertex: int) -> int | None:
    """Return the first trained mode of the simplexes that hold a vertex; None if they have none yet.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.training.growth import trained_mode
        >>> roles = ["mode", "pretrained", "pretrained", "pretrained"]
        >>> config = SimplexConfig(simplexes=[[0, 1], [2, 3]], roles=roles)
        >>> trained_mode(config, 1), trained_mode(config, 3)
        (0, None)
    """
    holding = (config.simplexes[simplex] for simplex in config.complex.simplexes_with(vertex))
    return next((other for simplex in holding for other in simplex if config.roles[other] == MODE), None)


def random_edge(simplex: SimplexForImageClassification) -> float:
    """Return the distance between two random initializations of the vertex parameters, in the units of the weights.

    Example::

        random_edge(SimplexForImageClassification.from_backbone("timm/resnet18.a1_in1k"))
    """
    with isolate_rng(0):
        first, second = (split_parameters(build_backbone(simplex.config))[0] for _ in range(2))
    pairs = [(first[name], second[name]) for name in first]
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))


def mean_loss(log_history: list[dict[str, float]], otherwise: float) -> float:
    """Return the mean loss of a stage over all steps, including those before an interruption.

    Args:
        log_history: `TrainerState.log_history`. A logged loss is the mean over the steps since the previous log.
        otherwise: Result if no loss was logged.

    Example:
        >>> from hf_simplex.training.growth import mean_loss
        >>> mean_loss([{"loss": 2.0, "step": 1}, {"loss": 1.0, "step": 4}], otherwise=0.0)
        1.25
    """
    total, last = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            total, last = total + entry["loss"] * (entry["step"] - last), int(entry["step"])
    return total / last if last else otherwise


@contextlib.contextmanager
def unchanged_on_error(simplex: SimplexForImageClassification) -> Iterator[None]:
    """Restore vertices, members and structure if the context raises, so that no untrained vertex remains.

    Example::

        with unchanged_on_error(model):
            vertex = model.add_vertex()
            ...  # train it
    """
    config = simplex.config
    structure = copy.deepcopy((config.simplexes, config.roles, config.members))
    modules = nn.ModuleList(simplex.vertices), simplex.members, simplex.centroids
    try:
        yield
    except BaseException:
        config.simplexes, config.roles, config.members = structure
        simplex.vertices, simplex.members, simplex.centroids = modules
        raise
