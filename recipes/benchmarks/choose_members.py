"""Find small sets of members that predict as well as 25 random points of the simplexes (the paper's choice).

    python recipes/benchmarks/choose_members.py output/quickstart/ensemble --data_set digits --image_size 64

One half of the test images selects members greedily, the other half evaluates each choice. Random members are averaged
over many draws. `difference` is the negative log-likelihood minus that of 25 random members (mean over draws), and
`standard_error` its standard error over the images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import parser, report, start
from torch import Tensor
from torch.utils.data import DataLoader

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from hf_simplex.model.complexes import SimplicialComplex
from hf_simplex.model.coordinates import centroid_coordinates, face_coordinates, vertex_coordinates
from hf_simplex.model.members import draw_members, symmetric_members
from hf_simplex.model.problem_types import refuse_several

DRAWS = 200


def low_discrepancy(structure: SimplicialComplex, for_each: int, seed: int) -> list[list[float]]:
    """Draw points in each simplex from the sorted gaps of a scrambled Sobol sequence."""
    points = []
    for simplex in structure.simplexes:
        cuts = torch.quasirandom.SobolEngine(len(simplex) - 1, scramble=True, seed=seed).draw(for_each).double()
        cuts = cuts.sort(dim=1).values
        gaps = cuts.diff(dim=1, prepend=torch.zeros(for_each, 1), append=torch.ones(for_each, 1))
        for row in gaps.tolist():
            placed = [0.0] * structure.num_vertices
            for vertex, coordinate in zip(simplex, row, strict=True):
                placed[vertex] = coordinate
            points.append(placed)
    return points


def choices(structure: SimplicialComplex, seed: int) -> dict[str, list[list[float]]]:
    """Build sets of members by rule."""
    centroids = [centroid_coordinates(structure, index).tolist() for index in range(len(structure.simplexes))]
    vertices = [vertex_coordinates(structure, index).tolist() for index in range(structure.num_vertices)]
    return {
        "first mode": vertices[:1],
        "modes": [vertices[simplex[0]] for simplex in structure.simplexes],
        "centroids": centroids,
        "vertices": vertices,
        "vertices and centroids": vertices + centroids,
        "edge midpoints": [face_coordinates(structure, edge, 2)[1].tolist() for edge in structure.edges()],
        "symmetric rule": symmetric_members(structure),
        "4 of low discrepancy": low_discrepancy(structure, 4, seed),
        "8 of low discrepancy": low_discrepancy(structure, 8, seed),
    }


@torch.no_grad()
def probabilities(
    model: SimplexForImageClassification, point: Sequence[float], loader: DataLoader[Any], statistics: list[Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Predict [images, labels] at a point, with recomputed BatchNorm statistics."""
    backbone = model.backbone_at(point, statistics)
    logits: list[Tensor] = [backbone(pixel_values=batch["pixel_values"].to(model.device)).logits for batch in loader]
    return torch.cat(logits).double().softmax(-1).cpu().numpy()


def greedy(found: Any, labels: Any, size: int) -> list[list[int]]:
    """Select 1 to `size` points greedily, with repetition, by the NLL of probabilities [points, images, labels]."""
    chosen: list[int] = []
    sets = []
    total = np.zeros_like(found[0])
    for count in range(1, size + 1):
        losses = [negative_log_likelihood((total + one) / count, labels) for one in found]
        chosen.append(int(np.argmin(losses)))
        total += found[chosen[-1]]
        sets.append(list(chosen))
    return sets


def judge(mean: Any, labels: Any, reference: Any) -> dict[str, Any]:
    """Evaluate averaged probabilities, also relative to the log-likelihood of each image under a reference."""
    difference = reference - np.log(mean[np.arange(len(labels)), labels])
    return {
        "nll": negative_log_likelihood(mean, labels),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / len(labels) ** 0.5),
        "accuracy": accuracy(mean, labels),
        "ece": expected_calibration_error(mean, labels),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    model = SimplexForImageClassification.from_pretrained(args.ensemble).to(device)
    refuse_several(model.config, "This benchmark measures", "Give an ensemble of one label an image.")
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    whole = model.config.complex
    structure, kept = whole.sub_complex(range(args.simplexes or len(whole.simplexes)))
    data = load_image_data(
        args.data_set, max_train_examples=args.max_train_examples, max_test_examples=args.max_test_examples
    )
    _, transform = build_transforms(model.image_processor, augment="none")
    train = with_pixel_values(data.train.select(range(args.batch_norm_images)), transform)
    statistics = [
        {"pixel_values": batch["pixel_values"]} for batch in DataLoader(train, args.batch_size, collate_fn=collate)
    ]
    test: Any = with_pixel_values(data.test, transform, materialize=True)
    loader: DataLoader[Any] = DataLoader(test, args.batch_size, collate_fn=collate)
    labels = np.concatenate([batch["labels"].numpy() for batch in loader])
    for_choosing = np.arange(len(labels)) % 2 == 0

    rules = choices(structure, args.seed)
    pool = draw_members(structure, args.pool, seed=args.seed)
    points = list(dict.fromkeys(map(tuple, [*pool, *(point for rule in rules.values() for point in rule)])))
    in_whole = [[point[kept.index(v)] if v in kept else 0.0 for v in range(whole.num_vertices)] for point in points]
    found = np.stack([probabilities(model, point, loader, statistics) for point in in_whole])
    choosing, judging = found[:, for_choosing], found[:, ~for_choosing]
    judged_labels = labels[~for_choosing]

    random = np.random.default_rng(args.seed)
    drawn = {
        size: [random.choice(len(pool), size, replace=False) for _ in range(DRAWS)]
        for size in args.random_sizes
        if size <= len(pool)
    }
    reference_size = max(drawn)
    images = np.arange(len(judged_labels))
    reference = np.mean(
        [np.log(judging[which].mean(axis=0)[images, judged_labels]) for which in drawn[reference_size]], axis=0
    )
    rows: list[dict[str, Any]] = []
    for size, draws in drawn.items():
        judged = [judge(judging[which].mean(axis=0), judged_labels, reference) for which in draws]
        row = {name: float(np.mean([one[name] for one in judged])) for name in judged[0]}
        spread = float(np.std([one["nll"] for one in judged], ddof=1))
        rows.append({"members": "random", "forward_passes": size, **row, "spread_over_draws": spread})
    for name, rule in rules.items():
        which = [points.index(tuple(point)) for point in rule]
        row = judge(judging[which].mean(axis=0), judged_labels, reference)
        rows.append({"members": name, "forward_passes": len(which), **row})
    for chosen in greedy(choosing, labels[for_choosing], args.greedy):
        row = judge(judging[chosen].mean(axis=0), judged_labels, reference)
        rows.append({"members": "greedy", "forward_passes": len(set(chosen)), **row})
    args.simplexes, args.judged_images = len(structure.simplexes), len(judged_labels)
    return report(args, device, rows)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "choose_members")
    found.add_argument("ensemble", type=Path, help="Checkpoint of train_espro.py.")
    found.add_argument("--data_set", default="digits")
    found.add_argument("--max_train_examples", type=int)
    found.add_argument("--max_test_examples", type=int)
    found.add_argument("--batch_size", type=int, default=100)
    found.add_argument("--batch_norm_images", type=int, default=500)
    found.add_argument("--simplexes", type=int, help="Number of simplexes to use. Default: all.")
    found.add_argument("--channels_last", action="store_true")
    found.add_argument("--pool", type=int, default=50, help="Size of the pool of random members.")
    found.add_argument("--random_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 25])
    found.add_argument("--greedy", type=int, default=8, help="Number of greedily selected members.")
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
