"""`hf-simplex demo`: the simplex explorer, here or as a Space."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ensembles import load, load_config
from .options import (
    DataConfig,
    DataRevision,
    Device,
    Ensemble,
    ImageColumn,
    LabelColumn,
    LabelsByPosition,
    Revision,
    Token,
)

if TYPE_CHECKING:
    from hf_simplex.explorer.exploration import Exploration

__all__ = ["demo"]


def demo(
    ensemble: Ensemble,
    data_set: Annotated[
        str | None, typer.Option("--data-set", help="Data set to compute loss surfaces on, where there are none.")
    ] = None,
    compute: Annotated[
        bool, typer.Option("--compute", help="Compute them now, and keep them in the folder of the ensemble.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a ready Hugging Face Space to a folder, and serve nothing."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ID", help="Publish a Space, such as me/my-demo, and serve nothing.")
    ] = None,
    private: Annotated[bool | None, typer.Option(help="Visibility of a new Space.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; default: the first free one from 7860.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = False,
    labels_by_position: LabelsByPosition = False,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    data_config: DataConfig = None,
    data_revision: DataRevision = None,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Explore an ensemble in a browser: ask it about images, and wander through its simplexes.

    Loss surfaces and validation images are read from explorer/ of the ensemble. Where there are none, --data-set names
    the images to compute them on: on request in the app, or now with --compute, --export and --push.

    Example: hf-simplex demo output/quickstart/ensemble

    Example: hf-simplex demo output/quickstart/ensemble --data-set digits --compute

    Example: hf-simplex demo me/digits-simplex --export space/

    Example: hf-simplex demo output/quickstart/ensemble --push me/digits-explorer --private
    """
    from hf_simplex.explorer.answers import NOT_SHOWN
    from hf_simplex.explorer.exploration import find_exploration
    from hf_simplex.model.problem_types import refuse_several

    if compute and data_set is None:
        raise ValueError("--compute needs --data-set, the images to compute on.")
    # Before anything is computed or written: the Space of such an ensemble would end at its start.
    refuse_several(load_config(ensemble, revision, token), *NOT_SHOWN)

    def explored(progress: Any) -> "Exploration":
        from hf_simplex.explorer.precompute import explore_data_set

        assert data_set is not None
        # A model of its own: the app goes on answering meanwhile.
        found = explore_data_set(
            load(ensemble, revision, token),
            data_set,
            labels_by_position=labels_by_position,
            image_column=image_column,
            label_column=label_column,
            config_name=data_config,
            revision=data_revision,
            token=token,
            progress=progress,
        )
        if Path(ensemble).is_dir():
            found.save(ensemble)
        return found

    exploration = None if compute else find_exploration(ensemble, revision=revision, token=token)
    is_space = export is not None or push is not None
    if exploration is not None and is_space:
        try:
            exploration.check_fit(load(ensemble, revision, token))
        except ValueError as error:
            _warn(str(error))
            exploration = None
    if exploration is None and data_set is not None and (compute or is_space):
        with typer.progressbar(length=100, label="Computing the surfaces") as bar:
            exploration = explored(lambda share, what: bar.update(round(100 * share) - bar.pos))
        if not Path(ensemble).is_dir():
            _warn(f"{ensemble} is no folder, so that what was computed is not kept in explorer/.")
    if is_space:
        _make_space(ensemble, exploration, export, push, private, revision, token)
        return
    from hf_simplex.explorer.about import describe
    from hf_simplex.explorer.answers import answers_of
    from hf_simplex.explorer.app import build_app, check_port, launch

    if port is not None:
        check_port(host, port)
    model = load(ensemble, revision, token)
    about = describe(model, ensemble, revision=revision, token=token)
    answers = answers_of(model, exploration, _warn, device=device)
    blocks = build_app(answers, about, None if data_set is None else explored)
    launch(blocks, host=host, port=port, inbrowser=browser)


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)


def _make_space(
    ensemble: str,
    exploration: "Exploration | None",
    export: Path | None,
    push: str | None,
    private: bool | None,
    revision: str | None,
    token: str | None,
) -> None:
    from hf_simplex.explorer.space import publish_space, write_space

    if exploration is None:
        typer.echo(
            "note: the ensemble has no explorer/ folder, so the Space shows no loss surfaces. --data-set NAME "
            "computes them.",
            err=True,
        )
    if export is not None:
        write_space(ensemble, export, exploration, revision=revision)
        typer.echo(f"Written to {export}")
    if push is not None:
        typer.echo(publish_space(ensemble, push, exploration, private=private, revision=revision, token=token))
