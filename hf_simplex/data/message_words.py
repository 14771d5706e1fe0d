"""Words of the messages about a data set: counts, names in quotes, and images by their files."""

from collections.abc import Sequence

from datasets import Dataset, Image

__all__ = ["counted", "image_names", "quoted"]

_SHOWN = 5


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun.

    Example:
        >>> from hf_simplex.data.message_words import counted
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def quoted(names: Sequence[str]) -> str:
    """Returns the first five names in quotes, and the number of the others.

    Example:
        >>> from hf_simplex.data.message_words import quoted
        >>> quoted(["cat", "dog "]), quoted("abcdefg")
        ("'cat', 'dog '", "'a', 'b', 'c', 'd', 'e' and 2 more")
    """
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def image_names(dataset: Dataset, rows: Sequence[int]) -> list[str]:
    """Names images for a message.

    Args:
        dataset: with the column `image`.
        rows: of the images.

    Returns:
        The file of each image, or its row where the data set has none.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.message_words import image_names
        >>> image_names(load_image_data("digits").test, [0, 5])
        ['image 0', 'image 5']
    """
    stored = dataset.select(rows).select_columns("image").cast_column("image", Image(decode=False))
    files = [example["image"] and example["image"]["path"] for example in stored]
    return [file or f"image {row}" for row, file in zip(rows, files, strict=True)]
