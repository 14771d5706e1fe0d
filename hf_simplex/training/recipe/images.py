"""Training, validation and test images of a recipe, loaded and transformed as its arguments say."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ...data.image_data import ImageData, load_image_data, with_validation
from ...data.image_transforms import build_transforms, collate, with_pixel_values
from ...model.modeling_simplex import SimplexForImageClassification
from .arguments import DataArguments

__all__ = [
    "augmentation_arguments",
    "in_batches",
    "load_data",
    "load_data_with_validation",
    "transformed",
    "transformed_validation",
    "transforms_of",
]

_OF_CROP = ("horizontal_flip", "random_erasing")


def load_data(
    data_args: DataArguments,
    token: str | None = None,
    validation_fraction: float = 0.0,
    *,
    several_labels: bool = False,
) -> ImageData:
    """Load the data set that the arguments name.

    Args:
        data_args: data set, splits, columns and sizes.
        token: Hub token.
        validation_fraction: fraction of the training images to hold out for validation.
        several_labels: whether an image may have a list of labels.

    Raises:
        ValueError: an argument does not fit the data set, or its labels are lists without `several_labels`.
        OSError: there is no such data set.

    Example:
        >>> from hf_simplex.training.recipe.arguments import DataArguments
        >>> from hf_simplex.training.recipe.images import load_data
        >>> len(load_data(DataArguments("digits", max_train_examples=40)).train)
        40
    """
    data = load_image_data(
        data_args.data_set,
        config_name=data_args.data_config,
        train_split=data_args.train_split,
        validation_split=data_args.validation_split,
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
    if data.several_labels and not several_labels:
        raise ValueError(
            f"{data.name} has lists of labels (problem_type 'multi_label_classification'), and this recipe compares "
            "models of one label an image. Train with recipes/train_espro.py, which takes them, or give another "
            "label_column."
        )
    if len(data.label_names) < 2:
        raise ValueError(f"{data.name} has one class, {data.label_names[0]!r}: a classifier needs at least 2.")
    return data


def load_data_with_validation(
    data_args: DataArguments,
    token: str | None = None,
    validation_fraction: float = 0.1,
    *,
    several_labels: bool = False,
) -> ImageData:
    """Load the data set that the arguments name, with validation images to calibrate on if possible.

    They are the data set's own validation split, or a share of the training images (see `with_validation`).

    Args:
        data_args: data set, splits, columns and sizes. `data_split_seed` chooses the share.
        token: Hub token.
        validation_fraction: share of the training images, if the data set has no validation split.
        several_labels: see `load_data`.

    Returns:
        The data set. `validation` is None where the share is too small to calibrate on. `record` says where each split
        came from.

    Raises:
        ValueError: an argument does not fit the data set.
        OSError: there is no such data set.

    Example:
        >>> from hf_simplex.training.recipe.arguments import DataArguments
        >>> from hf_simplex.training.recipe.images import load_data_with_validation
        >>> data = load_data_with_validation(DataArguments("digits"), validation_fraction=0.2)
        >>> len(data.train), len(data.validation), len(data.test)
        (800, 200, 797)
    """
    data = load_data(data_args, token, several_labels=several_labels)
    return with_validation(data, validation_fraction, seed=data_args.data_split_seed)


def augmentation_arguments(data_args: DataArguments) -> dict[str, Any]:
    """Select the arguments that the augmentation of the training images uses, by name.

    Example:
        >>> from hf_simplex.training.recipe.arguments import DataArguments
        >>> from hf_simplex.training.recipe.images import augmentation_arguments
        >>> augmentation_arguments(DataArguments(augment="crop"))
        {'augment': 'crop', 'horizontal_flip': 0.5, 'random_erasing': 0.0}
    """
    used = {"none": (), "crop": _OF_CROP, "timm": (*_OF_CROP, "scale_min", "auto_augment", "color_jitter")}
    return {name: getattr(data_args, name) for name in ("augment", *used[data_args.augment])}


def transforms_of(
    data_args: DataArguments, image_processor: Any, random_erasing: float | None = None
) -> tuple[Any, Any]:
    """Build the transforms that the arguments and an image processor define.

    Args:
        data_args: augmentation.
        image_processor: size and normalization.
        random_erasing: probability of erasing; default: that of the arguments.

    Returns:
        The transform of training images and that of evaluation, see `image_transforms.build_transforms`.

    Raises:
        ValueError: see `image_transforms.build_transforms`.

    Example::

        training, evaluation = transforms_of(data_args, model.image_processor)
    """
    return build_transforms(
        image_processor,
        augment=data_args.augment,  # type: ignore[arg-type]
        horizontal_flip=data_args.horizontal_flip,
        scale_min=data_args.scale_min,
        auto_augment=data_args.auto_augment,
        color_jitter=data_args.color_jitter,
        random_erasing=data_args.random_erasing if random_erasing is None else random_erasing,
    )


def transformed(
    data: ImageData, data_args: DataArguments, component: SimplexForImageClassification, materialize: bool = False
) -> tuple[Any, Any, Any]:
    """Apply the transforms that the arguments and the image processor define.

    Args:
        data: images.
        data_args: augmentation.
        component: model with an image processor.
        materialize: transform all images now and keep them in memory. Random crops are still computed on demand.

    Returns:
        Training images with augmentation, training images without, and test images.

    Example::

        train, plain_train, test = transformed(data, data_args, model)
    """
    assert component.image_processor is not None
    train_transform, plain_transform = transforms_of(data_args, component.image_processor)
    return (
        with_pixel_values(data.train, train_transform, materialize=materialize and data_args.augment != "timm"),
        with_pixel_values(data.train, plain_transform, materialize=materialize),
        with_pixel_values(data.test, plain_transform, materialize=materialize),
    )


def transformed_validation(
    data: ImageData, component: SimplexForImageClassification, materialize: bool = False
) -> Any | None:
    """Apply the transform for evaluation to the validation images.

    Args:
        data: images.
        component: model with an image processor.
        materialize: transform all images now and keep them in memory.

    Returns:
        Validation images without augmentation; None if there are none.

    Example::

        validation = transformed_validation(data, model)
    """
    if data.validation is None:
        return None
    assert component.image_processor is not None
    _, plain_transform = build_transforms(component.image_processor, augment="none")
    return with_pixel_values(data.validation, plain_transform, materialize=materialize)


def in_batches(dataset: Any, size: int) -> list[dict[str, Tensor]]:
    """Collate a data set into batches that stay in memory, for evaluation at many points.

    Example::

        batches = in_batches(test, 250)
    """
    return list(DataLoader(dataset, size, collate_fn=collate))
