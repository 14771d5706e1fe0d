"""Points between trained models: one set of vertices, and coordinates over it."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from comparison.repetition import Probabilities, Repetition, Weights
from comparison.rivals.rival import Ensemble
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.members import symmetric_members
from hf_simplex.model.weight_space import write_point

__all__ = ["JoinedModes", "Points", "predict_points"]


def predict_points(
    run: Repetition, vertices: Sequence[Weights], coordinates: Sequence[Sequence[float]]
) -> Iterator[Probabilities]:
    """Predict at each point, with BatchNorm statistics recomputed.

    Args:
        run: images and training arguments.
        vertices: weights of each vertex.
        coordinates: [points, vertices], each row sums to 1.

    Returns:
        [points] probabilities.
    """
    for point in coordinates:
        write_point(run.module, vertices, point)
        yield run.predict(run.at(run.module, {}))


class Points(Ensemble[list[Weights]]):
    """Points at given coordinates over trained vertices, with BatchNorm statistics recomputed.

    Example::

        class Middle(Points):
            name, label, color = "middle", "middle of two modes", "#0072b2"

            def train(self, run):
                return run.modes(8.0)

            def epochs(self, run):
                return [16.0]

            def coordinates(self, run):
                return [[0.5, 0.5]]
    """

    @abstractmethod
    def coordinates(self, run: Repetition) -> Sequence[Sequence[float]]:
        """Coordinates over the vertices that `train` returns: [points, vertices], each row sums to 1."""

    def predict(self, run: Repetition, trained: list[Weights]) -> Iterable[Probabilities]:
        return predict_points(run, trained, self.coordinates(run))


class JoinedModes(Points):
    """The symmetric members of the simplex of the deep ensemble's modes: one near each mode."""

    name, label, color = "joined_modes", "modes joined, symmetric members", "#ce6dbd"

    def epochs(self, run: Repetition) -> list[float]:
        return run.modes_epochs(float(run.args.num_train_epochs))[-1:] * len(self.coordinates(run))

    def train(self, run: Repetition) -> list[Weights]:
        return run.modes(float(run.args.num_train_epochs))

    def coordinates(self, run: Repetition) -> Sequence[Sequence[float]]:
        modes = len(run.modes_epochs(float(run.args.num_train_epochs)))
        return symmetric_members(SimplicialComplex(modes, (tuple(range(modes)),)))
