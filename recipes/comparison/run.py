"""A comparison: every rival with every seed."""

import json
from typing import Any

from safetensors.numpy import save_file as save_arrays

from comparison.arguments import SHARED_ARGUMENTS, CompareArguments, check_arguments
from comparison.metrics import seed_results
from comparison.registry import RIVALS
from comparison.repetition import Repetition
from hf_simplex.evaluation.shift import check_corruption
from hf_simplex.model.checkpoint import atomic_write
from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments
from hf_simplex.training.recipe.run_record import hardware, versions

__all__ = ["Comparison", "check", "run_rival"]


class Comparison:
    """Every rival of a comparison with every seed.

    Args:
        compare: arguments of the comparison.
        data_args: arguments of the images.
        args: arguments of the training.

    Raises:
        ValueError, OSError, ImportError: arguments, images or backbone do not fit; nothing was trained or written.

    Example::

        results = Comparison(CompareArguments(methods=["deep_ensemble", "espro"]), data_args, args).run()
        results[0]["methods"]["deep_ensemble"][-1]["nll"]
    """

    def __init__(self, compare: CompareArguments, data_args: DataArguments, args: EsproArguments) -> None:
        check(compare, args)
        self.compare, self.data_args, self.args = compare, data_args, args
        self.held: dict[str, Any] = {}
        # Its images show what is wrong with those of any seed.
        self.first = Repetition(compare, data_args, args, compare.seeds[0], self.held)
        for method in compare.methods:
            RIVALS[method].check_backbone(self.first.start(0), compare)

    def run(self) -> dict[int, dict[str, Any]]:
        """Train and predict with every rival; returns what results.json of each seed holds."""
        results = {}
        for seed in self.compare.seeds:
            repetition = (
                self.first
                if seed == self.compare.seeds[0]
                else Repetition(self.compare, self.data_args, self.args, seed, self.held)
            )
            for method in self.compare.methods:
                run_rival(repetition, method)
                # After each rival, so that a run that stops leaves its results.
                results[seed] = write_results(repetition)
        return results


def run_rival(repetition: Repetition, method: str) -> None:
    """Train and predict with one rival.

    Raises:
        ValueError: the models of the folder were made with other arguments.
    """
    sources = zip((repetition.compare, repetition.data_args, repetition.args), SHARED_ARGUMENTS, strict=True)
    shared = {name: getattr(source, name) for source, names in sources for name in names}
    check_arguments(repetition.folder, shared, "another output_dir")
    RIVALS[method].run(repetition)


def write_results(repetition: Repetition) -> dict[str, Any]:
    """Write results.json of one seed, with all predictions so far, and return what it holds."""
    images = {name: len(images) for name, images in repetition.splits.items()}
    results = {
        "seed": repetition.seed,
        "arguments": {
            "comparison": vars(repetition.compare),
            "data": vars(repetition.data_args),
            "training": repetition.args.to_sanitized_dict(),
        },
        "images": images | {"train": len(repetition.data.train)},
        "versions": versions(),
        "hardware": hardware(),
        "methods": seed_results(repetition.predictions(), repetition.labels()),
    }
    with atomic_write(repetition.folder) as aside:
        save_arrays(repetition.labels(), aside / "labels.safetensors")
        (aside / "results.json").write_text(json.dumps(results, indent=1, default=str) + "\n", "utf-8")
    return results


def check(compare: CompareArguments, args: EsproArguments) -> None:
    """Check the arguments before anything is trained.

    Raises:
        ValueError: an unknown name, or a budget that trains nothing.
    """
    if unknown := [method for method in compare.methods if method not in RIVALS]:
        raise ValueError(f"methods has {unknown[0]!r}: choose from {', '.join(RIVALS)}.")
    for corruption in compare.corruptions or ():
        for severity in compare.severities:
            check_corruption(corruption, severity)
    if not compare.seeds or min(compare.seeds) < 0 or len(set(compare.seeds)) < len(compare.seeds):
        raise ValueError(f"seeds is {compare.seeds}: expected different numbers of 0 or more.")
    if compare.shared_head and compare.from_scratch:
        raise ValueError("shared_head with from_scratch: all models would begin alike. Leave one of them out.")
    if compare.from_scratch and args.probe_head:
        raise ValueError("probe_head with from_scratch: random features say nothing of the labels. Leave it out.")
    if args.leaf_epochs is not None and "leaves" not in compare.methods:
        raise ValueError(f"leaf_epochs is {args.leaf_epochs:g}, but methods has no leaves: leave it out.")
    if compare.budget < args.num_train_epochs:
        raise ValueError(
            f"budget is {compare.budget:g} epochs and one mode takes {args.num_train_epochs:g} (num_train_epochs): "
            "give a budget for at least one mode."
        )
    if compare.short_mode_epochs is not None and not 0 < compare.short_mode_epochs <= compare.budget:
        raise ValueError(
            f"short_mode_epochs is {compare.short_mode_epochs:g}: expected more than 0 and at most the budget of "
            f"{compare.budget:g} epochs."
        )
    for method in compare.methods:
        RIVALS[method].check(compare, args)
    # The folder of the comparison keeps weights instead.
    args.save_strategy = "no"
