"""Finds the card that an ensemble already has: in its folder, or where it was loaded from."""

import json
import shutil
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.constants import REPOCARD_NAME
from transformers.utils import CONFIG_NAME, cached_file, logging

from ..model.checkpoint import indexed_files
from ..model.configuration_simplex import remove_local_paths
from ..model.digests import holds_same_tensors
from ..model.modeling_simplex import SimplexForImageClassification
from .card_merge import addressed_to, generated_region, read_card
from .model_card import PICTURES, RELIABILITY_FILE, RISK_COVERAGE_FILE, write_card
from .own_files import is_own_file

__all__ = ["bring_card", "card_of_folder", "card_of_repository", "renew_card"]

# A card describes the weights, and these parts of config.json.
_DESCRIBED = ("simplexes", "members", "provenance", "decisions")

logger = logging.get_logger(__name__)


def card_of_folder(directory: Path, scratch: Path, repo_id: str) -> ModelCard:
    """Returns the card of a saved ensemble for a repository. A card without a generated region gets one.

    Args:
        directory: folder of the ensemble. It is not changed.
        scratch: an empty folder for a new card.
        repo_id: Hub id in the card's examples.

    Returns:
        The card.

    Raises:
        ValueError: the metadata of the card are invalid.

    Example::

        with tempfile.TemporaryDirectory() as scratch:
            card = card_of_folder(Path("ensemble"), Path(scratch), "me/resnet50-simplex")
    """
    file = directory / REPOCARD_NAME
    if is_own_file(file):
        card = read_card(file)
        if generated_region(card.text) is not None:
            return addressed_to(card, repo_id)
        shutil.copyfile(file, scratch / REPOCARD_NAME)
    write_card(SimplexForImageClassification.from_pretrained(directory), scratch, repository=repo_id)
    return read_card(scratch / REPOCARD_NAME)


def card_of_repository(source: str, file: Path) -> ModelCard:
    """Reads a downloaded card.

    Args:
        source: Hub id or folder, for the error message.
        file: the download.

    Returns:
        The card.

    Raises:
        ValueError: the metadata of the card are invalid. The message names the source.

    Example::

        card_of_repository("me/pets", Path(hf_hub_download("me/pets", "README.md")))
    """
    try:
        return read_card(file)
    except ValueError as error:
        raise ValueError(
            f"The metadata of the card {REPOCARD_NAME} in {source} cannot be read: {error.__cause__}. Correct them at "
            "the top of that card. Nothing was published."
        ) from error


def bring_card(model: SimplexForImageClassification, directory: Path, token: bool | str | None) -> bool:
    """Copies the card and pictures from the place that a model was loaded from, if the model has not changed.

    Args:
        model: an ensemble.
        directory: folder where it was just saved.
        token: for reading a private repository.

    Returns:
        Whether a card was copied. False if the model is new or changed, or was loaded from a place without a card.

    Raises:
        ValueError: the metadata of the card are invalid.

    Example::

        model = SimplexForImageClassification.from_pretrained("me/resnet50-simplex")
        model.save_pretrained("copy")
        bring_card(model, Path("copy"), token=None)
    """
    source = model.config.name_or_path
    if not source:
        return False
    revision = getattr(model.config, "_commit_hash", None)

    def find(file: str) -> Path | None:
        path = cached_file(source, file, token=token, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    def is_changed(weight_file: Path) -> bool:
        former = find(weight_file.name)
        return former is None or not holds_same_tensors(former, weight_file)

    try:
        config, card = find(CONFIG_NAME), find(REPOCARD_NAME)
        if config is None or card is None or generated_region(card_of_repository(source, card).text) is None:
            return False
        former = json.loads(config.read_text("utf-8"))
        # Version 0.1.0 saved them.
        remove_local_paths(former)
        now = json.loads((directory / CONFIG_NAME).read_text("utf-8"))
        weights = [directory / file for file in sorted(indexed_files(directory))]
        if any(former.get(key) != now.get(key) for key in _DESCRIBED) or any(map(is_changed, weights)):
            logger.warning("The card in %s describes another state of this ensemble. A new card is written.", source)
            return False
        for path in (card, *filter(None, map(find, PICTURES))):
            shutil.copyfile(path, directory / path.name)
    except OSError:
        return False
    return True


def renew_card(model: SimplexForImageClassification, directory: Path) -> bool:
    """Replaces a generated card that tells of former decisions by one without results. Users' text stays.

    Args:
        model: the ensemble with its new decisions.
        directory: folder where it was just saved.

    Returns:
        Whether there was a generated card.

    Raises:
        ValueError: the metadata of the card are invalid.

    Example::

        model.save_pretrained("ensemble")
        renew_card(model, Path("ensemble"))
    """
    file = directory / REPOCARD_NAME
    if not is_own_file(file) or generated_region(read_card(file).text) is None:
        return False
    write_card(model, directory)
    for picture in (RELIABILITY_FILE, RISK_COVERAGE_FILE):
        (directory / picture).unlink(missing_ok=True)
    return True
