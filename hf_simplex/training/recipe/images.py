"""The images that a recipe trains and tests on, from its arguments."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ...data.image_data import ImageData, load_image_data
from ...data.image_transforms import build_transforms, collate, with_pixel_values
from ...model.modeling_simplex import SimplexForImageClassification
from .arguments import DataArguments


def load_data(data_args: DataArguments, token: str | None = None, validation_fraction: float = 0.0) -> ImageData:
    """The data set that the arguments name, with that part of its training images for validation."""
    return load_image_data(
        data_args.data_set,
        config_name=data_args.data_config,
        train_split=data_args.train_split,
        test_split=data_args.test_split,
        image_column=data_args.image_column,
        label_column=data_args.label_column,
        max_train_examples=data_args.max_train_examples,
        max_test_examples=data_args.max_test_examples,
        validation_fraction=validation_fraction,
        seed=data_args.data_split_seed,
        token=token,
        fashion_mnist_dir=data_args.fashion_mnist_dir,
    )


def transformed(
    data: ImageData, data_args: DataArguments, component: SimplexForImageClassification, materialize: bool = False
) -> tuple[Any, Any, Any]:
    """Training images augmented, training images as at inference, and test images; on demand or held in memory."""
    assert component.image_processor is not None
    train_transform, plain_transform = build_transforms(
        component.image_processor,
        augment=data_args.augment,  # type: ignore[arg-type]
        horizontal_flip=data_args.horizontal_flip,
        scale_min=data_args.scale_min,
        auto_augment=data_args.auto_augment,
        color_jitter=data_args.color_jitter,
        random_erasing=data_args.random_erasing,
    )
    return (
        with_pixel_values(data.train, train_transform, materialize=materialize and data_args.augment != "timm"),
        with_pixel_values(data.train, plain_transform, materialize=materialize),
        with_pixel_values(data.test, plain_transform, materialize=materialize),
    )


def in_batches(dataset: Any, size: int) -> list[dict[str, Tensor]]:
    """All images and labels, in memory, in batches of `size`: every point of the complex is evaluated on them."""
    return list(DataLoader(dataset, size, collate_fn=collate))
