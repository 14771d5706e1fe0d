"""Dataset shift: the fifteen corruptions of ImageNet-C on any images, and how predictions suffer from them.

The corruptions are those of the package imagecorruptions-imaug (`pip install "hf-simplex[shift]"`), which keeps the
functions of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
ICLR 2019, running on today's libraries. Their strengths were chosen for ImageNet at 224 pixels, and most count in
pixels: at 32 or 64 pixels blurs, glass and elastic transforms of the same severity destroy more, and CIFAR-10-C has
weaker ones of its own. So compare methods at one image size, and not severities across sizes.
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
from transformers.image_utils import load_image

from ..data.image_transforms import ImageTransform, collate, with_pixel_values
from ..model.modeling_simplex import SimplexForImageClassification
from .calibration import scale_temperature
from .comparison import member_probabilities
from .metrics import classification_metrics

CORRUPTION_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for group in CORRUPTION_GROUPS.values() for name in group)
SEVERITIES = (1, 2, 3, 4, 5)
# What images without a corruption are listed as, at severity 0.
CLEAN = "none"
SMALLEST_SIZE = 32

Predict = Callable[[Any], ArrayLike]


class ShiftResult(TypedDict, total=False):
    """What one method reaches on the test images under one corruption at one severity.

    Attributes:
        method: its name.
        corruption: one of `CORRUPTIONS`, or `none`.
        severity: 1 to 5, or 0 for images that are not corrupted.
        accuracy, nll, ece, brier: as `metrics.classification_metrics` defines them.
        calibrated_nll, calibrated_ece, calibrated_brier: the same at the method's temperature, where one was given.
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
    """A corrupted copy of an image.

    The randomness depends on `seed`, `corruption`, `severity` and `index` only, and numpy's global random state, which
    the corruptions draw from, is left as it was. Another version of the package may draw differently.

    Args:
        image: of any mode and size; it is made upright and RGB first.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 or more.
        index: of the image in its data set, so that no two images get the same noise; 0 or more.
        image_size: height and width in pixels that the image is resized to first (bicubic), best those that the
            backbone takes; 32 or more. Default: the image's own size, enlarged until neither side is below 32 pixels.

    Returns:
        An RGB image: [image_size, image_size], or of the image's own size, as above.

    Raises:
        ValueError: an unknown corruption or severity, or image_size below 32.
        ImportError: imagecorruptions-imaug is not installed.
    """
    check_corruption(corruption, severity)
    corruptions = _corruptions()
    pixels = np.asarray(_resized(load_image(image), image_size))
    words = np.random.SeedSequence([seed, CORRUPTIONS.index(corruption), severity, index]).generate_state(2)
    # These two have a generator of their own, which would otherwise be seeded by the clock.
    own = {"seed": int(words[1])} if corruption in ("impulse_noise", "glass_blur") else {}
    # The package prints where a rounded size was off by a pixel, which it then mends.
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
    """The same data set with every image corrupted by `corrupt`, held in memory.

    An image is corrupted as the one at its position in `dataset`, whatever the number of processes.

    Args:
        dataset: with a column `image`, as `image_data.load_image_data` gives it; other columns are kept.
        corruption, severity, seed, image_size: as for `corrupt`.
        num_proc: processes to corrupt in.

    Returns:
        A `datasets.Dataset` of RGB images, stored without loss.

    Raises:
        ValueError, ImportError: as for `corrupt`; ValueError also without a column `image`.
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
    """Metrics of several ways to predict against corruption and severity, all on the same corrupted images.

    Args:
        methods: by name, ensembles, whose members' probabilities are averaged; or functions from a data set of
            `{"pixel_values": [3, height, width], "labels": int}` to probabilities [images, labels].
        dataset: test images with the columns `image` and `label`, as `image_data.load_image_data` gives them.
        transform: for evaluation, as `image_transforms.build_transforms` gives it.
        args: batch size, precision and data loader workers of the ensembles' predictions.
        corruptions: some of `CORRUPTIONS`.
        severities: some of 1 to 5. The images without corruption are always evaluated too, as severity 0.
        temperatures: a method's temperature by its name, fitted on validation images without corruption
            (`calibration.fit_temperature`), for the metrics that begin with `calibrated_`.
        seed, image_size, num_proc: as for `corrupt_dataset`; pass the backbone's own input size.

    Returns:
        A row for each method, corruption and severity, which `json` writes and `plotting.plot_shift` draws.

    Raises:
        ValueError: an unknown corruption or severity, before anything is evaluated; a temperature of an unknown
            method; or probabilities that are none, as `metrics.accuracy`.
        ImportError: imagecorruptions-imaug is not installed.
    """
    for corruption in corruptions:
        for severity in severities:
            check_corruption(corruption, severity)
    _corruptions()
    unknown = set(temperatures or {}) - set(methods)
    if unknown:
        raise ValueError(f"There is a temperature of {sorted(unknown)}; the methods are {sorted(methods)}.")
    results: list[ShiftResult] = []
    for corruption, severity in [(CLEAN, 0), *((name, level) for name in corruptions for level in severities)]:
        images = dataset
        if severity:
            images = corrupt_dataset(
                dataset, corruption, severity, seed=seed, image_size=image_size, num_proc=num_proc
            )
        data = with_pixel_values(images, transform, materialize=True)
        references = np.asarray(dataset["label"])
        for name, method in methods.items():
            if isinstance(method, SimplexForImageClassification):
                probabilities = member_probabilities(method, data, args, collate)[0].mean(axis=1)
            else:
                probabilities = np.asarray(method(data))
            row = ShiftResult(method=name, corruption=corruption, severity=severity)
            row.update(classification_metrics(probabilities, references))  # type: ignore[typeddict-item]
            if temperatures and name in temperatures:
                scaled = classification_metrics(scale_temperature(probabilities, temperatures[name]), references)
                row.update({f"calibrated_{key}": scaled[key] for key in ("nll", "ece", "brier")})  # type: ignore[typeddict-item]
            results.append(row)
    return results


def check_corruption(corruption: str, severity: int) -> None:
    """Raise ValueError for an unknown corruption or severity, naming the choices."""
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
