"""Matches the labels of a data set with those of an ensemble."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model.modeling_simplex import SimplexForImageClassification

__all__ = ["are_placeholders", "label_names_of", "listed", "match_labels"]


def match_labels(of_model: Sequence[str], of_data: Sequence[str], *, by_position: bool = False) -> list[int]:
    """Finds the ensemble's label of each label of a data set, by name.

    Placeholders of transformers (`LABEL_0`, `LABEL_1`, ...) are no names. Such labels are matched by position.

    Args:
        of_model: names of the ensemble's labels, by label.
        of_data: names of the data set's labels, by label. They may be some of the ensemble's.
        by_position: match equal numbers, whatever the names.

    Returns:
        The ensemble's label of each label of the data set.

    Raises:
        ValueError: the data set names no label, the ensemble lacks a name, several labels have the same name, or
            labels that are matched by position differ in number.

    Example:
        >>> from hf_simplex.evaluation.label_names import match_labels
        >>> match_labels(["ant", "bee", "cat"], ["cat", "ant"])
        [2, 0]
    """
    if not of_data:
        raise ValueError(f"The data set names no label, and the ensemble {_describe(of_model)}: they share none.")
    identity = list(range(len(of_data)))
    if list(of_model) == list(of_data):
        return identity
    if by_position or are_placeholders(of_model):
        if len(of_model) == len(of_data):
            return identity
        raise ValueError(
            f"The ensemble {_describe(of_model)}, the data set {_describe(of_data)}. Only equal numbers of "
            "labels are matched by position. Give a data set with the ensemble's labels."
        )
    missing = [name for name in of_data if name not in set(of_model)]
    if missing:
        raise ValueError(
            f"The ensemble {_describe(of_model)}, the data set {_describe(of_data)}. The ensemble has no "
            f"{missing[0]!r}. Give a data set with the ensemble's labels; or, if they are the same in the same order, "
            "match them by position: --labels-by-position."
        )
    counts = Counter(of_model)
    # ImageNet has two labels named "crane".
    if repeated := [name for name in of_data if counts[name] > 1 or of_data.count(name) > 1]:
        raise ValueError(
            f"Several labels are named {repeated[0]!r}, and the ensemble and the data set order their labels "
            "differently. Give a data set with unique names, or with the labels in the ensemble's order."
        )
    return [of_model.index(name) for name in of_data]


def are_placeholders(names: Sequence[str]) -> bool:
    """Returns whether labels have the placeholders of transformers instead of names.

    Example:
        >>> from hf_simplex.evaluation.label_names import are_placeholders
        >>> are_placeholders(["LABEL_0", "LABEL_1"]), are_placeholders(["cat", "dog"])
        (True, False)
    """
    return list(names) == [f"LABEL_{label}" for label in range(len(names))]


def _describe(names: Sequence[str]) -> str:
    return f"has {len(names)} labels ({listed(names)})"


def label_names_of(model: "SimplexForImageClassification") -> list[str]:
    """Returns the names of an ensemble's labels, by label.

    Example::

        label_names_of(model)    # ["cat", "dog"]
    """
    names: Any = model.config.id2label
    return [names[label] for label in sorted(names)]


def listed(names: Sequence[object]) -> str:
    """Returns the first five names of labels, for a line.

    Example:
        >>> from hf_simplex.evaluation.label_names import listed
        >>> listed(["ant", "bee"]), listed("abcdefg")
        ('ant, bee', 'a, b, c, d, e, ...')
    """
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
