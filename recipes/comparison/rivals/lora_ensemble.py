"""LoRA-Ensemble: members share a frozen pretrained transformer; each has its own low-rank adapters and head.

Source: Halbheer et al., LoRA-Ensemble: Efficient Uncertainty Modelling for Self-attention Networks, arXiv 2405.14438.
"""

import functools
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer, set_seed

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble

__all__ = ["LoraEnsemble", "lora_member"]


def lora_member(backbone: PreTrainedModel, rank: int, target_modules: list[str]) -> PreTrainedModel:
    """Add fresh LoRA adapters to a backbone, and freeze all but these and the head.

    Args:
        backbone: a transformer for image classification, which is changed.
        rank: of the adapters.
        target_modules: the linear layers that get adapters, by the ends of their names: the attention's projections.

    Returns:
        The model to train and to predict with.

    Raises:
        ImportError: peft is not installed.
        ValueError: the backbone has no such layers (it is no transformer, or has other names for them).

    Example::

        member = lora_member(ViTForImageClassification.from_pretrained(...), rank=8, target_modules=["query", "value"])
    """
    from peft import LoraConfig, get_peft_model  # an optional dependency

    linear = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    if not any(name.split(".")[-1] in target_modules for name in linear):
        raise ValueError(
            f"{type(backbone).__name__} has no linear layers called {', '.join(target_modules)}: LoRA-Ensemble is for "
            "transformers. Leave the method lora_ensemble out, or name the attention's projections in lora_targets."
        )
    heads = {name.split(".")[-1] for name, _ in backbone.named_children()} & {"classifier", "head"}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=target_modules, modules_to_save=sorted(heads) or None)
    member: Any = get_peft_model(backbone, config)
    return member


class LoraEnsemble(Ensemble[list[Weights]]):
    """As many members as the budget pays for, each trained for `num_train_epochs`."""

    name, label, color = "lora_ensemble", "LoRA-Ensemble", "#6a3d9a"

    def check_backbone(self, backbone: PreTrainedModel, compare: CompareArguments) -> None:
        lora_member(backbone, compare.lora_rank, compare.lora_targets)

    def epochs(self, run: Repetition) -> list[float]:
        epochs = float(run.args.num_train_epochs)
        return [epochs * (i + 1) for i in range(int(run.compare.budget / epochs))]

    def train(self, run: Repetition) -> list[Weights]:
        epochs = float(run.args.num_train_epochs)

        def make(index: int) -> Weights:
            module = self._member(run, index)
            run.fit(Trainer, module, index, epochs, rate=run.compare.lora_learning_rate)
            return module.state_dict()

        return [
            run.kept(f"lora-{index}-epochs-{epochs:g}", functools.partial(make, index))
            for index in range(len(self.epochs(run)))
        ]

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        for index, weights in enumerate(trained):
            yield run.predict(run.at(self._member(run, index), weights, statistics=False))

    def _member(self, run: Repetition, index: int) -> PreTrainedModel:
        module = run.start(index)
        # The adapters are each model's own, even where heads are not.
        set_seed(run.seed_of(index))
        return lora_member(module, run.compare.lora_rank, run.compare.lora_targets)
