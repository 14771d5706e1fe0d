"""What the Wander tab shows, and the answers to its requests, as JSON values."""

import math
import time
from collections.abc import Sequence
from typing import Any

from .answers import Answer, Answers
from .exploration import Exploration, spread
from .lattice import lattice_points
from .layout import MAX_FACES, Path, faces_of, paths_of, vertex_names

__all__ = ["move", "settle", "wander_state"]

_SHOWN = 5


def wander_state(answers: Answers, token: str | None) -> dict[str, Any]:
    """Describe the faces and paths of an ensemble, for the page.

    Args:
        answers: of the ensemble.
        token: of the image that is asked about; None without one.

    Returns:
        JSON values. Losses that are not finite are None.

    Example::

        wander_state(answers, None)["regions"][0]["names"]   # ["mode 0", "connector 1", "connector 2"]
    """
    config, exploration = answers.model.config, answers.exploration
    structure, names = config.complex, vertex_names(config.roles)
    faces = list(
        dict.fromkeys(
            (face, simplex) for simplex in range(len(structure.simplexes)) for face in faces_of(structure, simplex)
        )
    )
    regions = []
    for face, simplex in faces[:MAX_FACES]:
        own = [names[vertex] for vertex in face]
        regions.append(
            {
                "name": f"simplex {simplex}: vertices {', '.join(map(str, face))}",
                "vertices": list(face),
                "names": own,
                "points": _points(exploration, face, config.num_vertices),
            }
        )
    paths = [
        path
        for path in paths_of(structure, config.roles)
        if exploration is not None or all(structure.holds(leg) for leg in path.legs)
    ]
    return {
        "regions": regions,
        "paths": [
            {
                "name": path.name,
                "vertices": list(path.vertices),
                "curve": _curve(exploration, path, config.num_vertices),
            }
            for path in paths
        ],
        "vertex_names": names,
        "num_vertices": config.num_vertices,
        "resolution": 1 if exploration is None else exploration.resolution,
        "batch": 0 if exploration is None else exploration.batch,
        "jumps": answers.jumps,
        "token": token,
        "notes": _notes(answers, len(faces)),
    }


def move(answers: Answers, answer: Answer, coordinates: Sequence[float]) -> dict[str, Any]:
    """Answer a move of the handle.

    Args:
        answers: of the ensemble.
        answer: of the image.
        coordinates: [vertices] of the point.

    Returns:
        Rows of a label, its probability at the point and that of the ensemble; loss and accuracy from the surface;
        and the milliseconds that it took.

    Raises:
        ValueError: see `Answers.at`.

    Example::

        move(answers, answer, [0.5, 0.5, 0.0])["rows"][0]["point"]
    """
    started = time.perf_counter()
    found = answers.at(answer.pixel_values, coordinates)
    ensemble = answer.parts["ensemble"]
    labels = ensemble.topk(min(_SHOWN, len(answers.names))).indices.tolist()
    if (best := int(found.probabilities.argmax())) not in labels:
        labels.append(best)
    return {
        "rows": [
            {
                "label": str(answers.names[label]),
                "point": float(found.probabilities[label]),
                "ensemble": float(ensemble[label]),
            }
            for label in labels
        ],
        "coordinates": list(found.coordinates),
        "loss": _finite(found.loss),
        "accuracy": _finite(found.accuracy),
        "milliseconds": 1e3 * (time.perf_counter() - started),
    }


def settle(answers: Answers, coordinates: Sequence[float]) -> dict[str, Any]:
    """Compute loss and accuracy on the cached validation batch, at the point where the handle rests.

    Example::

        settle(answers, [0.5, 0.5, 0.0])["nll"]
    """
    score = answers.score(coordinates)
    if score is None:
        return {"nll": None, "accuracy": None, "images": 0}
    return {"nll": _finite(score.nll), "accuracy": _finite(score.accuracy), "images": score.images}


def _points(exploration: Exploration | None, face: Sequence[int], vertices: int) -> list[list[Any]]:
    if exploration is None or tuple(face) not in exploration.regions:
        return []
    rows: list[list[Any]] = []
    for counts in lattice_points(len(face), exploration.resolution):
        shares = [count / exploration.resolution for count in spread(counts, tuple(face), vertices)]
        found = exploration.loss_at(shares)
        assert found is not None
        rows.append([list(counts), _finite(found[0]), _finite(found[1])])
    return rows


def _curve(exploration: Exploration | None, path: Path, vertices: int) -> list[list[Any]]:
    """For each lattice point of a path: its place on the path, 0 to 1, its loss and its accuracy."""
    if exploration is None:
        return []
    resolution, curve = exploration.resolution, []
    for number, leg in enumerate(path.legs):
        for step in range(0 if number == 0 else 1, resolution + 1):
            shares = [count / resolution for count in spread((resolution - step, step), leg, vertices)]
            loss, accuracy = exploration.loss_at(shares) or (None, None)
            place = (number + step / resolution) / len(path.legs)
            curve.append([place, _finite(loss), _finite(accuracy)])
    return curve


def _notes(answers: Answers, faces: int) -> list[str]:
    exploration = answers.exploration
    notes = []
    if len(answers.model.config.roles) == 1:
        notes.append("This ensemble has one vertex: there is nowhere to wander.")
    if answers.is_interpolated:
        notes.append(
            "BatchNorm statistics between computed points are interpolated for display. Losses of the surface were "
            "computed with statistics of their own at each lattice point."
        )
    if answers.jumps:
        notes.append(
            "This backbone has BatchNorm, and there is no explorer file with statistics between the vertices: the "
            "point jumps to the nearest vertex, member or centroid."
        )
    if exploration is None:
        notes.append("No losses were computed. hf-simplex demo ENSEMBLE --data-set NAME computes them.")
    else:
        notes.append(
            f"Loss and accuracy are of {exploration.batch} images of {exploration.data_set} ({exploration.split}). "
            "Triangles are drawn with equal sides, whatever the distances between the weights."
        )
    if faces > MAX_FACES:
        notes.append(f"The first {MAX_FACES} of {faces} faces are shown.")
    notes.append("A single point has no temperature; the ensemble has the one that was fitted.")
    return notes


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
