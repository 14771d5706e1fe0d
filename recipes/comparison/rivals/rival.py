"""The interface of a rival."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Generic, NamedTuple, TypeVar

from transformers import PreTrainedModel

from comparison.arguments import CompareArguments
from comparison.repetition import Probabilities, Repetition
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["Ensemble", "Rival", "Style"]

Trained = TypeVar("Trained")


class Style(NamedTuple):
    """How tables and pictures show a method."""

    label: str
    color: str


class Rival(ABC):
    """A method of the comparison.

    Attributes:
        name: the value of `--methods`.
        label: the name in tables and pictures.
        color: the color in pictures.
        further_styles: the styles of further files of predictions, by the file's name.
        single_model: whether one ordinary model predicts, in one forward pass.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    color: ClassVar[str]
    further_styles: ClassVar[Mapping[str, Style]] = {}
    single_model: ClassVar[bool] = False

    @property
    def styles(self) -> Mapping[str, Style]:
        """The style of each file of predictions that the rival writes, by the file's name."""
        return {self.name: Style(self.label, self.color), **self.further_styles}

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:  # noqa: B027
        """Check the arguments before anything is trained.

        Raises:
            ValueError: the budget does not pay for one member.
        """

    def check_backbone(self, backbone: PreTrainedModel, compare: CompareArguments) -> None:  # noqa: B027
        """Check a backbone, which this call may change, before anything is trained.

        Raises:
            ValueError: the method does not fit the backbone.
            ImportError: a package that the method needs is not installed.
        """

    @abstractmethod
    def run(self, run: Repetition) -> None:
        """Train, and write predictions with `Repetition.predicted`, unless they are there."""


class Ensemble(Rival, Generic[Trained]):
    """A rival with one list of members: how it trains them, and how they predict.

    Example::

        class TwoModes(Ensemble[list[Weights]]):
            name, label, color = "two_modes", "two modes", "#0072b2"

            def epochs(self, run):
                return [8.0, 16.0]

            def train(self, run):
                return [run.mode(0, 8.0), run.mode(1, 8.0)]

            def predict(self, run, trained):
                return (run.predict(run.at_mode(weights)) for weights in trained)
    """

    @abstractmethod
    def epochs(self, run: Repetition) -> list[float]:
        """Training epochs that the first member, the first two members, ... need together: [members]."""

    @abstractmethod
    def train(self, run: Repetition) -> Trained:
        """Train the models, or load them from the folder of the run."""

    @abstractmethod
    def predict(self, run: Repetition, trained: Trained) -> Iterable[Probabilities]:
        """Predict with one member after the other."""

    def run(self, run: Repetition) -> None:
        run.predicted(self.name, self.epochs(run), lambda: self.predict(run, self.train(run)))
