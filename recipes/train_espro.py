"""Fine-tune a pretrained backbone, grow simplexes from it with SPRO, and evaluate the ESPRO ensemble.

    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml
    accelerate launch recipes/train_espro.py recipes/configs/quickstart.yaml --num_components 3
    accelerate launch recipes/train_espro.py recipes/configs/fine_tune.yaml \\
        --backbone timm/resnet50.a1_in1k --data_set zalando-datasets/fashion_mnist --output_dir output/resnet50

Each line of the configuration is an argument. Each argument is also a flag, and flags override the file. A mistake in
the arguments ends the run before training, with one line and exit code 2. The run writes

- `OUTPUT/ensemble/`: the checkpoint for transformers, with a model card and figures. `--push_to_hub` publishes it.
- `OUTPUT/results.json`: metrics of the ensemble, of a single model and of a deep ensemble.
- `OUTPUT/least_sure.png`: the test images of which the ensemble is least sure, with what it says of them.
- `OUTPUT/run.json`: arguments, versions, hardware, and the time of each stage.

`--resume` continues a killed run from `OUTPUT/components/`, with bitwise equal results. A run with other arguments,
data, weights or processes is not continued: the message names what differs. More components or vertices are fine. On
SIGTERM and Ctrl-C the run saves, says what to type to go on, and exits with code 143 or 130. Components are
independent: `--component I` trains one, and a run of all components with `--resume` unites and evaluates them
(`recipes/components.sh`, `recipes/components.slurm`).
"""

if __name__ == "__main__":
    # Until main heeds it, Ctrl-C ends without a traceback: importing torch takes seconds.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, List
from huggingface_hub import HfApi
from torch.utils.data import DataLoader, Subset

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_data import ImageData, load_image_data
from hf_simplex.data.image_transforms import collate
from hf_simplex.data.trained_images import write_trained_images
from hf_simplex.evaluation.calibrate import check_rates
from hf_simplex.evaluation.comparison import Result
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.evaluation.surfaces import Surface
from hf_simplex.hub.evidence import DRAWN_PARTS, Evidence, describe_hardware
from hf_simplex.hub.model_card import write_card
from hf_simplex.hub.publishing import publish_folder
from hf_simplex.model.checkpoint import atomic_write, check_target
from hf_simplex.model.configuration_simplex import MODE, SimplexConfig
from hf_simplex.model.weight_space import trainable_names
from hf_simplex.training.batch_norm_images import batch_norm_batches
from hf_simplex.training.card_evidence import shown_arguments
from hf_simplex.training.finite import NonFiniteError
from hf_simplex.training.recipe.arguments import (
    BackboneArguments,
    CalibrationArguments,
    DataArguments,
    EsproArguments,
)
from hf_simplex.training.recipe.assessment import assess
from hf_simplex.training.recipe.components import check_distinct, component_arguments, modes_at_start, start_components
from hf_simplex.training.recipe.images import (
    augmentation_arguments,
    in_batches,
    load_data,
    load_data_with_validation,
    transformed,
    transformed_validation,
)
from hf_simplex.training.recipe.interruption import Interruption
from hf_simplex.training.recipe.least_sure import least_sure
from hf_simplex.training.recipe.memory_format import Choice as MemoryFormatChoice
from hf_simplex.training.recipe.memory_format import set_memory_formats
from hf_simplex.training.recipe.parsing import exit_on_mistake, parse_arguments
from hf_simplex.training.recipe.progress import few_steps, readable_progress, say
from hf_simplex.training.recipe.requirements import (
    broken_images_named,
    check_evaluation_images,
    check_hub_account,
    check_installed,
)
from hf_simplex.training.recipe.run_record import hardware, table, versions
from hf_simplex.training.recipe.strategy import (
    Choice,
    apply_strategy,
    choose_strategy,
    joined_arguments,
    mode_arguments,
)
from hf_simplex.training.recipe.verdict import verdict


@dataclass
class Run:
    """Everything that training and evaluation need."""

    backbone_args: BackboneArguments
    data_args: DataArguments
    calibration: CalibrationArguments
    args: EsproArguments
    data: ImageData
    components: list[SimplexForImageClassification]
    numbers: list[int]
    """Components to train."""
    memory_formats: list[MemoryFormatChoice]
    train: Any
    plain_train: Any
    validation: Any
    """None without validation images."""
    test: Any
    unfamiliar: Any
    """Images out of the distribution; None without such a data set."""
    repository: str | None
    choice: Choice | None = None

    def component_arguments(self, number: int) -> EsproArguments:
        return component_arguments(self.args, number, len(self.components))

    def trainer(self, model: SimplexForImageClassification, args: EsproArguments) -> SimplexTrainer:
        return SimplexTrainer(
            model=model,
            args=args,
            train_dataset=self.train,
            batch_norm_dataset=self.plain_train,
            data_collator=collate,
            data_record=self.data.record,
            data_arguments=augmentation_arguments(self.data_args),
        )

    def say(self, line: str) -> None:
        say(line, self.args)


def main(argv: Sequence[str] | None = None) -> dict[str, Result] | None:
    """Run the recipe. Returns the content of results.json, or None for a single component."""
    # A signal ends the run here at any moment. During a stage the trainer saves first.
    interruption = Interruption(argv)
    with readable_progress(), interruption.told():
        started = time.perf_counter()
        with exit_on_mistake():
            run = prepare(argv)
            check_trainer(run)
            check_resume(run)
        interruption.flag = "--resume"
        # The trainer checks a batch before it trains.
        with exit_on_mistake((ValueError, OSError, NonFiniteError)), broken_images_named(run.data.train):
            grow(run)
        if run.args.component is not None:
            return None
        return evaluate_and_save(run, started)


def prepare(argv: Sequence[str] | None) -> Run:
    """Parse and check the arguments, load data and components, and create the Hub repository."""
    kinds = (BackboneArguments, DataArguments, CalibrationArguments, EsproArguments)
    backbone_args, data_args, calibration, args = parse_arguments(kinds, argv)
    apply_strategy(calibration.strategy, backbone_args, args)
    check(backbone_args, args)
    if args.component is None:
        check_installed("matplotlib", "plots", "The run draws pictures at its end.")
        check_installed("pandas", "recipes", "The run prints a table at its end.")
    if args.probe_head:
        check_installed("sklearn", "probe", "The run fits its head by logistic regression (probe_head).")
    if args.push_to_hub:
        check_hub_account(args.hub_token)
    if calibration.max_forward_passes is not None and (args.num_members is not None or not calibration.choose_members):
        raise ValueError(
            f"max_forward_passes is {calibration.max_forward_passes}, but no members are chosen: leave it out, or "
            "num_members and choose_members."
        )
    if calibration.validation_fraction:
        data = load_data_with_validation(
            data_args, backbone_args.token, calibration.validation_fraction, several_labels=True
        )
    else:
        data = load_data(data_args, backbone_args.token, several_labels=True)
    if args.component is None:
        check_evaluation_images(data)
    with args.main_process_first(local=False):
        components = start_components(backbone_args, data_args, data, args)
    check_rates(components[0].config, {"target_error": calibration.target_error, "coverage": calibration.coverage})
    if calibration.strategy == "auto" and backbone_args.modes is not None:
        # They may become one simplex, which would have the volume 0.
        check_distinct(SimplexForImageClassification.disjoint_union(components), backbone_args.modes)
    train, plain_train, test = transformed(data, data_args, components[0])
    validation = transformed_validation(data, components[0])
    unfamiliar = unfamiliar_images(calibration, data_args, data, components[0], backbone_args.token)
    if unfamiliar is not None and validation is None:
        say("warning: out_of_distribution is not measured without validation images", args)
    if backbone_args.modes is None and (warning := few_steps(len(data.train), args)):
        say(warning, args)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    numbers = list(range(len(components))) if args.component is None else [args.component]
    own_args = [component_arguments(args, number, len(components)) for number in numbers]
    with args.main_process_first(local=False):
        if args.should_save and not args.resume:
            # A simplex of an earlier run's modes would be what a resumed run goes on with.
            for own in (*own_args, joined_arguments(args, len(components))):
                shutil.rmtree(own.output_dir, ignore_errors=True)
    memory_formats = set_memory_formats(
        backbone_args.memory_format, [components[number] for number in numbers], own_args, plain_train
    )
    for number, choice in zip(numbers, memory_formats, strict=False):
        say(choice.described(number), args)
    repository = None
    if args.push_to_hub:
        name = args.hub_model_id or Path(args.output_dir).name
        created = HfApi().create_repo(name, private=args.hub_private_repo, token=args.hub_token, exist_ok=True)
        repository = created.repo_id
    return Run(
        backbone_args,
        data_args,
        calibration,
        args,
        data,
        components,
        numbers,
        memory_formats,
        train,
        plain_train,
        validation,
        test,
        unfamiliar,
        repository,
    )


def check_trainer(run: Run) -> None:
    """Raise ValueError if no trainer can be made with the arguments, such as for a logger that is not installed."""
    try:
        run.trainer(run.components[run.numbers[0]], run.component_arguments(run.numbers[0]))
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def check_resume(run: Run) -> None:
    """Raise ValueError if a component was started with other arguments, data or weights than this run has."""
    if run.args.resume:
        for number in run.numbers:
            run.trainer(run.components[number], run.component_arguments(number)).check_resume()


def grow(run: Run) -> None:
    """Fine-tune the modes and train the connectors of each component."""
    auto = run.calibration.strategy == "auto"
    for number in run.numbers:
        run.say(f"component {number + 1} of {len(run.components)}")
        own = run.component_arguments(number)
        run.trainer(run.components[number], mode_arguments(own) if auto else own).grow(run.args.resume)
    if run.calibration.strategy is not None:
        run.choice = Choice(run.calibration.strategy, run.calibration.strategy, "It was asked for.")
    if auto and run.args.component is None:
        follow_measure(run)


def follow_measure(run: Run) -> None:
    """Measure the barriers between the modes, then join or connect them."""
    validation = None if run.validation is None else in_batches(run.validation, run.args.per_device_eval_batch_size)
    batches = batch_norm_batches(
        run.plain_train,
        images=run.args.batch_norm_images,
        batch_size=run.args.per_device_eval_batch_size,
        collate=collate,
    )
    run.say("Measuring the barriers between the modes ...")
    run.choice = choose_strategy(run.components, validation, batches, from_scratch=run.backbone_args.from_scratch)
    run.say(run.choice.reason)
    if run.choice.chosen == "join":
        joined = SimplexForImageClassification.simplex_of_modes(run.components)
        run.trainer(joined, joined_arguments(run.args, len(run.components))).grow(run.args.resume)
        run.components = [joined]
        # The card and the record tell of the simplex that there is.
        run.backbone_args.num_components = 1
        run.args.num_modes = joined.config.roles.count(MODE)
        run.args.num_vertices = joined.config.num_vertices
        return
    for number, component in enumerate(run.components):
        run.trainer(component, run.component_arguments(number)).grow(run.args.resume)


def evaluate_and_save(run: Run, started: float) -> dict[str, Result]:
    """Unite the components, evaluate the ensemble and its parts, and write and publish everything."""
    args, output = run.args, Path(run.args.output_dir)
    ensemble = SimplexForImageClassification.disjoint_union(run.components)
    ensemble.config.provenance["images"] = run.data.record.to_dict()
    if run.choice is not None:
        ensemble.config.provenance["strategy"] = run.choice.to_json()
    own = run.component_arguments(0)
    if run.validation is not None:
        run.say(f"Calibrating on {len(run.validation)} validation images ...")
        run.trainer(ensemble, own).calibrate(
            run.validation,
            choose=run.calibration.choose_members and args.num_members is None,
            max_forward_passes=run.calibration.max_forward_passes,
            target_error=run.calibration.target_error,
            coverage=run.calibration.coverage,
            data_set=run.data.name,
        )
    run.say(f"Evaluating the ensemble and its parts on {len(run.test)} test images ...")
    assessment = assess(
        ensemble,
        run.test,
        own,
        validation=run.validation if ensemble.decisions is not None else None,
        unfamiliar=run.unfamiliar,
        given_mode_epochs=run.backbone_args.given_mode_epochs,
        data_collator=collate,
    )
    results, predictions, references = assessment.results, assessment.predictions, assessment.references
    surface = loss_surface(ensemble, run.test, run.plain_train, args) if args.surface_resolution else None
    if not args.should_save:
        return results

    ensemble.save_pretrained(output / "ensemble")
    write_trained_images(output / "ensemble", run.data.train)
    record = {
        "arguments": {
            "backbone": {name: value for name, value in vars(run.backbone_args).items() if name != "token"},
            "data": vars(run.data_args),
            "calibration": vars(run.calibration),
            "training": args.to_sanitized_dict(),
        },
        "labels": list(run.data.label_names),
        "images": run.data.record.to_dict(),
        "strategy": None if run.choice is None else run.choice.to_json(),
        "decisions": ensemble.config.decisions,
        "stages": ensemble.config.provenance["stages"],
        "log_volumes": ensemble.log_volumes().tolist(),
        "wall_time": time.perf_counter() - started,
        "memory_formats": [asdict(choice) for choice in run.memory_formats],
        "versions": versions(),
        "hardware": hardware(),
    }
    with atomic_write(output) as aside:
        least_sure(run.data, predictions["espro"].probabilities, ensemble.decisions).savefig(
            aside / "least_sure.png", dpi=160
        )
        (aside / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
        (aside / "run.json").write_text(json.dumps(record, indent=2, default=str) + "\n", "utf-8")
    print(table(results))
    print("\n".join(verdict(results, ensemble.decisions, output / "ensemble")))

    evidence = Evidence(
        data_set=run.data.name,
        test_images=len(run.data.test),
        results=results,
        predictions={name: (predictions[name].probabilities, references) for name in DRAWN_PARTS},
        calibrated=ensemble.decisions is not None,
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


def unfamiliar_images(
    calibration: CalibrationArguments,
    data_args: DataArguments,
    data: ImageData,
    component: SimplexForImageClassification,
    token: str | None,
) -> Any:
    """Test images of the data set `out_of_distribution`, all under label 0, or without labels; None without one."""
    if calibration.out_of_distribution is None:
        return None
    images = load_image_data(
        calibration.out_of_distribution, token=token, fashion_mnist_dir=data_args.fashion_mnist_dir
    ).test
    # It may have fewer test images than the data set itself.
    if (limit := data_args.max_test_examples) is not None and limit < len(images):
        images = images.select(random_subset(images, limit).indices)
    labels: Any = ClassLabel(names=list(data.label_names))
    unknown: list[Any] = [0] * len(images)
    if data.several_labels:
        labels, unknown = List(labels), [[] for _ in unknown]
    images = images.remove_columns("label").add_column("label", unknown, feature=labels)
    return transformed_validation(replace(data, validation=images), component)


def loss_surface(
    ensemble: SimplexForImageClassification, test: Any, train: Any, args: EsproArguments
) -> Surface | None:
    """Evaluate the loss over the plane through the first three vertices of the first simplex, if it has three.

    All processes of a distributed run call this together. Each evaluates a part of the points.
    """
    vertices = ensemble.config.simplexes[0][:3]
    if len(vertices) < 3:
        return None
    say(f"Evaluating the loss surface at {args.surface_resolution**2} points ...", args)
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
    if args.probe_head and backbone_args.from_scratch:
        raise ValueError(
            "probe_head was given with from_scratch: random features say nothing of the labels. Leave it out."
        )
    if args.probe_head and backbone_args.modes is not None:
        raise ValueError("probe_head was given with modes, whose heads are trained already: leave one of them out.")
    if backbone_args.from_scratch and backbone_args.vertex_parameters != "all":
        raise ValueError(
            f"vertex_parameters is {backbone_args.vertex_parameters!r} with from_scratch: random weights that all "
            "vertices share would never be trained. Give a pretrained backbone."
        )
    if backbone_args.from_scratch and modes_at_start(args) > 1:
        raise ValueError(
            f"num_modes is {args.num_modes} with from_scratch: modes from random weights have barriers between them, "
            "so that no simplex of them has low loss. Give num_components, and connectors to each (num_vertices)."
        )
    modes, of_each = len(backbone_args.modes or ()), modes_at_start(args)
    if modes % of_each:
        raise ValueError(
            f"There are {modes} modes, which cannot be divided into simplexes of {of_each} (num_modes) each."
        )
    components = modes // of_each or backbone_args.num_components
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


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        # A process that exits while others still communicate makes them fail.
        torch.distributed.destroy_process_group()
