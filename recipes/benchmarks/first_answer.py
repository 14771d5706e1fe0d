"""Processor time from the command to the first answer, beside transformers' pipeline of one and of n plain models.

    python recipes/benchmarks/first_answer.py --backbone efficientnet_lite0 --image_size 64 --threads 1

Every task runs in a fresh process. `inspect` and `predict` are the commands of `hf-simplex`. `ensemble` and
`uncertainty` are the pipelines `image-classification` and `simplex-image-classification` of the ensemble. `plain` is
transformers' pipeline of one of its members, exported. `plain_models` are n such pipelines, one for each member.
`imports` is what all of them import. With `--before CHECKOUT`, both commands and both pipelines of another version
of this repository are measured in the same rounds.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from measure import alternating_clocked, parser, ratio, report, start, time_of_process
from workloads import ensemble

_COMMAND = "from hf_simplex.cli import app; app(standalone_mode=False)"
_PIPELINE = (
    "import sys, {imported}\nfrom transformers import pipeline\n"
    "for name in sys.argv[2:]:\n    pipeline('{task}', model=name)(sys.argv[1])"
)
_IMPORTS = "import torch\nfrom transformers import pipeline, AutoModelForImageClassification, AutoImageProcessor"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    with tempfile.TemporaryDirectory() as directory:
        folder, image = str(Path(directory, "ensemble")), str(Path(directory, "image.png"))
        model = ensemble(args.backbone, args, torch.device("cpu"), members=args.members)
        model.save_pretrained(folder)
        PIL.Image.effect_noise((args.image_size, args.image_size), 64).convert("RGB").save(image)
        plain = [str(Path(directory, f"plain-{member}")) for member in range(args.members)]
        for member, path in enumerate(plain):
            model.export_member(member, path)
        classify, unsure = "image-classification", "simplex-image-classification"
        tasks: dict[str, Callable[[], float]] = {
            "imports": partial(time_of_process, _IMPORTS),
            "plain": partial(time_of_process, _pipeline("torch", classify), image, plain[0]),
            "plain_models": partial(time_of_process, _pipeline("torch", classify), image, *plain),
        }
        versions = {"": ""}
        if args.before is not None:
            # The checkout comes before the installed package on the path.
            versions["_before"] = f"import sys; sys.path.insert(0, {str(args.before.resolve())!r})\n"
        for version, path in versions.items():
            ensemble_pipeline = path + _pipeline("hf_simplex", classify)
            uncertainty_pipeline = path + _pipeline("hf_simplex", unsure)
            tasks |= {
                f"inspect{version}": partial(time_of_process, path + _COMMAND, "inspect", folder),
                f"predict{version}": partial(time_of_process, path + _COMMAND, "predict", folder, image),
                f"ensemble{version}": partial(time_of_process, ensemble_pipeline, image, folder),
                f"uncertainty{version}": partial(time_of_process, uncertainty_pipeline, image, folder),
            }
        seconds = alternating_clocked(tasks, args.rounds)
    row: dict[str, Any] = {"backbone": args.backbone, "vertices": args.num_vertices, "members": args.members}
    for name in seconds:
        if name != "plain":
            row[f"{name}_to_plain"] = ratio(seconds, name, "plain")
    for name in ("inspect", "predict", "ensemble", "uncertainty"):
        if f"{name}_before" in seconds:
            row[f"{name}_to_before"] = ratio(seconds, name, f"{name}_before")
    return report(args, device, [row])


def _pipeline(imported: str, task: str) -> str:
    return _PIPELINE.format(imported=imported, task=task)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "first_answer")
    found.add_argument("--backbone", default="efficientnet_lite0")
    found.add_argument("--image_size", type=int, default=64)
    found.add_argument("--num_vertices", type=int, default=3)
    found.add_argument("--members", type=int, default=4)
    found.add_argument("--before", type=Path, help="Checkout of another version of this repository.")
    # Processor time of processes is all that is measured.
    found.set_defaults(channels_last=False, clock="cpu")
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
