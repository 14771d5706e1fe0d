"""How labels are spelt: blank names, names that are nearly the same, and names that look like several labels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from .joined_labels import separated_labels
from .message_words import image_names, quoted

__all__ = ["check_spelling", "spelling_notes"]

_GROUPS = 5


def check_spelling(
    label_names: Sequence[str], labels: npt.NDArray[np.int64], dataset: Dataset, name: str
) -> list[str]:
    """Checks the names of the labels.

    Args:
        label_names: by label.
        labels: of the images, [N]; or [N, labels] of 0 and 1.
        dataset: the images.
        name: of the data set, for the message.

    Returns:
        As `spelling_notes`.

    Raises:
        ValueError: a name is empty or holds spaces alone.

    Example:
        >>> from hf_simplex.data.image_columns import labels_of
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.label_spelling import check_spelling
        >>> data = load_image_data("digits")
        >>> check_spelling(data.label_names, labels_of(data.test), data.test, "digits")
        []
    """
    for label, own in enumerate(label_names):
        if not own.strip():
            rows = np.flatnonzero(labels == label if labels.ndim == 1 else labels[:, label])[:1].tolist()
            of = f", of {image_names(dataset, rows)[0]}" if rows else ""
            raise ValueError(
                f"A label of {name} has the blank name {own!r}{of}. Give it a name, or remove it; an image without "
                "labels has an empty list."
            )
    return spelling_notes(label_names, several_labels=labels.ndim == 2)


def spelling_notes(label_names: Sequence[str], *, several_labels: bool = False) -> list[str]:
    """Says which names may be a mistake. They stay as they are.

    Those are names that differ only in case or in spaces around them, and names whose parts are labels themselves.

    Args:
        label_names: of a data set.
        several_labels: whether an image has a list of labels. Then no label stands for several.

    Returns:
        A sentence each.

    Example:
        >>> from hf_simplex.data.label_spelling import spelling_notes
        >>> spelling_notes(["Cat", "cat", "dog"])
        ["labels that differ only in case or in spaces around them are different labels: 'Cat', 'cat'"]
    """
    alike: dict[str, list[str]] = {}
    for own in dict.fromkeys(label_names):
        alike.setdefault(own.strip().casefold(), []).append(own)
    notes = []
    if groups := [quoted(group) for group in alike.values() if len(group) > 1]:
        shown = "; ".join(groups[:_GROUPS]) + (f"; and {len(groups) - _GROUPS} more" if groups[_GROUPS:] else "")
        notes.append(f"labels that differ only in case or in spaces around them are different labels: {shown}")
    if not several_labels and (joined := separated_labels(label_names)):
        notes.append(
            f"{quoted(joined)} may be several labels in one name, for its parts are labels too; it counts as a class "
            "of its own. If an image may have several labels, give lists of names, as metadata.jsonl does: "
            '"labels": ["cat", "dog"]'
        )
    return notes
