"""ESPRO: several simplexes, each with modes and connectors of its own, and several choices of members."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from comparison.arguments import ESPRO_ARGUMENTS, CompareArguments, check_arguments
from comparison.budget import component_epochs, espro_components, espro_mode_epochs
from comparison.repetition import Probabilities, Repetition
from comparison.rivals.rival import Rival, Style
from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_transforms import collate
from hf_simplex.model.coordinates import centroid_coordinates, vertex_coordinates
from hf_simplex.model.members import draw_members, symmetric_members
from hf_simplex.training.recipe.arguments import EsproArguments

__all__ = ["MEMBER_CHOICES", "Espro"]

# The centroid of each component; as many points as it has vertices, placed by the trainer's rule; random points; the
# vertices; and centroid and vertices together, which need no further predictions.
MEMBER_CHOICES = ("centroids", "members", "points", "vertices", "centroids_and_vertices")


class Espro(Rival):
    """As many components as the budget pays for, or `espro_components`; one file of predictions for each choice."""

    name, label, color = "espro", "ESPRO", "#d55e00"

    @property
    def styles(self) -> Mapping[str, Style]:
        return {
            "espro_centroids": Style("ESPRO, centroids", "#d55e00"),
            "espro_members": Style("ESPRO, placed members", "#e34a6f"),
            "espro_points": Style("ESPRO, random points", "#009e73"),
            "espro_vertices": Style("ESPRO, vertices", "#b15928"),
            "espro_centroids_and_vertices": Style("ESPRO, centroids and vertices", "#7a0403"),
        }

    def check(self, compare: CompareArguments, args: EsproArguments) -> None:
        if args.mode_start != "backbone":
            raise ValueError(
                f"mode_start is {args.mode_start!r}, but the modes of a comparison start from the backbone."
            )
        espro_components(compare, args)

    def run(self, run: Repetition) -> None:
        cost = component_epochs(run.compare, run.args)
        number = espro_components(run.compare, run.args)
        name, points = run.compare.espro_name, run.compare.points_a_component
        choices: dict[str, list[list[Probabilities]]] = {
            choice: [] for choice in MEMBER_CHOICES if points or choice != "points"
        }
        own: dict[str, Any] = {"espro_mode_epochs": espro_mode_epochs(run.compare, run.args)}
        own |= {argument: getattr(run.args, argument) for argument in ESPRO_ARGUMENTS}
        check_arguments(run.folder / name, own, "another espro_name, or another output_dir")
        if all(run.predictions_file(f"{name}_{choice}").exists() for choice in choices):
            return
        for index in range(number):
            for choice, members in self._predict(run, self._component(run, index), index).items():
                if choice in choices:
                    choices[choice].append(members)
        for choice, of_components in choices.items():
            # One of each component, then the second of each: any number of the first ones is spread evenly.
            members = [own[i] for i in range(len(of_components[0])) for own in of_components]
            epochs = [cost * min(i + 1, number) for i in range(len(members))]
            run.predicted(f"{name}_{choice}", epochs, functools.partial(list, members))

    def _component(self, run: Repetition, index: int) -> SimplexForImageClassification:
        """The simplex of the component's modes and connectors, trained or from the folder of the run."""
        folder = run.folder / run.compare.espro_name / f"component-{index}"
        if not (folder / "config.json").exists():
            modes = []
            for model in range(index * run.args.num_modes, (index + 1) * run.args.num_modes):
                module = run.start(model)
                module.load_state_dict(dict(run.mode(model, espro_mode_epochs(run.compare, run.args))))
                modes.append(SimplexForImageClassification.from_backbone(module, fine_tuned=True))
            simplex = SimplexForImageClassification.simplex_of_modes(modes)
            own = run.training_arguments(index)
            own.num_members = 1
            trainer = SimplexTrainer(
                model=simplex,
                args=own,
                train_dataset=run.train_images,
                batch_norm_dataset=run.plain_images,
                data_collator=collate,
            )
            trainer.grow()
            simplex.save_pretrained(folder)
        loaded: SimplexForImageClassification = SimplexForImageClassification.from_pretrained(folder)
        if run.compare.channels_last:
            backbone: nn.Module = loaded.backbone
            backbone.to(memory_format=torch.channels_last)
        return loaded

    def _predict(
        self, run: Repetition, component: SimplexForImageClassification, index: int
    ) -> dict[str, list[Probabilities]]:
        """The predictions of one component's members, by choice."""
        structure, points = component.config.complex, run.compare.points_a_component
        coordinates = {
            "centroids": [centroid_coordinates(structure, 0).tolist()],
            "members": symmetric_members(structure),
            "points": draw_members(structure, points, seed=run.seed_of(index)) if points else [],
            "vertices": [vertex_coordinates(structure, v).tolist() for v in range(structure.num_vertices)],
        }
        found = {
            choice: [run.predict(component.backbone_at(c, run.batch_norm_batches)) for c in wanted]
            for choice, wanted in coordinates.items()
        }
        return found | {"centroids_and_vertices": found["centroids"] + found["vertices"]}
