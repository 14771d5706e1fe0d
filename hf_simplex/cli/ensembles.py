"""Loads ensembles, and keeps them from being overwritten."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hf_simplex import SimplexConfig, SimplexForImageClassification

__all__ = ["check_free", "check_place", "load", "load_config", "warn_of_placeholders"]


def check_free(directory: Path) -> None:
    """Check that a folder holds no model, which may be its only copy.

    Raises:
        ValueError: there is a config.json.

    Example:
        >>> check_free(Path("new"))
    """
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} already holds a model (config.json). Give another output folder.")


def check_place(ensemble: str) -> None:
    """Check that a name is a folder, or can be a Hub id.

    Raises:
        OSError: it is a file, or a folder that does not exist.

    Example:
        >>> check_place("me/resnet50-simplex")
    """
    from hf_simplex.model.local_paths import looks_like_path

    if Path(ensemble).is_file():
        raise NotADirectoryError(f"{ensemble} is a file: give the folder of an ensemble, or its Hub id.")
    if looks_like_path(ensemble) and not Path(ensemble).is_dir():
        raise FileNotFoundError(f"no such folder: {ensemble}")


def load(ensemble: str, revision: str | None, token: str | None) -> "SimplexForImageClassification":
    """Load an ensemble without progress bars.

    Args:
        ensemble: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        token: Hub token; default: that of the logged-in account.

    Raises:
        OSError: there is no such ensemble, or its files are broken.

    Example::

        load("me/resnet50-simplex", None, None)
    """
    from transformers.utils import logging

    from hf_simplex import SimplexForImageClassification

    check_place(ensemble)
    logging.disable_progress_bar()
    model: SimplexForImageClassification = SimplexForImageClassification.from_pretrained(
        ensemble, revision=revision, token=token
    )
    return model


def load_config(ensemble: str, revision: str | None, token: str | None) -> "SimplexConfig":
    """Load the configuration of an ensemble, which takes a moment even where the weights take minutes.

    Args:
        ensemble, revision, token: see `load`.

    Raises:
        OSError, ValueError: as `load`.

    Example::

        load_config("me/resnet50-simplex", None, None).problem_type
    """
    from transformers.utils import CONFIG_NAME

    from hf_simplex import SimplexConfig
    from hf_simplex.model.checkpoint import locate
    from hf_simplex.model.json_files import read_json

    check_place(ensemble)
    file = locate(ensemble, CONFIG_NAME, revision=revision, token=token)
    if file is None or read_json(file).get("model_type") != SimplexConfig.model_type:
        # It says what is missing.
        return load(ensemble, revision, token).config
    config: SimplexConfig = SimplexConfig.from_pretrained(file.parent)
    return config


def warn_of_placeholders(labels: Sequence[str], consequence: str = "") -> None:
    """Say on stderr that the labels of an ensemble have no names, if so.

    Args:
        labels: their names.
        consequence: what follows from it, for the end of the line.

    Example:
        >>> warn_of_placeholders(["cat", "dog"], "they are matched by position.")
    """
    from hf_simplex.evaluation.label_names import are_placeholders

    if are_placeholders(labels):
        typer.echo(
            f"warning: the labels have no names (LABEL_0, ...){f': {consequence}' if consequence else '.'} Name them "
            "with id2label and label2id in config.json.",
            err=True,
        )
