"""Linear probe first: modes whose head is fitted to the features before fine-tuning (LP-FT).

Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.
"""

import functools
from collections.abc import Mapping
from typing import ClassVar

from transformers import Trainer

from comparison.arguments import CompareArguments
from comparison.repetition import Repetition, Weights
from comparison.rivals.rival import Rival, Style
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["ProbedModes"]


class ProbedModes(Rival):
    """A deep ensemble of modes with a probed head, and one model with a probed head for the whole budget."""

    name, label, color = "probed_modes", "deep ensemble, linear probe first", "#0b3d91"
    further_styles: ClassVar[Mapping[str, Style]] = {
        "probed_single": Style("single model, linear probe first", "#4d4d4d")
    }

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        if args.probe_head:
            raise ValueError("probe_head with probed_modes: all models would be probed. Leave probe_head out.")
        if compare.from_scratch:
            raise ValueError("probed_modes with from_scratch: random features say nothing of the labels.")

    def run(self, run: Repetition) -> None:
        epochs, budget = float(run.args.num_train_epochs), run.compare.budget
        together = run.modes_epochs(epochs)
        run.predicted(
            self.name,
            together,
            lambda: (run.predict(run.at_mode(self._mode(run, model, epochs))) for model in range(len(together))),
        )
        run.predicted("probed_single", [budget], lambda: [run.predict(run.at_mode(self._mode(run, 0, budget)))])

    def _mode(self, run: Repetition, model: int, epochs: float) -> Weights:
        return run.kept(f"probed-{model}-epochs-{epochs:g}", functools.partial(self._train, run, model, epochs))

    def _train(self, run: Repetition, model: int, epochs: float) -> Weights:
        own = run.with_arguments(probe_head=True)
        module = own.start(model)
        own.fit(Trainer, module, model, epochs)
        return module.state_dict()
