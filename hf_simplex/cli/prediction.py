"""`hf-simplex predict`: labels of images, and how sure the ensemble is."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ensembles import load, warn_of_placeholders
from .options import BatchSize, Device, Ensemble, Revision, Token

if TYPE_CHECKING:
    from hf_simplex.model.decisions import Decisions

__all__ = ["predict"]

_SHOWN = 3
"""Number of bad images that the last line names."""


def predict(
    ensemble: Ensemble,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Paths, URLs, folders or patterns such as 'pictures/**/*.png'."),
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels per image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each image.")] = False,
    batch_size: BatchSize = 1,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Classify images, and say which ones the ensemble is not sure of.

    A calibrated ensemble (hf-simplex calibrate) abstains below its threshold of confidence, gives a set of labels that
    holds the true one at the fitted rate, and compares the image with the validation images. --json adds entropy and
    mutual information in nats, and the share of the members that vote for the first label.

    A multi-label ensemble gives each label its own probability, and answers with all labels of at least 50 %.

    Results are printed as they come. An image that cannot be read does not end the command,
    but makes its exit code 1.

    Example: hf-simplex predict me/resnet50-simplex cat.png dog.png --top-k 3

    Example: hf-simplex predict me/resnet50-simplex pictures/ --batch-size 32 --json

    Example: hf-simplex predict output/quickstart/ensemble digit.png --json
    """
    from hf_simplex import SimplexImageClassificationPipeline
    from hf_simplex.evaluation.image_files import classify_files, find_images, is_readable
    from hf_simplex.evaluation.label_names import label_names_of
    from hf_simplex.model.problem_types import is_multi_label

    found = find_images(images)
    if not any(map(is_readable, found)):
        raise FileNotFoundError(f"no such file: {', '.join(found[:_SHOWN])}")
    model = load(ensemble, revision, token)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor, device=device)
    warn_of_placeholders(label_names_of(model))
    several = is_multi_label(model.config)
    # The answer is all labels of at least 50 %, whatever is listed.
    asked = len(label_names_of(model)) if several and not as_json else top_k
    bad = []
    for image, result, error in classify_files(classify, found, top_k=asked, batch_size=batch_size):
        if error is not None:
            bad.append(image)
            typer.echo(f"error: {image}: {' '.join(error.split())}", err=True)
        if as_json:
            typer.echo(json.dumps({"image": image, **({"error": error} if result is None else result)}))
        elif result is not None:
            _print(image, result, model.decisions, several=several, top_k=top_k)
    if model.decisions is None:
        fitted = "members and temperature" if several else "temperature and threshold"
        typer.echo(f"Not calibrated: hf-simplex calibrate ID DATASET fits {fitted}.", err=True)
    if bad:
        named = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        typer.echo(f"{len(bad)} of {len(found)} images could not be classified: {named}", err=True)
        raise typer.Exit(1)


def _print(image: str, result: dict[str, Any], decisions: "Decisions | None", *, several: bool, top_k: int) -> None:
    from hf_simplex.evaluation.answers import answer_bars, answer_line

    goal = None if decisions is None or decisions.abstention is None else decisions.abstention.target_error
    typer.echo(f"{image}: {answer_line(result, goal, several=several)}")
    for bar in answer_bars(result["labels"][:top_k]):
        typer.echo(f"  {bar}")
    if result["prediction_set"] is not None:
        typer.echo(f"  set: {', '.join(result['prediction_set'])}")
    if result["more_uncertain_than"]:
        typer.echo(f"  more uncertain than {_unlike(result['more_uncertain_than'])} of the validation images")


def _unlike(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.0f} % by {name.replace('_', ' ')}" for name, share in shares.items())
