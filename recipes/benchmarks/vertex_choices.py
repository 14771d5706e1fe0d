"""Compare ensembles whose vertices are all weights, low-rank adapters, the last block or the head, at equal epochs.

    python recipes/benchmarks/vertex_choices.py recipes/configs/quickstart.yaml --learning_rate 1e-3 \\
        --last_block "*blocks.6,*conv_head,*bn2,head" --runs output/choices-digits

Every choice and seed is a run of train_espro.py: modes, the barrier between them, then one simplex or connectors. The
plain ensemble of modes that are adapters is a LoRA-Ensemble with adapters of the same parts. Flags that this script
does not know go to train_espro.py, as `--name=value`.

The learning rate of a choice is the recipe's times one of `--rate_factors` (`--full_rate_factors` for full vertices):
the one whose modes have the lowest calibrated NLL on the validation images of `--rate_seeds`. A connector has
`--connector_factor` times the rate of its mode. The seed also draws the training and validation images. All choices of
a seed have the same images.

Statistics of BatchNorm at a mode are running averages of its training, those at a point between vertices are computed
from training images. "modes, recomputed" are the modes with statistics that are computed in the same way.

Raw figures are those of the mean probability. Calibrated ones have a temperature of their own, fitted on the
validation images. Differences are paired by seed: mean, and standard error over the seeds. Each finished run is kept
as a file in `--runs`, and not repeated. Seconds of training are CPU time of the process with `--clock cpu`.
"""

import argparse
import json
import math
import runpy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import CLOCKS, parser, report, start
from torch import Tensor

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_transforms import collate
from hf_simplex.evaluation.calibrate import CandidatePoints, candidate_points
from hf_simplex.evaluation.calibration import fit_temperature, scale_temperature
from hf_simplex.evaluation.comparison import MemberPredictions, predict_members
from hf_simplex.evaluation.inputs import FloatArray
from hf_simplex.evaluation.member_selection import choose_members
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.model.batch_norm import batch_norm_statistics, copy_statistics, recompute_statistics
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.batch_norm_images import batch_norm_batches

RECIPE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "train_espro.py"))
"""The functions of the recipe, which is a script of its own."""

FULL = "full"
CHOICES = (FULL, "lora", "last_block", "head")
PLAIN = "modes"
"""The plain ensemble of the modes."""
RECOMPUTED = "modes, recomputed"
"""The same with BatchNorm statistics that are recomputed as those of a centroid are."""
MEMBERS = ("one mode", PLAIN, RECOMPUTED, "chosen", "centroid", "vertices and centroids", "symmetric")
METRICS = ("error", "nll", "calibrated_nll")


def recipe_arguments(args: argparse.Namespace, choice: str, rate: float, seed: int) -> list[str]:
    """Return the command line of train_espro.py for one run."""
    if choice == "lora":
        args.runs.mkdir(parents=True, exist_ok=True)
        settings = args.runs / "lora.yaml"
        settings.write_text(f"r: {args.rank}\nlora_alpha: {2 * args.rank}\n", "utf-8")
    vertex = {FULL: "all", "last_block": args.last_block, "head": "head"}.get(choice) or str(args.runs / "lora.yaml")
    flags = {
        "vertex_parameters": vertex,
        "learning_rate": rate,
        "connector_learning_rate": args.connector_factor * rate,
        # The seeds of a run's components are a thousand apart.
        "seed": 100_000 * seed,
        "data_split_seed": seed,
        "output_dir": args.runs / "output",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": args.device == "cpu",
    }
    return [
        str(args.config),
        *args.recipe_flags,
        *(f"--{name}={value}" for name, value in flags.items()),
        "--overwrite",
    ]


def prepare(args: argparse.Namespace, choice: str, rate: float, seed: int, *flags: str) -> Any:
    """Prepare a run of train_espro.py. A run that lacks what is measured ends the benchmark."""
    run = RECIPE["prepare"]([*recipe_arguments(args, choice, rate, seed), *flags])
    if run.validation is None or run.calibration.strategy != "auto":
        raise SystemExit("error: expected strategy: auto, and a validation_fraction of at least 50 images.")
    return run


def calibrated_nll(probabilities: FloatArray, fitted_on: FloatArray, labels: Any, fitted_labels: Any) -> float:
    """Calculate the NLL at the temperature that fits other images best."""
    scaled = scale_temperature(probabilities, fit_temperature(fitted_on, fitted_labels))
    return float(classification_metrics(scaled, labels)["nll"])


def predict(run: Any, model: SimplexForImageClassification, images: Any) -> MemberPredictions:
    """Predict with each member."""
    return predict_members(model, images, run.args, collate)


def rate_nll(args: argparse.Namespace, choice: str, rate: float, seed: int) -> dict[str, Any]:
    """Train the first mode of a run, and evaluate it on the validation images."""
    run = prepare(args, choice, rate, seed, "--component=0")
    RECIPE["grow"](run)
    found = predict(run, run.components[0], run.validation)
    probabilities = found.probabilities.mean(axis=1)
    return {"nll": calibrated_nll(probabilities, probabilities, found.references, found.references)}


def measure_run(args: argparse.Namespace, choice: str, rate: float, seed: int) -> dict[str, Any]:
    """Train an ensemble, and evaluate its candidates for members on the test images."""
    run = prepare(args, choice, rate, seed)
    clock = CLOCKS[args.clock]
    started = clock()
    RECIPE["grow"](run)
    seconds = clock() - started
    assert run.choice is not None
    model = SimplexForImageClassification.disjoint_union(run.components)
    batches = batch_norm_batches(
        run.plain_train,
        images=run.args.batch_norm_images,
        batch_size=run.args.per_device_eval_batch_size,
        collate=collate,
    )
    points = candidate_points(model, batches)
    modes = [points.coordinates[mode] for mode in points.modes]
    statistics = recomputed_statistics(model, modes, batches)
    on_points = model.with_members(points.coordinates + modes, points.statistics + statistics)
    validation, test = (predict(run, on_points, images) for images in (run.validation, run.test))
    selection = choose_members(
        validation.probabilities[:, : len(points.coordinates)], validation.references, points.rules, points.modes
    )
    number = len(points.coordinates)
    recomputed = tuple(range(number, number + len(modes)))
    members = members_of(points) | {"chosen": selection.points, RECOMPUTED: recomputed}
    return {
        "choice": choice,
        "seed": seed,
        "learning_rate": rate,
        "barriers": [barrier.height for barrier in run.choice.barriers],
        "strategy": run.choice.chosen,
        "chosen_rule": selection.name,
        "vertex_bytes": vertex_bytes(model),
        "training_seconds": seconds,
        "images": {
            "train": len(run.data.train),
            "validation": len(validation.references),
            "test": len(test.references),
        },
        "members": {name: evaluate(validation, test, members[name]) for name in MEMBERS},
    }


def recomputed_statistics(
    model: SimplexForImageClassification, modes: Sequence[Sequence[float]], batches: Any
) -> list[Mapping[str, Tensor]]:
    """Recompute the BatchNorm statistics of modes, whose own are running averages of their training."""
    found: list[Mapping[str, Tensor]] = []
    for mode in modes:
        backbone = model.backbone_at(mode)
        recompute_statistics(backbone, batches)
        found.append(copy_statistics(batch_norm_statistics(backbone)))
    return found


def members_of(points: CandidatePoints) -> dict[str, tuple[int, ...]]:
    """Return indices of points by the name of the members."""
    vertices = points.rules.get("vertices", points.modes)
    every = tuple(dict.fromkeys((*vertices, *points.centroids)))
    return {
        "one mode": points.modes[:1],
        PLAIN: points.modes,
        "centroid": points.centroids[:1],
        "vertices and centroids": every,
        # Two rules that name the same points have one name.
        "symmetric": points.rules.get("placed points", every),
    }


def evaluate(validation: MemberPredictions, test: MemberPredictions, which: Sequence[int]) -> dict[str, float]:
    """Evaluate the mean probability of some points."""
    fitted, mean = (split.probabilities[:, list(which)].mean(axis=1) for split in (validation, test))
    raw = classification_metrics(mean, test.references)
    return {
        "forward_passes": len(which),
        "error": 1 - raw["accuracy"],
        "nll": raw["nll"],
        "calibrated_nll": calibrated_nll(mean, fitted, test.references, validation.references),
    }


def vertex_bytes(model: SimplexForImageClassification) -> int:
    """Count the bytes of what a vertex holds by itself: its parameters and BatchNorm statistics."""
    tensors = [*model.weights[0].values(), *model.vertex_statistics(0).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept(args: argparse.Namespace, name: str, make: Any) -> dict[str, Any]:
    """Return the content of a result file of an earlier call, or make it."""
    file = args.runs / f"{name}.json"
    if not file.exists():
        found = make()
        with atomic_write(args.runs) as aside:
            (aside / file.name).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


def check_runs(args: argparse.Namespace) -> None:
    """Keep the settings of the runs in a folder. A folder of other settings ends the benchmark."""
    names = ("config", "recipe_flags", "rank", "last_block", "connector_factor", "device")
    settings = {name: str(getattr(args, name)) for name in names}
    file = args.runs / "settings.json"
    if file.exists() and (former := json.loads(file.read_text("utf-8"))) != settings:
        name = next(name for name in names if former.get(name) != settings[name])
        raise SystemExit(
            f"error: --runs {args.runs} holds runs with {name} {former.get(name)}, not {settings[name]}: "
            "name another folder."
        )
    with atomic_write(args.runs) as aside:
        (aside / file.name).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def find_rate(args: argparse.Namespace, choice: str) -> tuple[float, dict[str, float]]:
    """Choose the learning rate of a choice. Returns it, and the mean NLL by rate."""
    factors = args.full_rate_factors if choice == FULL else args.rate_factors
    if len(factors) == 1 or not args.rate_seeds:
        return factors[0] * args.learning_rate, {}
    losses = {}
    for rate in (factor * args.learning_rate for factor in factors):
        runs = [
            kept(
                args, f"rate-{choice}-{rate:g}-{seed}", lambda rate=rate, seed=seed: rate_nll(args, choice, rate, seed)
            )
            for seed in args.rate_seeds
        ]
        losses[rate] = float(np.mean([run["nll"] for run in runs]))
    return min(losses, key=lambda rate: losses[rate]), {f"{rate:g}": loss for rate, loss in losses.items()}


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Compare two rows of figures that are paired by seed. One seed has no standard error."""
    own = np.subtract(first, second)
    error = float(own.std(ddof=1) / math.sqrt(len(own))) if len(own) > 1 else None
    return {"mean": float(own.mean()), "standard_error": error}


def summarize(runs: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average each choice and its members over the seeds, with differences to full vertices and to its own modes."""

    def figures(choice: str, members: str, metric: str) -> list[float]:
        return [run["members"][members][metric] for run in runs[choice]]

    rows = []
    for choice, own in runs.items():
        for members in MEMBERS:
            row: dict[str, Any] = {
                "choice": choice,
                "members": members,
                "forward_passes": float(np.mean(figures(choice, members, "forward_passes"))),
            }
            for metric in METRICS:
                row[metric] = float(np.mean(figures(choice, members, metric)))
                if FULL in runs and choice != FULL:
                    full = figures(FULL, members, metric)
                    row[f"{metric}_over_full"] = difference(figures(choice, members, metric), full)
                for plain, name in ((PLAIN, "modes"), (RECOMPUTED, "recomputed")):
                    if members != plain:
                        rival = figures(choice, plain, metric)
                        row[f"{metric}_over_{name}"] = difference(figures(choice, members, metric), rival)
            if members == PLAIN:
                heights = [max(run["barriers"]) for run in own]
                row |= {
                    "barrier": float(np.mean(heights)),
                    "barriers": heights,
                    "strategies": [run["strategy"] for run in own],
                    "vertex_bytes": own[0]["vertex_bytes"],
                    "training_seconds": float(np.mean([run["training_seconds"] for run in own])),
                }
            rows.append(row)
    return rows


def without_folder(flag: str) -> str:
    """Keep the name only of a path in a flag: folders of a machine are not part of the result."""
    name, equals, value = flag.partition("=")
    return f"{name}={Path(value).name}" if equals and Path(value).is_absolute() else flag


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    found = parser(__doc__.splitlines()[0], "vertex_choices")
    found.add_argument("config", type=Path, help="Configuration of train_espro.py, with strategy: auto.")
    found.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--rate_seeds", type=int, nargs="*", default=[100, 101])
    found.add_argument("--rate_factors", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    found.add_argument("--full_rate_factors", type=float, nargs="+", default=[1.0, 3.0])
    found.add_argument("--learning_rate", type=float, required=True, help="The recipe's, for full vertices.")
    found.add_argument("--connector_factor", type=float, default=0.3)
    found.add_argument("--rank", type=int, default=8)
    found.add_argument("--last_block", default="head", help="Names and patterns of the last block, and the head.")
    found.add_argument("--runs", type=Path, default=Path("output/vertex_choices"), help="Folder of finished runs.")
    args, flags = found.parse_known_args(argv)
    args.recipe_flags = flags
    device = start(args)
    check_runs(args)
    args.rates = {choice: find_rate(args, choice) for choice in args.choices}
    # Seed by seed: what is missing when time runs out is a seed of all choices.
    runs: dict[str, list[dict[str, Any]]] = {choice: [] for choice in args.choices}
    for seed in args.seeds:
        for choice in args.choices:
            rate = args.rates[choice][0]
            started = time.perf_counter()
            runs[choice].append(
                kept(
                    args,
                    f"{choice}-{rate:g}-{seed}",
                    lambda choice=choice, rate=rate, seed=seed: measure_run(args, choice, rate, seed),
                )
            )
            print(f"{choice}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    args.single_runs = runs
    args.recipe_flags = [without_folder(flag) for flag in args.recipe_flags]
    return report(args, device, summarize(runs))


if __name__ == "__main__":
    main()
