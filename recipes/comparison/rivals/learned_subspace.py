"""All vertices at once: every step trains all vertices of a simplex through one point of it.

Source: Wortsman et al., Learning Neural Network Subspaces, ICML 2021.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Trainer

from comparison.arguments import CompareArguments
from comparison.repetition import Repetition, Weights
from comparison.rivals.points import predict_points
from comparison.rivals.rival import Rival, Style
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.members import symmetric_members
from hf_simplex.model.sampling import sample_simplex
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["LearnedSubspace", "Subspace"]


class Subspace(nn.Module):
    """A simplex of a backbone, all of whose vertices are trained.

    In training, each batch sees one point, drawn uniformly from the simplex. The loss has the squared cosine of two
    vertices' distances from the start, which keeps the vertices apart.

    Args:
        starts: Backbones [vertices], all on one device. The first one computes.
        apart: Weight of the squared cosine (beta in the paper).
        seed: Seed of the points and of the pairs.

    Example::

        subspace = Subspace([run.start(0), run.start(1)], apart=1.0, seed=0)
        run.fit(Trainer, subspace, 0, epochs=12)
    """

    def __init__(self, starts: Sequence[nn.Module], apart: float, seed: int) -> None:
        super().__init__()
        self.backbone = starts[0]
        self.names = [name for name, own in self.backbone.named_parameters() if own.requires_grad]
        self.vertices = nn.ModuleList(
            nn.ParameterList(nn.Parameter(start.get_parameter(name).detach().clone()) for name in self.names)
            for start in starts
        )
        self.backbone.requires_grad_(False)
        self.starts = [[own.detach().clone() for own in self._vertex(vertex)] for vertex in range(len(starts))]
        self.apart = apart
        self.draws = torch.Generator().manual_seed(seed)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> Any:
        """The backbone's output at a drawn point, with the loss of the subspace."""
        coordinates = sample_simplex(len(self.vertices), 1, self.draws)[0].tolist()
        vertices = [self._vertex(vertex) for vertex in range(len(self.vertices))]
        point = {
            name: sum(c * own[index] for c, own in zip(coordinates, vertices, strict=True))
            for index, name in enumerate(self.names)
        }
        output = functional_call(self.backbone, point, kwargs={"pixel_values": pixel_values, "labels": labels})
        if self.apart and len(vertices) > 1:
            first, second = torch.randperm(len(vertices), generator=self.draws)[:2].tolist()
            output.loss = output.loss + self.apart * self._squared_cosine(first, second)
        return output

    def _squared_cosine(self, first: int, second: int) -> Tensor:
        one, other = (
            torch.cat([(own - start).flatten() for own, start in zip(self._vertex(v), self.starts[v], strict=True)])
            for v in (first, second)
        )
        # At the start both are 0, and so is the cosine.
        return (one @ other) ** 2 / ((one @ one) * (other @ other)).clamp_min(1e-12)

    def weights(self) -> list[dict[str, Tensor]]:
        """The vertices: by name of the parameter."""
        return [
            {name: own.detach() for name, own in zip(self.names, self._vertex(vertex), strict=True)}
            for vertex in range(len(self.vertices))
        ]

    def _vertex(self, vertex: int) -> list[nn.Parameter]:
        found: Any = self.vertices[vertex]
        return list(found)


class LearnedSubspace(Rival):
    """The symmetric members of a simplex whose vertices were trained at once for the whole budget; its centroid."""

    name, label, color = "learned_subspace", "all vertices at once", "#999933"
    further_styles: ClassVar[Mapping[str, Style]] = {
        "subspace_centroid": Style("all vertices at once, centroid", "#ddcc77")
    }

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        if compare.subspace_vertices < 2:
            raise ValueError(f"subspace_vertices is {compare.subspace_vertices}: expected at least two vertices.")

    def run(self, run: Repetition) -> None:
        budget, number = run.compare.budget, run.compare.subspace_vertices
        members = symmetric_members(SimplicialComplex(number, (tuple(range(number)),)))

        def at(points: Iterable[Sequence[float]]) -> Any:
            return lambda: predict_points(run, self._vertices(run), [list(point) for point in points])

        run.predicted(self.name, [budget] * number, at(members))
        run.predicted("subspace_centroid", [budget], at([[1 / number] * number]))

    def _vertices(self, run: Repetition) -> list[Weights]:
        number, budget, apart = run.compare.subspace_vertices, run.compare.budget, run.compare.subspace_apart

        def make() -> Weights:
            module = Subspace([run.start(vertex) for vertex in range(number)], apart, run.seed_of(0))
            run.fit(Trainer, module, 0, budget)
            return {
                f"{vertex}.{name}": own for vertex, found in enumerate(module.weights()) for name, own in found.items()
            }

        kept = run.kept(f"subspace-of-{number}-epochs-{budget:g}-apart-{apart:g}", make)
        return [
            {name.split(".", 1)[1]: own for name, own in kept.items() if name.startswith(f"{vertex}.")}
            for vertex in range(number)
        ]
