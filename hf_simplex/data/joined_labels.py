"""Finds names that join several labels, such as "cat,dog", which would become a class of its own."""

import ast
import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["check_no_joined_labels", "joined_label", "separated_labels"]

_SEPARATORS = ",;|"
_OTHER_SEPARATORS = " /+-_&"
_NUMBERS = re.compile(r"\[[\d.\s]+\]")


def joined_label(texts: Sequence[str]) -> str | None:
    """Returns the first text that joins several labels; None if there is none.

    That is a list written as text, or names with commas, semicolons or bars between them of which each is in another
    text too. At least half of the texts with such a separator must be so: ImageNet's "tench, Tinca tinca" is a class.

    Args:
        texts: labels of a column, each once.

    Example:
        >>> from hf_simplex.data.joined_labels import joined_label
        >>> joined_label(["cat", "cat,dog", "dog"]), joined_label(["tench, Tinca tinca", "crane"])
        ('cat,dog', None)
    """
    for text in texts:
        if _is_list(text.strip()):
            return text
    for separator in _SEPARATORS:
        parts = {text: [part.strip() for part in text.split(separator)] for text in texts}
        counts = Counter(part for own in parts.values() for part in set(own))
        separated = [text for text, own in parts.items() if len(own) > 1]
        joined = [text for text in separated if _joins(parts[text], counts)]
        if joined and 2 * len(joined) >= len(separated):
            return joined[0]
    return None


def check_no_joined_labels(texts: Sequence[str], name: str, label_column: str) -> None:
    """Checks that no text joins several labels.

    Args:
        texts: labels of a column, each once.
        name: of the data set, for the message.
        label_column: what the column is called, for the message.

    Raises:
        ValueError: one does. The message says how to give several labels.

    Example:
        >>> from hf_simplex.data.joined_labels import check_no_joined_labels
        >>> check_no_joined_labels(["cat", "dog"], "pets", "label")
    """
    if (joined := joined_label(texts)) is not None:
        raise ValueError(
            f"The column {label_column!r} of {name} has the text {joined!r:.100}, which joins several labels. Give "
            'lists of names, as metadata.jsonl does: "labels": ["cat", "dog"]. If each text is the name of one class, '
            "give the column the type ClassLabel (datasets.Dataset.class_encode_column), or put the images into class "
            "folders."
        )


def separated_labels(names: Sequence[str]) -> list[str]:
    """Returns the names whose parts are names themselves, without regard to case.

    A space, a slash, a plus, a hyphen, an underscore or an ampersand is between the parts. Such a name may be that of
    one class, so it is no mistake for sure.

    Args:
        names: of the classes.

    Example:
        >>> from hf_simplex.data.joined_labels import separated_labels
        >>> separated_labels(["cat", "dog", "cat dog", "cat + dog", "hot dog"])
        ['cat dog', 'cat + dog']
    """
    known = {name.strip().casefold() for name in names}
    found = []
    for name in names:
        for separator in _OTHER_SEPARATORS:
            parts = {part.strip() for part in name.strip().casefold().split(separator)}
            if len(parts) > 1 and parts <= known and "" not in parts:
                found.append(name)
                break
    return found


def _joins(parts: Sequence[str], counts: Counter[str]) -> bool:
    return len(set(parts)) > 1 and all(part and counts[part] > 1 for part in parts)


def _is_list(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    if _NUMBERS.fullmatch(text):
        return True
    try:
        return isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
