"""The license that an ensemble inherits from its backbone."""

import os
from typing import Any, cast

from huggingface_hub import ModelCardData
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import cached_file, logging

from ..model.configuration_simplex import SimplexConfig
from .card_content import hub_id
from .card_merge import read_card

__all__ = ["inherited_license"]

logger = logging.get_logger(__name__)


def inherited_license(config: SimplexConfig, **hub_arguments: Any) -> str | None:
    """Finds the license of an ensemble's backbone: in its configuration, else on its card.

    Args:
        config: configuration of the ensemble.
        **hub_arguments: `token`, `revision`, `cache_dir`, `local_files_only` for reading the backbone's card.

    Returns:
        The license as the Hub spells it, or None if it is unknown. An unreadable card logs a warning.

    Example:
        >>> from hf_simplex import SimplexConfig
        >>> from hf_simplex.hub.backbone_license import inherited_license
        >>> inherited_license(SimplexConfig(roles=["mode"], simplexes=[[0]])) is None
        True
    """
    pretrained = getattr(config.backbone_config, "pretrained_cfg", None) or {}
    if pretrained.get("license"):
        return str(pretrained["license"])
    backbone = config.provenance.get("backbone")
    if not isinstance(backbone, str) or (hub_id(backbone) is None and not os.path.isdir(backbone)):
        return None
    try:
        file = cached_file(backbone, REPOCARD_NAME, _raise_exceptions_for_missing_entries=False, **hub_arguments)
        found = None if file is None else cast(ModelCardData, read_card(file).data).license
    except (OSError, ValueError, HfHubHTTPError) as error:
        logger.warning("The license of %s is unknown because its card cannot be read: %s", backbone, error)
        return None
    return found if isinstance(found, str) else None
