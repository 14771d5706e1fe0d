"""Commits the files of an ensemble to the Hub: one commit with everything, or nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    hf_hub_download,
)
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RevisionNotFoundError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..model.configuration_simplex import SimplexConfig
from ..model.index_file import is_weight_file
from ..model.remote_code import inference_files, refers_to_code
from .card_merge import addressed_to, merge_cards
from .existing_card import card_of_repository

__all__ = ["comes_from_the_hub", "commit_files", "refusal"]

_ADVICE = {
    401: "Log in with `hf auth login`, or pass a valid token.",
    403: "Pass a token that may write there.",
    404: "Check the names of the repository and the revision.",
    412: "Another commit came in between. Publish again.",
}

logger = logging.get_logger(__name__)


def commit_files(
    files: Mapping[str, Path],
    card: ModelCard,
    repo_id: str,
    api: HfApi,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str,
    commit_description: str | None = None,
) -> CommitInfo:
    """Makes one commit with the files and the card. The card is merged with the one in the repository.

    The commit deletes weight files and inference code that the ensemble no longer has. It fails if somebody else
    commits meanwhile. After a failure, a branch made for the commit is deleted.

    Args:
        files: local paths by file name in the repository.
        card: the new card.
        repo_id: the repository, created if missing.
        api: client, with the user's token.
        private: visibility of a new repository; default: the account's setting.
        revision: branch, created if missing; default: main.
        create_pr: whether to open a pull request.
        commit_message: title of the commit.
        commit_description: body of the commit.

    Returns:
        The commit.

    Raises:
        ValueError: the repository holds another model, or a card with invalid metadata.
        HfHubHTTPError, LocalTokenNotFoundError, OSError, RuntimeError: the Hub refused.
        Exception: the Hub cannot be reached. The type is that of the HTTP library, see `comes_from_the_hub`.

    Example::

        commit_files({"config.json": Path("ensemble/config.json")}, card, "me/pets", HfApi(), commit_message="Update")
    """
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    card = addressed_to(card, repo_id)
    info, is_new_branch = _state(api, repo_id, revision)
    present = {sibling.rfilename for sibling in info.siblings or []}

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo_id, file, revision=info.sha, token=api.token))

    config_file = fetch(CONFIG_NAME) if CONFIG_NAME in present else None
    _check_model_type(repo_id, present, config_file)
    if REPOCARD_NAME in present:
        card = merge_cards(card_of_repository(repo_id, fetch(REPOCARD_NAME)), card)
    if private and not info.private:
        logger.warning("The repository %s exists and is public. It stays public: private=True has no effect.", repo_id)
    stale = {file for file in present if is_weight_file(file)}
    if config_file is not None and refers_to_code(config_file):
        # Without the reference, files of these names do not belong to the ensemble.
        stale |= present & {file.name for file in inference_files()}
    additions: dict[str, str | bytes] = {name: str(path) for name, path in files.items()}
    additions[REPOCARD_NAME] = str(card).encode()
    if is_new_branch:
        api.create_branch(repo_id, branch=str(revision), revision=info.sha)
    try:
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, content) for name, content in sorted(additions.items())),
                *(CommitOperationDelete(name) for name in sorted(stale - files.keys())),
            ],
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            # The Hub refuses the commit if another one came in between, whose changes it would partly undo.
            parent_commit=info.sha,
        )
    except Exception as error:
        if is_new_branch:
            _delete_branch(api, repo_id, str(revision), info.sha)
        if present <= {".gitattributes"}:
            error.add_note(f"The repository {repo_id} exists and is empty.")
        raise


def comes_from_the_hub(error: Exception) -> bool:
    """Returns whether an error of `commit_files` means that the Hub refused or cannot be reached.

    Example:
        >>> from hf_simplex.hub.hub_commit import comes_from_the_hub
        >>> comes_from_the_hub(OSError("connection lost")), comes_from_the_hub(ValueError("another model"))
        (True, False)
    """
    # An interrupted upload raises RuntimeError.
    if isinstance(error, (HfHubHTTPError, LocalTokenNotFoundError, OSError, RuntimeError)):
        return True
    # A Hub out of reach raises an error of the HTTP library. Which library it is depends on the version of the client.
    return any(kind.__name__ == "HTTPError" for kind in type(error).__mro__)


def refusal(repo_id: str, error: Exception) -> OSError:
    """Translates an error of `huggingface_hub` into one that gives the Hub's answer and advice.

    Args:
        repo_id: the repository.
        error: from `huggingface_hub`.

    Returns:
        The exception to raise.

    Example:
        >>> from hf_simplex.hub.hub_commit import refusal
        >>> print(refusal("me/pets", RuntimeError("connection lost")))
        Nothing was published to me/pets: connection lost. Try again: uploaded files are kept.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, LocalTokenNotFoundError):
        status = 401
    advice = _ADVICE.get(status or 0, "Try again: uploaded files are kept.")
    answer = " ".join(str(error).split()).rstrip(".")
    notes = getattr(error, "__notes__", ())
    return OSError(" ".join([f"Nothing was published to {repo_id}: {answer}. {advice}", *notes]))


def _state(api: HfApi, repo_id: str, revision: str | None) -> tuple[ModelInfo, bool]:
    """The commit to build on, and whether the branch has to be made."""
    try:
        return api.model_info(repo_id, revision=revision), False
    except RevisionNotFoundError:
        if revision is None or revision.startswith("refs/pr"):
            raise
        return api.model_info(repo_id), True


def _delete_branch(api: HfApi, repo_id: str, branch: str, commit: str | None) -> None:
    """Deletes a branch that has no commits. After a lost answer the commit may exist, so check first."""
    try:
        if api.model_info(repo_id, revision=branch).sha == commit:
            api.delete_branch(repo_id, branch=branch)
    except (HfHubHTTPError, OSError) as error:
        logger.warning("The new branch %s of %s has no commit and cannot be deleted: %s", branch, repo_id, error)


def _check_model_type(repo_id: str, present: set[str], config_file: Path | None) -> None:
    """Raises ValueError if the repository holds another model: the ensemble would replace it, or be hidden by it."""
    found = None
    if config_file is not None:
        try:
            found = json.loads(config_file.read_text("utf-8")).get("model_type")
        except (ValueError, AttributeError):
            found = None
    if (config_file is not None and found != SimplexConfig.model_type) or SAFE_WEIGHTS_NAME in present:
        raise ValueError(
            f"The repository {repo_id} holds another model (model_type {found!r}). Pass another repo_id, or a "
            "revision without that model."
        )
