"""Publishing an ensemble: weights, configuration, image processor, card, pictures and code in one commit."""

import filecmp
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RevisionNotFoundError
from safetensors import safe_open
from transformers.utils import (
    CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    logging,
)

from ..model.checkpoint import check_files, indexed_files, is_weight_file, read_index
from ..model.configuration_simplex import SimplexConfig
from ..model.modeling_simplex import SimplexForImageClassification
from ..model.remote_code import inference_files, refers_to_code, remove_code_references, write_inference_code
from .model_card import (
    PICTURES,
    add_tags,
    addressed_to,
    generated_part,
    merged,
    read_card,
    without_code,
    write_card,
)

# Beside the weights, a folder's files of these kinds are published; checkpoints of a training and pickles are not.
_PUBLISHED = (".md", ".png", ".jpg", ".jpeg", ".svg", ".webp", ".py")

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
) -> CommitInfo:
    """Publish a saved ensemble as it is, in one commit; the folder is not changed.

    The weight files that the index names, config.json, the image processor, the card, pictures and Python files at the
    top of the folder are sent, as far as the repository does not have them already; weight files that a larger
    ensemble left in the repository are deleted in the same commit. What somebody wrote on the card in the repository
    stays there (see `model_card.merged`), unless the card in the folder has a text of its own.

    Args:
        directory: what `save_pretrained` or a recipe wrote. Without a card it gets one.
        repo_id: the repository, created if it is not there.
        commit_message: default: "Upload ensemble".
        commit_description: of the commit.
        private: whether a repository that is created is private; default: as the account or organization has it.
        token: of an account that may write; default: the one that is logged in.
        revision: branch, created if it is not there; default: main.
        create_pr: open a pull request with the commit.
        tags: more tags for the card.
        include_code: also publish the code that loads the ensemble where hf-simplex is not installed; without it, code
            that was published earlier is deleted.

    Returns:
        The commit.

    Raises:
        FileNotFoundError: the folder holds no ensemble, or not all of its files.
        ValueError: a file is corrupt, the weights do not fit config.json, the card's metadata are not valid, or the
            repository holds another model.
        OSError: the Hub refused, or was not reached: nothing is published then, and the next attempt sends only what
            is missing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no folder {directory} to publish.")
    index = read_index(directory)
    weights = check_files(directory, index.weight_map.values())
    _check_fit(directory, SimplexConfig.from_pretrained(directory), index.weight_map, weights)
    with tempfile.TemporaryDirectory() as overlay_name:
        overlay = Path(overlay_name)
        card = _card(directory, overlay, repo_id)
        add_tags(card, tags)
        shutil.copyfile(directory / CONFIG_NAME, overlay / CONFIG_NAME)
        if include_code:
            write_inference_code(overlay)
        else:
            card = without_code(card)
            remove_code_references(overlay / CONFIG_NAME)
        names = {SAFE_WEIGHTS_INDEX_NAME, CONFIG_NAME, IMAGE_PROCESSOR_NAME}
        files = {
            file.name: file
            for file in sorted(directory.iterdir())
            if file.is_file()
            and not file.name.startswith(".")
            and (file.name in names or file.suffix.lower() in _PUBLISHED)
        }
        files |= weights
        files |= {file.name: file for file in overlay.iterdir() if file.is_file()}
        if not include_code:
            for code in inference_files():
                files.pop(code.name, None)
        try:
            card.validate()
        except ValueError as error:
            raise ValueError(
                f"The metadata of the card {directory / REPOCARD_NAME} are not valid: {error}. Correct them at the "
                "top of that file; nothing was published."
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise _refused(repo_id, error) from error
        try:
            return _commit(
                files,
                card,
                repo_id,
                HfApi(token=token),
                private,
                revision,
                create_pr,
                commit_message or "Upload ensemble",
                commit_description,
            )
        except (HfHubHTTPError, LocalTokenNotFoundError, OSError, RuntimeError) as error:
            # An upload that was cut off raises a RuntimeError.
            raise _refused(repo_id, error) from error


def publish_model(
    model: SimplexForImageClassification,
    repo_id: str,
    *,
    token: bool | str | None = None,
    tags: str | Sequence[str] | None = None,
    max_shard_size: int | str | None = None,
    **arguments: Any,
) -> CommitInfo:
    """Publish an ensemble that is in memory; arguments, result and errors as for `publish_folder`.

    `max_shard_size` is accepted because transformers has it, and has no effect: every vertex is one file.

    It brings the card and the pictures of the folder or repository that it was loaded from, where it is still the same
    ensemble; else it gets a card without results.
    """
    with tempfile.TemporaryDirectory() as stage_name:
        stage = Path(stage_name)
        model.save_pretrained(stage)
        if not _bring_card(model, stage, token):
            write_card(model, stage, repository=repo_id)
        own_tags = [tags] if isinstance(tags, str) else list(tags or ())
        return publish_folder(stage, repo_id, token=token, tags=[*own_tags, *(model.model_tags or ())], **arguments)


def _check_fit(
    directory: Path, config: SimplexConfig, weight_map: Mapping[str, str], files: Mapping[str, Path]
) -> None:
    """Raise ValueError unless the tensors in the files are those that config.json makes, by names and shapes."""
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
            f"The weights in {directory} do not fit its {CONFIG_NAME}: {name} is of shape {found.get(name)} in the "
            f"weight files, and {expected.get(name)} by the configuration ({len(wrong)} such tensors; None: there is "
            "no such tensor). Restore or re-save the ensemble; nothing was published."
        )


def _card(directory: Path, overlay: Path, repo_id: str) -> ModelCard:
    """The card in the folder, with a generated part if it has none, for the given repository."""
    file = directory / REPOCARD_NAME
    if file.exists():
        card = read_card(file)
        if generated_part(card.text) is not None:
            return addressed_to(card, repo_id)
        shutil.copyfile(file, overlay / REPOCARD_NAME)
    write_card(SimplexForImageClassification.from_pretrained(directory), overlay, repository=repo_id)
    return read_card(overlay / REPOCARD_NAME)


def _bring_card(model: SimplexForImageClassification, stage: Path, token: bool | str | None) -> bool:
    source = model.config.name_or_path
    if not source:
        return False
    revision = getattr(model.config, "_commit_hash", None)

    def found(file: str) -> Path | None:
        path = cached_file(source, file, token=token, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    def is_changed(weight_file: Path) -> bool:
        former = found(weight_file.name)
        return former is None or not filecmp.cmp(former, weight_file, shallow=False)

    try:
        config, card = found(CONFIG_NAME), found(REPOCARD_NAME)
        if config is None or card is None or generated_part(_card_of(source, card).text) is None:
            return False
        former = json.loads(config.read_text("utf-8"))
        now = json.loads((stage / CONFIG_NAME).read_text("utf-8"))
        weights = [stage / file for file in sorted(indexed_files(stage))]
        if any(former.get(name) != now.get(name) for name in ("simplexes", "members", "provenance")) or any(
            map(is_changed, weights)
        ):
            logger.warning("The card in %s is of another state of this ensemble: a new one is written.", source)
            return False
        for path in (card, *filter(None, map(found, PICTURES))):
            shutil.copyfile(path, stage / path.name)
    except OSError:
        return False
    return True


def _card_of(source: str, file: Path) -> ModelCard:
    """Read a card that may be a download, and name in errors where it is from."""
    try:
        return read_card(file)
    except ValueError as error:
        raise ValueError(
            f"The metadata of the card {REPOCARD_NAME} in {source} cannot be read: {error.__cause__}. Correct them at "
            "its top, there; nothing was published."
        ) from error


def _commit(
    files: dict[str, Path],
    card: ModelCard,
    repo_id: str,
    api: HfApi,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
    description: str | None,
) -> CommitInfo:
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    card = addressed_to(card, repo_id)
    try:
        info, is_new_branch = api.model_info(repo_id, revision=revision), False
    except RevisionNotFoundError:
        if revision is None or revision.startswith("refs/pr"):
            raise
        info, is_new_branch = api.model_info(repo_id), True
    present = {sibling.rfilename for sibling in info.siblings or []}

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo_id, file, revision=info.sha, token=api.token))

    config_file = fetch(CONFIG_NAME) if CONFIG_NAME in present else None
    _check_repository(repo_id, present, config_file)
    if REPOCARD_NAME in present:
        card = merged(_card_of(repo_id, fetch(REPOCARD_NAME)), card)
    if private and not info.private:
        logger.warning(
            "The repository %s is there already and public, and stays so: private=True is not taken.", repo_id
        )
    stale = {file for file in present if is_weight_file(file)}
    if config_file is not None and refers_to_code(config_file):
        # Where it does not, files of these names are somebody else's.
        stale |= present & {file.name for file in inference_files()}
    additions: dict[str, str | bytes] = {name: str(path) for name, path in files.items()}
    additions[REPOCARD_NAME] = str(card).encode()
    if is_new_branch:
        api.create_branch(repo_id, branch=str(revision), revision=info.sha)
    try:
        return api.create_commit(
            repo_id,
            [
                *(
                    CommitOperationAdd(path_in_repo=name, path_or_fileobj=additions[name])
                    for name in sorted(additions)
                ),
                *(CommitOperationDelete(path_in_repo=name) for name in sorted(stale - files.keys())),
            ],
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
            # Somebody else's commit in between would be undone in part: rather none of ours.
            parent_commit=info.sha,
        )
    except Exception as error:
        if is_new_branch:
            _delete_branch(api, repo_id, str(revision), info.sha)
        if present <= {".gitattributes"}:
            error.add_note(f"The repository {repo_id} is there, and empty.")
        raise


def _delete_branch(api: HfApi, repo_id: str, branch: str, commit: str | None) -> None:
    """Delete a branch that got no commit beyond the given one; an answer may be lost of a commit that was made."""
    try:
        if api.model_info(repo_id, revision=branch).sha == commit:
            api.delete_branch(repo_id, branch=branch)
    except (HfHubHTTPError, OSError) as error:
        logger.warning("The branch %s of %s was made for nothing, and is left: %s", branch, repo_id, error)


def _check_repository(repo_id: str, present: set[str], config_file: Path | None) -> None:
    """Raise ValueError where an ensemble would replace another model, or be hidden by one."""
    found = None
    if config_file is not None:
        try:
            found = json.loads(config_file.read_text("utf-8")).get("model_type")
        except (ValueError, AttributeError):
            found = None
    if (config_file is not None and found != SimplexConfig.model_type) or SAFE_WEIGHTS_NAME in present:
        raise ValueError(
            f"The repository {repo_id} holds another model (model_type {found!r}): give another repo_id, or another "
            "revision without that model."
        )


def _refused(repo_id: str, error: Exception) -> OSError:
    """What the Hub said, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = {
        401: "Log in with `hf auth login`, or give a valid token.",
        403: "Give a token that may write there.",
        404: "Check the names of repository and revision.",
        412: "Somebody committed to it meanwhile: publish again.",
    }.get(status or (401 if isinstance(error, LocalTokenNotFoundError) else 0), "Try again: what was sent is kept.")
    said = " ".join(str(error).split()).rstrip(".")
    return OSError(
        " ".join([f"Nothing was published to {repo_id}: {said}. {advice}", *getattr(error, "__notes__", ())])
    )
