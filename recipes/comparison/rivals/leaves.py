"""Trunk and leaves: short runs from one fine-tuned model, each with a learning rate cycle of its own (StarSSE).

Source: Sadrtdinov et al., To Stay or Not to Stay in the Pre-train Basin, NeurIPS 2023.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import ClassVar

from transformers import Trainer

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.points import predict_points
from comparison.rivals.rival import Rival, Style
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["Leaves"]


class Leaves(Rival):
    """Leaves of the first mode: `leaves_x<rate>` holds the leaves, `leaves_x<rate>_centroid` their centroid."""

    name, label, color = "leaves", "trunk and leaves", "#d55e00"
    # Colors of the leaves and of their centroid, by learning rate.
    rates: ClassVar[Mapping[float, tuple[str, str]]] = {
        0.5: ("#d9c7a3", "#b08d57"),
        1.0: ("#c7a76c", "#8c6d31"),
        2.0: ("#e6550d", "#fd8d3c"),
        4.0: ("#843c39", "#d6616b"),
    }

    @property
    def styles(self) -> Mapping[str, Style]:
        found = {}
        for rate, (color, centroid_color) in self.rates.items():
            found[self._method(rate)] = Style(f"{self.label}, rate x{rate:g}", color)
            found[f"{self._method(rate)}_centroid"] = Style(f"{self.label}, centroid, rate x{rate:g}", centroid_color)
        return {**found, **self.further_styles}

    def leaf_epochs(self, compare: CompareArguments, args: EsproArguments) -> float:
        """Epochs of a leaf: by default, all leaves together train as long as the trunk."""
        return float(args.num_train_epochs) / compare.num_leaves if args.leaf_epochs is None else args.leaf_epochs

    def trunk_epochs(self, compare: CompareArguments, args: EsproArguments) -> float:
        """Epochs of the trunk."""
        return float(args.num_train_epochs)

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        if unknown := [rate for rate in compare.leaf_rates if rate not in self.rates]:
            raise ValueError(
                f"leaf_rates has {unknown[0]:g}: choose from {', '.join(f'{rate:g}' for rate in self.rates)}."
            )
        if args.leaf_learning_rate is not None:
            raise ValueError("leaf_learning_rate was given: here, leaf_rates are multiples of learning_rate.")
        if compare.num_leaves < 1:
            raise ValueError(f"num_leaves is {compare.num_leaves}: expected at least one leaf.")
        self._check_epochs(compare, args)

    def _check_epochs(self, compare: CompareArguments, args: EsproArguments) -> None:
        epochs = self.leaf_epochs(compare, args)
        cost = float(args.num_train_epochs) + compare.num_leaves * epochs
        if epochs <= 0 or cost > compare.budget + 1e-9:
            raise ValueError(
                f"num_leaves is {compare.num_leaves} and leaf_epochs {epochs:g}: expected leaves of more than 0 "
                f"epochs, and at most {compare.budget:g} epochs (budget) with the trunk, not {cost:g}."
            )

    def run(self, run: Repetition) -> None:
        compare = run.compare
        trunk_epochs, leaf_epochs = self.trunk_epochs(compare, run.args), self.leaf_epochs(compare, run.args)
        epochs = [trunk_epochs + leaf_epochs * (leaf + 1) for leaf in range(compare.num_leaves)]
        equal = [1 / compare.num_leaves] * compare.num_leaves
        for rate in compare.leaf_rates:

            def members(points: list[list[float]], rate: float = rate) -> Iterable[Probabilities]:
                return predict_points(run, self.leaves(run, rate), points)

            corners = [[float(own == leaf) for own in range(compare.num_leaves)] for leaf in range(compare.num_leaves)]
            run.predicted(self._method(rate), epochs, functools.partial(members, corners))
            run.predicted(f"{self._method(rate)}_centroid", epochs[-1:], functools.partial(members, [equal]))

    def leaves(self, run: Repetition, rate: float) -> list[Weights]:
        """The leaves of one learning rate, trained or from the folder of the run."""
        trunk_epochs, epochs = self.trunk_epochs(run.compare, run.args), self.leaf_epochs(run.compare, run.args)

        def make(model: int) -> Weights:
            module = run.start(0)
            module.load_state_dict(dict(run.mode(0, trunk_epochs)))
            run.fit(Trainer, module, model, epochs, rate=rate * run.args.learning_rate)
            return module.state_dict()

        # The first model is the trunk; a leaf has seeds of its own.
        return [
            run.kept(f"leaf-{leaf}-of-{trunk_epochs:g}-epochs-{epochs:g}-rate-{rate:g}", functools.partial(make, leaf))
            for leaf in range(1, run.compare.num_leaves + 1)
        ]

    def _method(self, rate: float) -> str:
        return f"{self.name}_x{rate:g}"
