"""`hf-simplex export`, `merge` and `push`: an ensemble's files."""

import itertools
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .ensembles import check_free, load
from .options import Directory, Ensemble, Revision, Token

if TYPE_CHECKING:
    from hf_simplex import SimplexForImageClassification

__all__ = ["ExportFormat", "export", "merge", "push"]


class ExportFormat(StrEnum):
    """What `hf-simplex export` writes.

    Example:
        >>> ExportFormat("onnx").value
        'onnx'
    """

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    TORCH = "torch"


def export(
    ensemble: Ensemble,
    directory: Directory,
    centroid: Annotated[bool, typer.Option("--centroid", help="Export the centroid of a simplex.")] = False,
    simplex: Annotated[int | None, typer.Option(help="Index of the simplex, for --centroid; default: 0.")] = None,
    vertex: Annotated[int | None, typer.Option(help="Export a vertex, by index.")] = None,
    member: Annotated[int | None, typer.Option(help="Export a member, by index.")] = None,
    as_adapter: Annotated[
        bool, typer.Option("--as-adapter", help="Write an adapter of peft instead of a whole model.")
    ] = False,
    format: Annotated[
        ExportFormat, typer.Option(help="A plain checkpoint, or one graph: ONNX, or torch.export.")
    ] = ExportFormat.CHECKPOINT,
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="Store the weights of matrix products of an ONNX graph in int8.")
    ] = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Export one point of an ensemble as a plain checkpoint, or point or whole ensemble as one graph.

    Neither needs hf-simplex. A graph (--format onnx or torch) is that of the whole ensemble, with its uncertainties,
    unless a point is given.

    Example: hf-simplex export me/resnet50-simplex --centroid plain/

    Example: hf-simplex export me/resnet50-simplex --vertex 0 mode/

    Example: hf-simplex export me/resnet50-simplex --member 2 member/

    Example: hf-simplex export me/vit-adapters --vertex 0 --as-adapter adapter/

    Example: hf-simplex export me/resnet50-simplex --format onnx graph/

    Example: hf-simplex export me/resnet50-simplex --format onnx --centroid --quantize int8 small/
    """
    points = centroid + (vertex is not None) + (member is not None)
    if simplex is not None and not centroid:
        raise typer.BadParameter("--simplex is for --centroid: give both.")
    if format is not ExportFormat.CHECKPOINT:
        if points > 1:
            raise typer.BadParameter("Give at most one of --centroid, --vertex and --member.")
        if as_adapter:
            raise typer.BadParameter("--as-adapter is for checkpoints: leave out --format.")
        point: tuple[str, int] | None = ("centroid", simplex or 0) if centroid else None
        if vertex is not None or member is not None:
            point = ("vertex", vertex) if vertex is not None else ("member", member or 0)
        _export_graph(load(ensemble, revision, token), directory, format.value, point, quantize)
        return
    if points != 1:
        raise typer.BadParameter("Give exactly one of --centroid, --vertex and --member.")
    if quantize is not None:
        raise typer.BadParameter("--quantize is for graphs: give --format onnx.")
    check_free(directory)
    model = load(ensemble, revision, token)
    if vertex is not None:
        model.export_vertex(vertex, directory, as_adapter=as_adapter)
    elif member is not None:
        model.export_member(member, directory, as_adapter=as_adapter)
    else:
        model.export_centroid(directory, simplex or 0, as_adapter=as_adapter)
    typer.echo(f"Written to {directory}")


def _export_graph(
    model: "SimplexForImageClassification",
    directory: Path,
    format: str,
    point: tuple[str, int] | None,
    quantize: str | None,
) -> None:
    from hf_simplex.export.export_graph import Point, export_graph

    written = export_graph(
        model, directory, format=format, point=None if point is None else Point(*point), quantize=quantize
    )
    temperature = "no temperature" if written.temperature is None else f"temperature {written.temperature:.3g}"
    typer.echo(f"Written to {written.file}: {temperature}, within {written.difference:.1e} of the model")


def merge(
    ensembles: Annotated[list[str], typer.Argument(metavar="ID ID...", help="Hub ids or folders of components.")],
    directory: Directory,
    token: Token = None,
) -> None:
    """Merge components, trained as separate jobs, into one ESPRO ensemble. An ensemble is not merged with itself.

    Example: hf-simplex merge job-1/ensemble job-2/ensemble job-3/ensemble merged/
    """
    from hf_simplex import SimplexForImageClassification
    from hf_simplex.data.trained_images import merge_trained_images

    if len(ensembles) < 2:
        raise ValueError(
            f"There is only one ensemble to merge, {ensembles[0]}, and the output folder {directory}. Give at least "
            "two ensembles, then the output folder."
        )
    check_free(directory)
    components = [load(ensemble, None, token) for ensemble in ensembles]
    for (first, one), (second, other) in itertools.combinations(zip(ensembles, components, strict=True), 2):
        vertices, others = _vertex_digests(one), _vertex_digests(other)
        if vertices <= others or others <= vertices:
            raise ValueError(
                f"{first} and {second} are the same ensemble, or one is a part of the other: their vertices are "
                "equal. Give components that were trained with different seeds."
            )
    merged = SimplexForImageClassification.disjoint_union(components)
    merged.save_pretrained(directory)
    if not merge_trained_images(ensembles, directory):
        typer.echo("note: not every ensemble has hashes of its training images, so the merged one has none.", err=True)
    config = merged.config
    typer.echo(
        f"Written to {directory}: {len(config.simplexes)} simplexes, {config.num_vertices} vertices, "
        f"{len(config.members)} members"
    )


def _vertex_digests(model: "SimplexForImageClassification") -> set[str]:
    from hf_simplex.model.digests import tensor_digest

    return {tensor_digest(vertex) for vertex in model.weights}


def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a saved ensemble.")],
    repository: Annotated[str, typer.Argument(metavar="ID", help="Repository on the Hub, such as me/my-ensemble.")],
    private: Annotated[bool | None, typer.Option(help="Visibility of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, created if missing; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request with the commit.")] = False,
    code: Annotated[bool, typer.Option(help="Publish the inference code, for users without hf-simplex.")] = True,
    with_handler: Annotated[
        bool, typer.Option("--with-handler", help="Publish handler.py too, with which Inference Endpoints serves it.")
    ] = False,
    commit_message: Annotated[str | None, typer.Option(help="Default: Upload ensemble.")] = None,
    token: Token = None,
) -> None:
    """Publish a saved ensemble with its card, in one commit. Files that the Hub already has are not sent again.

    Example: hf-simplex push output/quickstart/ensemble me/digits-simplex --private

    Example: hf-simplex push ensemble/ me/resnet50-simplex --create-pr --commit-message "Two more vertices"

    Example: hf-simplex push ensemble/ me/resnet50-simplex --with-handler
    """
    from hf_simplex.hub.publishing import publish_folder

    commit = publish_folder(
        directory,
        repository,
        private=private,
        revision=revision,
        create_pr=create_pr,
        include_code=code,
        with_handler=with_handler,
        commit_message=commit_message,
        token=token,
    )
    typer.echo(commit.pr_url or commit.commit_url)
