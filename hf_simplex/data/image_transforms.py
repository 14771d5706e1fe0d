"""Images to tensors: timm's training augmentation, and an evaluation transform that is the image processor itself.

A published model is read through its image processor, so members, BatchNorm statistics and metrics are computed on
what that processor gives: resize it with `resize_image_processor`, save it with the model, and build both transforms
from it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image
import timm.data
import torch
import torchvision.transforms
from datasets import Dataset, Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import StackDataset
from transformers import BaseImageProcessor, TimmWrapperImageProcessor
from transformers.image_utils import load_image

ImageTransform = Callable[[PIL.Image.Image], Tensor]

_MATERIALIZE_BATCH = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationTransform:
    """What `pipeline("image-classification")` does to an image: make it upright and RGB, then the image processor.

    Called with an image of any mode and size it returns its pixel values, [3, height, width] float32.
    """

    image_processor: BaseImageProcessor

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        pixel_values: Tensor = self.image_processor(load_image(image), return_tensors="pt")["pixel_values"][0]
        return pixel_values


@dataclass(frozen=True)
class TrainingTransform:
    """Random augmentation of an image made upright and RGB, then the image processor, then random erasing.

    Arguments and results as in evaluation.
    """

    augmentation: Callable[[PIL.Image.Image], PIL.Image.Image]
    evaluation: EvaluationTransform
    erasing: Callable[[Tensor], Tensor]

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        return self.erasing(self.evaluation(self.augmentation(load_image(image))))


@dataclass(frozen=True)
class CropTransform:
    """What evaluation sees, shifted over black, mirrored and erased at random.

    The random part works on pixel values, so that what comes before it need be done only once for each image.

    Attributes:
        black: [3, 1, 1] float32 pixel values of a black image.
        variation: shifts and mirrors pixel values whose black is 0.
        erasing: blanks rectangles.
    """

    evaluation: EvaluationTransform
    black: Tensor
    variation: Callable[[Tensor], Tensor]
    erasing: Callable[[Tensor], Tensor]

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        return self.vary(self.evaluation(image))

    def vary(self, pixel_values: Tensor) -> Tensor:
        """The random part: from and to [3, height, width] float32; what it is given stays as it was."""
        return self.erasing(self.variation(pixel_values - self.black) + self.black)


def resize_image_processor(image_processor: BaseImageProcessor, image_size: int) -> BaseImageProcessor:
    """A copy of an image processor that gives square images of another size.

    The whole of a square image is kept: nothing is cropped from its borders (timm's `crop_pct` becomes 1), but by an
    image processor such as LeViT's that always crops.

    timm's image processor is saved inside the model's `config.json`, not beside it: to publish a resized one, update
    the `pretrained_cfg` of the backbone's configuration with its `data_config`.

    Args:
        image_processor: of any image classifier, timm's or transformers'.
        image_size: height and width of the results in pixels.

    Returns:
        A new image processor of the same class.

    Raises:
        ValueError: the size is not positive, or this image processor does not give such images.
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: give a positive number of pixels.")
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
            f"{type(image_processor).__name__} cannot be resized: asked for {image_size} x {image_size} pixels it "
            f"gives {given[0]} x {given[1]}. Configure one by hand."
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
    """The training and the evaluation transform for a backbone with this image processor.

    Both make any image (grey, palette, with transparency, rotated by its EXIF tag) upright and RGB first, the way
    `pipeline("image-classification")` does, and can be pickled for the workers of a data loader.

    Args:
        image_processor: the one that is saved with the model; size, colors and normalization are its own in both.
        augment: `timm` for the augmentation that the other arguments describe; `crop` for a random crop of the resized
            image with an eighth of its size in black around it (4 pixels at 32, as is usual for CIFAR), the horizontal
            flip and random erasing; `none` to train on what evaluation sees.
        horizontal_flip: probability of mirroring left and right.
        scale_min: least part of the image's area that a random crop keeps, in (0, 1].
        ratio: least and greatest ratio of width to height of a random crop, before it is made square.
        auto_augment: a policy string of `timm.data.create_transform`, such as "rand-m9-mstd0.5", "augmix-m3" or "3a".
        color_jitter: greatest relative change of brightness, contrast and saturation.
        random_erasing: probability of blanking a rectangle.

    Returns:
        The training transform and the evaluation transform, both from an image to [3, height, width] float32.

    Raises:
        ValueError: an argument is out of range, the policy is unknown, or the image processor does not give square
            images of one size.
    """
    evaluation = EvaluationTransform(image_processor)
    if augment == "none":
        return evaluation, evaluation
    if augment not in ("timm", "crop"):
        raise ValueError(f"augment is {augment!r}: choose 'timm', 'crop' or 'none'.")
    for name, value in (("horizontal_flip", horizontal_flip), ("random_erasing", random_erasing)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: give a probability between 0 and 1.")
    if not 0 < scale_min <= 1:
        raise ValueError(f"scale_min is {scale_min}: give a part of the image's area, above 0 and at most 1.")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio is {ratio}: give the least and the greatest ratio of width to height.")
    if color_jitter < 0:
        raise ValueError(f"color_jitter is {color_jitter}: give 0 or more.")
    if augment == "crop" and (auto_augment or color_jitter):
        raise ValueError("auto_augment and color_jitter belong to augment='timm', not to 'crop'.")
    if auto_augment and color_jitter:
        raise ValueError("timm applies no color_jitter beside an auto_augment policy: choose one of them.")
    height, width = _image_size(image_processor)
    if height != width:
        raise ValueError(
            f"the image processor gives images of {height} x {width} pixels, not squares: use augment='none'."
        )
    erasing = RandomErasing(random_erasing, device="cpu")
    # The random crop chooses what is seen: the image processor is left to resize and normalize, and must not crop.
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
    """Turn the images of a data set into tensors, as they are asked for or all at once.

    Args:
        dataset: with an `image` and a `label` column, as `load_image_data` gives it.
        transform: from an image to its pixel values.
        materialize: transform every image now and keep the results in memory, for images that are read again and
            again (members, BatchNorm statistics, evaluation) and a transform without randomness; of a `CropTransform`
            what comes before its random part. Each process of a distributed run keeps its own.
        materialize_limit: where all pixel values would need more bytes than this, they are not kept after all, and a
            warning is logged.

    Returns:
        A data set whose examples are `{"pixel_values": [3, height, width] float32, "labels": int}`: a
        `datasets.Dataset`, or a map-style data set of torch's where it is kept in memory.

    Raises:
        ValueError: the columns are not there; or, when an example is read, an image file is broken (it is named).
    """
    feature = dataset.features.get("image")
    if not isinstance(feature, Image) or "label" not in dataset.column_names:
        raise ValueError(f"the data set needs a column 'image' of images and one 'label', it has {dataset.features}.")
    # The columns get the names of the model's arguments, so that Trainer does not remove them as unused; images are
    # decoded in the transform, where a broken file can be named.
    images = dataset.select_columns(["image", "label"]).cast_column("image", Image(decode=False))
    renamed = images.rename_columns({"image": "pixel_values", "label": "labels"})
    lazy = renamed.with_transform(_Decode(Image(mode=feature.mode), transform))
    if not materialize or len(dataset) == 0:
        return lazy
    crop = transform if isinstance(transform, CropTransform) else None
    fixed = lazy if crop is None else renamed.with_transform(_Decode(Image(mode=feature.mode), crop.evaluation))
    first: Tensor = fixed[0]["pixel_values"]
    needed = len(fixed) * first.numel() * first.element_size()
    if needed > materialize_limit:
        logger.warning(
            "%d images of %s need %d bytes in memory, more than the limit of %d: they are transformed whenever read.",
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


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stack examples to a batch, for a data loader or as Trainer's `data_collator`.

    Args:
        examples: each `{"pixel_values": [3, height, width], "labels": int}`.

    Returns:
        `{"pixel_values": [batch, 3, height, width], "labels": [batch] int64}`.
    """
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples], dtype=torch.int64),
    }


def _timm_augmentation(
    image_size: int,
    horizontal_flip: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    auto_augment: str | None,
    color_jitter: float,
    interpolation: str,
) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """timm's training transform up to, and without, the conversion to a tensor."""
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
    except (AssertionError, KeyError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"auto_augment is {auto_augment!r}, which timm does not understand ({error}): give a policy such as "
            "'rand-m9-mstd0.5', 'augmix-m3', 'original' or '3a'."
        ) from error
    augmentation: Callable[[PIL.Image.Image], PIL.Image.Image] = torchvision.transforms.Compose(
        [crop_and_flip, change_colors]
    )
    return augmentation


class _Varied(torch.utils.data.Dataset):
    """Images that are kept in memory as they are before the random part of their transform."""

    def __init__(self, kept: StackDataset[dict[str, Any]], transform: CropTransform) -> None:
        self.kept, self.transform = kept, transform

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.kept[index]
        return {**example, "pixel_values": self.transform.vary(example["pixel_values"])}


@dataclass(frozen=True)
class _Decode:
    """Decode and transform the images of a batch of columns; a batch without images stays as it is."""

    feature: Image
    transform: ImageTransform

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "pixel_values" not in batch:
            return batch
        return {**batch, "pixel_values": [self.transform(self._decode(stored)) for stored in batch["pixel_values"]]}

    def _decode(self, stored: dict[str, Any]) -> PIL.Image.Image:
        try:
            return self.feature.decode_example(stored)
        except Exception as error:  # Pillow's readers raise a dozen kinds
            file = stored["path"] or f"(no file name, {len(stored['bytes'])} bytes)"
            raise ValueError(f"cannot read the image {file}: {error}. Replace or remove it.") from error


def _image_size(image_processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of what an image processor gives, found by trying it."""
    evaluation = EvaluationTransform(image_processor)
    wide, tall = (tuple(evaluation(PIL.Image.new("RGB", size)).shape) for size in ((96, 64), (64, 96)))
    if wide != tall or len(wide) != 3 or wide[0] != 3:
        raise ValueError(
            f"{type(image_processor).__name__} gives {list(wide)} for a wide image and {list(tall)} for a tall one, "
            "expected [3, height, width] whatever the image: set its size and crop_size."
        )
    return wide[1], wide[2]


def _interpolation(image_processor: BaseImageProcessor) -> str:
    if isinstance(image_processor, TimmWrapperImageProcessor):
        return str(image_processor.data_config["interpolation"])
    return PIL.Image.Resampling(image_processor.to_dict().get("resample", PIL.Image.Resampling.BILINEAR)).name.lower()
