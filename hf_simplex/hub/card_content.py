"""The variable text of a card: names, counts, and the rows of its tables."""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation.comparison import Result, error_name
from ..evaluation.paired import beyond_noise, describe_differences
from ..model.configuration_simplex import CONNECTOR, MODE, PRETRAINED, SimplexConfig
from ..model.members import MEMBER_RULES, place_members
from ..model.modeling_simplex import SimplexForImageClassification
from .evidence import PARTS, Evidence
from .safe_text import Markdown, code_span

__all__ = [
    "counted",
    "data_set_id",
    "decision_lines",
    "difference_lines",
    "hub_id",
    "largest_standard_error",
    "linked",
    "part_lines",
    "placeholder_name",
    "probe_line",
    "roles",
    "sampling",
    "simplex_rows",
    "standard_error",
    "strategy_reason",
    "vertex_rows",
]

# Hub ids of the data sets that `load_image_data` reads from files.
_HUB_DATA_SETS = {"fashion_mnist": "zalando-datasets/fashion_mnist"}

_ROLES = {
    MODE: ("fine-tuned mode",),
    CONNECTOR: ("connector",),
    PRETRAINED: ("pretrained vertex", "pretrained vertices"),
}

_PART_LINES = {
    "backbone": "one model, the first mode alone.",
    "deep_ensemble": "the mean prediction of the modes, a plain ensemble of independently trained models.",
    "centroid": "one model, whose weights are the mean of the vertices of the first simplex.",
    "simplex": "the mean prediction of the members in the first simplex.",
    "espro": "the mean prediction of all members, which is what this repository's model returns.",
}

_PLAIN_ENSEMBLE_WITH_LEAVES = (
    "the mean prediction of the modes. Some of them were trained from another one, so they are not independent."
)


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Puts a number before its noun, such as `1 vertex` or `8 vertices`.

    Example:
        >>> from hf_simplex.hub.card_content import counted
        >>> counted(8, "vertex", "vertices")
        '8 vertices'
    """
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def hub_id(name: Any) -> str | None:
    """Returns the name if it can be a Hub id with a namespace and is not a local path, else None.

    Example:
        >>> from hf_simplex.hub.card_content import hub_id
        >>> hub_id("timm/resnet50.a1_in1k"), hub_id("resnet50"), hub_id("../me/resnet50")
        ('timm/resnet50.a1_in1k', None, None)
    """
    if not isinstance(name, str) or "/" not in name or os.path.exists(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def linked(name: Any, default: str) -> Markdown:
    """Formats the name of a backbone or data set as code. A path is shortened to its last part.

    Args:
        name: Hub id, path or None.
        default: text for a missing name.

    Returns:
        Markdown.

    Example:
        >>> from hf_simplex.hub.card_content import linked
        >>> linked("/home/me/images/pets", "")
        '`pets`'
    """
    if (repository := hub_id(name)) is not None:
        return code_span(repository)
    return code_span(Path(str(name)).name) if name else Markdown(default)


def data_set_id(name: str | None) -> str | None:
    """The Hub id of a data set; None for a local one.

    Example:
        >>> from hf_simplex.hub.card_content import data_set_id
        >>> data_set_id("fashion_mnist")
        'zalando-datasets/fashion_mnist'
    """
    return None if name is None else hub_id(_HUB_DATA_SETS.get(name, name))


def placeholder_name(data_set: str | None) -> str:
    """A repository name for a card without a repository.

    Example:
        >>> from hf_simplex.hub.card_content import placeholder_name
        >>> placeholder_name("someone/pets")
        'pets-simplex'
    """
    name = Path(data_set).name if data_set else "ensemble"
    return re.sub(r"[^\w.-]+", "-", f"{name}-simplex")


def roles(config: SimplexConfig) -> str:
    """Counts the vertices of each role, such as `2 fine-tuned modes and 6 connectors`.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import roles
        >>> roles(SimplexConfig(roles=["mode", "connector"], simplexes=[[0, 1]]))
        '1 fine-tuned mode and 1 connector'
    """
    return " and ".join(
        counted(config.roles.count(role), *nouns) for role, nouns in _ROLES.items() if role in config.roles
    )


def sampling(config: SimplexConfig) -> str:
    """How random members were distributed over several simplexes. Empty for one simplex or symmetric members.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import sampling
        >>> sampling(SimplexConfig(roles=["mode"], simplexes=[[0]]))
        ''
    """
    placed = [place_members(config.complex, rule) for rule in MEMBER_RULES]
    if len(config.simplexes) == 1 or not config.members or config.members in placed:
        return ""
    return "with equal chance" if config.sampling == "equal" else "in proportion to volume"


def standard_error(accuracy: float, images: int | None) -> float:
    """Standard error of an accuracy, `sqrt(p (1 - p) / n)`; NaN for an unknown number of images.

    Example:
        >>> from hf_simplex.hub.card_content import standard_error
        >>> round(standard_error(0.9, 900), 6)
        0.01
    """
    return math.sqrt(accuracy * (1 - accuracy) / images) if images else math.nan


def largest_standard_error(results: Iterable[Result], images: int | None) -> float:
    """The largest standard error of an accuracy; of several labels an image, of the share of exact matches.

    Args:
        results: of a run.
        images: number of test images; None if unknown.

    Returns:
        0 to 1/2; NaN without results or number of images.

    Example:
        >>> from hf_simplex.hub.card_content import largest_standard_error
        >>> largest_standard_error([], 100)
        nan
    """
    shares = [result["exact_match"] if "exact_match" in result else result["accuracy"] for result in results]
    return max((standard_error(share, images) for share in shares), default=math.nan)


def strategy_reason(config: SimplexConfig) -> str | None:
    """Says by which measurement the modes were joined or connected; None where the user chose.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import strategy_reason
        >>> choice = {"asked": "auto", "chosen": "join", "reason": "There is no barrier between the modes."}
        >>> strategy_reason(SimplexConfig(roles=["mode"], simplexes=[[0]], provenance={"strategy": choice}))
        'There is no barrier between the modes.'
    """
    choice = config.provenance.get("strategy") or {}
    return choice.get("reason") if choice.get("asked") == "auto" else None


def probe_line(config: SimplexConfig) -> str | None:
    """Says that the modes started from a linear probe, and how well it predicted; None without one.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import probe_line
        >>> probe = {"num_images": 200, "error": 0.125, "nll": 0.4, "strength": 0.01}
        >>> probe_line(SimplexConfig(roles=["mode"], simplexes=[[0]], provenance={"probe": probe})).partition("(")[2]
        'cross-validated error 12.5 %, NLL 0.400).'
    """
    probe = config.provenance.get("probe")
    if probe is None:
        return None
    return (
        "The modes started from a linear probe: a head that logistic regression fitted to the frozen features of "
        f"{probe['num_images']} training images (cross-validated error {100 * probe['error']:.1f} %, NLL "
        f"{probe['nll']:.3f})."
    )


def part_lines(evidence: Evidence, config: SimplexConfig) -> list[str]:
    """Says of each row of the results which model it is.

    Args:
        evidence: of a run, without repeated parts.
        config: of the ensemble. Its stages say whether a mode was trained from another one.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import part_lines
        >>> from hf_simplex.hub.evidence import Evidence
        >>> part_lines(Evidence(results={"centroid": {}}), SimplexConfig())
        ['centroid: one model, whose weights are the mean of the vertices of the first simplex.']
    """
    lines = dict(_PART_LINES)
    if any("start" in stage for stage in config.provenance.get("stages", [])):
        lines["deep_ensemble"] = _PLAIN_ENSEMBLE_WITH_LEAVES
    return [f"{PARTS[part]}: {lines[part]}" for part in evidence.results if part in lines]


def difference_lines(evidence: Evidence) -> list[str]:
    """Says by how much the ensemble and its centroid differ from one model and from the plain ensemble of the modes.

    Args:
        evidence: of a run, without repeated parts.

    Example:
        >>> from hf_simplex.hub.card_content import difference_lines
        >>> from hf_simplex.hub.evidence import Evidence
        >>> difference_lines(Evidence())
        []
    """
    lines = []
    for part in ("espro", "centroid"):
        result = evidence.results.get(part)
        if result is None:
            continue
        for rival, differences in result.get("differences", {}).items():
            # Two names of the same model differ by nothing.
            if rival in evidence.results and differences["nll"] != {"mean": 0.0, "standard_error": 0.0}:
                lines.append(
                    f"{PARTS[part]} against {PARTS[rival]}: {describe_differences(differences, error_name(result))}"
                )
    return lines


def decision_lines(evidence: Evidence) -> list[str]:
    """Says what the decisions are worth on the test images.

    Args:
        evidence: of a run.

    Example:
        >>> from hf_simplex.hub.card_content import decision_lines
        >>> from hf_simplex.hub.evidence import Evidence
        >>> decision_lines(Evidence())
        []
    """
    ours = evidence.results.get("espro")
    found = {} if ours is None else ours.get("decisions", {})
    lines = []
    if "answered" in found:
        error = f", with an error of {100 * found['error_of_answers']:.2f} %" if "error_of_answers" in found else ""
        lines.append(f"It answers {100 * found['answered']:.1f} % of the test images{error}.")
    if "set_coverage" in found:
        lines.append(
            f"Prediction sets hold the true label of {100 * found['set_coverage']:.1f} % of the test images, with "
            f"{found['mean_set_size']:.2f} labels on average."
        )
    if "area_under_risk_coverage" in found:
        lines.append(f"The area under the risk-coverage curve is {found['area_under_risk_coverage']:.4f}.")
    for name in ("mutual_information", "energy"):
        if f"ood_auroc_{name}" in found:
            score = f"{found[f'ood_auroc_{name}']:.3f}"
            lines.append(f"Images out of the distribution: AUROC {score} by {name.replace('_', ' ')}.")
    if ours is not None and "deep_ensemble_equivalent" in ours:
        equivalent = ours["deep_ensemble_equivalent"]
        size = "more models than its modes" if equivalent is None else f"{equivalent:.1f} models"
        if equivalent is not None or beyond_noise(ours["differences"]["deep_ensemble"]["nll"]):
            lines.append(f"Its calibrated NLL is that of a deep ensemble of {size}.")
    return lines


def vertex_rows(config: SimplexConfig) -> list[dict[str, Any]]:
    """Rows of the table of vertices: role, simplexes, epochs and training loss.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.card_content import vertex_rows
        >>> vertex_rows(SimplexConfig(roles=["mode"], simplexes=[[0]]))
        [{'vertex': 0, 'role': 'mode', 'simplexes': [0], 'epochs': 'given', 'loss': ''}]
    """
    stages = {stage["vertex"]: stage for stage in config.provenance.get("stages", [])}
    rows = []
    for vertex, role in enumerate(config.roles):
        stage = stages.get(vertex)
        rows.append(
            {
                "vertex": vertex,
                "role": f"{role}, from vertex {stage['start']}" if stage and "start" in stage else role,
                "simplexes": list(config.complex.simplexes_with(vertex)),
                "epochs": "given" if stage is None else f"{stage['epochs']:g}",
                "loss": "" if stage is None else f"{stage['loss']:.4f}",
            }
        )
    return rows


def simplex_rows(model: SimplexForImageClassification) -> list[dict[str, Any]]:
    """Rows of the table of simplexes: vertices, log volume, and the members inside.

    Example::

        simplex_rows(SimplexForImageClassification.from_pretrained("me/resnet50-simplex"))
    """
    config, log_volumes = model.config, model.log_volumes().tolist()
    rows = []
    for simplex, vertices in enumerate(config.simplexes):
        held = [
            index
            for index, member in enumerate(config.members)
            if {vertex for vertex, coordinate in enumerate(member) if coordinate} <= set(vertices)
        ]
        # A single vertex has volume 1 by convention, which is not worth showing.
        volume = f"{log_volumes[simplex]:.2f}" if len(vertices) > 1 else ""
        rows.append({"simplex": simplex, "vertices": vertices, "log_volume": volume, "members": held})
    return rows
