"""Publishes an ensemble: weights, configuration, image processor, card, pictures and code in one commit."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.constants import REPOCARD_NAME
from safetensors import safe_open
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, logging

from ..model.checkpoint import check_files, finish_saves, read_index
from ..model.configuration_simplex import SimplexConfig, remove_local_paths
from ..model.json_files import read_json
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.remote_code import inference_files, remove_code_references, write_inference_code
from .card_merge import add_tags, without_code
from .existing_card import bring_card, card_of_folder
from .hub_commit import comes_from_the_hub, commit_files, refusal
from .model_card import write_card
from .own_files import EXPLORER_FILE, EXPLORER_FOLDER, is_own_file

__all__ = ["publish_folder", "publish_model"]

# Inference Endpoints looks for it.
_HANDLER = "handler.py"
# Published beside the weights. Training checkpoints and pickles are not.
_PUBLISHED_NAMES = (SAFE_WEIGHTS_INDEX_NAME, CONFIG_NAME, IMAGE_PROCESSOR_NAME)
_PUBLISHED_SUFFIXES = (".md", ".png", ".jpg", ".jpeg", ".svg", ".webp", ".py")

logger = logging.get_logger(__name__)


def publish_folder(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] = (),
    include_code: bool = True,
    with_handler: bool = False,
) -> CommitInfo:
    """Publishes a saved ensemble in one commit. The folder is not changed.

    The commit holds the weight files of the index, config.json, the image processor, the card, the explorer's file,
    and pictures and Python files at the top of the folder. Links are left out with a warning, except those of a
    snapshot in the Hub's cache to its own blobs. Files that the repository already has are not sent again. The commit
    deletes weight files that the ensemble no longer has. Users' text on the card in the repository stays; see
    `card_merge.merge_cards`.

    Args:
        directory: folder of the saved ensemble. Without a card, it is published with a new one.
        repo_id: the repository, created if missing.
        commit_message: title of the commit; default: "Upload ensemble".
        commit_description: body of the commit.
        private: visibility of a new repository; default: the account's setting.
        token: Hub token with write access. Default: that of the logged-in account.
        revision: branch, created if missing; default: main.
        create_pr: whether to open a pull request with the commit.
        tags: further tags for the card.
        include_code: whether to publish the inference code, for users without hf-simplex. False deletes code that was
            published earlier.
        with_handler: whether to publish `endpoint_handler` as handler.py, with which Inference Endpoints serves the
            ensemble.

    Returns:
        The commit.

    Raises:
        FileNotFoundError: the folder holds no ensemble, or an incomplete one.
        ValueError: a file is corrupt, or a needed one is a link; the weights do not fit config.json, the card's
            metadata are invalid, or the repository holds another model; or `with_handler` is given and the folder
            has another handler.py.
        OSError: the Hub refused or cannot be reached. Nothing is published, and uploaded files are kept for the next
            attempt.

    Example::

        publish_folder("output/quickstart/ensemble", "me/digits-simplex", private=True)
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no folder {directory} to publish.")
    finish_saves(directory)
    index = read_index(directory)
    weights = check_files(directory, index.weight_map.values(), index.digests)
    _check_links(directory, weights)
    _check_fit(directory, SimplexConfig.from_pretrained(directory), index.weight_map, weights)
    with tempfile.TemporaryDirectory() as overlay_name:
        overlay = Path(overlay_name)
        card = card_of_folder(directory, overlay, repo_id)
        add_tags(card, tags)
        shutil.copyfile(directory / CONFIG_NAME, overlay / CONFIG_NAME)
        _remove_local_paths(overlay / CONFIG_NAME)
        if include_code:
            write_inference_code(overlay)
        else:
            card = without_code(card)
            remove_code_references(overlay / CONFIG_NAME)
        files = {file.name: file for file in sorted(directory.iterdir()) if _is_published(file)}
        if with_handler:
            shutil.copyfile(_handler_for(directory), overlay / _HANDLER)
        files |= weights
        if not (explorer := directory / EXPLORER_FOLDER).is_symlink() and is_own_file(explorer / EXPLORER_FILE):
            files[f"{EXPLORER_FOLDER}/{EXPLORER_FILE}"] = explorer / EXPLORER_FILE
        files |= {file.name: file for file in overlay.iterdir() if file.is_file()}
        if not include_code:
            for code in inference_files():
                files.pop(code.name, None)
        _validate(card, directory / REPOCARD_NAME, repo_id)
        try:
            return commit_files(
                files,
                card,
                repo_id,
                HfApi(token=token),
                private=private,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or "Upload ensemble",
                commit_description=commit_description,
            )
        except Exception as error:
            if not comes_from_the_hub(error):
                raise
            raise refusal(repo_id, error) from error


def publish_model(
    model: SimplexForImageClassification,
    repo_id: str,
    *,
    token: bool | str | None = None,
    tags: str | Sequence[str] | None = None,
    max_shard_size: int | str | None = None,
    **arguments: Any,
) -> CommitInfo:
    """Publishes an ensemble in memory. This is `SimplexForImageClassification.push_to_hub`.

    A model that did not change since `from_pretrained` keeps its card and pictures. Any other model gets a card
    without results.

    Args:
        model: the ensemble.
        repo_id: the repository, created if missing.
        token: Hub token with write access. Default: that of the logged-in account.
        tags: further tags for the card.
        max_shard_size: no effect, for compatibility with transformers. Every vertex is one file.
        **arguments: see `publish_folder`.

    Returns:
        The commit.

    Raises:
        ValueError, OSError: see `publish_folder`.

    Example::

        model = SimplexForImageClassification.from_pretrained("output/quickstart/ensemble")
        model.push_to_hub("me/digits-simplex")
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model.save_pretrained(directory)
        if not bring_card(model, directory, token):
            write_card(model, directory, repository=repo_id)
        own_tags = [tags] if isinstance(tags, str) else list(tags or ())
        all_tags = [*own_tags, *(model.model_tags or ())]
        return publish_folder(directory, repo_id, token=token, tags=all_tags, **arguments)


def _is_published(file: Path) -> bool:
    is_named = file.name in _PUBLISHED_NAMES or file.suffix.lower() in _PUBLISHED_SUFFIXES
    return is_named and is_own_file(file) and not file.name.startswith(".")


def _handler_for(directory: Path) -> Path:
    """The file to publish as handler.py. Raises ValueError if the folder has another one."""
    # Not imported: that imports every pipeline of transformers.
    ours = Path(__file__).with_name("endpoint_handler.py")
    with suppress(FileNotFoundError):
        if (directory / _HANDLER).read_bytes() != ours.read_bytes():
            raise ValueError(
                f"{directory / _HANDLER} is not the handler of this version of hf-simplex. It is published as it is "
                "without with_handler: leave that out, or move the file. Nothing was published."
            )
    return ours


def _remove_local_paths(config_file: Path) -> None:
    """Rewrites a config.json of version 0.1.0 that names a folder of this machine. Others keep their bytes."""
    content = read_json(config_file)
    changed = copy.deepcopy(content)
    remove_local_paths(changed)
    if changed != content:
        config_file.write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n", "utf-8")


def _check_links(directory: Path, weights: Mapping[str, Path]) -> None:
    """Warns of links that are left out. Raises ValueError if an ensemble is nothing without them."""
    links = sorted(file.name for file in directory.iterdir() if file.is_symlink() and not is_own_file(file))
    if needed := [name for name in links if name in {*weights, CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME}]:
        raise ValueError(
            f"{needed[0]} in {directory} is a link to {os.readlink(directory / needed[0])}, which could be any file. "
            "Replace the link by the file. Nothing was published."
        )
    if links:
        logger.warning("Links in %s are not published: %s. Replace them by the files.", directory, ", ".join(links))


def _validate(card: ModelCard, file: Path, repo_id: str) -> None:
    """Asks the Hub whether the metadata of a card are valid."""
    try:
        card.validate()
    except ValueError as error:
        raise ValueError(
            f"The metadata of the card {file} are not valid: {error}. Correct them at the top of that file. Nothing "
            "was published."
        ) from error
    except Exception as error:
        if not comes_from_the_hub(error):
            raise
        raise refusal(repo_id, error) from error


def _check_fit(
    directory: Path, config: SimplexConfig, weight_map: Mapping[str, str], files: Mapping[str, Path]
) -> None:
    """Raises ValueError unless the tensors in the files have the names and shapes that config.json asks for."""
    with torch.device("meta"):
        model = SimplexForImageClassification(config)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, list[int]] = {}
    for file, path in files.items():
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if weight_map.get(name) == file:
                    found[name] = opened.get_slice(name).get_shape()
    names = sorted(expected.keys() | weight_map.keys())
    if wrong := [name for name in names if expected.get(name) != found.get(name)]:
        name = wrong[0]
        raise ValueError(
            f"The weights in {directory} do not fit its {CONFIG_NAME}. {name} has shape {found.get(name)} in the "
            f"weight files and {expected.get(name)} in the configuration (None: no such tensor; {len(wrong)} "
            "mismatches in all). Restore or re-save the ensemble. Nothing was published."
        )
