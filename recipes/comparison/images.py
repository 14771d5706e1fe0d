"""Images of a comparison: validation, test, out-of-distribution and corrupted images."""

from typing import Any

from datasets import Dataset
from PIL import ImageOps

from comparison.arguments import CompareArguments
from hf_simplex.data.image_data import ImageData, load_image_data
from hf_simplex.evaluation.shift import SMALLEST_SIZE, corrupt_dataset
from hf_simplex.model.image_pixels import to_rgb
from hf_simplex.training.recipe.arguments import DataArguments

__all__ = ["check_validation", "evaluation_images"]

# Images that two splits may share by chance: large data sets hold a few duplicates.
SHARED_IMAGES_ALLOWED = 0.01


def check_validation(data: ImageData) -> None:
    """Check the validation images, on which temperatures and soups are chosen.

    Raises:
        ValueError: there are none, or they are test images.
    """
    if data.validation is None or len(data.validation) == 0:
        raise ValueError(
            f"{data.name} has no validation images, which temperatures and soups are chosen on: give "
            "validation_fraction."
        )

    def contents(dataset: Any) -> set[bytes]:
        return {to_rgb(image).tobytes() + str(image.size).encode() for image in dataset["image"]}

    validation = contents(data.validation)
    shared = len(validation & contents(data.test))
    if shared > SHARED_IMAGES_ALLOWED * len(validation):
        raise ValueError(
            f"{shared} of the {len(validation)} validation images of {data.name} are test images: temperatures and "
            "soups would be chosen on what they are tested on. Give a validation split that is apart, or a "
            "validation_fraction of the training images."
        )


def evaluation_images(compare: CompareArguments, data_args: DataArguments, data: ImageData) -> dict[str, Dataset]:
    """The images to predict: validation, test, mirrored/<split>, out_of_distribution, corrupted/<name>/<severity>."""
    assert data.validation is not None
    splits = {"validation": data.validation, "test": data.test}
    if compare.mirrored:
        splits |= {f"mirrored/{name}": split.map(_mirror) for name, split in tuple(splits.items())}
    if compare.out_of_distribution is not None:
        other = load_image_data(compare.out_of_distribution, fashion_mnist_dir=data_args.fashion_mnist_dir).test
        splits["out_of_distribution"] = other.select(range(min(compare.max_out_of_distribution_examples, len(other))))
    some = data.test.select(range(min(compare.max_corrupted_examples, len(data.test))))
    # Smaller images are corrupted at the smallest size that corruptions take, and then resized.
    size = data_args.image_size if (data_args.image_size or 0) >= SMALLEST_SIZE else None
    for corruption in compare.corruptions or ():
        for severity in compare.severities:
            splits[f"corrupted/{corruption}/{severity}"] = corrupt_dataset(
                some, corruption, severity, seed=data_args.data_split_seed, image_size=size
            )
    return splits


def _mirror(example: dict[str, Any]) -> dict[str, Any]:
    return {"image": ImageOps.mirror(ImageOps.exif_transpose(example["image"]))}
