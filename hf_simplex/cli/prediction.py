"""`hf-simplex predict`: labels of images, and how sure the ensemble is."""

from typing import Annotated

import typer

from .ensembles import load
from .options import BatchSize, Device, Ensemble, Json, Revision, Token
from .printing import print_json

__all__ = ["predict"]


def predict(
    ensemble: Ensemble,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Paths or URLs of images.")],
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels per image.")] = 5,
    as_json: Json = False,
    batch_size: BatchSize = 1,
    device: Device = None,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Classify images, and say which ones the ensemble is not sure of.

    A calibrated ensemble (hf-simplex calibrate) abstains below its threshold of confidence, gives a set of labels that
    holds the true one at the fitted rate, and compares the image with the validation images. --json adds entropy and
    mutual information in nats, and the share of the members that vote for the first label.

    Example: hf-simplex predict me/resnet50-simplex cat.png dog.png --top-k 3

    Example: hf-simplex predict output/quickstart/ensemble digit.png --json
    """
    from hf_simplex import SimplexImageClassificationPipeline
    from hf_simplex.evaluation.answers import answer_bars, answer_line

    model = load(ensemble, revision, token)
    classify = SimplexImageClassificationPipeline(model=model, image_processor=model.image_processor, device=device)
    results = classify(images, top_k=top_k, batch_size=batch_size)
    if as_json:
        print_json([{"image": image, **result} for image, result in zip(images, results, strict=True)])
        return
    decisions = model.decisions
    goal = None if decisions is None or decisions.abstention is None else decisions.abstention.target_error
    for image, result in zip(images, results, strict=True):
        typer.echo(f"{image}: {answer_line(result, goal)}")
        for bar in answer_bars(result["labels"]):
            typer.echo(f"  {bar}")
        if result["prediction_set"] is not None:
            typer.echo(f"  set: {', '.join(result['prediction_set'])}")
        if result["more_uncertain_than"]:
            typer.echo(f"  more uncertain than {_unlike(result['more_uncertain_than'])} of the validation images")
    if decisions is None:
        typer.echo("Not calibrated: hf-simplex calibrate ID DATASET fits temperature and threshold.", err=True)


def _unlike(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.0f} % by {name.replace('_', ' ')}" for name, share in shares.items())
