"""Transforms from images to pixel values: timm's augmentation for training, the image processor for evaluation.

A published model preprocesses images with its image processor. Training and evaluation use the same one: resize it
with `resize_image_processor`, build both transforms from it with `build_transforms`, and save it with the model.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image
import timm.data
import torch
import torchvision.transforms
from datasets import ClassLabel, Dataset, Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import StackDataset
from transformers import BaseImageProcessor, TimmWrapperImageProcessor
from transformers import default_data_collator as collate

from ..model.image_pixels import to_rgb
from .decoding import decode_rgb
from .image_columns import labels_of
from .label_lists import class_names, is_label_list, multi_hot

__all__ = [
    "CropTransform",
    "EvaluationTransform",
    "ImageTransform",
    "TrainingTransform",
    "build_transforms",
    "collate",
    "resize_image_processor",
    "with_pixel_values",
]

ImageTransform = Callable[[PIL.Image.Image], Tensor]

# Batch size for images that are transformed ahead of training.
_MATERIALIZE_BATCH = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationTransform:
    """Preprocesses an image as the ensemble's pipeline does: upright RGB (`to_rgb`), then the image processor.

    Calling it with an image of any mode and size returns pixel values, [3, height, width] float32.

    Args:
        image_processor: of an image classifier.

    Example:
        >>> import PIL.Image
        >>> from transformers import ViTImageProcessor
        >>> from hf_simplex.data.image_transforms import EvaluationTransform
        >>> transform = EvaluationTransform(ViTImageProcessor(size={"height": 32, "width": 32}))
        >>> transform(PIL.Image.new("L", (20, 30))).shape
        torch.Size([3, 32, 32])
    """

    image_processor: BaseImageProcessor

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        pixel_values: Tensor = self.image_processor(to_rgb(image), return_tensors="pt")["pixel_values"][0]
        return pixel_values


@dataclass(frozen=True)
class TrainingTransform:
    """Augments an upright RGB image, applies the image processor, then erases rectangles.

    Calling it with an image of any mode and size returns pixel values, [3, height, width] float32.

    Args:
        augmentation: from image to image, random.
        evaluation: from image to pixel values.
        erasing: from pixel values to pixel values, random.

    Example::

        training_transform, _ = build_transforms(image_processor, auto_augment="rand-m9-mstd0.5")
        pixel_values = training_transform(image)
    """

    augmentation: Callable[[PIL.Image.Image], PIL.Image.Image]
    evaluation: EvaluationTransform
    erasing: Callable[[Tensor], Tensor]

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        return self.erasing(self.evaluation(self.augmentation(to_rgb(image))))


@dataclass(frozen=True)
class CropTransform:
    """Preprocesses an image as for evaluation, then randomly shifts it over black, mirrors it and erases rectangles.

    The random part works on pixel values. The deterministic part can therefore be computed once and kept in memory.

    Args:
        evaluation: from image to pixel values.
        black: pixel values of a black image, [3, 1, 1] float32.
        variation: shifts and mirrors pixel values, random. Its padding is 0.
        erasing: erases rectangles of pixel values, random.

    Example::

        training_transform, _ = build_transforms(image_processor, augment="crop")
        pixel_values = training_transform(image)
    """

    evaluation: EvaluationTransform
    black: Tensor
    variation: Callable[[Tensor], Tensor]
    erasing: Callable[[Tensor], Tensor]

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        return self.vary(self.evaluation(image))

    def vary(self, pixel_values: Tensor) -> Tensor:
        """Applies the random part.

        Args:
            pixel_values: [3, height, width] float32. They are not changed in place.

        Returns:
            [3, height, width] float32.

        Example::

            augmented = transform.vary(transform.evaluation(image))
        """
        return self.erasing(self.variation(pixel_values - self.black) + self.black)


def resize_image_processor(image_processor: BaseImageProcessor, image_size: int) -> BaseImageProcessor:
    """Copies an image processor for square images of another size.

    The copy does not crop the borders of a square image: timm's `crop_pct` becomes 1. Image processors that always
    crop, such as LeViT's, still do.

    timm's image processor is part of the model's `config.json`. To publish a resized one, update the `pretrained_cfg`
    of the backbone's configuration with its `data_config`.

    Args:
        image_processor: of an image classifier, from timm or transformers.
        image_size: height and width of the pixel values.

    Returns:
        A new image processor of the same class.

    Raises:
        ValueError: the size is not positive, or this image processor cannot produce it.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> from hf_simplex.data.image_transforms import resize_image_processor
        >>> dict(resize_image_processor(ViTImageProcessor(), 96).size)
        {'height': 96, 'width': 96}
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}; expected a positive number of pixels.")
    if isinstance(image_processor, TimmWrapperImageProcessor):
        channels = image_processor.data_config["input_size"][0]
        settings = {**image_processor.data_config, "input_size": (channels, image_size, image_size), "crop_pct": 1.0}
        architecture = getattr(image_processor, "architecture", None)
        resized = TimmWrapperImageProcessor(pretrained_cfg=settings, architecture=architecture)
    else:
        settings = image_processor.to_dict()
        settings["size"] = dict.fromkeys(settings.get("size") or {}, image_size)
        if settings.get("crop_size"):
            settings["crop_size"] = {"height": image_size, "width": image_size}
        if settings.get("crop_pct"):
            settings["crop_pct"] = 1.0
        resized = type(image_processor).from_dict(settings)
    if (given := _image_size(resized)) != (image_size, image_size):
        raise ValueError(
            f"{type(image_processor).__name__} cannot be resized: asked for {image_size} x {image_size} pixels, it "
            f"gives {given[0]} x {given[1]}. Configure its size and crop_size by hand."
        )
    return resized


def build_transforms(
    image_processor: BaseImageProcessor,
    *,
    augment: Literal["timm", "crop", "none"] = "timm",
    horizontal_flip: float = 0.5,
    scale_min: float = 0.08,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    auto_augment: str | None = None,
    color_jitter: float = 0.0,
    random_erasing: float = 0.0,
) -> tuple[ImageTransform, ImageTransform]:
    """Builds the training and the evaluation transform of a backbone.

    Both convert any image to upright RGB first, as the ensemble's pipeline does (`to_rgb`): grey, palette, transparent
    and 16-bit images, and images rotated by their EXIF tag. Both can be pickled for data loader workers.

    Args:
        image_processor: of the backbone. It sets size, colors and normalization in both transforms.
        augment: `"timm"` uses all arguments below. `"crop"` is a random crop of the resized image, padded in black by
            an eighth of its size (4 pixels at 32, as usual for CIFAR), with horizontal flip and random erasing.
            `"none"` is the evaluation transform.
        horizontal_flip: probability of a horizontal flip.
        scale_min: smallest area of a random crop, relative to the image's, in (0, 1].
        ratio: smallest and largest aspect ratio (width / height) of a random crop, before it is resized to a square.
        auto_augment: policy of `timm.data.create_transform`, such as "rand-m9-mstd0.5", "augmix-m3" or "3a".
        color_jitter: largest relative change of brightness, contrast and saturation.
        random_erasing: probability of erasing a rectangle.

    Returns:
        The training and the evaluation transform, from an image to pixel values [3, height, width] float32.

    Raises:
        ValueError: an argument is out of range, the policy is unknown, or the image processor does not give square
            images of one size.

    Example:
        >>> import PIL.Image
        >>> from transformers import ViTImageProcessor
        >>> from hf_simplex.data.image_transforms import build_transforms
        >>> image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
        >>> training, evaluation = build_transforms(image_processor, augment="crop")
        >>> training(PIL.Image.new("RGB", (40, 40))).shape
        torch.Size([3, 32, 32])
    """
    evaluation = EvaluationTransform(image_processor)
    if augment not in ("timm", "crop", "none"):
        raise ValueError(f"augment is {augment!r}; expected 'timm', 'crop' or 'none'.")
    for name, value in (("horizontal_flip", horizontal_flip), ("random_erasing", random_erasing)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a probability between 0 and 1.")
    if not 0 < scale_min <= 1:
        raise ValueError(f"scale_min is {scale_min}; expected a relative area above 0 and at most 1.")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio is {ratio}; expected the smallest and the largest aspect ratio, both above 0.")
    if color_jitter < 0:
        raise ValueError(f"color_jitter is {color_jitter}; expected 0 or more.")
    if augment != "timm" and (auto_augment or color_jitter):
        raise ValueError(f"auto_augment and color_jitter need augment='timm'; augment is {augment!r}.")
    if augment == "none":
        if random_erasing:
            raise ValueError("random_erasing needs augment='timm' or 'crop'; augment is 'none'.")
        return evaluation, evaluation
    if auto_augment and color_jitter:
        raise ValueError("timm ignores color_jitter if there is an auto_augment policy. Set only one of them.")
    height, width = _image_size(image_processor)
    if height != width:
        raise ValueError(
            f"The image processor gives images of {height} x {width} pixels; expected squares. Use augment='none'."
        )
    erasing = RandomErasing(random_erasing, device="cpu")
    # After the random crop, the image processor may resize and normalize, but must not crop again.
    whole = EvaluationTransform(resize_image_processor(image_processor, height))
    if augment == "crop":
        shift_and_flip = torchvision.transforms.Compose([
            torchvision.transforms.RandomCrop(height, padding=height // 8),
            torchvision.transforms.RandomHorizontalFlip(horizontal_flip),
        ])  # fmt: skip
        black = whole(PIL.Image.new("RGB", (width, height)))[:, :1, :1].clone()
        return CropTransform(whole, black, shift_and_flip, erasing), evaluation
    crop_and_flip = _timm_augmentation(
        height, horizontal_flip, (scale_min, 1.0), ratio, auto_augment, color_jitter, _interpolation(image_processor)
    )
    return TrainingTransform(crop_and_flip, whole, erasing), evaluation


def with_pixel_values(
    dataset: Dataset, transform: ImageTransform, *, materialize: bool = False, materialize_limit: int = 2**31
) -> "Dataset | torch.utils.data.Dataset[dict[str, Any]]":
    """Transforms the images of a data set to pixel values, lazily or ahead of time.

    Args:
        dataset: with the columns `image` and `label`, from `load_image_data`. `label` may hold lists of labels.
        transform: from an image to pixel values.
        materialize: whether to transform all images now and keep them in memory. Use it for a deterministic transform
            and images that are read many times. Of a `CropTransform`, only the deterministic part runs now. Every
            process of a distributed run keeps a copy.
        materialize_limit: largest size of the pixel values in bytes. Larger data sets stay lazy and log a warning.

    Returns:
        A data set with examples `{"pixel_values": [3, height, width] float32, "labels": int}`: a `datasets.Dataset`
        if lazy, else a map-style data set of torch. Lists of `ClassLabel` become [labels] float32 tensors of 0 and 1;
        lists of numbers stay.

    Raises:
        ValueError: a column is missing, or a list of labels is missing, repeats one or has one out of range; or, on
            reading an example, its image file is broken. The message names it.
        TypeError: `dataset` is None, which `ImageData.validation` may be.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.image_transforms import build_transforms, with_pixel_values
        >>> _, evaluation = build_transforms(ViTImageProcessor(size={"height": 32, "width": 32}))
        >>> with_pixel_values(load_image_data("digits").test, evaluation)[0]["pixel_values"].shape
        torch.Size([3, 32, 32])
    """
    if dataset is None:
        raise TypeError(
            "The data set is None: expected a data set. `with_validation` gives no validation split of fewer than 50 "
            "images: give it a larger validation_fraction, or do not calibrate."
        )
    feature = dataset.features.get("image")
    if not isinstance(feature, Image) or "label" not in dataset.column_names:
        raise ValueError(
            f"The data set needs an 'image' column of images and a 'label' column; it has {dataset.features}."
        )
    # The model's argument names, so that Trainer keeps the columns. The transform decodes the images, so that an error
    # can name a broken file.
    images = dataset.select_columns(["image", "label"]).cast_column("image", Image(decode=False))
    renamed = images.rename_columns({"image": "pixel_values", "label": "labels"})
    target = dataset.features["label"]
    num_labels = None
    if is_label_list(target) and isinstance(target.feature, ClassLabel):
        # Here, because a batch does not know the number of an image.
        num_labels = len(class_names(target))
        labels_of(dataset)
    lazy = renamed.with_transform(_Decode(Image(mode=feature.mode), transform, num_labels))
    if not materialize or len(dataset) == 0:
        return lazy
    crop = transform if isinstance(transform, CropTransform) else None
    fixed = (
        lazy
        if crop is None
        else renamed.with_transform(_Decode(Image(mode=feature.mode), crop.evaluation, num_labels))
    )
    first: Tensor = fixed[0]["pixel_values"]
    needed = len(fixed) * first.numel() * first.element_size()
    if needed > materialize_limit:
        logger.warning(
            "%d images of %s need %d bytes in memory, above the limit of %d. They are transformed on every read.",
            len(lazy), "x".join(map(str, first.shape)), needed, materialize_limit,
        )  # fmt: skip
        return lazy
    pixel_values, labels = first.new_empty(len(fixed), *first.shape), []
    for start in range(0, len(fixed), _MATERIALIZE_BATCH):
        batch = fixed[start : start + _MATERIALIZE_BATCH]
        torch.stack(batch["pixel_values"], out=pixel_values[start : start + _MATERIALIZE_BATCH])
        labels += batch["labels"]
    kept: Any = StackDataset(pixel_values=pixel_values, labels=labels)  # type: ignore[arg-type]
    return kept if crop is None else _Varied(kept, crop)


def _timm_augmentation(
    image_size: int,
    horizontal_flip: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    auto_augment: str | None,
    color_jitter: float,
    interpolation: str,
) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """timm's training transform without the conversion to a tensor."""
    try:
        crop_and_flip, change_colors, _ = timm.data.create_transform(
            input_size=(3, image_size, image_size),
            is_training=True,
            separate=True,
            hflip=horizontal_flip,
            scale=scale,
            ratio=ratio,
            auto_augment=auto_augment,
            color_jitter=color_jitter,
            interpolation=interpolation,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"auto_augment is {auto_augment!r}, which timm does not understand ({error}); expected a policy such as "
            "'rand-m9-mstd0.5', 'augmix-m3', 'original' or '3a'."
        ) from error
    augmentation: Callable[[PIL.Image.Image], PIL.Image.Image] = torchvision.transforms.Compose(
        [crop_and_flip, change_colors]
    )
    return augmentation


class _Varied(torch.utils.data.Dataset):
    """Applies the random part of a `CropTransform` to pixel values in memory."""

    def __init__(self, kept: StackDataset[dict[str, Any]], transform: CropTransform) -> None:
        self.kept, self.transform = kept, transform

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.kept[index]
        return {**example, "pixel_values": self.transform.vary(example["pixel_values"])}


@dataclass(frozen=True)
class _Decode:
    """Decodes and transforms the images of a batch. A batch without an image column keeps its other columns.

    With a number of labels, lists of label ids become [labels] float32 tensors of 0 and 1.
    """

    feature: Image
    transform: ImageTransform
    num_labels: int | None = None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if self.num_labels is not None and "labels" in batch:
            table = torch.from_numpy(multi_hot(batch["labels"], self.num_labels)).float()
            batch = {**batch, "labels": list(table)}
        if "pixel_values" not in batch:
            return batch
        images = (decode_rgb(stored, self.feature) for stored in batch["pixel_values"])
        return {**batch, "pixel_values": [self.transform(image) for image in images]}


def _image_size(image_processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of an image processor's pixel values, found by a trial."""
    evaluation = EvaluationTransform(image_processor)
    wide, tall = (tuple(evaluation(PIL.Image.new("RGB", size)).shape) for size in ((96, 64), (64, 96)))
    if wide != tall or len(wide) != 3 or wide[0] != 3:
        raise ValueError(
            f"{type(image_processor).__name__} gives {list(wide)} for a wide image and {list(tall)} for a tall one; "
            "expected the same [3, height, width] for every image. Set its size and crop_size."
        )
    return wide[1], wide[2]


def _interpolation(image_processor: BaseImageProcessor) -> str:
    if isinstance(image_processor, TimmWrapperImageProcessor):
        return str(image_processor.data_config["interpolation"])
    return PIL.Image.Resampling(image_processor.to_dict().get("resample", PIL.Image.Resampling.BILINEAR)).name.lower()
