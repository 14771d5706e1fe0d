"""Classifies image files one after another, and goes on after one that cannot be read."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..data.image_walk import image_files
from ..model.image_pixels import load_rgb
from ..model.pipeline_simplex import SimplexImageClassificationPipeline

__all__ = ["Classified", "classify_files", "find_images", "is_readable"]


class Classified(NamedTuple):
    """What came of one image.

    Attributes:
        image: path or URL.
        result: of the pipeline; None if the image cannot be read.
        error: why not; None if it can.

    Example:
        >>> from hf_simplex.evaluation.image_files import Classified
        >>> Classified("cat.png", None, "no such file").error
        'no such file'
    """

    image: str
    result: dict[str, Any] | None
    error: str | None


def classify_files(
    classify: SimplexImageClassificationPipeline,
    images: Iterable[str],
    *,
    top_k: int = 5,
    batch_size: int = 1,
) -> Iterator[Classified]:
    """Classifies images as they come.

    Args:
        classify: the pipeline.
        images: paths or URLs, read lazily.
        top_k: number of labels per image.
        batch_size: images per forward pass. Each batch is given out before the next is read.

    Returns:
        An iterator of what came of each image, in their order.

    Raises:
        ValueError: `batch_size` is below 1.

    Example::

        for image, result, error in classify_files(classifier, ["cat.png", "dog.png"]):
            print(image, error or result["labels"][0])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")
    return _classify_files(classify, iter(images), top_k, batch_size)


def _classify_files(
    classify: SimplexImageClassificationPipeline, images: Iterator[str], top_k: int, batch_size: int
) -> Iterator[Classified]:
    while batch := list(itertools.islice(images, batch_size)):
        loaded = [_load(image) for image in batch]
        results = iter(_classify(classify, [each for each in loaded if not isinstance(each, str)], top_k, batch_size))
        for image, each in zip(batch, loaded, strict=True):
            result = each if isinstance(each, str) else next(results)
            yield Classified(image, None, result) if isinstance(result, str) else Classified(image, result, None)


def _load(image: str) -> Any:
    """The pixels, or why they cannot be read."""
    if not is_readable(image):
        return "no such file"
    try:
        return load_rgb(image)
    except Exception as error:  # Pillow's readers raise many types
        return f"cannot be read: {error}"


def _classify(classify: Any, loaded: list[Any], top_k: int, batch_size: int) -> list[Any]:
    """The result of each image, or why there is none."""
    if not loaded:
        return []
    # transformers advises to give a data set after ten calls, but that would end at the first bad image.
    classify.call_count = 0
    try:
        return list(classify(loaded, top_k=top_k, batch_size=batch_size))
    except ValueError as error:  # of one image: its pixels, or scores that are not finite
        if len(loaded) == 1:
            return [str(error)]
        return [result for each in loaded for result in _classify(classify, [each], top_k, 1)]


def find_images(names: Iterable[str]) -> list[str]:
    """Finds the images that paths, folders and patterns name.

    Args:
        names: files, URLs, folders, whose image files are found by extension and at any depth, or patterns such as
            `pictures/*.png` and `pictures/**/*.png`. A file with the name of a pattern goes first.

    Returns:
        Paths and URLs in the order of `names`, and in alphabetical order in each. A name that matches nothing stays.

    Raises:
        ValueError: a folder holds no images.

    Example:
        >>> from hf_simplex.evaluation.image_files import find_images
        >>> find_images(["https://example.org/cat.png", "no/*.png"])
        ['https://example.org/cat.png', 'no/*.png']
    """
    found: list[str] = []
    for name in names:
        matches = [name]
        if not is_readable(name) and not os.path.isdir(name):
            matches = sorted(glob.glob(name, recursive=True)) or [name]
        images = [
            image for match in matches for image in (image_files(Path(match)) if os.path.isdir(match) else [match])
        ]
        if not images:
            raise ValueError(f"{name} holds no images.")
        # A pattern with ** matches a folder and its files.
        found += dict.fromkeys(images)
    return found


def is_readable(image: str) -> bool:
    """Returns whether an image is a URL or a file that exists.

    Example:
        >>> from hf_simplex.evaluation.image_files import is_readable
        >>> is_readable("https://example.org/cat.png"), is_readable("cat.pgn")
        (True, False)
    """
    return image.startswith(("http://", "https://")) or os.path.isfile(image)
