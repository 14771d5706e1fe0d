"""Fine-tune a pretrained backbone, grow simplexes from it with SPRO, and evaluate the ESPRO ensemble.

    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml
    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml --num_components 3
    accelerate launch recipes/train_espro.py recipes/configs/fine_tune.yaml \\
        --backbone timm/resnet50.a1_in1k --data_set zalando-datasets/fashion_mnist --output_dir output/resnet50

Each line of the configuration is an argument. Each argument is also a flag, and flags override the file. A mistake in
the arguments ends the run before training, with one line and exit code 2. The run writes

- `OUTPUT/ensemble/`: the checkpoint for transformers, with a model card and figures. `--push_to_hub` publishes it.
- `OUTPUT/results.json`: metrics of the ensemble, of a single model and of a deep ensemble.
- `OUTPUT/run.json`: arguments, versions, hardware, and the time of each stage.

`--resume` continues a killed run from `OUTPUT/components/`, with bitwise equal results. On SIGTERM the run saves and
exits with code 75. Components are independent: `--component I` trains one, and a run of all components with `--resume`
unites and evaluates them (`recipes/components.sh`, `recipes/components.slurm`).
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch.utils.data import DataLoader, Subset

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_data import ImageData
from hf_simplex.data.image_transforms import collate
from hf_simplex.evaluation.comparison import Result, predict_parts, results_of
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.hub.evidence import DRAWN_PARTS, Evidence, describe_hardware
from hf_simplex.hub.model_card import write_card
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.checkpoint import atomic_write, check_target
from hf_simplex.model.configuration_simplex import SimplexConfig
from hf_simplex.model.weight_space import trainable_names
from hf_simplex.training.card_evidence import shown_arguments
from hf_simplex.training.preemption import Preemption
from hf_simplex.training.recipe.arguments import BackboneArguments, DataArguments, EsproArguments
from hf_simplex.training.recipe.components import component_arguments, start_components
from hf_simplex.training.recipe.images import load_data, transformed
from hf_simplex.training.recipe.memory_format import Choice, set_memory_formats
from hf_simplex.training.recipe.parsing import exit_on_mistake, parse_arguments
from hf_simplex.training.recipe.run_record import hardware, table, versions


@dataclass
class Run:
    """Everything that training and evaluation need."""

    backbone_args: BackboneArguments
    data_args: DataArguments
    args: EsproArguments
    data: ImageData
    components: list[SimplexForImageClassification]
    numbers: list[int]
    """Components to train."""
    memory_formats: list[Choice]
    train: Any
    plain_train: Any
    test: Any
    repository: str | None

    def component_arguments(self, number: int) -> EsproArguments:
        return component_arguments(self.args, number, len(self.components))


def main(argv: Sequence[str] | None = None) -> dict[str, Result] | None:
    """Run the recipe. Returns the content of results.json, or None for a single component."""
    # SIGTERM ends the run here at any moment. During a stage the trainer saves first.
    with Preemption(lambda: False).heeded():
        started = time.perf_counter()
        with exit_on_mistake():
            run = prepare(argv)
        grow(run)
        if run.args.component is not None:
            return None
        return evaluate_and_save(run, started)


def prepare(argv: Sequence[str] | None) -> Run:
    """Parse and check the arguments, load data and components, and create the Hub repository."""
    backbone_args, data_args, args = parse_arguments((BackboneArguments, DataArguments, EsproArguments), argv)
    check(backbone_args, args)
    data = load_data(data_args, backbone_args.token)
    with args.main_process_first(local=False):
        components = start_components(backbone_args, data_args, data, args)
    train, plain_train, test = transformed(data, data_args, components[0])
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    numbers = list(range(len(components))) if args.component is None else [args.component]
    own_args = [component_arguments(args, number, len(components)) for number in numbers]
    with args.main_process_first(local=False):
        if args.should_save and not args.resume:
            for own in own_args:
                shutil.rmtree(own.output_dir, ignore_errors=True)
    memory_formats = set_memory_formats(
        backbone_args.memory_format, [components[number] for number in numbers], own_args, plain_train
    )
    if args.should_log:
        for number, choice in zip(numbers, memory_formats, strict=False):
            print(described(number, choice), file=sys.stderr)
    repository = None
    if args.push_to_hub:
        name = args.hub_model_id or Path(args.output_dir).name
        repository = (
            HfApi().create_repo(name, private=args.hub_private_repo, token=args.hub_token, exist_ok=True).repo_id
        )
    return Run(
        backbone_args, data_args, args, data, components, numbers, memory_formats, train, plain_train, test, repository
    )


def grow(run: Run) -> None:
    """Fine-tune the modes and train the connectors of each component."""
    for number in run.numbers:
        if run.args.should_log:
            print(f"component {number + 1} of {len(run.components)}", file=sys.stderr)
        SimplexTrainer(
            model=run.components[number],
            args=run.component_arguments(number),
            train_dataset=run.train,
            batch_norm_dataset=run.plain_train,
            data_collator=collate,
        ).grow(run.args.resume)


def evaluate_and_save(run: Run, started: float) -> dict[str, Result]:
    """Unite the components, evaluate the ensemble and its parts, and write and publish everything."""
    args, output = run.args, Path(run.args.output_dir)
    ensemble = SimplexForImageClassification.disjoint_union(run.components)
    predictions, references = predict_parts(
        ensemble,
        run.test,
        run.component_arguments(0),
        given_mode_epochs=run.backbone_args.given_mode_epochs,
        data_collator=collate,
    )
    results = results_of(predictions, references)
    surface = loss_surface(ensemble, run.test, run.plain_train, args) if args.surface_resolution else None
    if not args.should_save:
        return results

    ensemble.save_pretrained(output / "ensemble")
    record = {
        "arguments": {
            "backbone": {name: value for name, value in vars(run.backbone_args).items() if name != "token"},
            "data": vars(run.data_args),
            "training": args.to_sanitized_dict(),
        },
        "labels": list(run.data.label_names),
        "images": {"train": len(run.data.train), "test": len(run.data.test)},
        "stages": ensemble.config.provenance["stages"],
        "log_volumes": ensemble.log_volumes().tolist(),
        "wall_time": time.perf_counter() - started,
        "memory_formats": [asdict(choice) for choice in run.memory_formats],
        "versions": versions(),
        "hardware": hardware(),
    }
    with atomic_write(output) as aside:
        (aside / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
        (aside / "run.json").write_text(json.dumps(record, indent=2, default=str) + "\n", "utf-8")
    print(table(results))
    if args.num_modes > 1 and (warning := barrier_warning(results)):
        print(f"warning: {warning}", file=sys.stderr)

    evidence = Evidence(
        data_set=run.data.name,
        test_images=len(run.data.test),
        results=results,
        predictions={name: (predictions[name].probabilities, references) for name in DRAWN_PARTS},
        surface=surface,
        surface_images=min(args.surface_images, len(run.data.test)),
        arguments={
            "num_components": len(run.components),
            "train_images": len(run.data.train),
            "image_size": run.data_args.image_size,
            **shown_arguments(args),
        },
        hardware=describe_hardware(time.perf_counter() - started),
    )
    write_card(ensemble, output / "ensemble", evidence, repository=args.hub_model_id)
    if run.repository is not None:
        publish_folder(output / "ensemble", run.repository, token=args.hub_token, revision=args.hub_revision)
    return results


def barrier_warning(results: Mapping[str, Result]) -> str | None:
    """Warn if the centroid of the first simplex has a higher NLL than its first mode."""
    centroid, mode = results["centroid"]["nll"], results["backbone"]["nll"]
    if centroid <= mode:
        return None
    return (
        f"the centroid of the first simplex has an NLL of {centroid:.4f}, its first mode alone {mode:.4f}: there may "
        "be a barrier between its modes, and points between them are poor members then. Compare with num_modes 1, and "
        "num_components or num_vertices for more members."
    )


def loss_surface(
    ensemble: SimplexForImageClassification, test: Any, train: Any, args: EsproArguments
) -> Surface | None:
    """Evaluate the loss over the plane through the first three vertices of the first simplex, if it has three.

    All processes of a distributed run call this together. Each evaluates a part of the points.
    """
    vertices = ensemble.config.simplexes[0][:3]
    if len(vertices) < 3:
        return None
    names = trainable_names(ensemble.backbone)
    points = plane_points(
        ensemble.config.complex, ensemble.weights, names, vertices=vertices, resolution=args.surface_resolution
    )
    tests, trains = (
        DataLoader(random_subset(images, args.surface_images), args.eval_batch_size, collate_fn=collate)
        for images in (test, train)
    )
    inputs = [{"pixel_values": batch["pixel_values"]} for batch in trains if len(batch["labels"]) > 1]
    return model_surface(ensemble, points, list(tests), batch_norm_batches=inputs, among_processes=True)


def random_subset(images: Any, number: int) -> Any:
    """Draw a fixed random subset: the first images of a data set may all have the same label."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Subset(images, sorted(order[:number].tolist()))


def check(backbone_args: BackboneArguments, args: EsproArguments) -> None:
    """Raise ValueError if arguments contradict each other or the run would overwrite an earlier result."""
    if (backbone_args.backbone is None) == (backbone_args.modes is None):
        raise ValueError("Give either backbone, to fine-tune, or modes, checkpoints that are fine-tuned already.")
    if backbone_args.from_scratch and backbone_args.modes is not None:
        raise ValueError("Give from_scratch with a backbone, not with modes, which are trained already.")
    if backbone_args.from_scratch and args.num_modes > 1:
        raise ValueError(
            f"num_modes is {args.num_modes} with from_scratch: modes from random weights have barriers between them, "
            "so that no simplex of them has low loss. Give num_components, and connectors to each (num_vertices)."
        )
    modes = len(backbone_args.modes or ())
    if modes % args.num_modes:
        raise ValueError(
            f"There are {modes} modes, which cannot be divided into simplexes of {args.num_modes} (num_modes) each."
        )
    components = modes // args.num_modes or backbone_args.num_components
    if components < 1:
        raise ValueError(f"num_components is {components}: expected at least 1.")
    if args.num_members is not None and args.num_members < components:
        raise ValueError(
            f"num_members is {args.num_members}: expected at least one for each of {components} components."
        )
    if args.surface_resolution == 1 or args.surface_resolution < 0 or args.surface_images < 2:
        raise ValueError(
            f"surface_resolution is {args.surface_resolution} and surface_images {args.surface_images}: expected 0 or "
            "at least 2, and at least 2."
        )
    if args.resume_from_checkpoint is not None:
        raise ValueError("resume_from_checkpoint is Trainer's, for one vertex: give --resume to continue a run.")
    if args.component is not None and not 0 <= args.component < components:
        raise ValueError(f"component is {args.component}: expected 0 to {components - 1}.")
    output = Path(args.output_dir)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output_dir is {output}, which is a file: give a folder.")
    if not (args.overwrite or args.resume):
        for name in ("config.json", "ensemble/config.json", "results.json"):
            if (output / name).exists():
                raise ValueError(
                    f"{args.output_dir} holds an ensemble already ({name}). Choose another output_dir or give "
                    "--overwrite."
                )
        own = "components" if args.component is None else f"components/{args.component:02d}"
        if (output / own).exists():
            raise ValueError(
                f"{args.output_dir} holds what an unfinished run left ({own}). Give --resume to go on with it, "
                "--overwrite to begin anew, or another output_dir."
            )
    check_target(output / "ensemble", SimplexConfig.model_type)


def described(number: int, choice: Choice) -> str:
    """Describe the memory format that "auto" chose for a component."""
    seconds = ", ".join(f"{1e3 * taken:.1f} ms {name}" for name, taken in choice.seconds.items())
    return f"component {number + 1} uses {choice.memory_format} (a step takes {seconds})"


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        # A process that exits while others still communicate makes them fail.
        torch.distributed.destroy_process_group()
