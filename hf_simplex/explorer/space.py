"""A Hugging Face Space that shows the explorer: its files, and publishing it."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME

from ..hub.hub_commit import refusal
from ..hub.own_files import EXPLORER_FOLDER, is_own_file
from ..hub.safe_text import inline, one_line
from ..model.checkpoint import check_files, finish_saves, read_index
from ..model.configuration_simplex import SimplexConfig
from ..model.image_processors import processor_file
from ..model.problem_types import refuse_several
from .answers import NOT_SHOWN
from .exploration import Exploration

__all__ = ["publish_space", "write_space"]

ENSEMBLE_FOLDER = "ensemble"
"""Where a Space keeps an ensemble that is not on the Hub."""

_PACKAGE = "hf_simplex"
_CARRIED = (".py", ".md", ".js", ".css", ".typed")
_MARK = "hf_simplex explorer Space"

_APP = '''"""{mark}. Written by hf-simplex demo --export; run it with: python app.py"""

from dataclasses import replace

import hf_simplex  # registers the ensemble with transformers
from hf_simplex import SimplexForImageClassification
from hf_simplex.explorer.about import describe
from hf_simplex.explorer.answers import answers_of
from hf_simplex.explorer.app import build_app, launch
from hf_simplex.explorer.exploration import Exploration, find_exploration

ENSEMBLE = {ensemble}
REVISION = {revision}

model = SimplexForImageClassification.from_pretrained(ENSEMBLE, revision=REVISION)
about = replace(describe(model, ENSEMBLE, revision=REVISION), name={name})
demo = build_app(answers_of(model, {exploration}, print), about)

if __name__ == "__main__":
    # Spaces set GRADIO_SERVER_NAME.
    import os

    launch(demo, host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
'''


def write_space(
    ensemble: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    exploration: Exploration | None = None,
    *,
    revision: str | None = None,
) -> list[str]:
    """Write a Space: app.py, requirements.txt, README.md, this package and what was computed.

    An ensemble in a folder travels with the Space. One of the Hub is loaded from there when the Space starts. The
    package travels as well, so that the Space needs no release of it.

    Args:
        ensemble: folder or Hub id.
        directory: created if it does not exist. Files of a Space that was written there are replaced.
        exploration: what was computed of the ensemble; None for a Space without surfaces.
        revision: of an ensemble on the Hub.

    Returns:
        The names of the files, relative to the folder.

    Raises:
        ValueError: the folder is a file, holds files that are no Space of the explorer, or a link to a folder to write
            to; or the ensemble is broken, multi-label or has no image processor.
        FileNotFoundError: the folder of the ensemble is none, or incomplete.

    Example::

        write_space("output/quickstart/ensemble", "space")
    """
    target = Path(directory)
    app = target / "app.py"
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file. Give a folder.")
    is_ours = is_own_file(app) and _MARK in app.read_text("utf-8", errors="replace")
    if target.exists() and any(target.iterdir()) and not is_ours:
        raise ValueError(f"{target} holds other files. Give an empty folder, or that of a Space that was written.")
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        written = _write(ensemble, aside, exploration, revision)
        folders = {folder for file in written for folder in Path(file).parents} - {Path()}
        if links := sorted(str(target / folder) for folder in folders if (target / folder).is_symlink()):
            raise ValueError(f"{links[0]} is a link to a folder, in which files would change. Remove the link.")
        target.mkdir(parents=True, exist_ok=True)
        for file in written:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            # Replaced as a whole: nobody finds half a file.
            shutil.copyfile(aside / file, target / f"{file}.part")
            os.replace(target / f"{file}.part", target / file)
    return written


def publish_space(
    ensemble: str | os.PathLike[str],
    repo_id: str,
    exploration: Exploration | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
) -> str:
    """Publish a Space in one commit.

    Args:
        ensemble: folder or Hub id.
        repo_id: the Space, created if missing.
        exploration: see `write_space`.
        private: visibility of a new Space; default: the account's setting.
        revision: of an ensemble on the Hub.
        token: Hub token with write access. Default: that of the logged-in account.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the Space holds another app or other files, or see `write_space`.
        OSError: the Hub refused or cannot be reached. Nothing is published.

    Example::

        publish_space("output/quickstart/ensemble", "me/digits-explorer", private=True)
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        written = _write(ensemble, directory, exploration, revision)
        try:
            repo_id = api.create_repo(
                repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
            ).repo_id
            info = api.space_info(repo_id)
            present = {sibling.rfilename for sibling in info.siblings or []}
            # A new Space holds these two.
            if present - {".gitattributes", "README.md"} and not _is_ours(api, repo_id, info.sha, present):
                raise ValueError(f"The Space {repo_id} holds another app or other files. Give another id.")
            own = (f"{_PACKAGE}/", f"{ENSEMBLE_FOLDER}/", f"{EXPLORER_FOLDER}/")
            stale = {file for file in present - set(written) if file.startswith(own)}
            commit = api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(file, str(directory / file)) for file in written),
                    *(CommitOperationDelete(file) for file in sorted(stale)),
                ],
                repo_type="space",
                commit_message="Upload explorer",
                parent_commit=info.sha,
            )
        except (HfHubHTTPError, LocalTokenNotFoundError, OSError, RuntimeError) as error:
            raise refusal(repo_id, error) from error
    return str(commit.commit_url)


def _is_ours(api: HfApi, repo_id: str, commit: str | None, present: Collection[str]) -> bool:
    """Whether the app of a Space was written by this module."""
    if "app.py" not in present:
        return False
    app = Path(api.hf_hub_download(repo_id, "app.py", repo_type="space", revision=commit))
    return _MARK in app.read_text("utf-8", errors="replace")


def _write(
    ensemble: str | os.PathLike[str], directory: Path, exploration: Exploration | None, revision: str | None
) -> list[str]:
    name, is_local = os.fspath(ensemble), os.path.isdir(ensemble)
    shown = Path(name).resolve().name if is_local else name
    if is_local:
        if (Path(name) / CONFIG_NAME).is_file():
            refuse_several(SimplexConfig.from_pretrained(name), *NOT_SHOWN)
        _copy_ensemble(Path(name), directory / ENSEMBLE_FOLDER)
    if exploration is not None:
        exploration.save(directory / ENSEMBLE_FOLDER if is_local else directory)
    where = ENSEMBLE_FOLDER if is_local else name
    loaded = (
        "None"
        if exploration is None
        else ("find_exploration(ENSEMBLE)" if is_local else 'Exploration.load("explorer/explorer.safetensors")')
    )
    app = _APP.format(
        mark=_MARK,
        ensemble=json.dumps(where),
        revision=json.dumps(revision) if revision is not None and not is_local else "None",
        exploration=loaded,
        name=repr(shown),
    )
    (directory / "app.py").write_text(app, "utf-8")
    (directory / "requirements.txt").write_text("\n".join(_requirements()) + "\n", "utf-8")
    (directory / "README.md").write_text(_card(shown, None if is_local else name), "utf-8")
    _copy_package(directory / _PACKAGE)
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


def _copy_ensemble(source: Path, target: Path) -> None:
    """Copy what a published repository holds: weights, configuration, image processor, card and pictures."""
    finish_saves(source)
    index = read_index(source)
    weights = check_files(source, index.weight_map.values(), index.digests)
    if processor_file(source) is None:
        raise ValueError(f"{source} has no image processor. Save the ensemble with one: set `model.image_processor`.")
    target.mkdir()
    for name, path in weights.items():
        shutil.copyfile(path, target / name)
    for name in (CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, IMAGE_PROCESSOR_NAME, "README.md"):
        if is_own_file(source / name):
            shutil.copyfile(source / name, target / name)
    for file in source.glob("*.png"):
        if is_own_file(file):
            shutil.copyfile(file, target / file.name)


def _copy_package(target: Path) -> None:
    root = Path(str(files(_PACKAGE)))
    for file in sorted(root.rglob("*")):
        if file.suffix in _CARRIED and "__pycache__" not in file.parts:
            copy = target / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _requirements() -> list[str]:
    """What the package needs, with the extras `demo` and `lora`: an ensemble of adapters needs peft."""
    found = metadata.requires("hf-simplex") or []
    plain = [entry for entry in found if "extra ==" not in entry]
    adapters = [entry.partition(";")[0].strip() for entry in found if 'extra == "lora"' in entry]
    return sorted([*plain, *adapters, f"gradio=={metadata.version('gradio')}"])


def _card(shown: str, model: str | None) -> str:
    title = re.sub(r"[^\w .-]", "", one_line(shown)).strip()[:60] or "ensemble"
    front = [
        "---",
        f"title: {json.dumps(f'{title}: simplex explorer')}",
        "emoji: 🔺",
        "colorFrom: blue",
        "colorTo: yellow",
        "sdk: gradio",
        f"sdk_version: {metadata.version('gradio')}",
        "app_file: app.py",
        "pinned: false",
        "tags:",
        "- hf-simplex",
        "- uncertainty",
    ]
    if model is not None:
        front += ["models:", f"- {json.dumps(model)}"]
    return "\n".join(
        [
            *front,
            "---",
            "",
            f"# {inline(shown)}",
            "",
            "Ask the ensemble about an image, see how sure its members are, and wander through its simplexes in",
            "weight space. Made with hf-simplex by the method of [Loss Surface Simplexes](https://arxiv.org/abs/2102.13042).",
            "",
        ]
    )
