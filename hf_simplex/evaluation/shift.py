"""Dataset shift: metrics under the fifteen corruptions of ImageNet-C, on any images.

The corruptions are those of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019, from the package imagecorruptions-imaug (`pip install "hf-simplex[shift]"`). Their severities
were chosen for images of 224 pixels, and most are in units of pixels. At 32 or 64 pixels the same severity destroys
more; CIFAR-10-C has weaker ones of its own. Compare methods at one image size, not severities across sizes.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image
from numpy.typing import ArrayLike
from transformers import TrainingArguments

from ..data.image_columns import labels_of
from ..data.image_transforms import ImageTransform, collate, with_pixel_values
from ..model.image_pixels import to_rgb
from ..model.modeling_simplex import SimplexForImageClassification
from .comparison import predict_members
from .label_kinds import label_kind

__all__ = [
    "CLEAN",
    "CORRUPTIONS",
    "CORRUPTION_GROUPS",
    "SEVERITIES",
    "SMALLEST_SIZE",
    "Predict",
    "ShiftResult",
    "check_corruption",
    "corrupt",
    "corrupt_dataset",
    "evaluate_under_shift",
]

CORRUPTION_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for group in CORRUPTION_GROUPS.values() for name in group)
SEVERITIES = (1, 2, 3, 4, 5)
CLEAN = "none"
"""Corruption of the results without corruption, at severity 0."""
SMALLEST_SIZE = 32
"""Smallest height and width of a corrupted image, in pixels."""

Predict = Callable[[Any], ArrayLike]
"""Maps a data set of `{"pixel_values": [3, height, width], "labels": int}` to probabilities [images, labels]."""


class ShiftResult(TypedDict, total=False):
    """Metrics of one method under one corruption at one severity.

    Attributes:
        method: its name.
        corruption: one of `CORRUPTIONS`, or `"none"`.
        severity: 1 to 5, or 0 without corruption.
        accuracy, nll, ece, brier: as `metrics.classification_metrics` defines them. For several labels an image, the
            metrics of `multi_label.multi_label_metrics`.
        calibrated_nll, calibrated_ece, calibrated_brier: the same at the method's temperature, if given.

    Example:
        >>> from hf_simplex.evaluation.shift import ShiftResult
        >>> ShiftResult(method="ensemble", corruption="fog", severity=3, accuracy=0.8)["severity"]
        3
    """

    method: str
    corruption: str
    severity: int
    accuracy: float
    nll: float
    ece: float
    brier: float
    calibrated_nll: float
    calibrated_ece: float
    calibrated_brier: float


def corrupt(
    image: PIL.Image.Image,
    corruption: str,
    severity: int,
    *,
    seed: int = 0,
    index: int = 0,
    image_size: int | None = None,
) -> PIL.Image.Image:
    """Returns a corrupted copy of an image.

    The randomness depends on `seed`, `corruption`, `severity`, `index` and the version of imagecorruptions-imaug.
    numpy's global random state is restored.

    Args:
        image: of any mode and size. It is first rotated upright by its EXIF data and converted to RGB.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 or more.
        index: index of the image in its data set, 0 or more. No two images get the same noise.
        image_size: height and width in pixels, at least 32. The image is resized (bicubic) before the corruption.
            The input size of the backbone works best. Default: the size of the image, enlarged to at least 32 pixels
            on its shorter side.

    Returns:
        An RGB image of that size.

    Raises:
        ValueError: The corruption or severity is unknown, or `image_size` is below 32.
        ImportError: imagecorruptions-imaug is not installed.

    Source: Hendrycks and Dietterich 2019.

    Example::

        corrupt(PIL.Image.open("cat.png"), "gaussian_noise", severity=3, image_size=224).save("noise.png")
    """
    check_corruption(corruption, severity)
    corruptions = _corruptions()
    pixels = np.asarray(_resized(to_rgb(image), image_size))
    words = np.random.SeedSequence([seed, CORRUPTIONS.index(corruption), severity, index]).generate_state(2)
    # These two have their own generator, by default seeded by the clock.
    own = {"seed": int(words[1])} if corruption in ("impulse_noise", "glass_blur") else {}
    # The package prints a message whenever it corrects a rounded size.
    with _numpy_seeded(int(words[0])), redirect_stdout(io.StringIO()):
        corrupted = corruptions.corrupt(pixels, severity=severity, corruption_name=corruption, **own)
    return PIL.Image.fromarray(corrupted)


def corrupt_dataset(
    dataset: Dataset,
    corruption: str,
    severity: int,
    *,
    seed: int = 0,
    image_size: int | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """Returns a data set in memory whose images are corrupted by `corrupt`.

    The index of an image is its position in `dataset`, for any number of processes.

    Args:
        dataset: has a column `image`, as `image_data.load_image_data` gives it. Other columns are kept.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 or more.
        image_size: as for `corrupt`.
        num_proc: number of processes.

    Returns:
        A `datasets.Dataset` of RGB images, without compression loss.

    Raises:
        ValueError: As `corrupt`, or there is no column `image` of images.
        ImportError: imagecorruptions-imaug is not installed.

    Example::

        foggy = corrupt_dataset(load_image_data("digits").test, "fog", severity=3, image_size=64)
    """
    check_corruption(corruption, severity)
    _corruptions()
    if not isinstance(dataset.features.get("image"), Image):
        raise ValueError(f"The data set needs a column 'image' of images, it has {dataset.features}.")

    def corrupted(image: PIL.Image.Image, index: int) -> dict[str, PIL.Image.Image]:
        return {"image": corrupt(image, corruption, severity, seed=seed, index=index, image_size=image_size)}

    return dataset.map(
        corrupted,
        with_indices=True,
        input_columns="image",
        features=Features({**dataset.features, "image": Image()}),
        keep_in_memory=True,
        load_from_cache_file=False,
        num_proc=num_proc,
        desc=f"{corruption} {severity}",
    )


def evaluate_under_shift(
    methods: Mapping[str, SimplexForImageClassification | Predict],
    dataset: Dataset,
    transform: ImageTransform,
    args: TrainingArguments,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    temperatures: Mapping[str, float] | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_proc: int | None = None,
) -> list[ShiftResult]:
    """Evaluates several methods on the same corrupted images, for each corruption and severity.

    Args:
        methods: ensembles, or functions from a data set to probabilities (see `Predict`), by name.
        dataset: test images with the columns `image` and `label`, as `image_data.load_image_data` gives them.
        transform: for evaluation, as `image_transforms.build_transforms` gives it.
        args: batch size, precision and data loader workers of the ensembles' predictions.
        corruptions: some of `CORRUPTIONS`.
        severities: some of 1 to 5. Images without corruption are always evaluated, as severity 0.
        temperatures: temperatures by method for the `calibrated_...` metrics, fitted on validation images without
            corruption (`calibration.fit_temperature`). Default: that of an ensemble's decisions, if it has any.
        seed: as for `corrupt`.
        image_size: as for `corrupt`.
        num_proc: number of processes that corrupt images.

    Returns:
        One row for each method, corruption and severity, of JSON values. `plots.shift.plot_shift` draws them.

    Raises:
        ValueError: A corruption or severity is unknown, a temperature names an unknown method, or probabilities are
            not valid, as in `metrics.accuracy`.
        ImportError: imagecorruptions-imaug is not installed.

    Source: Benton et al. 2021, figure 11.

    Example::

        results = evaluate_under_shift({"ensemble": model}, data.test, transform, args, image_size=224)
        plot_shift(results).savefig("shift.pdf")
    """
    for corruption in corruptions:
        for severity in severities:
            check_corruption(corruption, severity)
    _corruptions()
    unknown = set(temperatures or {}) - set(methods)
    if unknown:
        raise ValueError(f"temperatures names unknown methods, {sorted(unknown)}: choose from {sorted(methods)}.")
    fitted = {
        name: method.decisions.temperature
        for name, method in methods.items()
        if isinstance(method, SimplexForImageClassification) and method.decisions is not None
    }
    temperatures = {**fitted, **(temperatures or {})}
    results: list[ShiftResult] = []
    for corruption, severity in [(CLEAN, 0), *((name, level) for name in corruptions for level in severities)]:
        images = dataset
        if severity:
            images = corrupt_dataset(
                dataset, corruption, severity, seed=seed, image_size=image_size, num_proc=num_proc
            )
        data = with_pixel_values(images, transform, materialize=True)
        references = labels_of(dataset)
        kind = label_kind(references)
        for name, method in methods.items():
            if isinstance(method, SimplexForImageClassification):
                probabilities = predict_members(method, data, args, collate).probabilities.mean(axis=1)
            else:
                probabilities = np.asarray(method(data))
            row = ShiftResult(method=name, corruption=corruption, severity=severity)
            row.update(kind.metrics(probabilities, references))  # type: ignore[typeddict-item]
            if name in temperatures:
                scaled = kind.metrics(kind.scale_temperature(probabilities, temperatures[name]), references)
                row.update({f"calibrated_{key}": scaled[key] for key in ("nll", "ece", "brier")})  # type: ignore[typeddict-item]
            results.append(row)
    return results


def check_corruption(corruption: str, severity: int) -> None:
    """Checks a corruption and its severity.

    Raises:
        ValueError: One of them is unknown. The message lists the choices.

    Example:
        >>> from hf_simplex.evaluation.shift import check_corruption
        >>> check_corruption("fog", 6)
        Traceback (most recent call last):
        ValueError: The severity is 6: choose from 1, 2, 3, 4, 5.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"Unknown corruption {corruption!r}: choose from {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"The severity is {severity!r}: choose from {', '.join(map(str, SEVERITIES))}.")


def _resized(image: PIL.Image.Image, image_size: int | None) -> PIL.Image.Image:
    if image_size is None:
        scale = max(1.0, SMALLEST_SIZE / min(image.size))
        size = (round(image.width * scale), round(image.height * scale))
    elif image_size < SMALLEST_SIZE:
        raise ValueError(f"image_size is {image_size}: the corruptions need at least {SMALLEST_SIZE} pixels.")
    else:
        size = (image_size, image_size)
    return image if size == image.size else image.resize(size, PIL.Image.Resampling.BICUBIC)


def _corruptions() -> ModuleType:
    try:
        # An optional dependency.
        import imagecorruptions
    except ImportError as error:
        raise ImportError(
            f'Corruptions need imagecorruptions-imaug: pip install "hf-simplex[shift]" ({error}).'
        ) from error
    return imagecorruptions


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
